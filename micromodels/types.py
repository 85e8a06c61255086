"""The words of the project as types, and their conventions, fixed here once.

Frame indices are 0-based in display order. Images are RGB ``uint8`` of shape ``(height, width, 3)``. Boxes are
``x1, y1, x2, y2`` in pixels of the displayed frame, half-open on the right and bottom. Masks are ``bool`` arrays of
shape ``(height, width)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from micromodels.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "MAX_POLYGON_VERTICES",
    "AnyLabel",
    "Box",
    "FrameClass",
    "FrameLabel",
    "FrameResult",
    "Label",
    "Mask",
    "ObjectClass",
    "Ontology",
    "Polygon",
    "Provenance",
    "ProvenanceKind",
    "Shape",
    "ShapeKind",
    "State",
    "shape_box",
    "shape_kind",
]

MAX_POLYGON_VERTICES = 10_000
"""More are refused at once: validating 200,000 vertices takes seconds."""

MAX_NAME_LENGTH = 200
MAX_RLE_CHARACTERS = 7
"""Of one number: more than any run needs."""
MAX_MASK_PIXELS = 1 << 28
"""Refused before anything is allocated; 16384 x 16384."""


class State(StrEnum):
    """What can be said of an object on a frame."""

    VISIBLE = "visible"
    OCCLUDED = "occluded"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"


class ProvenanceKind(StrEnum):
    """Where a label came from."""

    HUMAN = "human"
    MODEL = "model"
    INTERPOLATED = "interpolated"


class ShapeKind(StrEnum):
    """The kinds of shape."""

    BOX = "box"
    POLYGON = "polygon"
    MASK = "mask"


def _check_name(field_name: str, value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > MAX_NAME_LENGTH or "\0" in value:
        raise InvalidInput(field_name, value, f"1 to {MAX_NAME_LENGTH} characters, no NUL")


def _check_frame(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput("frame", value, "an integer >= 0")


def _check_confidence(value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise InvalidInput("confidence", value, "a number from 0 to 1, or nothing")


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned box in pixels, half-open: covers ``x1 <= x < x2`` and ``y1 <= y < y2``."""

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        values = (self.x1, self.y1, self.x2, self.y2)
        if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
            raise InvalidInput("box", values, "four finite numbers x1, y1, x2, y2")
        if self.x2 <= self.x1 or self.y2 <= self.y1:
            raise InvalidInput("box", values, "x2 > x1 and y2 > y1")

    @property
    def width_px(self) -> float:
        """Width in pixels."""
        return self.x2 - self.x1

    @property
    def height_px(self) -> float:
        """Height in pixels."""
        return self.y2 - self.y1

    def iou(self, other: Box) -> float:
        """Intersection over union with another box, 0 to 1."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        if width <= 0 or height <= 0:
            return 0.0
        inter = width * height
        return inter / (self.width_px * self.height_px + other.width_px * other.height_px - inter)

    def as_list(self) -> list[float]:
        """``[x1, y1, x2, y2]``."""
        return [self.x1, self.y1, self.x2, self.y2]


@dataclass(frozen=True, slots=True)
class Polygon:
    """One closed ring of at least three ``(x, y)`` points in pixels; the last point is joined to the first."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        count = len(self.points)
        if not 3 <= count <= MAX_POLYGON_VERTICES:
            raise InvalidInput("polygon", f"{count} points", f"3 to {MAX_POLYGON_VERTICES} points")
        for index, point in enumerate(self.points):
            if len(point) != 2 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in point):
                raise InvalidInput(f"polygon[{index}]", point, "two finite numbers x, y")

    def __repr__(self) -> str:
        return f"Polygon({len(self.points)} points)"

    def to_array(self, height_px: int, width_px: int) -> npt.NDArray[np.bool_]:
        """Rasterize to a bool mask ``(height_px, width_px)`` as the COCO API does (pixel centers inside the ring)."""
        from pycocotools import mask as coco_mask

        flat = [min(max(float(v), -1e5), 1e5) for point in self.points for v in point]
        (rle,) = coco_mask.frPyObjects([flat], height_px, width_px)
        array: npt.NDArray[np.bool_] = coco_mask.decode(rle).astype(bool)
        return array


@dataclass(frozen=True, slots=True)
class Mask:
    """A binary mask as COCO compressed run-length encoding.

    ``counts`` is the ASCII string that pycocotools writes; ``height_px`` and ``width_px`` are those of the video.
    """

    height_px: int
    width_px: int
    counts: str

    def __post_init__(self) -> None:
        for name, value in (("height_px", self.height_px), ("width_px", self.width_px)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInput(f"mask.{name}", value, "an integer >= 1")
        if self.height_px * self.width_px > MAX_MASK_PIXELS:
            raise InvalidInput("mask.size", (self.height_px, self.width_px), f"at most {MAX_MASK_PIXELS} pixels")
        total = sum(_rle_runs(self.counts))
        if total != self.height_px * self.width_px:
            raise InvalidInput(
                "mask.counts", f"runs of {total} pixels", f"runs of {self.height_px * self.width_px} pixels"
            )

    def __repr__(self) -> str:
        return f"Mask({self.height_px}x{self.width_px}, {len(self.counts)} bytes)"

    @classmethod
    def from_array(cls, array: npt.NDArray[np.bool_]) -> Mask:
        """Encode a bool array of shape ``(height, width)``."""
        import numpy as np
        from pycocotools import mask as coco_mask

        if array.ndim != 2:
            raise InvalidInput("mask", array.shape, "an array of shape (height, width)")
        rle = coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))
        return cls(int(array.shape[0]), int(array.shape[1]), rle["counts"].decode("ascii"))

    def to_array(self) -> npt.NDArray[np.bool_]:
        """Decode to a bool array of shape ``(height_px, width_px)``."""
        from pycocotools import mask as coco_mask

        decoded = coco_mask.decode({"size": [self.height_px, self.width_px], "counts": self.counts.encode("ascii")})
        array: npt.NDArray[np.bool_] = decoded.astype(bool)
        return array

    def area_px(self) -> int:
        """Number of set pixels."""
        return sum(_rle_runs(self.counts)[1::2])


def _rle_runs(counts: str) -> list[int]:
    """Run lengths (background first) of a COCO compressed RLE; checked, because the C decoder trusts its input.

    Source of the format: the variable-length code of ``rleToString`` in the COCO API: five bits a character, the lowest
    first, bit 0x20 where more follow, bit 0x10 of the last one for the sign; from the fourth on differences to the run
    before the last.
    """
    import numpy as np

    if not counts.isascii():
        raise InvalidInput("mask.counts", counts, "COCO compressed RLE (a character is out of place)")
    chars = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(chars):
        return []
    last = (chars & 0x20) == 0
    if not last[-1]:
        raise InvalidInput("mask.counts", counts, "COCO compressed RLE (it ends inside a number)")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.diff(np.append(starts, len(chars)))
    if chars.min() < 0 or chars.max() > 63 or lengths.max() > MAX_RLE_CHARACTERS:
        raise InvalidInput("mask.counts", counts, "COCO compressed RLE (a character is out of place)")
    shifts = 5 * (np.arange(len(chars)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((chars & 0x1F) << shifts, starts)
    runs = np.where(chars[last] & 0x10, runs - (1 << (5 * lengths)), runs)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise InvalidInput("mask.counts", counts, "COCO compressed RLE (a run is negative)")
    found: list[int] = runs.tolist()
    return found


Shape = Box | Polygon | Mask


def shape_kind(shape: Shape) -> ShapeKind:
    """The kind of a shape."""
    if isinstance(shape, Box):
        return ShapeKind.BOX
    return ShapeKind.POLYGON if isinstance(shape, Polygon) else ShapeKind.MASK


def shape_box(shape: Shape) -> Box | None:
    """Tight box around a shape; None for an empty mask."""
    if isinstance(shape, Box):
        return shape
    if isinstance(shape, Polygon):
        xs, ys = [p[0] for p in shape.points], [p[1] for p in shape.points]
        return Box(min(xs), min(ys), max(xs), max(ys)) if max(xs) > min(xs) and max(ys) > min(ys) else None
    import numpy as np

    array = shape.to_array()
    rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
    if len(rows) == 0:
        return None
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a label came from; ``version`` names the micro-model version, or the person for human labels."""

    kind: ProvenanceKind
    version: str = ""


HUMAN = Provenance(ProvenanceKind.HUMAN)


@dataclass(frozen=True, slots=True)
class Label:
    """One object on one frame.

    A state of ``absent`` has no shape. Any other *human* label has one; a predicted ``uncertain`` or ``occluded`` label
    may be without.
    """

    frame: int
    track: str
    object_class: str
    state: State
    shape: Shape | None = None
    confidence: float | None = None
    provenance: Provenance = HUMAN

    def __post_init__(self) -> None:
        _check_frame(self.frame)
        _check_name("track", self.track)
        _check_name("class", self.object_class)
        _check_confidence(self.confidence)
        if self.state is State.ABSENT and self.shape is not None:
            raise InvalidInput("state", self.state.value, "absent without a shape, or another state with one")
        if self.shape is None and self.state is State.VISIBLE:
            raise InvalidInput("shape", None, "a box, polygon or mask where the state is visible")

    @property
    def is_anchor(self) -> bool:
        """Whether a human made it."""
        return self.provenance.kind is ProvenanceKind.HUMAN


@dataclass(frozen=True, slots=True)
class FrameLabel:
    """Whether a frame class holds on one frame."""

    frame: int
    frame_class: str
    present: bool
    confidence: float | None = None
    provenance: Provenance = HUMAN

    def __post_init__(self) -> None:
        _check_frame(self.frame)
        _check_name("class", self.frame_class)
        _check_confidence(self.confidence)

    @property
    def is_anchor(self) -> bool:
        """Whether a human made it."""
        return self.provenance.kind is ProvenanceKind.HUMAN


AnyLabel = Label | FrameLabel


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """A kind of object. ``max_instances`` of 0 means no limit; ``flip`` says whether a mirrored object is still one;
    ``excludes`` names classes it cannot be with: frame classes on the same frame, object classes in the same place."""

    name: str
    color: str = ""
    shapes: frozenset[ShapeKind] = frozenset(ShapeKind)
    max_instances: int = 0
    flip: bool = True
    excludes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("object_class.name", self.name)
        if self.max_instances < 0:
            raise InvalidInput("object_class.max_instances", self.max_instances, "an integer >= 0; 0 for no limit")


@dataclass(frozen=True, slots=True)
class FrameClass:
    """A property of whole frames. ``excludes`` names frame classes that it cannot hold together with."""

    name: str
    color: str = ""
    excludes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("frame_class.name", self.name)


def _check_excluded(path: str, one: ObjectClass | FrameClass, names: Sequence[str]) -> None:
    others = [name for name in names if name != one.name]
    for name in one.excludes:
        if name not in others:
            allowed = ", ".join(map(repr, others)) or "none: there is no other"
            raise InvalidInput(f"{path}.excludes", name, allowed)


@dataclass(frozen=True, slots=True)
class Ontology:
    """What may be labeled."""

    object_classes: tuple[ObjectClass, ...] = ()
    frame_classes: tuple[FrameClass, ...] = ()

    def __post_init__(self) -> None:
        names = [c.name for c in self.object_classes] + [c.name for c in self.frame_classes]
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput("ontology", name, "every class name once")
        for index, one in enumerate(self.object_classes):
            _check_excluded(f"object_classes[{index}]", one, names)
        for index, entry in enumerate(self.frame_classes):
            _check_excluded(f"frame_classes[{index}]", entry, [c.name for c in self.frame_classes])

    @classmethod
    def from_labels(cls, labels: Iterable[AnyLabel]) -> Ontology:
        """The smallest ontology that the labels fit, classes in order of appearance."""
        objects: dict[str, ObjectClass] = {}
        frames: dict[str, FrameClass] = {}
        for label in labels:
            if isinstance(label, Label):
                objects.setdefault(label.object_class, ObjectClass(label.object_class))
            else:
                frames.setdefault(label.frame_class, FrameClass(label.frame_class))
        return cls(tuple(objects.values()), tuple(frames.values()))


@dataclass(frozen=True, slots=True)
class FrameResult:
    """All labels of one frame as propagation gives them: one per track (``absent`` ones too) and frame class.

    Anchors on the frame are passed through unchanged.

    Attributes:
        signs: what confidences come from, by track and name; of the labels of a micro-model that show an object.
    """

    frame: int
    labels: tuple[Label, ...] = ()
    frame_labels: tuple[FrameLabel, ...] = field(default=())
    signs: Mapping[str, Mapping[str, float]] = field(default_factory=dict, compare=False, repr=False)

    def all(self) -> Sequence[AnyLabel]:
        """Object labels, then frame labels."""
        return (*self.labels, *self.frame_labels)
