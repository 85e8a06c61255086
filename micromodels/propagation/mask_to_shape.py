"""From dense maps to shapes: masks without specks, polygons traced within a stated tolerance, boxes."""

from __future__ import annotations

from typing import assert_never

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.labels.geometry import mask_bounds
from micromodels.types import MAX_POLYGON_VERTICES, Mask, Polygon, Shape, ShapeKind

__all__ = ["POLYGON_TOLERANCE_PX", "box_from_sides", "clean_mask", "resized_masks", "to_shape", "trace"]

POLYGON_TOLERANCE_PX = 1.0
"""A traced polygon stays within this distance of the mask's outline."""

SPECK_SHARE = 0.005

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def resized_masks(log_odds: Floats, height_px: int, width_px: int, stride: int = 2) -> Bools:
    """Masks ``(tracks, height_px, width_px)`` that do not overlap, from log-odds ``(tracks, h, w)``.

    At stride 2 log-odds speak of the top left pixel of each two by two pixels of the work image, as the targets that a
    head learns from do, so they lie a quarter of their pitch before the middle.
    """
    height, width = log_odds.shape[1:]
    before = (stride - 1) / (2 * stride)
    across, down = width / width_px, height / height_px
    lies = np.array([[across, 0, (across - 1) / 2 + before], [0, down, (down - 1) / 2 + before]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (width_px, height_px)
    full = np.stack([cv2.warpAffine(m, lies, size, flags=flags, borderMode=cv2.BORDER_REPLICATE) for m in log_odds])
    masks: Bools = full > 0
    if len(full) > 1:
        winner = full.argmax(axis=0)
        masks &= winner[None] == np.arange(len(full))[:, None, None]
    return masks


def clean_mask(mask: Bools) -> Bools:
    """The mask without components smaller than half a per cent of it."""
    count, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    keep = np.concatenate([[False], areas >= SPECK_SHARE * areas.sum()])
    kept: Bools = keep[components]
    return kept


def trace(mask: Bools) -> Polygon | None:
    """The outline of the largest component within ``POLYGON_TOLERANCE_PX``; None if nothing has an outline.

    Traced on the doubled mask, so that the ring runs along pixel borders, half-open as boxes are.
    """
    double = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    largest = max(contours, key=cv2.contourArea)
    tolerance = POLYGON_TOLERANCE_PX
    while True:
        ring = cv2.approxPolyDP(largest, 2 * tolerance, True)[:, 0].astype(float)
        if len(ring) <= MAX_POLYGON_VERTICES:
            break
        tolerance *= 2
    if len(ring) < 3:
        # A line or a dot simplifies to less than a ring: keep every point of its outline.
        ring = largest[:, 0].astype(float)
    # Doubled pixel centers lie a quarter pixel inside the border on each side.
    return Polygon(ring / 2 + 0.25)


def to_shape(mask: Bools, kind: ShapeKind) -> Shape | None:
    """A mask as the kind of shape that the seeds had; None if it is empty."""
    if not mask.any():
        return None
    match kind:
        case ShapeKind.BOX:
            return mask_bounds(mask)
        case ShapeKind.POLYGON:
            return trace(mask)
        case ShapeKind.MASK:
            return Mask.from_array(mask)
        case _:
            assert_never(kind)


def box_from_sides(log_odds: Floats, sides: Floats) -> Floats | None:
    """One box from a track's log-odds and the predicted box sides.

    Every pixel of the strongest component votes for a box with the square of its probability; the vote is the weighted
    mean of each side.

    Args:
        log_odds: ``(h, w)`` at half the work size.
        sides: ``(4, h / 2, w / 2)`` distances left, top, right, bottom in work pixels.

    Returns:
        float32 ``(4,)`` x1, y1, x2, y2 in work pixels; None where no pixel is likely.
    """
    size = (sides.shape[2], sides.shape[1])
    coarse = cv2.resize(log_odds, size, interpolation=cv2.INTER_AREA)
    probability = 1.0 / (1.0 + np.exp(-np.clip(coarse, -30, 30)))
    likely = (probability > 0.35).astype(np.uint8)
    count, components = cv2.connectedComponents(likely, connectivity=8)
    if count < 2:
        return None
    weight = np.bincount(components.ravel(), weights=probability.ravel().astype(np.float64), minlength=count)
    weight[0] = 0.0
    ys, xs = np.nonzero(components == int(weight.argmax()))
    votes = (probability[ys, xs] ** 2).astype(np.float64)
    px, py = xs * 4.0 + 2.0, ys * 4.0 + 2.0
    left, top, right, bottom = sides[:, ys, xs]
    edges = np.stack([px - left, py - top, px + right, py + bottom])
    return np.asarray((edges * votes).sum(axis=1) / votes.sum(), np.float32)
