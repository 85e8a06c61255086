"""From posteriors to labels: presence, states, gaps, anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from micromodels.labels.geometry import iou
from micromodels.labels.targets import SeedSet, TrackSpec
from micromodels.propagation.base import FramePosterior
from micromodels.propagation.box_path import FramePlaces, no_places
from micromodels.propagation.label_builder import MAX_GAP_FRAMES, SHORT_GAP_FRAMES, Tracker
from micromodels.training.frame_classifier import FrameClassifier
from micromodels.types import (
    AnyLabel,
    Box,
    FrameLabel,
    FrameResult,
    Label,
    Mask,
    ProvenanceKind,
    ShapeKind,
    State,
)
from tests.micromodels.doubles import HEIGHT, WIDTH, box_mask, seed, square

SIZE = (HEIGHT, WIDTH)


def posterior(
    frame: int,
    boxes: Sequence[Box | None],
    pooled: Sequence[float] = (),
    sure: float = 8.0,
    paths: Sequence[Box] = (),
) -> FramePosterior:
    """What a perfect head says of boxes, None where a track is not to be seen; ``paths`` are where they would be."""
    ys, xs = np.mgrid[: HEIGHT // 4, : WIDTH // 4] * 4.0 + 2.0
    log_odds = np.full((len(boxes), HEIGHT // 2, WIDTH // 2), -sure, np.float32)
    sides = np.ones((4, HEIGHT // 4, WIDTH // 4), np.float32)
    for index, box in enumerate(boxes):
        if box is not None:
            inside = box_mask(box)
            log_odds[index, inside[::2, ::2]] = sure
            own = np.stack([xs - box.x1, ys - box.y1, box.x2 - xs, box.y2 - ys])
            sides = np.where(inside[2::4, 2::4], own, sides).astype(np.float32)
    agreement = np.full(len(boxes), np.nan, np.float32)
    places = no_places(len(boxes))
    if paths:
        likeness = np.array([0.0 if box is None else 1.0 for box in boxes], np.float32)
        ones = np.ones_like(likeness)
        corners = np.array([box.as_list() for box in paths], np.float32)
        places = FramePlaces(corners, likeness, match=0 * ones, accord=ones, change=0 * ones)
    return FramePosterior(
        frame, log_odds, sides, agreement, np.ones(len(boxes), np.int64), np.array(pooled, np.float32), places
    )


def track(
    posteriors: Sequence[FramePosterior],
    labels: Sequence[AnyLabel] = (),
    kind: ShapeKind = ShapeKind.BOX,
    tracks: Sequence[str] = ("1",),
    classifier: FrameClassifier | None = None,
    typical: float = 0.05,
) -> list[FrameResult]:
    specs = tuple(TrackSpec(name, "square", kind) for name in tracks)
    seeds = SeedSet(labels, 1000, HEIGHT, WIDTH, tracks=specs)
    anchors = {frame: seeds.seed_frame(frame, SIZE) for frame in seeds.frames}
    classes = ("dark",) if classifier else ()
    tracker = Tracker(specs, seeds, anchors, SIZE, "v1", classifier, classes, [typical] * len(specs))
    return list(tracker.results(posteriors))


@pytest.mark.parametrize("length", [1, SHORT_GAP_FRAMES, SHORT_GAP_FRAMES + 1])
def test_short_gaps_are_bridged_and_long_ones_are_absences(length: int) -> None:
    """An object does not leave for a moment; where it is out of sight for longer and nothing hides it, it is absent."""
    gap = range(8, 8 + length)
    results = track([posterior(i, [None if i in gap else square(i)], paths=[square(i)]) for i in range(20)])
    assert [r.frame for r in results] == list(range(20))
    for result in results:
        (label,) = result.labels
        assert label.provenance.kind is ProvenanceKind.MODEL
        assert label.provenance.version == "v1"
        assert label.confidence is not None
        if result.frame in gap and length > SHORT_GAP_FRAMES:
            assert label.state is State.ABSENT
            assert label.shape is None
        else:
            assert label.state is State.VISIBLE
            assert label.shape == square(result.frame)


def test_a_box_without_a_path_is_where_the_pixels_vote_for() -> None:
    """With no anchor to come from, as in an archive, each frame speaks for itself."""
    for result in track([posterior(i, [square(i)]) for i in range(6)]):
        shape = result.labels[0].shape
        assert isinstance(shape, Box)
        assert iou(shape, square(result.frame), (HEIGHT, WIDTH)) > 0.9


def test_a_track_behind_another_is_occluded() -> None:
    """Where the square vanishes behind another track it keeps the box of its path, and is called occluded."""
    wall = Box(20, 24, 80, 72)
    hidden = range(8, 13)
    results = track(
        [
            posterior(i, [None if i in hidden else square(i), wall if i in hidden else None], paths=[square(i), wall])
            for i in range(20)
        ],
        tracks=("1", "2"),
    )
    states = [result.labels[0].state for result in results]
    assert [i for i, state in enumerate(states) if state is State.OCCLUDED] == list(hidden)
    for frame in hidden:
        assert results[frame].labels[0].shape == square(frame)
        assert results[frame].labels[1].state is State.VISIBLE


def test_an_anchor_that_says_absent_ends_a_gap() -> None:
    """A track that a person says is gone is not behind the wall before or after."""
    wall = Box(20, 24, 80, 72)
    hidden = range(8, 14)
    posteriors = [
        posterior(i, [None if i in hidden else square(i), wall if i in hidden else None], paths=[square(i), wall])
        for i in range(20)
    ]
    results = track(posteriors, [Label(10, "1", "square", State.ABSENT)], tracks=("1", "2"))
    assert all(results[frame].labels[0].state is State.ABSENT for frame in hidden)


@pytest.mark.parametrize("kind", list(ShapeKind))
def test_a_track_of_low_presence_is_absent(kind: ShapeKind) -> None:
    """Where no pixel is likely there is no shape; the confidence is that of its absence."""
    results = track([posterior(i, [square(i) if i < 3 else None]) for i in range(6)], kind=kind)
    assert [r.labels[0].state for r in results] == [State.VISIBLE] * 3 + [State.ABSENT] * 3
    assert all(r.labels[0].shape is None and (r.labels[0].confidence or 0) > 0.9 for r in results[3:])


@pytest.mark.parametrize(
    ("match", "between", "beyond"),
    [(0.45, State.ABSENT, State.ABSENT), (0.6, State.ABSENT, State.VISIBLE), (0.7, State.VISIBLE, State.VISIBLE)],
)
def test_a_filter_is_believed_sooner_where_nothing_follows(match: float, between: State, beyond: State) -> None:
    """The head does not know the object any more; between two anchors it could be found again from the other one."""
    unknown = posterior(5, [None], paths=[square(5)])
    unknown = replace(unknown, places=replace(unknown.places, match=np.array([match], np.float32)))
    both = replace(unknown, agreement=np.array([1.0], np.float32))
    assert [track([one])[0].labels[0].state for one in (both, unknown)] == [between, beyond]


def test_masks_are_those_of_the_posterior() -> None:
    """A track drawn as a mask gets masks of the size of the video."""
    (result,) = track([posterior(0, [square(0)])], kind=ShapeKind.MASK)
    shape = result.labels[0].shape
    assert isinstance(shape, Mask)
    overlap = shape.to_array() & box_mask(square(0))
    assert overlap.sum() / (shape.to_array() | box_mask(square(0))).sum() > 0.9


def test_anchors_are_returned_unchanged() -> None:
    """Whatever the posterior says, a human label comes back as the very object that was given; others are predicted."""
    anchors: list[AnyLabel] = [
        seed(2, ShapeKind.BOX, box=Box(1, 1, 9, 9)),
        Label(4, "1", "square", State.ABSENT),
        Label(5, "1", "square", State.UNCERTAIN),
        Label(6, "1", "square", State.OCCLUDED, square(6)),
        seed(4, ShapeKind.BOX, track="stranger", box=Box(3, 3, 30, 30)),
    ]
    results = track([posterior(i, [square(i)]) for i in range(8)], anchors)
    for label in anchors:
        assert any(label is given for given in results[label.frame].all())
    for result in results:
        own = [label for label in result.labels if label.track == "1"]
        assert len(own) == 1
        assert own[0].is_anchor == (result.frame in (2, 4, 5, 6))


def test_confidence_falls_with_distance_doubt_and_disagreement() -> None:
    """The same mask is less sure far from anchors, where the sweeps differ, and where the head is undecided."""

    def confidence(distance: int = 1, agreement: float = 1.0, sure: float = 4.0) -> float:
        base = posterior(0, [square(0)])
        odds = np.where(base.log_odds > 0, sure, -8).astype(np.float32)
        said = replace(
            base, log_odds=odds, agreement=np.array([agreement], np.float32), anchor_distance=np.array([distance])
        )
        value = track([said], kind=ShapeKind.MASK, typical=32 * 32 / (HEIGHT * WIDTH))[0].labels[0].confidence
        assert value is not None
        return value

    best = confidence(sure=2.6)
    assert 0.3 < best < 1
    assert confidence(sure=2.6, distance=200) < best
    assert confidence(sure=2.6, distance=-1) < best
    assert confidence(sure=2.6, agreement=0.3) < best
    assert confidence(sure=1.5) < best


@pytest.mark.parametrize("count", [1, 15, 17, MAX_GAP_FRAMES, 2 * MAX_GAP_FRAMES + 3])
@pytest.mark.parametrize("anchored", [[], [0], [16]])
def test_every_frame_comes_once(count: int, anchored: list[int]) -> None:
    """None is lost or doubled, however long the track is out of sight."""
    labels = [seed(f, ShapeKind.BOX, box=Box(10, 10, 30, 30)) for f in anchored]
    empty = np.full((1, 4, 4), -8, np.float32)
    nothing = np.full(1, np.nan, np.float32)
    posteriors = [
        FramePosterior(
            i,
            empty,
            np.ones((4, 2, 2), np.float32),
            nothing,
            np.ones(1, np.int64),
            np.zeros(0, np.float32),
            no_places(1),
        )
        for i in range(count)
    ]
    assert [result.frame for result in track(posteriors, labels)] == list(range(count))


def test_no_posteriors_no_results() -> None:
    """An empty range of frames has no labels."""
    assert track([]) == []


def _by_first() -> FrameClassifier:
    classifier = FrameClassifier(1, 1).eval()
    with torch.no_grad():
        classifier.linear.weight.fill_(1.0)
        classifier.linear.bias.zero_()
    return classifier


def test_frame_classes_are_smoothed_and_anchored() -> None:
    """One odd frame among many does not flip the class; a human label of it does, and is kept."""
    values: Mapping[int, float] = {6: -3.0}
    posteriors = [posterior(i, [None], pooled=[values.get(i, 3.0)]) for i in range(12)]
    results = track(posteriors, classifier=_by_first())
    assert [r.frame_labels[0].present for r in results] == [True] * 12
    human = FrameLabel(6, "dark", False)
    results = track(posteriors, [human], classifier=_by_first())
    assert results[6].frame_labels == (human,)
    confidence = results[5].frame_labels[0].confidence
    assert confidence is not None
    assert 0.5 <= confidence <= 1.0
