"""Seeds: what is painted, what is refused, and that augmented views keep pixels and boxes together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micromodels.errors import FailedPrecondition, InvalidInput, MicromodelsError, OutOfRange
from micromodels.labels.geometry import mask_iou
from micromodels.labels.targets import (
    IGNORE,
    MAX_TRACKS,
    SeedSet,
    TrackSpec,
)
from micromodels.training.augmentation import (
    ViewMaker,
    _Motion,
)
from micromodels.types import (
    AnyLabel,
    Box,
    FrameLabel,
    Label,
    ObjectClass,
    Ontology,
    Polygon,
    Provenance,
    ProvenanceKind,
    ShapeKind,
    State,
)
from tests.micromodels.doubles import HEIGHT, WIDTH, box_mask, drawn, scene, seed, square

SIZE = (HEIGHT, WIDTH)
MODEL = Provenance(ProvenanceKind.MODEL, "v1")


def seed_set(*labels: AnyLabel, ontology: Ontology | None = None) -> SeedSet:
    return SeedSet(labels, 10, HEIGHT, WIDTH, ontology)


@pytest.mark.parametrize("kind", [ShapeKind.MASK, ShapeKind.POLYGON])
def test_masks_and_polygons_are_painted_as_drawn(kind: ShapeKind) -> None:
    """At its own size a mask keeps every pixel; a polygon those whose centers it holds."""
    target = seed_set(seed(0, kind)).seed_frame(0, SIZE)
    assert np.array_equal(target.label_map == 1, box_mask(square(0)))
    assert not (target.label_map == IGNORE).any()
    np.testing.assert_allclose(target.boxes, [square(0).as_list()])
    assert target.known.tolist() == [True]


def test_targets_are_scaled_to_the_work_image() -> None:
    """On a work image of another size boxes and pixels are where they were, relative to the frame."""
    target = seed_set(seed(0)).seed_frame(0, (HEIGHT * 2, WIDTH * 3))
    box = square(0)
    np.testing.assert_allclose(target.boxes[0], [box.x1 * 3, box.y1 * 2, box.x2 * 3, box.y2 * 2])
    expected = box_mask(Box(box.x1 * 3, box.y1 * 2, box.x2 * 3, box.y2 * 2), HEIGHT * 2, WIDTH * 3)
    assert mask_iou(target.label_map == 1, expected) > 0.95


def test_only_the_middle_of_a_box_is_surely_the_object() -> None:
    """A box seed gives an ellipse of sure pixels; the rest of the box is not scored, the outside is background."""
    target = seed_set(seed(0, ShapeKind.BOX)).seed_frame(0, SIZE)
    inside = box_mask(square(0))
    assert (target.label_map[~inside] == 0).all()
    assert set(np.unique(target.label_map[inside])) == {1, IGNORE}
    assert target.label_map[48, 32] == 1
    assert target.label_map[32, 16] == target.label_map[63, 47] == IGNORE
    assert 0.5 < (target.label_map == 1).sum() / inside.sum() < 0.8


@pytest.mark.parametrize("small_first", [True, False])
def test_a_small_object_lies_on_a_large_one(small_first: bool) -> None:
    """Whatever the order of the labels, the smaller object keeps all its pixels."""
    large, small = Box(10, 10, 90, 80), Box(30, 30, 40, 40)
    labels = [seed(0, track="1", box=large), seed(0, track="2", box=small)]
    target = seed_set(*(labels[::-1] if small_first else labels)).seed_frame(0, SIZE)
    assert np.array_equal(target.label_map == 2, box_mask(small))
    assert np.array_equal(target.label_map == 1, box_mask(large) & ~box_mask(small))


def test_tracks_are_numbered_naturally() -> None:
    """Track 2 comes before track 10, and names after numbers, whatever the order of the labels."""
    boxes = [Box(10 * i, 10, 10 * i + 8, 30) for i in range(4)]
    labels = [seed(0, track=t, box=b) for t, b in zip(["car", "10", "2", "1"], boxes, strict=True)]
    tracks = seed_set(*labels).tracks
    assert [spec.track for spec in tracks] == ["1", "2", "10", "car"]
    target = seed_set(*labels).seed_frame(0, SIZE)
    for index, spec in enumerate(tracks, start=1):
        (label,) = (label for label in labels if label.track == spec.track)
        assert isinstance(label.shape, type(drawn(boxes[0], ShapeKind.MASK)))
        assert np.array_equal(target.label_map == index, label.shape.to_array())


def test_what_nobody_said_is_not_known() -> None:
    """A track without a label on a frame is unknown there; an absent one is known and has no pixels."""
    seeds = seed_set(
        seed(0, track="1"),
        seed(0, track="2", box=Box(70, 5, 90, 25)),
        seed(3, track="1"),
        Label(5, "1", "square", State.ABSENT),
        Label(5, "2", "square", State.UNCERTAIN),
    )
    assert seeds.frames == [0, 3, 5]
    assert seeds.seed_frame(0, SIZE).known.tolist() == [True, True]
    only_first = seeds.seed_frame(3, SIZE)
    assert only_first.known.tolist() == [True, False]
    assert np.isnan(only_first.boxes[1]).all()
    gone = seeds.seed_frame(5, SIZE)
    assert gone.known.tolist() == [True, False]
    assert (gone.label_map == 0).all()


def test_tracks_of_an_existing_model_are_kept() -> None:
    """With the tracks of a micro-model given, others are left out of the targets."""
    tracks = (TrackSpec("7", "square", ShapeKind.MASK),)
    seeds = SeedSet([seed(0, track="1"), seed(0, track="7")], 10, HEIGHT, WIDTH, tracks=tracks)
    target = seeds.seed_frame(0, SIZE)
    assert target.known.tolist() == [True]
    assert set(np.unique(target.label_map)) == {0, 1}


PLAIN = Ontology((ObjectClass("square"),))
TALL = Polygon([(0, 0), (9, -2), (9, 9)])
"""It leaves the frame at the top."""


@pytest.mark.parametrize(
    ("label", "error", "field"),
    [
        (Label(10, "1", "square", State.VISIBLE, square(0)), OutOfRange, "seeds[1].frame"),
        (FrameLabel(11, "dark", True), OutOfRange, "seeds[1].frame"),
        (Label(0, "1", "square", State.VISIBLE, square(0), 0.9, MODEL), InvalidInput, "seeds[1].provenance"),
        (FrameLabel(0, "dark", True, 0.9, MODEL), InvalidInput, "seeds[1].provenance"),
        (Label(0, "1", "circle", State.VISIBLE, square(0)), InvalidInput, "seeds[1].class"),
        (FrameLabel(0, "night", True), InvalidInput, "seeds[1].class"),
        (FrameLabel(0, "square", True), InvalidInput, "seeds[1].class"),
        (Label(1, "1", "square", State.VISIBLE, Box(100, 10, 131, 20)), OutOfRange, "seeds[1].box[2]"),
        (
            Label(1, "1", "square", State.VISIBLE, Polygon([(0, 0), (9, -2), (9, 9)])),
            OutOfRange,
            "seeds[1].polygon[1][1]",
        ),
    ],
    ids=[
        "frame",
        "frame of a frame label",
        "predicted",
        "predicted frame label",
        "class",
        "frame class",
        "kind",
        "box outside",
        "polygon outside",
    ],
)
def test_bad_seeds_are_refused_by_field(label: AnyLabel, error: type[MicromodelsError], field: str) -> None:
    """The error names the field, in words of the caller."""
    from micromodels.types import FrameClass

    ontology = Ontology((ObjectClass("square"),), (FrameClass("dark"),))
    with pytest.raises(error) as refused:
        seed_set(seed(0), label, ontology=ontology)
    assert isinstance(refused.value, InvalidInput)
    assert refused.value.field == field


def test_one_track_has_one_class() -> None:
    """The same track with two classes names the class and the track."""
    with pytest.raises(InvalidInput, match="track 1") as refused:
        seed_set(seed(0), Label(1, "1", "circle", State.VISIBLE, square(1)))
    assert refused.value.field == "seeds.class"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "no seeds"),
        ([seed(0), Label(1, "2", "square", State.ABSENT)], "'2'"),
        ([seed(0, track=str(i), box=Box(1, 1, 9, 9)) for i in range(MAX_TRACKS + 1)], str(MAX_TRACKS)),
    ],
    ids=["none", "never drawn", "too many"],
)
def test_what_cannot_be_trained_is_said(labels: list[Label], words: str) -> None:
    """No seeds, a track without a shape, too many tracks: a failed precondition that says what to do."""
    with pytest.raises(FailedPrecondition, match=words):
        seed_set(*labels).require_trainable()


def test_frame_labels_alone_can_be_trained() -> None:
    """A task of frame classes needs no object."""
    seeds = seed_set(FrameLabel(0, "dark", True), FrameLabel(4, "dark", False))
    seeds.require_trainable()
    assert seeds.tracks == ()
    assert seeds.frame_classes == ("dark",)
    assert seeds.frames == []


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(-3, 3),
    shift=st.tuples(st.floats(-12, 12), st.floats(-12, 12)),
    scale=st.floats(0.6, 1.4),
    center=st.tuples(st.floats(32, 96), st.floats(24, 72)),
    flip=st.booleans(),
)
def test_boxes_move_as_their_pixels_do(
    angle: float, shift: tuple[float, float], scale: float, center: tuple[float, float], flip: bool
) -> None:
    """A painted box, moved, has the moved box around it."""
    box = Box(48, 32, 80, 56)
    motion = _Motion(angle, shift, scale, center, flip)
    moved = motion.mask(box_mask(box).astype(np.uint8), 0) > 0
    (expected,) = motion.boxes(np.array([box.as_list()], np.float32), SIZE)
    rows, columns = np.nonzero(moved)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    visible = np.clip(expected, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    # Three degrees turn the corners of a 45 x 34 box out by 1.2 pixels; the rest is rounding.
    assert np.abs(found - visible).max() <= 3.0


@pytest.mark.parametrize("kind", [ShapeKind.MASK, ShapeKind.BOX])
def test_views_keep_objects_and_their_boxes_together(kind: ShapeKind) -> None:
    """In every view the pixels called the square are red, and where boxes count they fit around them."""
    seeds = seed_set(seed(0, kind))
    target = seeds.seed_frame(0, SIZE)
    image = scene(1)[0]
    views = [ViewMaker(image, target, (0,)).view(number) for number in range(24)]
    assert len(views) == 24
    assert np.array_equal(views[0].image, image)
    assert np.array_equal(views[0].label_map, target.label_map)
    seen = 0
    for view in views:
        assert view.image.shape == image.shape
        assert view.image.dtype == view.label_map.dtype == np.uint8
        inside = view.label_map == 1
        if inside.sum() < 30:
            continue
        seen += 1
        red, green, blue = view.image[inside].mean(axis=0)
        assert red > green + 40
        assert red > blue + 40
        if kind is ShapeKind.BOX:
            rows, columns = np.nonzero(inside)
            x1, y1, x2, y2 = view.boxes[0]
            assert x1 - 3 <= columns.min() <= columns.max() <= x2 + 3
            assert y1 - 3 <= rows.min() <= rows.max() <= y2 + 3
    assert seen > 15


def test_views_are_the_same_for_the_same_seed() -> None:
    """All randomness comes from the entropy that is given and the number, whatever was made before."""
    target = seed_set(seed(0)).seed_frame(0, SIZE)
    makers = [ViewMaker(scene(1)[0], target, (4, 0)) for _ in range(2)]
    forth = [makers[0].view(number) for number in range(6)]
    back = [makers[1].view(number) for number in reversed(range(6))]
    assert not np.array_equal(forth[1].image, ViewMaker(scene(1)[0], target, (5, 0)).view(1).image)
    for one, other in zip(forth, reversed(back), strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.label_map, other.label_map)
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_objects_that_must_not_be_mirrored_are_not() -> None:
    """With ``flip`` off the left half of the square stays on the left in every view."""
    image = scene(1)[0]
    box = square(0)
    image[32:64, 16:32] = (30, 220, 30)
    target = seed_set(seed(0)).seed_frame(0, SIZE)
    mirrored = {True: 0, False: 0}
    for flip in mirrored:
        maker = ViewMaker(image, target, (0,), flip)
        for view in map(maker.view, range(16)):
            rows, columns = np.nonzero(view.label_map == 1)
            if len(rows) < 200 or view.label_map[:, :2].any() or view.label_map[:, -2:].any():
                continue
            values = view.image[rows, columns].astype(int)
            green = values[:, 1] > values[:, 0]
            if green.any() and not green.all():
                mirrored[flip] += int(columns[green].mean() > columns[~green].mean())
    assert box.width_px == 32
    assert mirrored[False] == 0
    assert mirrored[True] > 0


def test_an_empty_seed_frame_has_views_too() -> None:
    """A frame where the object is absent teaches the background."""
    seeds = seed_set(seed(0), Label(1, "1", "square", State.ABSENT))
    maker = ViewMaker(scene(1)[0], seeds.seed_frame(1, SIZE), (0,))
    views = [maker.view(number) for number in range(4)]
    assert len(views) == 4
    assert all(not (view.label_map == 1).any() for view in views)
