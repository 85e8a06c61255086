"""A label as a JSON object, the native form.

``schemas/label.schema.json`` and docs/reference/label-format.md describe it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, assert_never

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.labels.strict_json import LARGEST_NUMBER, is_number, numbers
from micromodels.labels.validation import prefixed, relocated
from micromodels.types import (
    HUMAN,
    MAX_POLYGON_VERTICES,
    AnyLabel,
    Box,
    FrameLabel,
    Label,
    Mask,
    Polygon,
    Provenance,
    ProvenanceKind,
    Shape,
    State,
)

__all__ = ["SCHEMA_PATH", "SHAPE_KEYS", "label_from_dict", "label_to_dict", "shape_to_dict"]

SCHEMA_PATH = Path(__file__).parent.parent / "schemas" / "label.schema.json"
"""JSON Schema (draft 2020-12) of one label in native form."""

OBJECT_KEYS = ("frame", "track", "class", "state", "box", "polygon", "mask", "confidence", "provenance")
FRAME_KEYS = ("frame", "class", "state", "confidence", "provenance")
SHAPE_KEYS = ("box", "polygon", "mask")

EnumType = TypeVar("EnumType", bound=StrEnum)


# --- writing ---------------------------------------------------------------------------------------------------------


def label_to_dict(label: AnyLabel) -> dict[str, Any]:
    """The native form of a label, as ``json.dumps`` takes it; `label_from_dict` gives back an equal label.

    Raises:
        InvalidInput: a name that is not valid Unicode.
    """
    entry: dict[str, Any] = {"frame": label.frame}
    if isinstance(label, Label):
        entry["track"] = _text(label.track, "track")
        entry["class"] = _text(label.object_class, "class")
        entry["state"] = label.state.value
        if label.shape is not None:
            entry.update(shape_to_dict(label.shape))
    else:
        entry["class"] = _text(label.frame_class, "class")
        entry["state"] = "present" if label.present else "absent"
    if label.confidence is not None:
        entry["confidence"] = label.confidence
    entry["provenance"] = {"kind": label.provenance.kind.value}
    if label.provenance.version:
        entry["provenance"]["version"] = _text(label.provenance.version, "provenance.version")
    return entry


def shape_to_dict(shape: Shape) -> dict[str, Any]:
    """``{"box": ...}``, ``{"polygon": ...}`` or ``{"mask": ...}``."""
    match shape:
        case Box():
            return {"box": shape.as_list()}
        case Polygon():
            return {"polygon": [list(point) for point in shape.points]}
        case Mask():
            return {"mask": {"size": [shape.height_px, shape.width_px], "counts": shape.counts}}
        case _:
            assert_never(shape)


# --- reading ---------------------------------------------------------------------------------------------------------


def label_from_dict(entry: object, where: str = "") -> AnyLabel:
    """Read one label in native form, strictly.

    Args:
        entry: what ``json.loads`` gave; see docs/reference/label-format.md.
        where: put before the field's name in errors, e.g. ``"line 3"``.

    Raises:
        InvalidInput: unknown or missing key, wrong type, a value or combination that is not allowed.
        OutOfRange: a negative frame.
    """
    if not isinstance(entry, Mapping):
        raise InvalidInput(where or "label", entry, "a JSON object")
    is_object = "track" in entry or any(key in entry for key in SHAPE_KEYS)
    allowed = OBJECT_KEYS if is_object else FRAME_KEYS
    for key in entry:
        if key not in allowed:
            raise InvalidInput(prefixed(where, str(key)), entry[key], f"one of the keys {', '.join(OBJECT_KEYS)}")
    for key in ("frame", "track", "class", "state") if is_object else ("frame", "class", "state"):
        if key not in entry:
            raise InvalidInput(prefixed(where, key), "nothing", "a value: this key is required")
    frame = _frame(entry["frame"], where)
    confidence = _confidence(entry, where)
    provenance = _provenance(entry.get("provenance"), where) if "provenance" in entry else HUMAN
    try:
        name = _text(entry["class"], "class")
        if not is_object:
            return FrameLabel(frame, name, _present(entry["state"]), confidence, provenance)
        track, state = _text(entry["track"], "track"), _member(State, entry["state"], "state")
        return Label(frame, track, name, state, shape_from_dict(entry), confidence, provenance)
    except InvalidInput as error:
        raise relocated(error, where) from None


def shape_from_dict(entry: Mapping[str, Any]) -> Shape | None:
    """The shape under ``box``, ``polygon`` or ``mask``; None where there is none of them."""
    given = [key for key in SHAPE_KEYS if key in entry]
    if len(given) > 1:
        raise InvalidInput(given[1], f"{' and '.join(given)}", "one shape a label: box, polygon or mask")
    if not given:
        return None
    value = entry[given[0]]
    if given[0] == "box":
        x1, y1, x2, y2 = numbers(value, "box", 4, "four numbers [x1, y1, x2, y2]")
        return Box(x1, y1, x2, y2)
    return polygon_from_list(value) if given[0] == "polygon" else _mask(value)


def polygon_from_list(value: object) -> Polygon:
    """``[[x, y], ...]`` as a polygon; the number of points is checked before anything else."""
    allowed = f"3 to {MAX_POLYGON_VERTICES} points [x, y]"
    if not isinstance(value, list):
        raise InvalidInput("polygon", value, allowed)
    if not 3 <= len(value) <= MAX_POLYGON_VERTICES:
        raise InvalidInput("polygon", f"{len(value)} points", allowed)
    points = [numbers(point, f"polygon[{i}]", 2, "two numbers [x, y]") for i, point in enumerate(value)]
    return Polygon(tuple((x, y) for x, y in points))


def mask_size(value: object, name: str) -> tuple[int, int]:
    """``[height, width]`` as two integers; `Mask` checks their range."""
    if isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value):
        return value[0], value[1]
    raise InvalidInput(name, value, "two integers [height, width]")


def _mask(value: object) -> Mask:
    if not isinstance(value, dict):
        raise InvalidInput("mask", value, 'an object {"size": [height, width], "counts": "<COCO compressed RLE>"}')
    for key in value:
        if key not in ("size", "counts"):
            raise InvalidInput(f"mask.{key}", value[key], "the keys size and counts")
    for key in ("size", "counts"):
        if key not in value:
            raise InvalidInput(f"mask.{key}", "nothing", "a value: this key is required")
    height, width = mask_size(value["size"], "mask.size")
    if not isinstance(value["counts"], str):
        raise InvalidInput("mask.counts", value["counts"], "a string: COCO compressed RLE")
    return Mask(height, width, value["counts"])


def _frame(value: object, where: str) -> int:
    if type(value) is not int:
        raise InvalidInput(prefixed(where, "frame"), value, "an integer >= 0")
    if not 0 <= value <= LARGEST_NUMBER:
        raise OutOfRange(prefixed(where, "frame"), value, "an integer >= 0")
    return value


def _confidence(entry: Mapping[str, Any], where: str) -> float | None:
    if "confidence" not in entry:
        return None
    value = entry["confidence"]
    if not is_number(value) or not 0.0 <= value <= 1.0:
        raise InvalidInput(prefixed(where, "confidence"), value, "a number from 0 to 1; leave the key out for none")
    return float(value)


def _provenance(value: object, where: str) -> Provenance:
    if not isinstance(value, dict):
        raise InvalidInput(prefixed(where, "provenance"), value, 'an object {"kind": ..., "version": ...}')
    for key in value:
        if key not in ("kind", "version"):
            raise InvalidInput(prefixed(where, f"provenance.{key}"), value[key], "the keys kind and version")
    try:
        kind = _member(ProvenanceKind, value.get("kind"), "provenance.kind")
        return Provenance(kind, _text(value.get("version", ""), "provenance.version"))
    except InvalidInput as error:
        raise relocated(error, where) from None


def _member(kind: type[EnumType], value: object, name: str) -> EnumType:
    if isinstance(value, str) and value in [member.value for member in kind]:
        return kind(value)
    raise InvalidInput(name, value, f"one of {', '.join(member.value for member in kind)}")


def _present(value: object) -> bool:
    if value not in ("present", "absent"):
        raise InvalidInput(
            "state", value, "present or absent for a frame class; a label of an object has a track as well"
        )
    return value == "present"


def _text(value: object, name: str) -> str:
    """A string that UTF-8 can hold; the types check its length."""
    if not isinstance(value, str):
        raise InvalidInput(name, value, "a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput(name, value, "valid Unicode (a lone surrogate is not)") from None
    return value
