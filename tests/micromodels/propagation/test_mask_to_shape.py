"""Shapes: tracing within the stated tolerance, specks, boxes from votes, round trips."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micromodels.labels.geometry import mask_bounds, mask_iou, to_mask
from micromodels.propagation.mask_to_shape import (
    POLYGON_TOLERANCE_PX,
    box_from_sides,
    clean_mask,
    resized_masks,
    to_shape,
    trace,
)
from micromodels.types import Box, Mask, Polygon, ShapeKind
from tests.micromodels.doubles import Bools, box_mask


def blob(seed: int, height: int = 120, width: int = 160) -> Bools:
    """A smooth random region, the largest of its parts."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 9)
    region = (smooth > np.quantile(smooth, 0.7)).astype(np.uint8)
    _, components, stats, _ = cv2.connectedComponentsWithStats(region)
    return np.asarray(components == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()), bool)


def filled(mask: Bools) -> Bools:
    """The mask with its holes: the outline is what a polygon can hold."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), contours, -1, 1, cv2.FILLED).astype(bool)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_traced_outlines_stay_within_the_tolerance(seed: int) -> None:
    """No border pixel is further from the ring than the tolerance and the way from its center to its border."""
    mask = filled(blob(seed))
    ring = trace(mask)
    assert ring is not None
    points = np.array(ring.points, np.float32)[:, None]
    # Pixels with a side at the background; the ring's own points lie a quarter pixel inside their borders.
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    border = mask & ~cv2.erode(mask.astype(np.uint8), cross, borderValue=0).astype(bool)
    for y, x in np.argwhere(border):
        distance = abs(cv2.pointPolygonTest(points, (float(x) + 0.5, float(y) + 0.5), True))
        assert distance <= POLYGON_TOLERANCE_PX + 0.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_masks_come_back_from_their_polygons(seed: int) -> None:
    """Tracing and rasterizing again changes only pixels at the border."""
    mask = filled(blob(seed))
    ring = trace(mask)
    assert ring is not None
    again = to_mask(ring, *mask.shape)
    core = cv2.erode(mask.astype(np.uint8), np.ones((5, 5)), borderValue=0).astype(bool)
    around = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert again[core].all()
    assert not again[~around].any()
    assert mask_iou(again, mask) > 0.9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 90), st.integers(0, 70), st.integers(4, 40), st.integers(4, 40))
def test_rectangles_keep_their_box_in_every_shape(x: int, y: int, width: int, height: int) -> None:
    """A rectangle as mask, box and polygon covers the same pixels, the polygon to half a pixel."""
    box = Box(x, y, x + width, y + height)
    mask = box_mask(box, 120, 140)
    assert mask_bounds(mask) == box == to_shape(mask, ShapeKind.BOX)
    kept = to_shape(mask, ShapeKind.MASK)
    assert isinstance(kept, Mask)
    assert np.array_equal(kept.to_array(), mask)
    ring = to_shape(mask, ShapeKind.POLYGON)
    assert isinstance(ring, Polygon)
    xs, ys = zip(*ring.points, strict=True)
    assert np.abs(np.array([min(xs), min(ys), max(xs), max(ys)]) - box.as_list()).max() <= 0.5


def test_empty_masks_have_no_shape() -> None:
    """Nothing is no box, no polygon and no mask."""
    empty = np.zeros((20, 30), bool)
    assert mask_bounds(empty) is None
    assert trace(empty) is None
    assert [to_shape(empty, kind) for kind in ShapeKind] == [None] * len(ShapeKind)
    assert not clean_mask(empty).any()


def test_a_single_pixel_has_an_outline() -> None:
    """The smallest object is a ring around its pixel."""
    mask = np.zeros((20, 30), bool)
    mask[7, 9] = True
    ring = trace(mask)
    assert ring is not None
    assert np.array_equal(to_mask(ring, 20, 30), mask)


def test_specks_go_and_parts_stay() -> None:
    """Components under half a per cent of the whole are dropped; two large parts are both kept."""
    mask = box_mask(Box(10, 10, 60, 60), 120, 160) | box_mask(Box(90, 40, 130, 80), 120, 160)
    dirty = mask.copy()
    dirty[2, 2] = dirty[115, 150] = True
    assert np.array_equal(clean_mask(dirty), mask)
    assert np.array_equal(clean_mask(mask), mask)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_cleaning_only_takes_away_and_only_once(seed: int) -> None:
    """What is left was there before, is most of it, and is clean."""
    rng = np.random.default_rng(seed)
    mask = blob(seed) | (rng.random((120, 160)) < 0.002)
    clean = clean_mask(mask)
    assert not (clean & ~mask).any()
    assert clean.sum() >= 0.9 * mask.sum()
    assert np.array_equal(clean_mask(clean), clean)


def test_masks_of_tracks_do_not_overlap() -> None:
    """Each pixel goes to the surest track, and to none where none is likely."""
    rng = np.random.default_rng(0)
    log_odds = cv2.GaussianBlur(rng.normal(0, 20, (24, 32, 3)).astype(np.float32), (0, 0), 2).transpose(2, 0, 1)
    masks = resized_masks(np.ascontiguousarray(log_odds), 96, 128)
    assert masks.shape == (3, 96, 128)
    assert masks.sum(axis=0).max() == 1
    assert not resized_masks(np.full((2, 24, 32), -1.0, np.float32), 96, 128).any()


def votes(box: Box, height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Sure log-odds inside a box, and the sides that every pixel should predict for it."""
    log_odds = np.where(box_mask(box, height, width)[::2, ::2], 8.0, -8.0).astype(np.float32)
    ys, xs = np.mgrid[: height // 4, : width // 4] * 4.0 + 2.0
    sides = np.stack([xs - box.x1, ys - box.y1, box.x2 - xs, box.y2 - ys]).astype(np.float32)
    return log_odds, sides


def test_agreeing_votes_give_their_box() -> None:
    """Where all pixels predict the same sides the box is theirs, also beyond the likely pixels."""
    box = Box(20, 30, 61, 75)
    found = box_from_sides(*votes(box))
    assert found is not None
    np.testing.assert_allclose(found, box.as_list(), atol=1e-3)


def test_the_strongest_component_votes_alone() -> None:
    """A look-alike elsewhere does not pull the box."""
    box, other = Box(20, 30, 60, 70), Box(100, 8, 116, 24)
    log_odds, sides = votes(box)
    log_odds = np.maximum(log_odds, votes(other)[0])
    found = box_from_sides(log_odds, sides)
    assert found is not None
    np.testing.assert_allclose(found, box.as_list(), atol=1e-3)


def test_no_likely_pixel_no_box() -> None:
    """Where nothing is likely there is no box."""
    _, sides = votes(Box(20, 30, 60, 70))
    assert box_from_sides(np.full((48, 64), -4.0, np.float32), sides) is None


@pytest.mark.parametrize("kind", list(ShapeKind))
def test_blobs_come_back_as_the_kind_they_were_drawn_with(kind: ShapeKind) -> None:
    """The shape has the kind that was asked for and covers the mask."""
    mask = blob(5)
    shape = to_shape(mask, kind)
    assert isinstance(shape, {ShapeKind.BOX: Box, ShapeKind.POLYGON: Polygon, ShapeKind.MASK: Mask}[kind])
    if not isinstance(shape, Box):
        array = to_mask(shape, *mask.shape)
        assert mask_iou(array, filled(mask) if kind is ShapeKind.POLYGON else mask) > 0.9


@pytest.mark.parametrize("scale", [1, 2])
def test_masks_come_back_where_they_were_painted(scale: int) -> None:
    """What is sampled as targets are, every second pixel from the first, is not shifted when it is enlarged."""
    rows, columns = np.mgrid[:96, :128]
    disc = (rows - 40) ** 2 + (columns - 61) ** 2 < 25**2
    log_odds = np.where(disc, 4.0, -4.0).astype(np.float32)[::2, ::2]
    (mask,) = resized_masks(log_odds[None], 96 * scale, 128 * scale)
    found_rows, found_columns = np.nonzero(mask)
    # Half a pixel of the work image would be a shift of .5.
    assert found_rows.mean() / scale == pytest.approx(np.nonzero(disc)[0].mean(), abs=0.3)
    assert found_columns.mean() / scale == pytest.approx(np.nonzero(disc)[1].mean(), abs=0.3)
    assert mask_iou(cv2.resize(disc.astype(np.uint8), (128 * scale, 96 * scale)) > 0, mask) > 0.95
