"""What is asked of shapes: bounds, area, pixels, overlap. The only place that answers, so that answers agree.

A shape becomes pixels as the COCO API does it: those whose centers lie inside. A box is the polygon of its corners, so
the same rectangle as box, as polygon and as mask has the same pixels, and a box with whole corners has exactly the
pixels that it covers. A shape that covers nothing (an empty mask, a ring of no area) and a missing one (None) are the
same.

NumPy and pycocotools are imported where they are needed: bounds and areas of boxes and polygons do without.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, assert_never, overload

from micromodels.errors import InvalidInput
from micromodels.types import Box, Mask, Polygon, Shape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Bools = npt.NDArray[np.bool_]

__all__ = ["area_px", "bounds", "box_iou", "iou", "mask_bounds", "mask_iou", "to_mask", "to_rle"]

FARTHEST_PX = 1e5
"""Points farther out are moved in to here before they become pixels: the COCO API allocates for the way to them."""


def bounds(shape: Shape) -> Box | None:
    """The smallest box around a shape; None where it covers nothing."""
    match shape:
        case Box():
            return shape
        case Polygon():
            xs, ys = zip(*shape.points, strict=True)
            x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
            return Box(x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None
        case Mask():
            from pycocotools import mask as coco_mask

            x, y, width, height = map(int, coco_mask.toBbox(_coded(shape)))
            return Box(x, y, x + width, y + height) if width and height else None
        case _:
            assert_never(shape)


def mask_bounds(mask: Bools) -> Box | None:
    """The smallest box around the pixels of a bool array ``(height, width)``; None for an empty mask."""
    import numpy as np

    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def area_px(shape: Shape) -> float:
    """Area in square pixels: of a box and a polygon the exact one, of a mask the number of its pixels.

    Of a polygon by the shoelace formula, right for rings whose sides do not cross.
    """
    match shape:
        case Box():
            return shape.width_px * shape.height_px
        case Polygon():
            (x0, y0), *others = shape.points  # from the first point on: far from the origin digits would be lost
            ring = [(x - x0, y - y0) for x, y in others]
            return abs(math.fsum(x * v - u * y for (x, y), (u, v) in pairwise(ring))) / 2
        case Mask():
            from pycocotools import mask as coco_mask

            return int(coco_mask.area(_coded(shape)))
        case _:
            assert_never(shape)


def to_mask(shape: Shape | None, height_px: int, width_px: int) -> Bools:
    """The pixels of a shape on a frame of a size, a bool array ``(height_px, width_px)``; none for None.

    Raises:
        InvalidInput: a mask of another size.
    """
    import numpy as np

    match shape:
        case None:
            return np.zeros((height_px, width_px), np.bool_)
        case Box():
            pixels = np.zeros((height_px, width_px), np.bool_)
            pixels[_pixels(shape.y1, shape.y2, height_px), _pixels(shape.x1, shape.x2, width_px)] = True
            return pixels
        case Polygon():
            from pycocotools import mask as coco_mask

            decoded: Bools = coco_mask.decode(to_rle(shape, (height_px, width_px))).astype(np.bool_)
            return decoded
        case Mask():
            _check_size(shape, (height_px, width_px))
            return shape.to_array()
        case _:
            assert_never(shape)


def _pixels(low: float, high: float, count: int) -> slice:
    """Pixels between two edges of a box, as ``rleFrPoly`` of the COCO API rounds them: it draws sides on a grid five
    times as fine, and takes the pixels whose centers lie behind the first edge and not behind the second."""
    first, stop = ((int(5 * min(max(edge, -1), count + 1) + 0.5) + 2) // 5 for edge in (low, high))
    return slice(min(max(first, 0), count), min(max(stop, 0), count))


def iou(one: Shape | None, other: Shape | None, size: tuple[int, int]) -> float:
    """Intersection over union of two shapes, 0 to 1.

    Of two boxes by their corners; of any other two by their pixels on a frame of ``size`` = (height, width). 1 where
    both cover nothing or are missing, 0 where one does or is.

    Raises:
        InvalidInput: a mask of another size.
    """
    if one is None or other is None:
        there = other if one is None else one
        return float(there is None or area_px(there) == 0)
    if isinstance(one, Box) and isinstance(other, Box):
        return float(box_iou(one.as_list(), other.as_list()))
    from pycocotools import mask as coco_mask

    rles = [to_rle(one, size), to_rle(other, size)]
    if not coco_mask.area(rles).any():
        return 1.0
    return float(coco_mask.iou(rles[:1], rles[1:], [0])[0][0])


def to_rle(shape: Shape, size: tuple[int, int]) -> dict[str, Any]:
    """The pixels of a shape on a frame of ``size`` = (height, width), as pycocotools takes them.

    Raises:
        InvalidInput: a mask of another size.
    """
    from pycocotools import mask as coco_mask

    match shape:
        case Box():
            points = [shape.x1, shape.y1, shape.x2, shape.y1, shape.x2, shape.y2, shape.x1, shape.y2]
        case Polygon():
            points = [value for point in shape.points for value in point]
        case Mask():
            _check_size(shape, size)
            return _coded(shape)
        case _:
            assert_never(shape)
    (rle,) = coco_mask.frPyObjects([[min(max(float(v), -FARTHEST_PX), FARTHEST_PX) for v in points]], *size)
    found: dict[str, Any] = rle
    return found


def _coded(mask: Mask) -> dict[str, Any]:
    return {"size": [mask.height_px, mask.width_px], "counts": mask.counts.encode("ascii")}


def _check_size(mask: Mask, size: tuple[int, int]) -> None:
    if (mask.height_px, mask.width_px) != size:
        raise InvalidInput("mask.size", [mask.height_px, mask.width_px], f"the frame's size {list(size)}")


# --- arrays of many, for inner loops ---------------------------------------------------------------------------------


def box_iou(one: npt.ArrayLike, other: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
    """Intersection over union of boxes ``(..., 4)`` x1, y1, x2, y2, of shapes that broadcast; ``(...)``, 0 to 1.

    Edges in the wrong order enclose nothing. 1 where neither has an area, NaN where either is NaN (there is no box).
    """
    import numpy as np

    def area(low: Any, high: Any) -> Any:
        return np.maximum(high - low, 0).prod(axis=-1)

    a, b = np.asarray(one), np.asarray(other)
    shared = area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - shared
    nothing = union == 0
    found: npt.NDArray[np.floating[Any]] = (shared + nothing) / (union + nothing)
    return found


@overload
def mask_iou(one: Bools, other: Bools) -> npt.NDArray[np.float64]: ...


@overload
def mask_iou(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor: ...


def mask_iou(one: Any, other: Any) -> Any:
    """Intersection over union of masks, bool ``(..., height, width)`` of NumPy or of torch; ``(...)``, 0 to 1.

    1 where both are empty.
    """
    union = _count(one | other)
    nothing = union == 0
    return (_count(one & other) + nothing) / (union + nothing)


def _count(pixels: Any) -> Any:
    import numpy as np

    if isinstance(pixels, np.ndarray) and pixels.ndim == 2:
        return np.int64(np.count_nonzero(pixels))  # twenty times as fast as the sum
    return pixels.sum(axis=(-2, -1))
