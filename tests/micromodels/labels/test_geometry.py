"""Bounds, areas, pixels and overlap of shapes: one answer whatever the shape is, the one that pycocotools gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from micromodels.errors import InvalidInput
from micromodels.labels.geometry import area_px, bounds, box_iou, iou, mask_bounds, mask_iou, to_mask
from micromodels.types import Box, Mask, Polygon, Shape

HEIGHT, WIDTH = 24, 32
SIZE = (HEIGHT, WIDTH)
EMPTY = Mask.from_array(np.zeros(SIZE, bool))
LINE = Polygon(((2, 2), (9, 2), (5, 2)))


def polygon_of(box: Box) -> Polygon:
    return Polygon(((box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2)))


def mask_of(box: Box) -> Mask:
    """The pixels that a box with whole corners covers, by its definition."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return Mask.from_array((columns >= box.x1) & (columns < box.x2) & (rows >= box.y1) & (rows < box.y2))


def box_of(corners: tuple[float, float, float, float]) -> Box:
    (x1, x2), (y1, y2) = sorted(corners[::2]), sorted(corners[1::2])
    return Box(x1, y1, x2, y2)


def corners(numbers_x: st.SearchStrategy[float], numbers_y: st.SearchStrategy[float]) -> st.SearchStrategy[Box]:
    pairs = st.tuples(numbers_x, numbers_y, numbers_x, numbers_y)
    return pairs.filter(lambda c: abs(c[0] - c[2]) > 1e-3 and abs(c[1] - c[3]) > 1e-3).map(box_of)


whole_boxes = corners(st.integers(0, WIDTH), st.integers(0, HEIGHT))
halves = st.integers(-6, 2 * WIDTH + 6).map(lambda n: n / 2)
"""Edges on and between pixels and on their centers, inside and outside of the frame."""
boxes = corners(st.floats(-3, WIDTH + 3) | halves, st.floats(-3, HEIGHT + 3) | halves)
points = st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT))
polygons = st.lists(points, min_size=3, max_size=8).map(Polygon)
masks = st.binary(min_size=HEIGHT * WIDTH // 8, max_size=HEIGHT * WIDTH // 8).map(
    lambda bits: Mask.from_array(np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(SIZE).astype(bool))
)
shapes: st.SearchStrategy[Shape] = st.one_of(boxes, polygons, masks, st.just(EMPTY), st.just(LINE))


# --- one rectangle is one thing --------------------------------------------------------------------------------------


@given(box=whole_boxes)
def test_a_rectangle_is_the_same_as_box_polygon_and_mask(box: Box) -> None:
    """Its pixels, its bounds, its area, and an overlap of 1 of any of the three with any other."""
    forms: list[Shape] = [box, polygon_of(box), mask_of(box)]
    for form in forms:
        assert np.array_equal(to_mask(form, *SIZE), mask_of(box).to_array())
        assert bounds(form) == box
        assert area_px(form) == area_px(box)
        assert [iou(form, other, SIZE) for other in forms] == [1.0, 1.0, 1.0]


@settings(max_examples=500)
@given(box=boxes)
def test_a_box_anywhere_is_its_polygon(box: Box) -> None:
    """Between pixels too: the two round to the same pixels, and those are what pycocotools takes."""
    ring = polygon_of(box)
    assert np.array_equal(to_mask(box, *SIZE), to_mask(ring, *SIZE))
    assert iou(box, ring, SIZE) == iou(ring, box, SIZE) == 1.0
    (theirs,) = coco_mask.frPyObjects([[float(v) for point in ring.points for v in point]], *SIZE)
    assert np.array_equal(to_mask(box, *SIZE), coco_mask.decode(theirs).astype(bool))


def test_a_box_on_pixel_centers_takes_each_pixel_once() -> None:
    """Two boxes that share an edge share no pixel."""
    left, right = Box(0, 0, 10.5, HEIGHT), Box(10.5, 0, WIDTH, HEIGHT)
    assert not (to_mask(left, *SIZE) & to_mask(right, *SIZE)).any()
    assert (to_mask(left, *SIZE) | to_mask(right, *SIZE)).all()


# --- overlap ---------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(one=shapes, other=shapes)
def test_overlap_is_symmetric_and_of_pixels(one: Shape, other: Shape) -> None:
    found = iou(one, other, SIZE)
    assert found == iou(other, one, SIZE)
    assert 0.0 <= found <= 1.0
    if not (isinstance(one, Box) and isinstance(other, Box)):
        assert found == mask_iou(to_mask(one, *SIZE), to_mask(other, *SIZE))


@given(shape=shapes)
def test_every_shape_is_itself(shape: Shape) -> None:
    assert iou(shape, shape, SIZE) == 1.0


@settings(max_examples=300)
@given(one=boxes, other=boxes)
def test_boxes_overlap_by_their_corners(one: Box, other: Box) -> None:
    """As pycocotools has it, which takes boxes as x, y, width, height."""
    theirs = [[b.x1, b.y1, b.x2 - b.x1, b.y2 - b.y1] for b in (one, other)]
    assert iou(one, other, SIZE) == pytest.approx(float(coco_mask.iou(theirs[:1], theirs[1:], [0])[0, 0]), abs=1e-6)


def test_overlap_of_known_shapes() -> None:
    assert iou(Box(0, 0, 10, 10), Box(5, 0, 15, 10), SIZE) == 1 / 3
    assert iou(Box(0, 0, 10, 10), polygon_of(Box(5, 0, 15, 10)), SIZE) == 1 / 3
    assert iou(mask_of(Box(0, 0, 10, 10)), Box(10, 10, 12, 12), SIZE) == 0.0


NOTHING: list[Shape | None] = [None, EMPTY, LINE]


@pytest.mark.parametrize("one", NOTHING)
@pytest.mark.parametrize("other", NOTHING)
def test_two_that_cover_nothing_are_the_same(one: Shape | None, other: Shape | None) -> None:
    assert iou(one, other, SIZE) == 1.0


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("shape", [Box(1, 1, 5, 5), polygon_of(Box(1, 1, 5, 5)), mask_of(Box(1, 1, 5, 5))])
def test_nothing_overlaps_with_nothing_that_is_there(nothing: Shape | None, shape: Shape) -> None:
    assert iou(nothing, shape, SIZE) == iou(shape, nothing, SIZE) == 0.0


# --- bounds, areas, pixels -------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(shape=shapes)
def test_bounds_and_area_agree(shape: Shape) -> None:
    """A shape lies within its bounds, reaches all four sides of them, and is not larger; without bounds it has no
    area."""
    around, area = bounds(shape), area_px(shape)
    if around is None:
        assert area == pytest.approx(0, abs=1e-6)
        return
    assert area <= area_px(around) * (1 + 1e-9) + 1e-9 or isinstance(shape, Polygon)  # sides may cross: counted twice
    if isinstance(shape, Polygon):
        xs, ys = zip(*shape.points, strict=True)
        assert (around.x1, around.y1, around.x2, around.y2) == (min(xs), min(ys), max(xs), max(ys))
    elif isinstance(shape, Mask):
        assert around == mask_bounds(shape.to_array())
        assert area == shape.area_px() == np.count_nonzero(shape.to_array())


def test_bounds_of_a_mask_whose_runs_go_on_in_the_next_column() -> None:
    pixels = np.zeros(SIZE, bool)
    pixels[20:, 3] = pixels[:2, 4] = True
    assert bounds(Mask.from_array(pixels)) == Box(3, 0, 5, HEIGHT)


def test_what_covers_nothing_has_no_bounds() -> None:
    assert bounds(EMPTY) is bounds(LINE) is mask_bounds(np.zeros(SIZE, bool)) is None
    assert area_px(EMPTY) == area_px(LINE) == 0
    assert not to_mask(None, *SIZE).any()


def test_area_of_a_polygon_far_from_the_origin() -> None:
    """Nothing is lost to large coordinates."""
    far = 1e8
    assert area_px(Polygon(((far, far), (far + 3, far), (far + 3, far + 0.5), (far, far + 0.5)))) == 1.5


def test_a_polygon_far_outside_is_cut_at_the_frame() -> None:
    """It takes no more memory than one inside."""
    assert to_mask(Polygon(((-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9))), *SIZE).all()


def test_masks_of_another_size_are_refused() -> None:
    mask = Mask.from_array(np.ones((4, 5), bool))
    for call in (lambda: to_mask(mask, *SIZE), lambda: iou(mask, Box(0, 0, 1, 1), SIZE)):
        with pytest.raises(InvalidInput, match=r"mask.size: got \[4, 5\]; allowed: the frame's size \[24, 32\]"):
            call()


# --- arrays ----------------------------------------------------------------------------------------------------------


@given(pairs=st.lists(st.tuples(boxes, boxes), min_size=1, max_size=5))
def test_arrays_of_boxes_overlap_as_boxes_do(pairs: list[tuple[Box, Box]]) -> None:
    one, other = (np.array([box.as_list() for box in column]) for column in zip(*pairs, strict=True))
    assert box_iou(one, other).tolist() == [iou(a, b, SIZE) for a, b in pairs]
    table = box_iou(one[:, None], other[None])
    assert table.diagonal().tolist() == box_iou(one, other).tolist()


def test_boxes_that_are_missing_have_no_overlap() -> None:
    assert np.isnan(box_iou([np.nan] * 4, [0, 0, 1, 1]))
    assert box_iou([1, 1, 1, 1], [2, 2, 2, 2]) == 1.0


@given(pairs=st.lists(st.tuples(masks, masks), min_size=1, max_size=3))
def test_arrays_of_masks_overlap_as_masks_do(pairs: list[tuple[Mask, Mask]]) -> None:
    """In NumPy and in torch, one at a time or stacked."""
    one, other = (np.stack([mask.to_array() for mask in column]) for column in zip(*pairs, strict=True))
    wanted = [iou(a, b, SIZE) for a, b in pairs]
    assert mask_iou(one, other).tolist() == wanted
    assert [float(mask_iou(a, b)) for a, b in zip(one, other, strict=True)] == wanted
    assert mask_iou(torch.from_numpy(one), torch.from_numpy(other)).tolist() == pytest.approx(wanted)


def test_empty_masks_overlap_fully() -> None:
    none = np.zeros(SIZE, bool)
    assert mask_iou(none, none) == 1.0
    assert mask_iou(torch.from_numpy(none), torch.from_numpy(none)) == 1.0
    assert mask_iou(none, ~none) == 0.0
