"""Baselines that ignore the pictures: copy of the nearest seed, and linear interpolation between seeds.

Also converts labels by track to results by frame, for other baselines. If several seeds of a track are equally near,
the earlier one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.errors import InvalidInput
from micromodels.types import (
    AnyLabel,
    Box,
    FrameLabel,
    FrameResult,
    Label,
    Mask,
    Provenance,
    ProvenanceKind,
    Shape,
    State,
)
from scripts.benchmark.metrics import BoolMask

__all__ = [
    "BASELINE",
    "INTERPOLATED",
    "TrackFill",
    "as_mask",
    "by_track",
    "copy_track",
    "fill_frames",
    "interpolate_masks",
    "linear_track",
    "moved",
    "nearest",
]

INTERPOLATED = Provenance(ProvenanceKind.INTERPOLATED)
BASELINE = Provenance(ProvenanceKind.MODEL, "baseline")

TrackFill = Callable[[Sequence[Label], int], list[Label]]
"""Seeds of one track in order of frame, number of frames -> the track's label on every frame."""


def by_track(seeds: Sequence[AnyLabel]) -> dict[str, list[Label]]:
    """Labels of objects by track, in order of frame."""
    tracks: dict[str, list[Label]] = {}
    for seed in seeds:
        if isinstance(seed, Label):
            tracks.setdefault(seed.track, []).append(seed)
    return {track: sorted(labels, key=lambda label: label.frame) for track, labels in tracks.items()}


def nearest(frames: npt.NDArray[np.int64], frame: int) -> int:
    """Position of the nearest frame; of two equally near, the first."""
    return int(np.abs(frames - frame).argmin())


def moved(seed: Label, frame: int, shape: Shape | None, provenance: Provenance) -> Label:
    """A seed's track on another frame: visible with this shape, absent without one."""
    state = State.ABSENT if shape is None else State.VISIBLE
    return Label(frame, seed.track, seed.object_class, state, shape, provenance=provenance)


def _frame_labels(seeds: Sequence[AnyLabel], frame: int) -> tuple[FrameLabel, ...]:
    """The nearest seed's value of every frame class."""
    classes: dict[str, list[FrameLabel]] = {}
    for seed in seeds:
        if isinstance(seed, FrameLabel):
            classes.setdefault(seed.frame_class, []).append(seed)
    out = []
    for name, labels in classes.items():
        labels.sort(key=lambda label: label.frame)
        near = labels[nearest(np.array([label.frame for label in labels]), frame)]
        out.append(near if near.frame == frame else FrameLabel(frame, name, near.present, None, INTERPOLATED))
    return tuple(out)


def fill_frames(seeds: Sequence[AnyLabel], frame_count: int, fill: TrackFill) -> Iterator[FrameResult]:
    """Results by frame from the labels that ``fill`` gives each track; frame classes are those of the nearest seed."""
    tracks = [fill(labels, frame_count) for labels in by_track(seeds).values()]
    for frame in range(frame_count):
        yield FrameResult(frame, tuple(track[frame] for track in tracks), _frame_labels(seeds, frame))


def copy_track(seeds: Sequence[Label], frame_count: int) -> list[Label]:
    """The nearest seed, copied."""
    frames = np.array([seed.frame for seed in seeds])
    out = []
    for frame in range(frame_count):
        near = seeds[nearest(frames, frame)]
        out.append(near if near.frame == frame else moved(near, frame, near.shape, INTERPOLATED))
    return out


def linear_track(seeds: Sequence[Label], frame_count: int) -> list[Label]:
    """Linear interpolation between two seeds that show the object, else a copy of the nearest."""
    out = copy_track(seeds, frame_count)
    for before, after in pairwise(seeds):
        if before.shape is None or after.shape is None:
            continue
        between = _shape_between(before.shape, after.shape)
        for frame in range(before.frame + 1, after.frame):
            weight = (frame - before.frame) / (after.frame - before.frame)
            out[frame] = moved(before, frame, between(weight), INTERPOLATED)
    return out


def _shape_between(before: Shape, after: Shape) -> Callable[[float], Shape | None]:
    if isinstance(before, Box) and isinstance(after, Box):
        a, b = np.array(before.as_list()), np.array(after.as_list())
        return lambda weight: Box(*((1 - weight) * a + weight * b).tolist())
    if isinstance(before, Mask) and isinstance(after, Mask):
        between = interpolate_masks(before.to_array(), after.to_array())
        return lambda weight: as_mask(between(weight))
    raise InvalidInput("seeds", (before, after), "only boxes or only masks on one track")


def as_mask(mask: BoolMask) -> Mask | None:
    """A mask as a shape; None if it is empty."""
    return Mask.from_array(mask) if mask.any() else None


def interpolate_masks(before: BoolMask, after: BoolMask) -> Callable[[float], BoolMask]:
    """A function from a weight (0: ``before``, 1: ``after``) to the mask between the two.

    Linear in the signed distance field, where ``d`` is the distance to the other side, less half a pixel, positive
    inside: the mask is where ``(1 - w) d_before + w d_after > 0``. Source: Raya & Udupa,
    IEEE TMI 1990 (shape-based interpolation).
    """
    a, b = _signed_distance(before), _signed_distance(after)
    return lambda weight: np.asarray((1 - weight) * a + weight * b > 0, bool)


def _signed_distance(mask: BoolMask) -> npt.NDArray[np.float32]:
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)
