"""Checks of labels that the types cannot make alone: against the video, and against the other labels of a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.labels.geometry import area_px
from micromodels.labels.video_info import VideoInfo
from micromodels.types import AnyLabel, Box, Label, Mask, Polygon, State

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Extent = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

__all__ = [
    "EDGE_TOLERANCE_PX",
    "MAX_CUT_PX",
    "LabelSet",
    "check_anchor",
    "check_fits_video",
    "cut_to_video",
    "find_crossing",
    "prefixed",
    "relocated",
]

EDGE_TOLERANCE_PX = 1.0
"""How far outside of the picture a coordinate may lie: tools round half-open edges differently."""

MAX_CUT_PX = 2.0
"""How far over the edge a shape may reach to be cut to the picture where it is read."""

SWEEP_ANGLES = tuple(math.pi * step / 12 for step in range(12))

PAIRS_AT_ONCE = 1 << 20
"""Edge pairs that :func:`find_crossing` looks at in one step; bounds its memory to some tens of MB."""
_LARGEST_PX = 1e6


def prefixed(where: str, name: str) -> str:
    """The field's name in an error: ``"line 3: box"``, or just ``"box"`` where there is no file."""
    return f"{where}: {name}" if where else name


def relocated(error: InvalidInput, where: str) -> InvalidInput:
    """The same error, saying also in which line or entry."""
    return type(error)(prefixed(where, error.field), error.value, error.allowed)


def check_fits_video(label: AnyLabel, video: VideoInfo, where: str = "") -> None:
    """Check a label against its video.

    Raises:
        OutOfRange: the frame lies past the end, or a coordinate further outside the picture than `EDGE_TOLERANCE_PX`.
        InvalidInput: a mask is not of the video's size.
    """
    if not 0 <= label.frame < video.frame_count:
        allowed = f"0 to {video.frame_count - 1}; the video has {video.frame_count} frames"
        raise OutOfRange(prefixed(where, "frame"), label.frame, allowed)
    match label.shape if isinstance(label, Label) else None:
        case None:
            return
        case Mask() as mask:
            sizes = (("height", mask.height_px, video.height_px), ("width", mask.width_px, video.width_px))
            for name, got, wanted in sizes:
                if got != wanted:
                    allowed = f"the video's size [{video.height_px}, {video.width_px}]; the {name} differs"
                    raise InvalidInput(prefixed(where, "mask.size"), [mask.height_px, mask.width_px], allowed)
        case Box() as box:
            _check_inside((box.x1, box.x2), "box[{}]", (0, 2), "width", video.width_px, where)
            _check_inside((box.y1, box.y2), "box[{}]", (1, 3), "height", video.height_px, where)
        case Polygon() as ring:
            xs, ys = zip(*ring.points, strict=True)
            _check_inside(xs, "polygon[{}][0]", range(len(xs)), "width", video.width_px, where)
            _check_inside(ys, "polygon[{}][1]", range(len(ys)), "height", video.height_px, where)
        case unknown:
            assert_never(unknown)


def _check_inside(values: Sequence[float], name: str, places: Sequence[int], side: str, limit: int, where: str) -> None:
    """Check the coordinates of one axis; ``name`` is that of a coordinate at one of ``places``."""
    if min(values) >= -EDGE_TOLERANCE_PX and max(values) <= limit + EDGE_TOLERANCE_PX:
        return
    outside = (i for i, v in enumerate(values) if not -EDGE_TOLERANCE_PX <= v <= limit + EDGE_TOLERANCE_PX)
    first = next(outside)
    allowed = f"0 to {limit}; the video's {side} is {limit} px"
    raise OutOfRange(prefixed(where, name.format(places[first])), values[first], allowed)


def cut_to_video(label: Label, video: VideoInfo) -> Label | None:
    """The label with its box or polygon moved into the picture, if it is at most `MAX_CUT_PX` outside.

    None where it is farther outside, where nothing would be left of it, or where its frame is not one of the video.
    """

    def moved(value: float, limit: int) -> float:
        return min(max(value, 0.0), float(limit)) if -MAX_CUT_PX <= value <= limit + MAX_CUT_PX else math.nan

    width, height = video.width_px, video.height_px
    shape: Box | Polygon
    try:
        match label.shape:
            case Box() as box:
                shape = Box(moved(box.x1, width), moved(box.y1, height), moved(box.x2, width), moved(box.y2, height))
            case Polygon() as ring:
                shape = Polygon(tuple((moved(x, width), moved(y, height)) for x, y in ring.points))
            case _:
                return None
    except InvalidInput:  # not a number, or no width: the types refuse it
        return None
    found = replace(label, shape=shape)
    return found if label.frame < video.frame_count and area_px(shape) > 0 else None


def check_anchor(label: AnyLabel, where: str = "") -> None:
    """Check that a human label says one clear thing; predicted labels pass.

    Raises:
        InvalidInput: a polygon whose sides cross (a bow-tie), a shape of no area, or no shape though not ``absent``.
    """
    if not isinstance(label, Label) or not label.is_anchor:
        return
    match label.shape:
        case None:
            if label.state is not State.ABSENT:
                allowed = (
                    f"a box, polygon or mask: a label drawn by hand has one where the state is {label.state.value}"
                )
                raise InvalidInput(prefixed(where, "shape"), None, allowed)
        case Box():
            pass
        case Polygon() as ring:
            crossing = find_crossing(ring.points)
            if crossing is not None:
                first, second = crossing
                got = f"sides {first} and {second} that cross, near {ring.points[first]}"
                raise InvalidInput(prefixed(where, "polygon"), got, "a ring whose sides do not cross each other")
            if area_px(ring) == 0.0:
                raise InvalidInput(prefixed(where, "polygon"), "a ring of no area", "points that enclose an area")
        case Mask() as mask:
            if area_px(mask) == 0:
                allowed = (
                    'a mask of at least one pixel; an object that is not there is {"state": "absent"} without a shape'
                )
                raise InvalidInput(prefixed(where, "mask.counts"), mask.counts, allowed)
        case unknown:
            assert_never(unknown)


def find_crossing(points: tuple[tuple[float, float], ...]) -> tuple[int, int] | None:
    """Two sides of a ring that properly cross, or None; side ``i`` runs from point ``i`` to the next one.

    Sides that only touch, or run along each other, are allowed: rings traced from masks touch themselves, and tools
    make holes with a bridge of no width. Only pairs of sides whose extents overlap get the exact test (sweep and
    prune); the sweep goes in the direction, of a few, that leaves the fewest pairs.
    """
    import numpy as np

    start = np.asarray(points, dtype=np.float64)
    largest = float(np.abs(start).max())
    if largest > _LARGEST_PX:  # far outside of any picture: products of such numbers would overflow
        start = start * (_LARGEST_PX / largest)
    start = start - start.mean(axis=0)
    end = np.roll(start, -1, axis=0)
    size = max(1.0, float(np.abs(start).max()))
    across, order, last = min((_sweep(start, end, angle) for angle in SWEEP_ANGLES), key=lambda s: s[2].sum())
    position = 0
    while position < len(order):
        counts = np.maximum(last[position:] - np.arange(position + 1, len(order) + 1), 0)
        counts = counts[: max(1, int(np.searchsorted(np.cumsum(counts), PAIRS_AT_ONCE)))]
        first = np.repeat(np.arange(position, position + len(counts)), counts)
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        a, b = order[first], order[second]
        near = (across[0][a] <= across[1][b]) & (across[0][b] <= across[1][a])
        a, b = a[near], b[near]
        found = np.flatnonzero(_properly_cross(start[a], end[a], start[b], end[b], noise=1e-12 * size**2))
        if len(found):
            sides = sorted((int(a[found[0]]), int(b[found[0]])))
            return sides[0], sides[1]
        position += len(counts)
    return None


def _sweep(
    start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], angle: float
) -> tuple[Extent, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Prepare a sweep in one direction.

    Returns:
        The extent (lows, highs) of every side across the direction; the sides in the order in which they begin along
        it; and for every place in that order, the first later place whose side begins after this one ends.
    """
    import numpy as np

    directions = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    p, q = start @ directions.T, end @ directions.T
    low, high = np.minimum(p, q), np.maximum(p, q)
    order = np.argsort(low[:, 0], kind="stable")
    last = np.searchsorted(low[order, 0], high[order, 0], side="right")
    return (low[:, 1], high[:, 1]), order, last


def _properly_cross(
    a1: npt.NDArray[np.float64],
    a2: npt.NDArray[np.float64],
    b1: npt.NDArray[np.float64],
    b2: npt.NDArray[np.float64],
    noise: float,
) -> npt.NDArray[np.bool_]:
    """Whether segments ``a1 a2`` and ``b1 b2`` cross inside both, row by row; arrays of shape ``(n, 2)``."""

    import numpy as np

    def side(
        p: npt.NDArray[np.float64], q: npt.NDArray[np.float64], r: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        value = (q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0])
        return np.where(np.abs(value) <= noise, 0.0, np.sign(value))

    crossed: npt.NDArray[np.bool_] = (side(a1, a2, b1) * side(a1, a2, b2) < 0) & (
        side(b1, b2, a1) * side(b1, b2, a2) < 0
    )
    return crossed


@dataclass(slots=True)
class LabelSet:
    """What a file has said so far: finds labels given twice and names that change their meaning.

    Takes a bit for a label, so that files of long videos are checked in nearly flat memory.
    """

    _frames: dict[tuple[bool, str], dict[int, int]] = field(default_factory=dict)
    """Of every track and frame class, the frames that have it: bits of a number for each block of 1024 frames."""

    _track_class: dict[str, tuple[str, str]] = field(default_factory=dict)
    _class_kind: dict[str, tuple[bool, str]] = field(default_factory=dict)

    def add(self, label: AnyLabel, where: str) -> None:
        """Take in a label that stands at ``where``.

        Raises:
            InvalidInput: its frame and track (or frame class) were given before, its track had another class, or its
                class was a frame class and is now an object class, or the reverse.
        """
        is_object = isinstance(label, Label)
        name = label.object_class if isinstance(label, Label) else label.frame_class
        identity = label.track if isinstance(label, Label) else name
        blocks = self._frames.setdefault((is_object, identity), {})
        block, bit = label.frame >> 10, 1 << (label.frame & 1023)
        if blocks.get(block, 0) & bit:
            field_name, what = ("track", "track") if is_object else ("class", "frame class")
            allowed = f"each {what} once a frame; frame {label.frame} has this {what} already"
            raise InvalidInput(prefixed(where, field_name), identity, allowed)
        blocks[block] = blocks.get(block, 0) | bit
        was_object, before = self._class_kind.setdefault(name, (is_object, where))
        if was_object != is_object:
            kind = "an object class (with a track)" if was_object else "a frame class (without a track)"
            raise InvalidInput(prefixed(where, "class"), name, f"a name for one thing; it is {kind} at {before}")
        if isinstance(label, Label):
            known, before = self._track_class.setdefault(label.track, (name, where))
            if known != name:
                allowed = f"{known!r}, the class of track {label.track!r} since {before}"
                raise InvalidInput(prefixed(where, "class"), name, allowed)
