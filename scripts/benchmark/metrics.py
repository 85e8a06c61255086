"""The benchmark's metrics. Docstrings have the formulas; tests compare the metrics with the reference tools.

Masks are ``bool`` of shape ``(height, width)``; an absent object is None (or an empty mask).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.errors import InvalidInput
from micromodels.labels.geometry import bounds, box_iou, mask_iou, to_mask
from micromodels.types import Box, Label

__all__ = [
    "BoolMask",
    "ReliabilityBin",
    "TrackingScore",
    "balanced_accuracy",
    "boundary_f",
    "boundary_map",
    "brier_score",
    "expected_calibration_error",
    "f1_score",
    "label_iou",
    "reliability",
    "risk_coverage",
    "tracking_score",
]

BoolMask = npt.NDArray[np.bool_]

DAVIS_BOUND = 0.008
"""Tolerance of the boundary measure as a share of the picture's diagonal, as in davis2017-evaluation."""


def boundary_map(mask: BoolMask) -> BoolMask:
    """Pixels that differ from their right, lower or lower right neighbor: ``seg2bmap`` of davis2017-evaluation.

    The last row and column are repeated at the edge; the last pixel is never on the boundary.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    boundary = (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])
    boundary[-1, -1] = False
    return np.asarray(boundary, bool)


def boundary_f(predicted: BoolMask, truth: BoolMask, bound: float = DAVIS_BOUND) -> float:
    """Boundary measure F of DAVIS: ``2PR / (P + R)``.

    P is the share of predicted boundary pixels that lie within ``r = ceil(bound * diagonal)`` pixels (Euclidean) of a
    true one, R the share of true ones that lie so near to a predicted one. If one boundary is empty, its own share is 1
    and the other's 0; if both are, F is 1. ``bound`` >= 1 is r itself.

    Source: Perazzi et al., CVPR 2016, section 4; ``f_measure`` in davis2017-evaluation, which dilates by a disk of
    radius r: the same set of pixels as a Euclidean distance of at most r.
    """
    radius = bound if bound >= 1 else float(np.ceil(bound * np.linalg.norm(predicted.shape)))
    found, real = boundary_map(predicted), boundary_map(truth)
    found_count, real_count = int(found.sum()), int(real.sum())
    if not found_count and not real_count:
        return 1.0
    if not found_count or not real_count:
        return 0.0
    precision = np.count_nonzero(found & _near(real, radius)) / found_count
    recall = np.count_nonzero(real & _near(found, radius)) / real_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(boundary: BoolMask, radius: float) -> BoolMask:
    distance = cv2.distanceTransform((~boundary).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= radius + 1e-3, bool)


def label_iou(label: Label | None, truth: Box | BoolMask) -> float:
    """IoU of a predicted label with a visible truth; 0 without a shape. For a true box, a mask's bounds are used.

    For masks it is the region similarity J: ``|P and T| / |P or T|``, 1 if both are empty, as in
    davis2017-evaluation.
    """
    shape = label.shape if label else None
    if shape is None:
        return 0.0
    if isinstance(truth, Box):
        box = bounds(shape)
        return float(box_iou(box.as_list(), truth.as_list())) if box else 0.0
    return float(mask_iou(to_mask(shape, *truth.shape), truth))


@dataclass(frozen=True, slots=True)
class TrackingScore:
    """Scores of many tracked boxes, 0 to 1, except for the number of switches."""

    hota: float
    detection_accuracy: float
    association_accuracy: float
    idf1: float
    mota: float
    id_switches: int


def tracking_score(truth: Sequence[Mapping[str, Box]], predicted: Sequence[Mapping[str, Box]]) -> TrackingScore:
    """HOTA, IDF1, MOTA and id switches of boxes by track, one mapping per frame, computed by TrackEval.

    With c = a matched pair of boxes at threshold a, and TPA/FNA/FPA(c) counted over all frames that c's two ids share
    or do not share: ``HOTA_a = sqrt(sum_c TPA / (TPA + FNA + FPA) / (TP + FN + FP))``, HOTA its mean over
    a = .05, .10, ..., .95; DetA and AssA its two factors. ``IDF1 = 2 IDTP / (2 IDTP + IDFP + IDFN)`` for the one best
    matching of true to predicted ids, ``MOTA = 1 - (FN + FP + IDSW) / truth``, both at IoU .5.

    Source: Luiten et al., IJCV 2021 (HOTA); Ristani et al., ECCVW 2016 (IDF1).

    Raises:
        InvalidInput: the two sequences differ in length.
    """
    import trackeval.metrics as reference  # type: ignore[import-untyped]  # has no stubs

    if len(truth) != len(predicted):
        raise InvalidInput("predicted", f"{len(predicted)} frames", f"as many as the truth has: {len(truth)}")
    truth_ids = {track: i for i, track in enumerate(sorted(set().union(*truth)))}
    predicted_ids = {track: i for i, track in enumerate(sorted(set().union(*predicted)))}
    data = {
        "num_timesteps": len(truth),
        "num_gt_ids": len(truth_ids),
        "num_tracker_ids": len(predicted_ids),
        "num_gt_dets": sum(map(len, truth)),
        "num_tracker_dets": sum(map(len, predicted)),
        "gt_ids": [np.array([truth_ids[track] for track in frame], int) for frame in truth],
        "tracker_ids": [np.array([predicted_ids[track] for track in frame], int) for frame in predicted],
        "similarity_scores": [
            box_iou(_corners(real)[:, None], _corners(guess)[None])
            for real, guess in zip(truth, predicted, strict=True)
        ],
    }
    quiet = {"PRINT_CONFIG": False}
    hota = reference.HOTA().eval_sequence(data)
    identity = reference.Identity(quiet).eval_sequence(data)
    clear = reference.CLEAR(quiet).eval_sequence(data)
    return TrackingScore(
        hota=float(np.mean(hota["HOTA"])),
        detection_accuracy=float(np.mean(hota["DetA"])),
        association_accuracy=float(np.mean(hota["AssA"])),
        idf1=float(identity["IDF1"]),
        mota=float(clear["MOTA"]),
        id_switches=int(clear["IDSW"]),
    )


def _corners(boxes: Mapping[str, Box]) -> npt.NDArray[np.float64]:
    return np.array([box.as_list() for box in boxes.values()], np.float64).reshape(-1, 4)


def balanced_accuracy(truth: Sequence[bool], predicted: Sequence[bool]) -> float:
    """Mean of the recalls of both values, ``(TP / P + TN / N) / 2``; only one recall if the truth has only one value.

    Raises:
        InvalidInput: nothing to score.
    """
    real, guess = np.asarray(truth, bool), np.asarray(predicted, bool)
    if not len(real):
        raise InvalidInput("truth", 0, "at least one value")
    return float(np.mean([np.mean(guess[real == value] == value) for value in (True, False) if (real == value).any()]))


def f1_score(truth: Sequence[bool], predicted: Sequence[bool]) -> float:
    """``2 TP / (2 TP + FP + FN)``; 1 if nothing exists and nothing was found."""
    real, guess = np.asarray(truth, bool), np.asarray(predicted, bool)
    hits, errors = int((real & guess).sum()), int((real ^ guess).sum())
    return 2 * hits / (2 * hits + errors) if hits + errors else 1.0


def expected_calibration_error(confidence: Sequence[float], accepted: Sequence[bool], bins: int = 15) -> float:
    """``sum_b |b| / n * |mean accepted in b - mean confidence in b|`` over bins of equal mass.

    The labels, sorted by confidence (equal ones stay in order), are cut into ``bins`` runs whose lengths differ by at
    most one. Source: Nixon et al., CVPRW 2019 (adaptive bins); Guo et al., ICML 2017.

    Raises:
        InvalidInput: nothing to score.
    """
    return float(sum(b.share * abs(b.accepted - b.confidence) for b in reliability(confidence, accepted, bins)))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of a reliability diagram: its share of all labels, mean confidence, and share of acceptable labels."""

    share: float
    confidence: float
    accepted: float


def reliability(confidence: Sequence[float], accepted: Sequence[bool], bins: int = 15) -> list[ReliabilityBin]:
    """Bins of equal mass in order of confidence; at most ``bins``, none of them empty.

    Raises:
        InvalidInput: nothing to score.
    """
    sure, good = _calibration_arrays(confidence, accepted)
    parts = np.array_split(np.argsort(sure, kind="stable"), min(bins, len(sure)))
    return [ReliabilityBin(len(p) / len(sure), float(sure[p].mean()), float(good[p].mean())) for p in parts]


def brier_score(confidence: Sequence[float], accepted: Sequence[bool]) -> float:
    """``mean((confidence - accepted)^2)``. Source: Brier, Monthly Weather Review 1950.

    Raises:
        InvalidInput: nothing to score.
    """
    sure, good = _calibration_arrays(confidence, accepted)
    return float(np.mean((sure - good) ** 2))


def risk_coverage(confidence: Sequence[float], accepted: Sequence[bool]) -> list[tuple[float, float]]:
    """Points (coverage, risk): the share of wrong labels among the surest ``i`` of ``n``, for i = 1 to n.

    Labels of equal confidence are added together: their points lie on the line between the first and the last of them.
    The mean of the risks is the area under the curve (AURC). Source: Geifman & El-Yaniv, NeurIPS 2017.

    Raises:
        InvalidInput: nothing to score.
    """
    sure, good = _calibration_arrays(confidence, accepted)
    _, group, counts = np.unique(-sure, return_inverse=True, return_counts=True)
    wrong_in_group = np.bincount(group, weights=1 - good, minlength=len(counts))
    wrong = np.cumsum(np.repeat(wrong_in_group / counts, counts))
    taken = np.arange(1, len(sure) + 1)
    return [(float(i) / len(sure), float(w) / float(i)) for i, w in zip(taken, wrong, strict=True)]


def _calibration_arrays(
    confidence: Sequence[float], accepted: Sequence[bool]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if not len(confidence) or len(confidence) != len(accepted):
        raise InvalidInput(
            "confidence", f"{len(confidence)} and {len(accepted)} values", "as many of each, at least one"
        )
    return np.asarray(confidence, np.float64), np.asarray(accepted, np.float64)
