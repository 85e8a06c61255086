"""Compares labels with the truth, and computes scores as means over these comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from micromodels.labels.geometry import area_px, bounds, to_mask
from micromodels.types import Box, FrameResult, Label, State
from scripts.benchmark import metrics
from scripts.benchmark.datasets import Clip, ClipKind, FrameTruth, TruthShape

__all__ = [
    "LabelScore",
    "calibration_pairs",
    "calibration_scores",
    "frame_class_scores",
    "judge_frame",
    "mean",
    "mean_by_frame",
    "object_scores",
    "tracking_scores",
]

RECALL_IOU = 0.5


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Comparison of one label with the truth.

    Attributes:
        visible: whether the object is visible in the truth.
        labeled: whether the system labeled the track on this frame.
        absent: whether it labeled the object as absent.
        iou: IoU with the truth; for an object that is not visible, 1 without a shape, else 0.
        boundary_f: boundary measure of masks; None if not requested.
        confidence: the label's confidence: the estimated chance of acceptance.
        accepted: whether a reviewer would accept the label.
    """

    frame: int
    track: str
    visible: bool
    labeled: bool
    absent: bool
    iou: float
    boundary_f: float | None
    confidence: float | None
    accepted: bool


def judge_frame(clip: Clip, truth: FrameTruth, result: FrameResult, *, boundary: bool = False) -> list[LabelScore]:
    """Compares the labels of a frame with its truth: one score per true track, and per shape of another track.

    "Right state": a shape for a visible object, ``absent`` for one that is not. Labeling a visible object as occluded
    is not an error; ``uncertain`` without a shape is always wrong; no label for an unknown track that is not visible
    is right.
    """
    labels = {label.track: label for label in result.labels}
    invented = [t for t, label in labels.items() if t not in truth and label.shape is not None]
    return [
        _judge(clip, result.frame, track, truth.get(track), labels.get(track), boundary)
        for track in [*truth, *invented]
    ]


def _judge(
    clip: Clip, frame: int, track: str, truth: TruthShape | None, label: Label | None, boundary: bool
) -> LabelScore:
    absent = label is not None and label.state is State.ABSENT
    drawn = label is not None and label.shape is not None and area_px(label.shape) > 0
    if truth is None:
        iou, accepted, f = float(not drawn), absent or label is None, float(not drawn)
    else:
        iou = metrics.label_iou(label, truth)
        accepted, f = iou >= clip.accept_iou, 0.0
        if boundary and label is not None and not isinstance(truth, Box):
            f = metrics.boundary_f(to_mask(label.shape, *truth.shape), truth)
    confidence = label.confidence if label else None
    return LabelScore(
        frame, track, truth is not None, label is not None, absent, iou, f if boundary else None, confidence, accepted
    )


def _relevant(verdicts: Iterable[LabelScore]) -> list[LabelScore]:
    """Scores with a visible object or a shape."""
    return [v for v in verdicts if v.visible or v.iou == 0]


def mean_by_frame(verdicts: Sequence[LabelScore]) -> dict[int, float]:
    """Mean IoU of each frame."""
    frames: dict[int, list[float]] = {}
    for verdict in verdicts:
        frames.setdefault(verdict.frame, []).append(verdict.iou)
    return {frame: float(np.mean(values)) for frame, values in frames.items()}


def object_scores(clip: Clip, verdicts: Sequence[LabelScore]) -> dict[str, float]:
    """Scores of protocols A, B and D, and of single boxes in C, by the kind of clip.

    Masks: ``J``, its 10th percentile ``J_p10``, and ``F`` if the verdicts have it. Regions: ``iou`` over the (class,
    frame) pairs for which the truth or the label has a region. Boxes: ``iou`` and ``recall_50`` (IoU >= .5, with the
    right id) over visible objects, ``false_absents`` (share of visible objects labeled absent), and ``absent_found``
    (share of absent objects labeled absent). All: ``accepted``, the share that a reviewer accepts.
    """
    scores: dict[str, float] = {"accepted": mean(v.accepted for v in verdicts if v.visible or v.labeled)}
    if clip.kind is ClipKind.MASK:
        regions = [v.iou for v in verdicts]
        scores |= {"J": mean(regions), "J_p10": float(np.percentile(regions, 10))}
        if verdicts[0].boundary_f is not None:
            scores["F"] = mean(v.boundary_f for v in verdicts if v.boundary_f is not None)
    elif clip.kind is ClipKind.REGIONS:
        scores["iou"] = mean(v.iou for v in _relevant(verdicts))
    else:
        visible, hidden = [v for v in verdicts if v.visible], [v for v in verdicts if not v.visible]
        scores |= {
            "iou": mean(v.iou for v in visible),
            "recall_50": mean(v.iou >= RECALL_IOU for v in visible),
            "false_absents": mean(v.absent for v in visible),
        }
        if hidden:
            scores["absent_found"] = mean(v.absent for v in hidden)
    return scores


def mean(values: Iterable[float]) -> float:
    """The mean, of at least one value."""
    return float(np.mean(list(values)))


def tracking_scores(truth: Mapping[int, FrameTruth], predicted: Mapping[int, FrameResult]) -> dict[str, float]:
    """The scores of :func:`metrics.tracking_score` for the boxes on the frames of ``truth``."""
    real = [{t: shape for t, shape in frame.items() if isinstance(shape, Box)} for frame in truth.values()]
    drawn = [
        {label.track: box for label in predicted[f].labels if label.shape and (box := bounds(label.shape))}
        if f in predicted
        else {}
        for f in truth
    ]
    score = metrics.tracking_score(real, drawn)
    return {key: float(value) for key, value in asdict(score).items()}


def calibration_pairs(verdicts: Iterable[LabelScore]) -> tuple[tuple[float | None, bool], ...]:
    """Confidence and acceptance of every label; empty if no label has a confidence."""
    pairs = tuple((v.confidence, v.accepted) for v in verdicts if v.labeled)
    return pairs if any(confidence is not None for confidence, _ in pairs) else ()


def calibration_scores(pairs: Iterable[tuple[float | None, bool]]) -> dict[str, float]:
    """Calibration of all labels with a confidence, and the share of labels without; empty if no label has one."""
    pairs = list(pairs)
    sure = [(confidence, accepted) for confidence, accepted in pairs if confidence is not None]
    if not sure:
        return {}
    confidences, accepted = zip(*sure, strict=True)
    curve = metrics.risk_coverage(confidences, accepted)
    return {
        "ece": metrics.expected_calibration_error(confidences, accepted),
        "brier": metrics.brier_score(confidences, accepted),
        "aurc": mean(risk for _, risk in curve),
        "without_confidence": 1 - len(sure) / len(pairs),
    }


def frame_class_scores(
    clip: Clip, results: Mapping[int, FrameResult], frames: Iterable[int]
) -> tuple[dict[str, float], dict[int, float]]:
    """Balanced accuracy and F1 of each frame class and their means; and the share of right classes on each frame.

    A class without a label on a frame counts as wrong.
    """
    labeled = {f: {x.frame_class: x.present for x in results[f].frame_labels} if f in results else {} for f in frames}
    truth = {f: clip.frame_class_truth(f) or {} for f in labeled}
    scores: dict[str, float] = {}
    for name in clip.frame_classes:
        real = [truth[f][name] for f in labeled]
        guess = [labeled[f].get(name, not truth[f][name]) for f in labeled]
        scores[f"balanced_accuracy_{name}"] = metrics.balanced_accuracy(real, guess)
        scores[f"f1_{name}"] = metrics.f1_score(real, guess)
    for metric in ("balanced_accuracy", "f1"):
        scores[metric] = mean(scores[f"{metric}_{name}"] for name in clip.frame_classes)
    right = {f: mean(labeled[f].get(name) == value for name, value in truth[f].items()) for f in labeled}
    return scores, right
