"""What looks wrong in labels, without knowing the truth: jumps, gaps, overlaps, crowds, exclusions, swapped tracks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise, product

import numpy as np
import numpy.typing as npt

from micromodels.labels.geometry import box_iou
from micromodels.labels.track_arrays import TrackSeries
from micromodels.types import Ontology

__all__ = ["Issue", "IssueKind", "SuspectedSwap", "consistency_issues", "suspected_swaps"]

AREA_JUMP = 0.5
"""A change of log area between neighboring frames that is a jump, if it is far from usual for the track."""
POSITION_JUMP = 0.5
"""So is a step of half the object's size."""
USUAL = 5.0
"""How many times the usual change of its track a change must be."""
OVERLAP = 0.7
"""IoU of two objects of one class on one frame above which they are hardly two objects."""
MEMORY_FRAMES = 5
"""Frames on each side of a meeting that motion is taken from."""

Doubles = npt.NDArray[np.float64]


class IssueKind(StrEnum):
    """What a consistency check found."""

    AREA_JUMP = "area_jump"
    POSITION_JUMP = "position_jump"
    GAP = "gap"
    BLIP = "blip"
    OVERLAP = "overlap"
    TOO_MANY = "too_many"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class Issue:
    """Something that looks wrong.

    Attributes:
        kind: which check.
        frame: where.
        tracks: which tracks; none where frame classes are concerned only.
        score: how much it is out of the usual, 0 to 1; checks of yes or no give 1.
        text: in words.
    """

    kind: IssueKind
    frame: int
    tracks: tuple[str, ...]
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class SuspectedSwap:
    """Two tracks of one class that may have changed identities where they met.

    Attributes:
        frame: the frame where they are nearest.
        start: the first frame behind the meeting: where a swap would begin.
        tracks: the two.
        score: 0 to 1; above 0.5 their motion and sizes are better explained by a swap.
        text: in words.
    """

    frame: int
    start: int
    tracks: tuple[str, str]
    score: float
    text: str


def consistency_issues(
    series: Mapping[str, TrackSeries],
    ontology: Ontology | None = None,
    frame_classes: Mapping[str, TrackSeries] | None = None,
) -> list[Issue]:
    """All that looks wrong, the worst first.

    Args:
        series: tracks of one video.
        ontology: for the number of instances allowed, and for classes that exclude each other; None: not checked.
        frame_classes: of the same video, by name; None for none.
    """
    found = [issue for one in series.values() for issue in (*_jumps(one), *_gaps(one))]
    found += _overlaps(series)
    if ontology is not None:
        found += _too_many(series, ontology)
        found += _excluded(series, frame_classes or {}, ontology)
    return sorted(found, key=lambda issue: (-issue.score, issue.frame))


def changes_of(series: TrackSeries) -> tuple[Doubles, Doubles]:
    """Change of log area, and step over size, from the frame before; NaN where either frame has no shape."""
    count = len(series.areas)
    area, step = np.full(count, np.nan), np.full(count, np.nan)
    if count > 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            area[1:] = np.abs(np.diff(np.log(series.areas)))
            size = np.minimum(series.sizes[1:], series.sizes[:-1])
            step[1:] = np.linalg.norm(np.diff(series.centers, axis=0), axis=1) / size
    return area, step


def jump_scores(series: TrackSeries) -> tuple[Doubles, Doubles]:
    """How far each change of area and each step is out of the usual: 0 below the bound, toward 1 far above it."""
    scores = []
    for values, bound in zip(changes_of(series), (AREA_JUMP, POSITION_JUMP), strict=True):
        seen = values[~np.isnan(values)]
        usual = USUAL * float(np.median(seen)) if len(seen) else 0.0
        with np.errstate(invalid="ignore"):
            over = np.nan_to_num(values) / max(bound, usual)
        scores.append(np.where(over > 1, 1 - 0.5 / np.maximum(over, 1), 0.0))
    return scores[0], scores[1]


def _jumps(series: TrackSeries) -> list[Issue]:
    out = []
    area, step = changes_of(series)
    for kind, scores, values, words in (
        (IssueKind.AREA_JUMP, jump_scores(series)[0], np.exp(area), "area changes by a factor of {:.1f}"),
        (IssueKind.POSITION_JUMP, jump_scores(series)[1], step, "jumps by {:.1f} of its size"),
    ):
        for frame in np.flatnonzero(scores).tolist():
            text = f"{series.track}: {words.format(values[frame])} from frame {frame - 1}"
            out.append(Issue(kind, frame, (series.track,), float(scores[frame]), text))
    return out


def _gaps(series: TrackSeries) -> list[Issue]:
    """One frame without the object between two with it, and one with it between two without."""
    out = []
    shown, labeled = series.shown, series.labeled
    for frame in range(1, len(shown) - 1):
        around = labeled[frame - 1] and labeled[frame] and labeled[frame + 1]
        if (
            not around
            or series.fixed[frame]
            or shown[frame - 1] != shown[frame + 1]
            or shown[frame] == shown[frame - 1]
        ):
            continue
        if shown[frame]:
            text = f"{series.track} is there on frame {frame} only"
            out.append(Issue(IssueKind.BLIP, frame, (series.track,), 0.8, text))
        else:
            text = f"{series.track} is missing on frame {frame} only"
            out.append(Issue(IssueKind.GAP, frame, (series.track,), 0.8, text))
    return out


def _overlaps(series: Mapping[str, TrackSeries]) -> list[Issue]:
    out = []
    for one, other in combinations(series.values(), 2):
        if one.object_class != other.object_class:
            continue
        iou = box_iou(one.boxes, other.boxes)
        for frame in np.flatnonzero(np.nan_to_num(iou) > OVERLAP).tolist():
            text = f"{one.track} and {other.track} cover the same place on frame {frame}"
            out.append(Issue(IssueKind.OVERLAP, frame, (one.track, other.track), float(iou[frame]), text))
    return out


def _too_many(series: Mapping[str, TrackSeries], ontology: Ontology) -> list[Issue]:
    out = []
    for allowed in ontology.object_classes:
        members = [one for one in series.values() if one.object_class == allowed.name]
        if not allowed.max_instances or len(members) <= allowed.max_instances:
            continue
        counts = np.sum([one.shown for one in members], axis=0)
        for frame in np.flatnonzero(counts > allowed.max_instances).tolist():
            tracks = tuple(one.track for one in members if one.shown[frame])
            text = f"{len(tracks)} of {allowed.name} on frame {frame}; at most {allowed.max_instances}"
            out.append(Issue(IssueKind.TOO_MANY, frame, tracks, 1.0, text))
    return out


def _excluded(
    series: Mapping[str, TrackSeries], frame_classes: Mapping[str, TrackSeries], ontology: Ontology
) -> list[Issue]:
    """Objects where their class cannot be, frame classes that cannot both hold: one issue for each run of frames."""
    out = []
    for allowed in ontology.object_classes:
        members = [one for one in series.values() if one.object_class == allowed.name]
        for one, name in product(members, allowed.excludes):
            if name in frame_classes:
                for first, last in _runs(one.shown & frame_classes[name].shown):
                    text = f"{one.track} is there on {_frames(first, last)}, where {name} holds"
                    out.append(Issue(IssueKind.EXCLUDED, first, (one.track,), 1.0, text))
            for other in series.values():
                if other.object_class != name:
                    continue
                for first, last in _runs(np.nan_to_num(box_iou(one.boxes, other.boxes)) > OVERLAP):
                    text = f"{one.track} is where {other.track} is on {_frames(first, last)}"
                    out.append(Issue(IssueKind.EXCLUDED, first, (one.track, other.track), 1.0, text))
    pairs = {frozenset((entry.name, name)) for entry in ontology.frame_classes for name in entry.excludes}
    for here, there in sorted(sorted(pair) for pair in pairs if pair <= frame_classes.keys()):
        for first, last in _runs(frame_classes[here].shown & frame_classes[there].shown):
            text = f"{here} and {there} both hold on {_frames(first, last)}"
            out.append(Issue(IssueKind.EXCLUDED, first, (), 1.0, text))
    return out


def _runs(where: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last frame of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]]).astype(np.int8)))
    return [(first, stop - 1) for first, stop in edges.reshape(-1, 2).tolist()]


def _frames(first: int, last: int) -> str:
    return f"frame {first}" if first == last else f"frames {first} to {last}"


def suspected_swaps(series: Mapping[str, TrackSeries]) -> list[SuspectedSwap]:
    """Meetings of two tracks of one class behind which each goes on as the other one did, the likeliest swap first.

    Where two objects are nearer than their size, positions (by constant velocity) and sizes of a few frames before are
    compared with those behind, as they are and with the identities exchanged.
    """
    out = []
    for one, other in combinations(series.values(), 2):
        if one.object_class != other.object_class:
            continue
        for first, last in _meetings(one, other):
            start = last + 1
            score = _swap_score(one, other, first, start)
            if score is None:
                continue
            nearest = (first + last) // 2
            text = f"{one.track} and {other.track} meet on frames {first} to {last} and may have changed identities"
            out.append(SuspectedSwap(nearest, start, (one.track, other.track), score, text))
    return sorted(out, key=lambda swap: (-swap.score, swap.frame))


def closeness(one: TrackSeries, other: TrackSeries) -> Doubles:
    """Distance of two tracks' centers over the mean of their sizes, by frame; NaN where either has no shape."""
    size = (one.sizes + other.sizes) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.linalg.norm(one.centers - other.centers, axis=1) / size, np.float64)


def _meetings(one: TrackSeries, other: TrackSeries) -> list[tuple[int, int]]:
    """First and last frame of each run of frames on which two tracks are near, or one is hidden between such frames."""
    near = np.flatnonzero(np.nan_to_num(closeness(one, other), nan=np.inf) < 0.9)
    runs: list[tuple[int, int]] = []
    for frame in near.tolist():
        if runs and frame - runs[-1][1] <= MEMORY_FRAMES:
            runs[-1] = (runs[-1][0], frame)
        else:
            runs.append((frame, frame))
    return runs


def _swap_score(one: TrackSeries, other: TrackSeries, first: int, start: int) -> float | None:
    before = [_motion(track, range(first - MEMORY_FRAMES, first)) for track in (one, other)]
    after = [_motion(track, range(start, start + MEMORY_FRAMES)) for track in (one, other)]
    if any(motion is None for motion in (*before, *after)):
        return None
    cost = np.zeros((2, 2))
    for i, past in enumerate(before):
        for j, now in enumerate(after):
            assert past is not None
            assert now is not None
            steps = now.frame - past.frame
            ahead = past.center + past.velocity * min(steps, 2 * MEMORY_FRAMES)
            cost[i, j] = np.linalg.norm(ahead - now.center) / past.size + abs(np.log(now.size / past.size))
    kept, swapped = cost[0, 0] + cost[1, 1], cost[0, 1] + cost[1, 0]
    return float((kept + 0.1) / (kept + swapped + 0.2))


@dataclass(frozen=True, slots=True)
class _Motion:
    frame: float
    center: Doubles
    velocity: Doubles
    size: float


def _motion(series: TrackSeries, frames: range) -> _Motion | None:
    """Median motion over some frames; None where the track is hardly seen on them."""
    seen = [f for f in frames if 0 <= f < len(series.shown) and series.shown[f]]
    if len(seen) < 2:
        return None
    centers = series.centers
    steps = np.array([(centers[b] - centers[a]) / (b - a) for a, b in pairwise(seen)])
    return _Motion(
        float(np.mean(seen)), centers[seen].mean(axis=0), np.median(steps, axis=0), float(np.median(series.sizes[seen]))
    )
