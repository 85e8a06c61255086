"""Paths of box tracks: from anchor to anchor, past look-alikes, out of sight and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

from micromodels.labels.geometry import box_iou
from micromodels.labels.targets import SeedFrame
from micromodels.propagation.box_path import (
    CELL_PX,
    FramePlaces,
    PathSettings,
    PathSweep,
    Sizes,
    best_places,
    place_scores,
)
from micromodels.propagation.predictions import LOOK_SIZE, FramePrediction
from micromodels.types import Box
from tests.micromodels.doubles import box_mask

HEIGHT, WIDTH = 96, 128
ALIKE = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])


def still_grid(cell_px: int) -> torch.Tensor:
    """Every cell lies where it is."""
    x = (torch.arange(WIDTH // cell_px) + 0.5) * 2 * cell_px / WIDTH - 1
    y = (torch.arange(HEIGHT // cell_px) + 0.5) * 2 * cell_px / HEIGHT - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]


class Still:
    """No motion; a cut before the frames that are given."""

    def __init__(self, cuts: Sequence[int] = ()) -> None:
        self._cuts = cuts

    def coarse_grid(self, to: int, origin: int) -> torch.Tensor | None:
        return None if max(to, origin) in self._cuts else still_grid(CELL_PX)

    def grid(self, to: int, origin: int) -> torch.Tensor | None:
        return None if max(to, origin) in self._cuts else still_grid(CELL_PX // 2)

    def returns(self, to: int, origin: int) -> torch.Tensor:
        return torch.ones((HEIGHT // 4, WIDTH // 4))


def pictured(shown: Sequence[tuple[Box, torch.Tensor]]) -> torch.Tensor:
    """Features of a frame that shows things of given looks ``(channels,)``, all of them brighter to the left."""
    features = torch.zeros((len(ALIKE), HEIGHT // CELL_PX, WIDTH // CELL_PX))
    features[0] = 1.0
    for box, look in shown:
        rows = (torch.arange(features.shape[1]) + 0.5) * CELL_PX
        columns = (torch.arange(features.shape[2]) + 0.5) * CELL_PX
        inside = ((rows > box.y1) & (rows < box.y2))[:, None] & ((columns > box.x1) & (columns < box.x2))[None]
        shade = (1 - 0.5 * (columns - box.x1) / box.width_px).expand(inside.shape)
        features[:, inside] = look[:, None] * shade[inside]
    return features.half()


def predictions(*seen: Sequence[Box], shown: Sequence[tuple[Box, torch.Tensor]] | None = None) -> FramePrediction:
    """A head that is sure of the given boxes for each track; what there is to see is what it sees, or ``shown``."""
    log_odds = torch.full((len(seen), HEIGHT // 2, WIDTH // 2), -6.0)
    for track, boxes in enumerate(seen):
        for box in boxes:
            log_odds[track][torch.from_numpy(box_mask(box)[::2, ::2])] = 6.0
    gray = np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8)
    looks = np.zeros((len(seen), LOOK_SIZE), np.float16)
    if shown is None:
        shown = [(box, ALIKE) for boxes in seen for box in boxes]
    return FramePrediction(log_odds.half(), None, gray, np.zeros(0, np.float32), looks, (), pictured(shown))


def anchor(frame: int, *boxes: Box | None) -> SeedFrame:
    """What people drew; None where they said that the track is not there."""
    corners = np.array([[np.nan] * 4 if box is None else box.as_list() for box in boxes], np.float32)
    return SeedFrame(frame, np.zeros((HEIGHT, WIDTH), np.uint8), corners, np.ones(len(boxes), bool))


def places(
    frames: Sequence[FramePrediction], anchors: Mapping[int, SeedFrame], motion: Still | None = None
) -> list[FramePlaces]:
    motion = motion or Still()
    tracks = len(frames[0].log_odds)
    sizes = Sizes(anchors, [sorted(anchors)] * tracks, [True] * tracks)
    settings = PathSettings()
    scores = [place_scores(frame, i, sizes, settings) for i, frame in enumerate(frames)]
    there, back = PathSweep(sizes, settings), PathSweep(sizes, settings)
    count = len(frames)
    forward = [there.step(i, scores[i], frames[i], anchors.get(i), motion, i > 0) for i in range(count)]
    backward = [
        back.step(i, scores[i], frames[i], anchors.get(i), motion, i < count - 1) for i in reversed(range(count))
    ][::-1]
    return [best_places(frames[i], scores[i], forward[i], backward[i]) for i in range(count)]


def moving(frame: int, y: float = 20) -> Box:
    return Box(10 + 5 * frame, y, 34 + 5 * frame, y + 32)


def overlap(found: FramePlaces, box: Box, track: int = 0) -> float:
    return float(box_iou(found.boxes[track], box.as_list()))


def test_a_path_follows_the_predictions_between_anchors() -> None:
    """The box moves five pixels a frame; so does the path, also on the last frames, which no anchor follows."""
    found = places([predictions([moving(i)]) for i in range(16)], {0: anchor(0, moving(0)), 12: anchor(12, moving(12))})
    assert min(overlap(found[i], moving(i)) for i in range(16)) > 0.7
    assert all(place.likeness[0] == pytest.approx(1, abs=0.2) for place in found)


def test_a_look_alike_that_does_not_lead_to_the_next_anchor_is_left_alone() -> None:
    """A double of the object stands elsewhere all the time, and for a while the object itself is not seen."""
    double = Box(96, 60, 120, 92)
    frames = [predictions([double] if 5 <= i < 8 else [moving(i), double]) for i in range(12)]
    found = places(frames, {0: anchor(0, moving(0)), 11: anchor(11, moving(11))})
    assert min(overlap(found[i], moving(i)) for i in range(12)) > 0.4
    assert all(overlap(place, double) == 0 for place in found)
    assert max(float(found[i].likeness[0]) for i in (5, 6, 7)) < 0.3


def test_a_box_that_its_outline_contradicts_is_told() -> None:
    """From the sixth frame on a half of the object is seen: the box keeps its size, and its outline says less."""
    half = [Box(box.x1, box.y1, box.x2, box.y1 + 16) if i > 5 else box for i, box in enumerate(map(moving, range(12)))]
    found = places([predictions([box]) for box in half], {0: anchor(0, moving(0))})
    accord = np.array([place.accord[0] for place in found])
    assert accord[1:6].min() > 0.8 > accord[6:].max()


def test_sides_are_compared_with_the_more_alike_of_the_neighboring_anchors() -> None:
    """A box is drawn at both ends, twice as large at the last: half-way it is a square root of two off both."""
    boxes = [
        Box(60 - 12 * 2 ** (i / 8), 46 - 16 * 2 ** (i / 8), 60 + 12 * 2 ** (i / 8), 46 + 16 * 2 ** (i / 8))
        for i in range(9)
    ]
    found = places([predictions([box]) for box in boxes], {0: anchor(0, boxes[0]), 8: anchor(8, boxes[8])})
    change = [float(place.change[0]) for place in found]
    assert change[0] == pytest.approx(0, abs=0.02)
    assert change[8] == pytest.approx(0, abs=0.02)
    assert change[4] == max(change) == pytest.approx(np.log(2) / 2, abs=0.1)


def test_what_is_not_seen_has_no_outline() -> None:
    """Nothing is said for or against the box."""
    found = places([predictions([moving(i)] if i < 3 else []) for i in range(6)], {0: anchor(0, moving(0))})
    assert [bool(np.isnan(place.accord[0])) for place in found] == [False] * 3 + [True] * 3


def test_two_alike_keep_their_identities_when_they_cross() -> None:
    """The head takes each for the other; the anchors say which is which."""

    def back(frame: int) -> Box:
        return Box(65 - 5 * frame, 22, 89 - 5 * frame, 54)

    frames = [predictions([moving(i), back(i)], [moving(i), back(i)]) for i in range(12)]
    found = places(frames, {0: anchor(0, moving(0), back(0)), 11: anchor(11, moving(11), back(11))})
    for index in (2, 3, 8, 9):
        assert overlap(found[index], moving(index), 0) > 0.5
        assert overlap(found[index], back(index), 1) > 0.5


def test_nothing_leads_past_an_anchor_that_says_absent() -> None:
    """Before it the path comes from the anchor before, after it there is none."""
    anchors = {0: anchor(0, moving(0)), 6: anchor(6, None)}
    found = places([predictions([moving(i)] if i < 4 else []) for i in range(10)], anchors)
    assert overlap(found[3], moving(3)) > 0.5
    assert float(found[5].likeness[0]) < 0.3
    assert all(np.isnan(found[i].boxes[0]).all() for i in range(6, 10))


def test_a_cut_stops_motion_and_not_the_track() -> None:
    """After a cut the object may be anywhere."""
    frames = [predictions([moving(0)]) for _ in range(4)] + [predictions([Box(90, 50, 114, 82)]) for _ in range(4)]
    found = places(frames, {0: anchor(0, moving(0))}, Still(cuts=(4,)))
    assert overlap(found[3], moving(0)) > 0.7
    assert overlap(found[6], Box(90, 50, 114, 82)) > 0.7


def test_sizes_are_interpolated_on_a_log_scale() -> None:
    """Half-way between 20 and 80 pixels an object has 40; beyond the anchors it keeps its size."""
    anchors = {2: anchor(2, Box(0, 0, 20, 40)), 6: anchor(6, Box(0, 0, 80, 40))}
    sizes = Sizes(anchors, [[2, 6]], [True])
    assert sizes.at(0, 4) == pytest.approx((40, 40))
    assert sizes.at(0, 0) == pytest.approx((20, 40))
    assert Sizes(anchors, [[2, 6]], [False]).at(0, 4) is None


def test_tracks_that_were_never_drawn_have_no_place() -> None:
    """Also beside others that have."""
    found = places([predictions([moving(0)], [moving(0)])], {0: anchor(0, moving(0), None)})
    assert not np.isnan(found[0].boxes[0]).any()
    assert np.isnan(found[0].boxes[1]).all()
    assert np.isnan(found[0].likeness[1])


def looking(angle: float) -> torch.Tensor:
    """A look that turns away from ``ALIKE``: at a right angle it has nothing in common with it."""
    return torch.cos(torch.tensor(angle)) * ALIKE + torch.sin(torch.tensor(angle)) * torch.eye(len(ALIKE))[3]


def test_an_object_that_the_head_does_not_know_any_more_is_followed_by_its_look() -> None:
    """The head sees it on two frames and then nothing; the object turns a little on every frame."""
    frames = [predictions([moving(i)] if i < 2 else [], shown=[(moving(i), looking(0.06 * i))]) for i in range(16)]
    found = places(frames, {0: anchor(0, moving(0))})
    assert min(overlap(found[i], moving(i)) for i in range(16)) > 0.6
    assert max(float(found[i].likeness[0]) for i in range(4, 16)) < 0.1
    assert min(float(found[i].match[0]) for i in range(1, 16)) > 0.65


def test_an_object_that_went_is_not_matched_again_by_what_stands_there() -> None:
    """Something else comes where it was last."""
    other = torch.eye(len(ALIKE))[4]
    frames = [predictions([moving(i)], shown=[(moving(i), ALIKE)]) for i in range(5)]
    frames += [predictions([], shown=[(moving(5), other)] if i > 2 else []) for i in range(8)]
    found = places(frames, {0: anchor(0, moving(0))})
    assert min(float(found[i].match[0]) for i in range(1, 5)) > 0.65
    assert max(float(found[i].match[0]) for i in range(6, 13)) < 0.4


class Spreading(Still):
    """The picture grows about a point by a factor from each frame to the next."""

    def __init__(self, factor: float, x: float, y: float) -> None:
        super().__init__()
        self._factor, self._middle = factor, torch.tensor([2 * x / WIDTH - 1, 2 * y / HEIGHT - 1])

    def coarse_grid(self, to: int, origin: int) -> torch.Tensor:
        return self._spread(still_grid(CELL_PX), to, origin)

    def grid(self, to: int, origin: int) -> torch.Tensor:
        return self._spread(still_grid(CELL_PX // 2), to, origin)

    def _spread(self, grid: torch.Tensor, to: int, origin: int) -> torch.Tensor:
        return self._middle + (grid - self._middle) / self._factor ** (to - origin)


@pytest.mark.parametrize("factor", [1.08, 0.93])
def test_a_box_grows_with_the_picture_in_it(factor: float) -> None:
    """From one drawn box, onward and back; before, its size would have stayed."""

    def grown(frame: int) -> Box:
        half = 12 * factor ** (frame - 4)
        return Box(64 - half, 48 - 1.2 * half, 64 + half, 48 + 1.2 * half)

    found = places([predictions([grown(i)]) for i in range(9)], {4: anchor(4, grown(4))}, Spreading(factor, 64, 48))
    assert max(float(box_iou(grown(i).as_list(), grown(4).as_list())) for i in (0, 8)) < 0.6
    assert min(overlap(found[i], grown(i)) for i in range(9)) > 0.75


def test_sizes_do_not_leap_at_an_anchor() -> None:
    """Between two drawn boxes both directions agree on what lies between them."""

    def wide(frame: int) -> Box:
        half = 10 + frame
        return Box(64 - half, 32, 64 + half, 64)

    found = places([predictions([wide(i)]) for i in range(13)], {0: anchor(0, wide(0)), 12: anchor(12, wide(12))})
    widths = [float(place.boxes[0][2] - place.boxes[0][0]) for place in found]
    assert widths == pytest.approx([2 * (10 + i) for i in range(13)], rel=0.12)
    assert max(abs(after - before) for before, after in pairwise(widths)) < 4
