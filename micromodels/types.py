"""The words of the project as types, and their conventions, fixed here once.

Frame indices are 0-based in display order. Images are RGB ``uint8`` of shape ``(height, width, 3)``. Boxes are
``x1, y1, x2, y2`` in pixels of the displayed frame, half-open on the right and bottom. Masks are ``bool`` arrays of
shape ``(height, width)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from itertools import accumulate
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

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
    "check_frame",
    "check_name",
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


# --- what a field may hold -------------------------------------------------------------------------------------------
# Each function takes what a caller gave and returns it as the plain Python value that is stored, or refuses it. Scalars
# of NumPy are numbers like any other; they are recognized without importing NumPy, which the light client lacks.

Member = TypeVar("Member", bound=StrEnum)


def _store(target: object, **values: object) -> None:
    """Set fields of a frozen dataclass that is being made."""
    for name, value in values.items():
        object.__setattr__(target, name, value)


def _number(value: object) -> float | None:
    """A finite number as ``int`` or ``float``; None for anything else, ``bool`` included."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is int:
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return _number(float(value)) if isinstance(value, Real) and not isinstance(value, bool) else None


def _integer(name: str, value: object, minimum: int) -> int:
    number = _number(value)
    if not isinstance(number, int) or number < minimum:
        raise InvalidInput(name, value, f"an integer >= {minimum}")
    return number


def _flag(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if str(getattr(value, "dtype", "")) == "bool" and getattr(value, "shape", None) == ():  # a bool of NumPy
        return bool(value)
    raise InvalidInput(name, value, "True or False")


def _member(kind: type[Member], name: str, value: Any) -> Member:
    if type(value) is kind:
        return value
    try:
        return kind(value)
    except ValueError:
        raise InvalidInput(name, value, "one of " + ", ".join(kind)) from None


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput(name, value, "a string")
    return value if type(value) is str else str(value)


def _tuple(name: str, values: object, of: type, what: str) -> tuple[Any, ...]:
    """The items of a sequence (a string is none), all of one type."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidInput(name, values, f"a sequence of {what}")
    found = tuple(values)
    for index, item in enumerate(found):
        if not isinstance(item, of):
            raise InvalidInput(f"{name}[{index}]", item, f"a sequence of {what}")
    return found


def check_name(name: str, value: object) -> str:
    """The name of a track or class as a plain ``str``.

    Raises:
        InvalidInput: not a string of 1 to 200 characters without NUL.
    """
    if not isinstance(value, str) or not value or len(value) > MAX_NAME_LENGTH or "\0" in value:
        raise InvalidInput(name, value, f"1 to {MAX_NAME_LENGTH} characters, no NUL")
    return value if type(value) is str else str(value)


def check_frame(value: object) -> int:
    """A frame index as a plain ``int``.

    Raises:
        InvalidInput: not an integer >= 0.
    """
    return value if type(value) is int and value >= 0 else _integer("frame", value, 0)


def _confidence(value: object) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None or not 0.0 <= number <= 1.0:
        raise InvalidInput("confidence", value, "a number from 0 to 1, or None")
    return float(number)


def _color(name: str, value: object) -> str:
    """A color as ``#rrggbb``, or nothing."""
    color = _text(name, value)
    if color and not re.fullmatch("#[0-9a-fA-F]{3}([0-9a-fA-F]{3})?", color):
        raise InvalidInput(name, value, "#rgb or #rrggbb in hexadecimal digits, or an empty string for none")
    return color if len(color) != 4 else "#" + "".join(2 * digit for digit in color[1:])


# --- shapes ----------------------------------------------------------------------------------------------------------
# What they hold and how they are checked; what is asked of them is in ``micromodels.labels.geometry``.


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned box in pixels, half-open: covers ``x1 <= x < x2`` and ``y1 <= y < y2``.

    Raises:
        InvalidInput: not four finite numbers, or nothing between them.
    """

    kind: ClassVar[ShapeKind] = ShapeKind.BOX

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        values = (self.x1, self.y1, self.x2, self.y2)
        x1, y1, x2, y2 = map(_number, values)
        if x1 is None or y1 is None or x2 is None or y2 is None:
            raise InvalidInput("box", values, "four finite numbers x1, y1, x2, y2")
        if x2 <= x1 or y2 <= y1:
            raise InvalidInput("box", values, "x2 > x1 and y2 > y1")
        _store(self, x1=x1, y1=y1, x2=x2, y2=y2)

    @property
    def width_px(self) -> float:
        """Width in pixels."""
        return self.x2 - self.x1

    @property
    def height_px(self) -> float:
        """Height in pixels."""
        return self.y2 - self.y1

    def as_list(self) -> list[float]:
        """``[x1, y1, x2, y2]``."""
        return [self.x1, self.y1, self.x2, self.y2]


@dataclass(frozen=True, slots=True)
class Polygon:
    """One closed ring of at least three ``(x, y)`` points in pixels; the last point is joined to the first.

    Made of any sequence of pairs of numbers, or an array of shape ``(points, 2)``.

    Raises:
        InvalidInput: fewer than 3 or more than ``MAX_POLYGON_VERTICES`` points, or a point that is not two finite
            numbers.
    """

    kind: ClassVar[ShapeKind] = ShapeKind.POLYGON

    points: tuple[tuple[float, float], ...]

    if TYPE_CHECKING:  # it takes more than it keeps

        def __init__(self, points: Sequence[Sequence[float]] | npt.NDArray[Any]) -> None: ...

    def __post_init__(self) -> None:
        allowed = f"3 to {MAX_POLYGON_VERTICES} points"
        try:
            count = len(self.points)
        except TypeError:
            raise InvalidInput("polygon", self.points, f"{allowed} (x, y)") from None
        if not 3 <= count <= MAX_POLYGON_VERTICES:
            raise InvalidInput("polygon", f"{count} points", allowed)
        _store(self, points=tuple(_point(index, point) for index, point in enumerate(self.points)))

    def __repr__(self) -> str:
        return f"Polygon({len(self.points)} points)"


def _point(index: int, point: Any) -> tuple[float, float]:
    try:
        x, y = map(_number, point)
    except (TypeError, ValueError):
        x = y = None
    if x is None or y is None:
        raise InvalidInput(f"polygon[{index}]", point, "two finite numbers x, y")
    return x, y


@dataclass(frozen=True, slots=True)
class Mask:
    """A binary mask as COCO compressed run-length encoding.

    ``counts`` is the ASCII string that pycocotools writes; ``height_px`` and ``width_px`` are those of the video.

    Raises:
        InvalidInput: a size that is not positive or too large, or runs that are damaged or do not fill it.
    """

    kind: ClassVar[ShapeKind] = ShapeKind.MASK

    height_px: int
    width_px: int
    counts: str

    def __post_init__(self) -> None:
        height_px = _integer("mask.height_px", self.height_px, 1)
        width_px = _integer("mask.width_px", self.width_px, 1)
        if height_px * width_px > MAX_MASK_PIXELS:
            raise InvalidInput("mask.size", (height_px, width_px), f"at most {MAX_MASK_PIXELS} pixels")
        _store(self, height_px=height_px, width_px=width_px, counts=_text("mask.counts", self.counts))
        total = sum(self.runs())
        if total != height_px * width_px:
            raise InvalidInput("mask.counts", f"runs of {total} pixels", f"runs of {height_px * width_px} pixels")

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

    def runs(self) -> list[int]:
        """Lengths of the runs of pixels in column-major order: background, set, background, and so on.

        Source of the format: the variable-length code of ``rleToString`` in the COCO API: five bits a character, the
        lowest first, bit 0x20 where more follow, bit 0x10 of the last one for the sign; from the fourth on differences
        to the run before the last. Checked here, because the C decoder trusts its input.

        Raises:
            InvalidInput: ``counts`` is no such code.
        """
        counts = self.counts
        if not counts.isascii() or (counts and not (min(counts) >= "0" and max(counts) <= "o")):
            raise InvalidInput("mask.counts", counts, "COCO compressed RLE (a character is out of place)")
        if counts and counts[-1] >= "P":
            raise InvalidInput("mask.counts", counts, "COCO compressed RLE (it ends inside a number)")
        runs = _numbers_of(counts.encode("ascii"))
        if runs is None:
            raise InvalidInput("mask.counts", counts, "COCO compressed RLE (a number is too long)")
        runs[1::2] = accumulate(runs[1::2])
        runs[2::2] = accumulate(runs[2::2])
        if runs and min(runs) < 0:
            raise InvalidInput("mask.counts", counts, "COCO compressed RLE (a run is negative)")
        return runs

    def area_px(self) -> int:
        """Number of set pixels."""
        return sum(self.runs()[1::2])


def _numbers_of(code: bytes) -> list[int] | None:
    """The numbers of a run-length code; None where one has too many characters. Its characters are right.

    NumPy is two to ten times as fast (0.03 and 0.05 ms for a disc on 480 lines), and files have masks by the thousand;
    the light client does without.
    """
    np = _numpy()
    if np is not None and code:
        characters = np.frombuffer(code, np.uint8).astype(np.int64) - 48
        last = (characters & 0x20) == 0
        starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
        lengths = np.diff(np.append(starts, len(characters)))
        if lengths.max() > MAX_RLE_CHARACTERS:
            return None
        shifts = 5 * (np.arange(len(characters)) - np.repeat(starts, lengths))
        values = np.add.reduceat((characters & 0x1F) << shifts, starts)
        found: list[int] = np.where(characters[last] & 0x10, values - (1 << (5 * lengths)), values).tolist()
        return found
    numbers: list[int] = []
    value = shift = 0
    for character in code:
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if shift > 5 * MAX_RLE_CHARACTERS:
            return None
        if not bits & 0x20:
            numbers.append(value - (1 << shift) if bits & 0x10 else value)
            value = shift = 0
    return numbers


@cache
def _numpy() -> Any:
    """NumPy; None where it is not installed."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


Shape = Box | Polygon | Mask
"""A shape of another kind joins here and in ``ShapeKind``; the type checker then names each place that must know it."""


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a label came from; ``version`` names the micro-model version, or the person for human labels."""

    kind: ProvenanceKind
    version: str = ""

    def __post_init__(self) -> None:
        kind = _member(ProvenanceKind, "provenance.kind", self.kind)
        _store(self, kind=kind, version=_text("provenance.version", self.version))


HUMAN = Provenance(ProvenanceKind.HUMAN)


def _check_provenance(value: object) -> None:
    if not isinstance(value, Provenance):
        raise InvalidInput("provenance", value, "a Provenance")


@dataclass(frozen=True, slots=True)
class Label:
    """One object on one frame.

    A state of ``absent`` has no shape. Any other *human* label has one; a predicted ``uncertain`` or ``occluded`` label
    may be without. A state may be given as its word.

    Raises:
        InvalidInput: a field holds what it cannot; names the field, the value and what is allowed.
    """

    frame: int
    track: str
    object_class: str
    state: State
    shape: Shape | None = None
    confidence: float | None = None
    provenance: Provenance = HUMAN

    def __post_init__(self) -> None:
        frame, track = check_frame(self.frame), check_name("track", self.track)
        object_class = check_name("class", self.object_class)
        if self.shape is not None and not isinstance(self.shape, Shape):
            raise InvalidInput("shape", self.shape, "a Box, Polygon or Mask, or None")
        confidence = _confidence(self.confidence)
        _check_provenance(self.provenance)
        state = _member(State, "state", self.state)
        if state is State.ABSENT and self.shape is not None:
            raise InvalidInput("state", state.value, "absent without a shape, or another state with one")
        if self.shape is None and state is State.VISIBLE:
            raise InvalidInput("shape", None, "a box, polygon or mask where the state is visible")
        _store(self, frame=frame, track=track, object_class=object_class, state=state, confidence=confidence)

    @property
    def is_anchor(self) -> bool:
        """Whether a human made it."""
        return self.provenance.kind is ProvenanceKind.HUMAN


@dataclass(frozen=True, slots=True)
class FrameLabel:
    """Whether a frame class holds on one frame.

    Raises:
        InvalidInput: a field holds what it cannot; names the field, the value and what is allowed.
    """

    frame: int
    frame_class: str
    present: bool
    confidence: float | None = None
    provenance: Provenance = HUMAN

    def __post_init__(self) -> None:
        frame, frame_class = check_frame(self.frame), check_name("class", self.frame_class)
        present, confidence = _flag("present", self.present), _confidence(self.confidence)
        _check_provenance(self.provenance)
        _store(self, frame=frame, frame_class=frame_class, present=present, confidence=confidence)

    @property
    def is_anchor(self) -> bool:
        """Whether a human made it."""
        return self.provenance.kind is ProvenanceKind.HUMAN


AnyLabel = Label | FrameLabel


# --- ontology --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """A kind of object. ``max_instances`` of 0 means no limit; ``flip`` says whether a mirrored object is still one;
    ``excludes`` names classes it cannot be with: frame classes on the same frame, object classes in the same place;
    ``color`` is ``#rrggbb`` (``#rgb`` is written out), empty for any.

    Raises:
        InvalidInput: a field holds what it cannot; names it as ``object_class.FIELD``.
    """

    name: str
    color: str = ""
    shapes: frozenset[ShapeKind] = frozenset(ShapeKind)
    max_instances: int = 0
    flip: bool = True
    excludes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        words = _tuple("object_class.shapes", self.shapes, str, "kinds of shape")
        if not words:
            raise InvalidInput("object_class.shapes", self.shapes, "at least one of " + ", ".join(ShapeKind))
        _store(
            self,
            name=check_name("object_class.name", self.name),
            color=_color("object_class.color", self.color),
            shapes=frozenset(_member(ShapeKind, "object_class.shapes", word) for word in words),
            max_instances=_integer("object_class.max_instances", self.max_instances, 0),
            flip=_flag("object_class.flip", self.flip),
            excludes=_tuple("object_class.excludes", self.excludes, str, "names of classes"),
        )


@dataclass(frozen=True, slots=True)
class FrameClass:
    """A property of whole frames. ``excludes`` names frame classes that it cannot hold together with; ``color`` is
    ``#rrggbb`` (``#rgb`` is written out), empty for any.

    Raises:
        InvalidInput: a field holds what it cannot; names it as ``frame_class.FIELD``.
    """

    name: str
    color: str = ""
    excludes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _store(
            self,
            name=check_name("frame_class.name", self.name),
            color=_color("frame_class.color", self.color),
            excludes=_tuple("frame_class.excludes", self.excludes, str, "names of frame classes"),
        )


def _check_excluded(path: str, one: ObjectClass | FrameClass, names: Sequence[str]) -> None:
    others = [name for name in names if name != one.name]
    for name in one.excludes:
        if name not in others:
            allowed = ", ".join(map(repr, others)) or "none: there is no other"
            raise InvalidInput(f"{path}.excludes", name, allowed)


@dataclass(frozen=True, slots=True)
class Ontology:
    """What may be labeled.

    Raises:
        InvalidInput: not such classes, a class name twice, or an excluded class that does not exist.
    """

    object_classes: tuple[ObjectClass, ...] = ()
    frame_classes: tuple[FrameClass, ...] = ()

    def __post_init__(self) -> None:
        _store(
            self,
            object_classes=_tuple("object_classes", self.object_classes, ObjectClass, "ObjectClass"),
            frame_classes=_tuple("frame_classes", self.frame_classes, FrameClass, "FrameClass"),
        )
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
