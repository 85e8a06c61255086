"""Agreement of two sets of labels on the same frames: IoU of shapes, Cohen's kappa of states and classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from micromodels.labels.geometry import iou
from micromodels.types import AnyLabel, FrameLabel, Label

__all__ = ["Agreement", "agreement", "cohen_kappa"]

MISSING = "missing"
"""Stands in for the state or class if only one annotator has the object."""
_MIN_IOU = 0.1
"""Objects of different tracks with a lower IoU are not matched."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of two annotators."""

    frames: int
    objects: int
    """Objects that at least one annotator labeled."""
    matched: int
    """Objects that both annotators labeled."""
    mean_iou: float | None
    """Over the objects with a shape from at least one annotator; 0 if the other has none. None without shapes."""
    state_kappa: float | None
    class_kappa: float | None
    frame_class_kappa: float | None


def cohen_kappa(pairs: Sequence[Pair]) -> float | None:
    """Cohen's kappa, (p_o - p_e) / (1 - p_e): the share of pairs that agree, p_o, against the share expected by chance,
    p_e = sum over categories of the product of both annotators' shares (Cohen, *Educational and Psychological
    Measurement* 20, 1960). 1 if all pairs agree; None without pairs, or with one category only.
    """
    if not pairs:
        return None
    count = len(pairs)
    observed = sum(one == other for one, other in pairs) / count
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    expected = sum(first[name] * second[name] for name in first) / count**2
    return None if expected == 1.0 else (observed - expected) / (1.0 - expected)


def agreement(
    one: Sequence[AnyLabel], other: Sequence[AnyLabel], frames: Sequence[int], height_px: int, width_px: int
) -> Agreement:
    """Compare the labels of two annotators.

    Objects of one track on one frame are matched; the others are matched by IoU, the greatest first.

    Args:
        one: labels of the first.
        other: labels of the second.
        frames: the frames assigned to both.
        height_px: of the video.
        width_px: of the video.
    """
    size = (height_px, width_px)
    first, second = _by_frame(one), _by_frame(other)
    states: list[Pair] = []
    classes: list[Pair] = []
    overlaps: list[float] = []
    matched = 0
    for frame in frames:
        for a, b in _matches(first[frame], second[frame], size):
            matched += a is not None and b is not None
            states.append((a.state.value if a else MISSING, b.state.value if b else MISSING))
            classes.append((a.object_class if a else MISSING, b.object_class if b else MISSING))
            shapes = (a.shape if a else None, b.shape if b else None)
            if any(shape is not None for shape in shapes):
                overlaps.append(iou(*shapes, size))
    return Agreement(
        frames=len(frames),
        objects=len(states),
        matched=matched,
        mean_iou=sum(overlaps) / len(overlaps) if overlaps else None,
        state_kappa=cohen_kappa(states),
        class_kappa=cohen_kappa(classes),
        frame_class_kappa=cohen_kappa(_frame_classes(one, other)),
    )


def _by_frame(labels: Sequence[AnyLabel]) -> defaultdict[int, dict[str, Label]]:
    found: defaultdict[int, dict[str, Label]] = defaultdict(dict)
    for label in labels:
        if isinstance(label, Label):
            found[label.frame][label.track] = label
    return found


def _matches(
    first: dict[str, Label], second: dict[str, Label], size: tuple[int, int]
) -> list[tuple[Label | None, Label | None]]:
    pairs: list[tuple[Label | None, Label | None]] = [(first[t], second[t]) for t in first if t in second]
    rest = [label for track, label in first.items() if track not in second]
    others = [label for track, label in second.items() if track not in first]
    drawn = [(i, a.shape, j, b.shape) for i, a in enumerate(rest) for j, b in enumerate(others)]
    scored = [(iou(a, b, size), i, j) for i, a, j, b in drawn if a is not None and b is not None]
    taken: set[int] = set()
    given: set[int] = set()
    for score, i, j in sorted(scored, reverse=True):
        if score >= _MIN_IOU and i not in taken and j not in given:
            taken.add(i)
            given.add(j)
            pairs.append((rest[i], others[j]))
    pairs += [(label, None) for i, label in enumerate(rest) if i not in taken]
    return pairs + [(None, label) for j, label in enumerate(others) if j not in given]


def _frame_classes(one: Sequence[AnyLabel], other: Sequence[AnyLabel]) -> list[Pair]:
    def values(labels: Sequence[AnyLabel]) -> dict[tuple[int, str], str]:
        words = {True: "present", False: "absent"}
        return {(x.frame, x.frame_class): words[x.present] for x in labels if isinstance(x, FrameLabel)}

    first, second = values(one), values(other)
    return [(first.get(key, MISSING), second.get(key, MISSING)) for key in sorted({*first, *second})]
