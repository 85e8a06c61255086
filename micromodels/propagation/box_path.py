"""Where a box track is on every frame: the best path from anchor to anchor over the whole span.

On each frame every place on a grid of 8 pixels has a score: how much likelier the track is inside a box there than
around it. Two sweeps of dynamic programming add up the best way to every place from the anchor before and from the
anchor after, moving along the optical flow or standing still, at a cost that grows with the square of the distance; the
place where both are best is on the best path through the span (Viterbi's max-marginals; the maxima over neighborhoods
are the separable distance transform of Felzenszwalb & Huttenlocher, *Distance Transforms of Sampled Functions*, 2012).
A look-alike that passes by is nowhere on the way to the next anchor, so it cannot capture the track.

What a head does not know any more is still found by its look: in each direction a correlation filter
(``micromodels.propagation.correlation_filter``) goes along the best way so far and adds its answer to the worth of the
places around. How large the box is there says ``micromodels.propagation.box_size_filter``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from micromodels.labels.geometry import box_iou
from micromodels.labels.targets import SeedFrame
from micromodels.propagation.box_measurements import Warp, outlined_box, spreading, voted_box
from micromodels.propagation.box_size_filter import (
    DRAWN_VARIANCE,
    Extent,
    ExtentSettings,
    Growth,
    Slack,
    between,
    combined,
)
from micromodels.propagation.correlation_filter import CELL_PX, Follower, FollowerSettings
from micromodels.propagation.predictions import FramePrediction

__all__ = [
    "FramePlaces",
    "PathSettings",
    "PathSweep",
    "PlaceScores",
    "Sizes",
    "Ways",
    "best_places",
    "no_places",
    "place_scores",
]

MIN_LEVEL = 0.02
"""Below this a head knows nothing of a track even on its anchors."""
STRANGE_MIDDLE, FAMILIAR_MIDDLE, FAMILIAR = 0.2, 0.5, 0.4
"""Weight of the middle that pixels vote for, against the best place: of an object that the head does not know any more,
and of one whose likeness reaches ``FAMILIAR``."""
OUTLINED_MIDDLE = 0.5
"""Weight of the middle of the outline, of a familiar object, against both."""
EXTENTS = ExtentSettings()

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Weights of paths; dev-set values, see docs/explanation/experiments.md.

    Attributes:
        ring: weight of what is around a box against what is in it.
        least: no place is worse than this: an object may be hidden there.
        step_cost: cost of one cell off the motion, squared.
        reach: how many cells off the motion a step may go, each way.
        still_cost: cost of standing still where the optical flow moves.
        match: weight of what followers find.
    """

    ring: float = 0.5
    least: float = 0.05
    step_cost: float = 0.03
    reach: int = 3
    still_cost: float = 0.2
    match: float = 1.0


@dataclass(frozen=True, slots=True)
class FramePlaces:
    """Where tracks are on one frame.

    Attributes:
        boxes: float32 ``(tracks, 4)`` x1, y1, x2, y2 in work pixels; NaN for tracks without a path.
        likeness: float32 ``(tracks,)`` mean probability of the track in its box, relative to that in the boxes
            that people drew on the neighboring anchors: about 1 where it is seen as well as there; NaN as above.
        match: float32 ``(tracks,)`` how far a follower has kept to the object all the way from an anchor: about 1 where
            each frame looked like those before it; NaN on anchors, and as above.
        accord: float32 ``(tracks,)`` IoU of the box and the one that its outline says; NaN where there is none.
        change: float32 ``(tracks,)`` natural logarithm of how much longer or shorter its sides are, at the mean, than
            those of the more alike of the boxes that people drew on the neighboring anchors; NaN as ``boxes``.
    """

    boxes: Floats = field(repr=False)
    likeness: Floats
    match: Floats
    accord: Floats
    change: Floats


def no_places(tracks: int) -> FramePlaces:
    """Places of tracks without a path."""
    likeness, match, accord, change = np.full((4, tracks), np.nan, np.float32)
    return FramePlaces(np.full((tracks, 4), np.nan, np.float32), likeness, match, accord, change)


class Sizes:
    """Width and height of every track on every frame, interpolated between its anchors on a log scale.

    Args:
        anchors: human labels by frame.
        known: frames on which people spoke of each track, ascending.
        boxed: which tracks are drawn as boxes; others have no size, and so no path. Empty: none is.
    """

    def __init__(self, anchors: Mapping[int, SeedFrame], known: Sequence[Sequence[int]], boxed: Sequence[bool]) -> None:
        self.boxes: list[dict[int, Floats]] = []
        for track, frames in enumerate(known):
            drawn = (
                {frame: anchors[frame].boxes[track] for frame in frames} if track < len(boxed) and boxed[track] else {}
            )
            self.boxes.append({frame: box for frame, box in drawn.items() if not np.isnan(box[0])})
        self._frames = [np.array(sorted(boxes), np.float64) for boxes in self.boxes]
        self._logs = [
            np.log([np.maximum(boxes[f][2:] - boxes[f][:2], 1.0) for f in sorted(boxes)]) if boxes else np.zeros((0, 2))
            for boxes in self.boxes
        ]

    def at(self, track: int, frame: int) -> tuple[float, float] | None:
        """Width and height in work pixels; None for a track that was never drawn."""
        if not len(self._frames[track]):
            return None
        width, height = np.exp(self.log_at(track, frame))
        return float(width), float(height)

    def log_at(self, track: int, frame: int) -> npt.NDArray[np.float64]:
        """Natural logarithms of width and height of a track that was drawn; float64 ``(2,)``."""
        logs = self._logs[track]
        return np.array([np.interp(frame, self._frames[track], logs[:, side]) for side in (0, 1)])


def _kernel(length_cells: float, like: torch.Tensor) -> torch.Tensor:
    """Weights of the cells that an interval of this length covers, centerd on a cell; they sum to 1."""
    half = max(length_cells, 1.0) / 2
    reach = int(np.ceil(half - 0.5))
    offsets = np.arange(-reach, reach + 1)
    weights = np.clip(np.minimum(half, offsets + 0.5) - np.maximum(-half, offsets - 0.5), 0, 1)
    return torch.tensor(weights / weights.sum(), dtype=like.dtype, device=like.device)


def _box_mean(values: torch.Tensor, width_cells: float, height_cells: float) -> torch.Tensor:
    """Mean over a box centerd on each cell; outside the image counts as 0. ``(h, w)`` to ``(h, w)``."""
    rows, columns = _kernel(height_cells, values), _kernel(width_cells, values)
    mixed = F.conv2d(values[None, None], rows[None, None, :, None], padding=(len(rows) // 2, 0))
    return F.conv2d(mixed, columns[None, None, None, :], padding=(0, len(columns) // 2))[0, 0]


@dataclass(frozen=True, slots=True)
class PlaceScores:
    """How well each track fits each place of a frame.

    Attributes:
        worth: ``(tracks, h8, w8)`` how much likelier it is inside a box there than around it.
        inside: ``(tracks, h8, w8)`` mean probability inside the box.
    """

    worth: torch.Tensor = field(repr=False)
    inside: torch.Tensor = field(repr=False)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A box that people drew, and what a head sees there.

    Attributes:
        log_size: float64 ``(2,)`` natural logarithms of width and height in work pixels.
        level: mean probability inside the box, at least ``MIN_LEVEL``.
        slack: around the outline; None where none is seen that has to do with the box.
    """

    log_size: npt.NDArray[np.float64]
    level: float
    slack: Slack | None


@dataclass(frozen=True, slots=True)
class Ways:
    """The best ways of one direction to the places of a frame.

    Attributes:
        worth: ``(tracks, h8, w8)`` worth of the best way to each place.
        drawn: the box on the last anchor that was met, by track; of those that were there.
        matches: float32 ``(tracks,)`` how far the followers of this direction have kept to their objects, of
            ``Follower.learn``; NaN where there is none.
        expected: sizes before a look at the frame, by track as ``drawn``.
        found: sizes after it.
    """

    worth: torch.Tensor = field(repr=False)
    drawn: Mapping[int, Drawn]
    matches: Floats
    expected: Mapping[int, Extent]
    found: Mapping[int, Extent]


def place_scores(predictions: FramePrediction, frame: int, sizes: Sizes, settings: PathSettings) -> PlaceScores:
    """Scores of one frame for tracks that have a size there; the others have the least everywhere."""
    probability = F.avg_pool2d(torch.sigmoid(predictions.log_odds.float())[None], 4)[0]
    scores, inside = torch.full_like(probability, settings.least), torch.zeros_like(probability)
    for track in range(len(probability)):
        size = sizes.at(track, frame)
        if size is None:
            continue
        width, height = size[0] / CELL_PX, size[1] / CELL_PX
        core = _box_mean(probability[track], 0.8 * width, 0.8 * height)
        around = _box_mean(probability[track], 1.6 * width, 1.6 * height)
        scores[track] = (core - settings.ring * around).clamp(min=settings.least)
        inside[track] = _box_mean(probability[track], width, height)
    return PlaceScores(scores, inside)


def _spread(scores: torch.Tensor, cost: float, reach: int) -> torch.Tensor:
    """The best of the neighborhood of each place less the cost of coming from there; ``(tracks, h, w)``."""
    for axis in (-1, -2):
        best = scores.clone()
        length = scores.shape[axis]
        for shift in range(1, min(reach, length - 1) + 1):
            ahead, behind = scores.narrow(axis, shift, length - shift), scores.narrow(axis, 0, length - shift)
            worth = cost * shift * shift
            low, high = best.narrow(axis, 0, length - shift), best.narrow(axis, shift, length - shift)
            low.copy_(torch.maximum(low, ahead - worth))
            high.copy_(torch.maximum(high, behind - worth))
        scores = best
    return scores


class PathSweep:
    """One direction of the dynamic program: the worth of the best way to each place so far.

    Args:
        sizes: of the tracks, with the boxes that people drew.
        settings: weights.
    """

    def __init__(self, sizes: Sizes, settings: PathSettings) -> None:
        self._sizes, self._settings = sizes, settings
        self._worth: torch.Tensor | None = None
        self._frame = -1
        self._drawn: dict[int, Drawn] = {}
        self._followers: dict[int, Follower] = {}
        self._extents: dict[int, Extent] = {}
        self._boxes: dict[int, Floats] = {}
        self._predictions: FramePrediction | None = None

    def step(
        self,
        frame: int,
        scores: PlaceScores,
        predictions: FramePrediction,
        anchor: SeedFrame | None,
        motion: Warp,
        known: bool,
    ) -> Ways:
        """Go to the next frame of this direction.

        Args:
            frame: its index.
            scores: of ``place_scores``.
            predictions: of the frame, with features for followers.
            anchor: what people drew on it, if anything.
            motion: between neighboring frames.
            known: whether the frame that this sweep comes from is at hand.

        Returns:
            The worth of each place.
        """
        worth, matches = scores.worth.clone(), np.full(len(scores.worth), np.nan, np.float32)
        features = _features(predictions)
        if self._worth is not None and known:
            grid = motion.coarse_grid(frame, self._frame)
            if grid is not None:
                settings = self._settings
                moved = F.grid_sample(self._worth[None], grid, padding_mode="border", align_corners=False)[0]
                moved = _spread(moved, settings.step_cost, settings.reach)
                still = _spread(self._worth, settings.step_cost, settings.reach) - settings.still_cost
                worth += torch.maximum(moved, still)
        drawn = set(np.nonzero(anchor.known)[0].tolist()) if anchor is not None else set()
        for track in drawn:
            worth[track] = self._begin(track, frame, scores, predictions)
        expected = dict(self._extents)
        for track in self._followers.keys() - drawn:
            matches[track] = self._follow(track, features, worth[track])
            place = _peak(worth[track])
            box = _box_around(place[0], place[1], self._extents[track].sides)
            growth = self._growth(track, frame, predictions, box, motion) if known else None
            self._boxes[track], expected[track] = box, self._extents[track].grown(growth, EXTENTS)
            likeness = float(scores.inside[track, place[2], place[3]]) / self._drawn[track].level
            self._extents[track] = self._seen(track, frame, predictions, box, likeness, expected[track])
        # Only differences count; this keeps numbers small on a long way.
        self._worth = worth - worth.amax(dim=(1, 2), keepdim=True)
        self._frame, self._predictions = frame, predictions
        return Ways(self._worth, dict(self._drawn), matches, expected, dict(self._extents))

    def _seen(
        self, track: int, frame: int, predictions: FramePrediction, box: Floats, likeness: float, expected: Extent
    ) -> Extent:
        """The size of a track after a look at the box where it is thought to be."""
        votes, outline = voted_box(predictions, track, box), outlined_box(predictions, track, box)
        slack = self._drawn[track].slack
        return expected.corrected(
            None if votes is None else _log_size(votes),
            None if outline is None or slack is None else slack.around(outline)[0],
            likeness,
            self._sizes.log_at(track, frame),
            EXTENTS,
        )

    def _begin(self, track: int, frame: int, scores: PlaceScores, predictions: FramePrediction) -> torch.Tensor:
        """Start again from the human label of a track on a frame; returns the worth of places there."""
        box = self._sizes.boxes[track].get(frame)
        if box is None:
            # Nobody has to come from where the object was not.
            for known in (self._drawn, self._followers, self._extents):
                known.pop(track, None)
            return scores.worth[track]
        worth = _drawn_worth(box, scores.worth[track])
        level = max(MIN_LEVEL, float(scores.inside[track].flatten()[worth.argmax()]))
        x, y = (float(side) / CELL_PX for side in (box[:2] + box[2:]) / 2)
        width, height = _sides(box)
        size = width / CELL_PX, height / CELL_PX
        self._followers[track] = Follower(_features(predictions), (x, y), size, FollowerSettings())
        self._extents[track], self._boxes[track] = Extent(_log_size(box), np.full(2, DRAWN_VARIANCE)), box
        outline = outlined_box(predictions, track, box)
        slack = None if outline is None else Slack.of(outline, box)
        self._drawn[track] = Drawn(_log_size(box), level, slack if slack is not None and slack.is_usable else None)
        return worth

    def _growth(self, track: int, frame: int, predictions: FramePrediction, box: Floats, motion: Warp) -> Growth | None:
        """How much larger the picture inside a box is than on the frame before; None across a cut."""
        assert self._predictions is not None
        here = spreading(predictions, track, box, motion, frame, self._frame)
        there = spreading(self._predictions, track, self._boxes[track], motion, self._frame, frame)
        return None if here is None or there is None else between(here, there)

    def _follow(self, track: int, features: torch.Tensor, worth: torch.Tensor) -> float:
        """Add to ``worth`` what the follower of a track answers around the best place so far; see ``Ways.matches``."""
        follower, (width, height) = self._followers[track], self._extents[track].sides
        size = width / CELL_PX, height / CELL_PX
        x, y, _, _ = _peak(worth)
        match = follower.answer(features, (x / CELL_PX, y / CELL_PX), size)
        worth += self._settings.match * match
        x, y, row, column = _peak(worth)
        return follower.learn(features, (x / CELL_PX, y / CELL_PX), size, float(match[row, column]))


def _drawn_worth(box: Floats, like: torch.Tensor) -> torch.Tensor:
    """Worth of places on an anchor: the drawn one, and next to none else."""
    rows = (torch.arange(like.shape[0], device=like.device) + 0.5) * CELL_PX
    columns = (torch.arange(like.shape[1], device=like.device) + 0.5) * CELL_PX
    x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
    return -4.0 * (((columns[None] - x) / CELL_PX) ** 2 + ((rows[:, None] - y) / CELL_PX) ** 2)


def best_places(predictions: FramePrediction, scores: PlaceScores, forward: Ways, backward: Ways) -> FramePlaces:
    """The place of each track on the best path through a frame.

    Args:
        predictions: of the frame.
        scores: of ``place_scores``.
        forward: of ``PathSweep.step`` from the anchors before.
        backward: the same from the anchors after.
    """
    places = no_places(len(scores.worth))
    boxes, likeness, match, accord, change = places.boxes, places.likeness, places.match, places.accord, places.change
    for track in range(len(scores.worth)):
        reached = [ways for ways in (forward, backward) if track in ways.drawn]
        if not reached:
            continue
        total = sum((ways.worth[track] for ways in reached), torch.zeros_like(scores.worth[track]))
        if len(reached) == 2:
            total = total - scores.worth[track]  # both have counted it
        x, y, row, column = _peak(total)
        placed = _box_around(x, y, _extent(track, forward, backward).sides)
        drawn = [ways.drawn[track] for ways in reached]
        likeness[track] = float(scores.inside[track, row, column]) / float(np.mean([box.level for box in drawn]))
        outlined = _outlined(predictions, track, placed, drawn)
        boxes[track] = _nudged(placed, voted_box(predictions, track, placed), outlined, float(likeness[track]))
        match[track] = max(float(ways.matches[track]) for ways in reached)
        accord[track] = np.nan if outlined is None else float(box_iou(boxes[track], outlined))
        change[track] = min(float(np.abs(_log_size(boxes[track]) - box.log_size).mean()) for box in drawn)
    return places


def _outlined(predictions: FramePrediction, track: int, placed: Floats, drawn: Sequence[Drawn]) -> Floats | None:
    """The box that the outline around ``placed`` says, with the slack of what was drawn; None where it says nothing."""
    outline, slacks = outlined_box(predictions, track, placed), [box.slack for box in drawn if box.slack is not None]
    if outline is None or not slacks:
        return None
    said = [slack.around(outline) for slack in slacks]
    boxes = [_box_around(float(x), float(y), extent.sides) for extent, (x, y) in said]
    return np.asarray(np.mean(boxes, axis=0), np.float32)


def _peak(total: torch.Tensor) -> tuple[float, float, int, int]:
    """The best place: x and y in work pixels, by a parabola through its neighbors, and its cell."""
    row, column = divmod(int(total.argmax()), total.shape[1])

    def offset(values: torch.Tensor, index: int) -> float:
        if not 0 < index < len(values) - 1:
            return 0.0
        before, here, after = (float(v) for v in values[index - 1 : index + 2])
        bend = before - 2 * here + after
        return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < -1e-6 else 0.0

    x = column + 0.5 + offset(total[row], column)
    y = row + 0.5 + offset(total[:, column], row)
    return x * CELL_PX, y * CELL_PX, row, column


def _box_around(x: float, y: float, size: tuple[float, float]) -> Floats:
    return np.array([x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2], np.float32)


def _extent(track: int, forward: Ways, backward: Ways) -> Extent:
    """What both directions say of a size; only one of them may have looked at the frame."""
    if not (track in forward.drawn and track in backward.drawn):
        return (forward if track in forward.drawn else backward).found[track]
    return combined(forward.found[track], backward.expected[track])


def _features(predictions: FramePrediction) -> torch.Tensor:
    assert predictions.matched is not None, "a head of boxes has them"
    return predictions.matched.float()


def _nudged(placed: Floats, voted: Floats | None, outlined: Floats | None, likeness: float) -> Floats:
    """The box on its way to the middle of the voted one, and on to that of the outlined one."""
    familiar = min(1.0, likeness / FAMILIAR)
    aim = middle = _middle(placed)
    if voted is not None:
        aim = middle + (STRANGE_MIDDLE + (FAMILIAR_MIDDLE - STRANGE_MIDDLE) * familiar) * (_middle(voted) - middle)
    if outlined is not None and likeness >= EXTENTS.outline_likeness:
        aim = aim + OUTLINED_MIDDLE * familiar * (_middle(outlined) - aim)
    return placed + np.tile(aim - middle, 2).astype(np.float32)


def _middle(box: Floats) -> Floats:
    return np.asarray((box[:2] + box[2:]) / 2, np.float32)


def _sides(box: Floats) -> tuple[float, float]:
    return float(box[2] - box[0]), float(box[3] - box[1])


def _log_size(box: Floats) -> npt.NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(box[2:] - box[:2], 1.0)), np.float64)
