"""Paths of box tracks: from anchor to anchor, past look-alikes, out of sight and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from micromodels.evidence import LOOK_SIZE, FrameEvidence
from micromodels.paths import CELL_PX, FramePlaces, PathSettings, PathSweep, Sizes, best_places, place_scores
from micromodels.seeds import SeedFrame
from micromodels.types import Box
from tests.core.doubles import box_mask

HEIGHT, WIDTH = 96, 128


class Still:
    """No motion; a cut before the frames that are given."""

    def __init__(self, cuts: Sequence[int] = ()) -> None:
        self._cuts = cuts

    def coarse_grid(self, to: int, origin: int) -> torch.Tensor | None:
        if max(to, origin) in self._cuts:
            return None
        x = (torch.arange(WIDTH // CELL_PX) + 0.5) * 2 * CELL_PX / WIDTH - 1
        y = (torch.arange(HEIGHT // CELL_PX) + 0.5) * 2 * CELL_PX / HEIGHT - 1
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]


def evidence(*seen: Sequence[Box]) -> FrameEvidence:
    """A head that is sure of the given boxes for each track."""
    log_odds = torch.full((len(seen), HEIGHT // 2, WIDTH // 2), -6.0)
    for track, boxes in enumerate(seen):
        for box in boxes:
            log_odds[track][torch.from_numpy(box_mask(box)[::2, ::2])] = 6.0
    grey = np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8)
    looks = np.zeros((len(seen), LOOK_SIZE), np.float16)
    return FrameEvidence(log_odds.half(), None, grey, np.zeros(0, np.float32), looks)


def anchor(frame: int, *boxes: Box | None) -> SeedFrame:
    """What people drew; None where they said that the track is not there."""
    corners = np.array([[np.nan] * 4 if box is None else box.as_list() for box in boxes], np.float32)
    return SeedFrame(frame, np.zeros((HEIGHT, WIDTH), np.uint8), corners, np.ones(len(boxes), bool))


def places(
    frames: Sequence[FrameEvidence], anchors: Mapping[int, SeedFrame], motion: Still | None = None
) -> list[FramePlaces]:
    motion = motion or Still()
    tracks = len(frames[0].log_odds)
    sizes = Sizes(anchors, [sorted(anchors)] * tracks, [True] * tracks)
    settings = PathSettings()
    scores = [place_scores(frame, i, sizes, settings) for i, frame in enumerate(frames)]
    there, back = PathSweep(sizes, settings), PathSweep(sizes, settings)
    count = len(frames)
    forward = [there.step(i, scores[i], anchors.get(i), motion, i > 0) for i in range(count)]
    backward = [back.step(i, scores[i], anchors.get(i), motion, i < count - 1) for i in reversed(range(count))][::-1]
    return [best_places(i, frames[i], scores[i], forward[i], backward[i], sizes) for i in range(count)]


def moving(frame: int, y: float = 20) -> Box:
    return Box(10 + 5 * frame, y, 34 + 5 * frame, y + 32)


def overlap(found: FramePlaces, box: Box, track: int = 0) -> float:
    return Box(*(float(side) for side in found.boxes[track])).iou(box)


def test_a_path_follows_the_evidence_between_anchors() -> None:
    """The box moves five pixels a frame; so does the path, also on the last frames, which no anchor follows."""
    found = places([evidence([moving(i)]) for i in range(16)], {0: anchor(0, moving(0)), 12: anchor(12, moving(12))})
    assert min(overlap(found[i], moving(i)) for i in range(16)) > 0.7
    assert all(place.likeness[0] == pytest.approx(1, abs=0.2) for place in found)


def test_a_look_alike_that_does_not_lead_to_the_next_anchor_is_left_alone() -> None:
    """A double of the object stands elsewhere all the time, and for a while the object itself is not seen."""
    double = Box(96, 60, 120, 92)
    frames = [evidence([double] if 5 <= i < 8 else [moving(i), double]) for i in range(12)]
    found = places(frames, {0: anchor(0, moving(0)), 11: anchor(11, moving(11))})
    assert min(overlap(found[i], moving(i)) for i in range(12)) > 0.4
    assert all(overlap(place, double) == 0 for place in found)
    assert max(float(found[i].likeness[0]) for i in (5, 6, 7)) < 0.3
    assert min(float(place.margin[0]) for place in found) > 0


def test_two_alike_keep_their_identities_when_they_cross() -> None:
    """The head takes each for the other; the anchors say which is which."""

    def back(frame: int) -> Box:
        return Box(65 - 5 * frame, 22, 89 - 5 * frame, 54)

    frames = [evidence([moving(i), back(i)], [moving(i), back(i)]) for i in range(12)]
    found = places(frames, {0: anchor(0, moving(0), back(0)), 11: anchor(11, moving(11), back(11))})
    for index in (2, 3, 8, 9):
        assert overlap(found[index], moving(index), 0) > 0.5
        assert overlap(found[index], back(index), 1) > 0.5


def test_nothing_leads_past_an_anchor_that_says_absent() -> None:
    """Before it the path comes from the anchor before, after it there is none."""
    anchors = {0: anchor(0, moving(0)), 6: anchor(6, None)}
    found = places([evidence([moving(i)] if i < 4 else []) for i in range(10)], anchors)
    assert overlap(found[3], moving(3)) > 0.5
    assert float(found[5].likeness[0]) < 0.3
    assert all(np.isnan(found[i].boxes[0]).all() for i in range(6, 10))


def test_a_cut_stops_motion_and_not_the_track() -> None:
    """After a cut the object may be anywhere."""
    frames = [evidence([moving(0)]) for _ in range(4)] + [evidence([Box(90, 50, 114, 82)]) for _ in range(4)]
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
    found = places([evidence([moving(0)], [moving(0)])], {0: anchor(0, moving(0), None)})
    assert not np.isnan(found[0].boxes[0]).any()
    assert np.isnan(found[0].boxes[1]).all()
    assert np.isnan(found[0].likeness[1])
