"""The native label line: one JSON object a line.

``schemas/label.schema.json`` and docs/reference/label-format.md describe it.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar, assert_never

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.labels.validation import LabelSet, check_anchor, check_fits_video, prefixed
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

__all__ = ["MAX_LINE_BYTES", "iter_jsonl", "label_from_dict", "label_to_dict", "write_jsonl"]

MAX_LINE_BYTES = 16 << 20
"""Longer lines are refused before they are parsed."""

LARGEST_NUMBER = 2.0**53
"""Numbers past this one are refused: not every reader of JSON keeps their value."""

OBJECT_KEYS = ("frame", "track", "class", "state", "box", "polygon", "mask", "confidence", "provenance")
FRAME_KEYS = ("frame", "class", "state", "confidence", "provenance")
SHAPE_KEYS = ("box", "polygon", "mask")

EnumType = TypeVar("EnumType", bound=StrEnum)


# --- writing ---------------------------------------------------------------------------------------------------------


def label_to_dict(label: AnyLabel) -> dict[str, Any]:
    """The native form of a label, as ``json.dumps`` takes it; `label_from_dict` gives back an equal label.

    Raises:
        InvalidInput: a human label that the reader would refuse (see `validation.check_anchor`), or a name that is not
            valid Unicode.
    """
    check_anchor(label)
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


def write_jsonl(path: Path | str, labels: Iterable[AnyLabel]) -> int:
    """Write labels as they come, one a line, and return how many.

    The file appears under its name when it is complete (written beside it, then renamed); an error leaves what was
    there before. Memory does not grow with the number of labels.

    Raises:
        InvalidInput: a label that cannot be read back.
    """
    count = 0
    with atomic_text(Path(path)) as file:
        for label in labels:
            count += 1
            try:
                line = to_json(label_to_dict(label))
            except InvalidInput as error:
                raise relocated(error, f"label {count}") from None
            if len(line) > MAX_LINE_BYTES:
                raise InvalidInput(f"label {count}", f"a line of {len(line)} bytes", f"at most {MAX_LINE_BYTES} bytes")
            file.write(line + "\n")
    return count


def to_json(value: object) -> str:
    """Compact JSON, never NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@contextmanager
def atomic_text(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file that replaces ``path`` when the block ends well and vanishes when it does not."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        with partial.open("x", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


# --- reading ---------------------------------------------------------------------------------------------------------


def iter_jsonl(
    path: Path | str, *, frame_count: int | None = None, width_px: int | None = None, height_px: int | None = None
) -> Iterator[AnyLabel]:
    """Labels of a native file, line by line, in its order; blank lines are skipped.

    Args:
        path: the file, UTF-8.
        frame_count: of the video; None to accept any frame.
        width_px: of the video; None to accept any coordinate or mask size.
        height_px: likewise.

    Raises:
        InvalidInput: anything that the format does not allow; names the line and the field.
        OutOfRange: a frame or coordinate outside of the video.
    """
    seen = LabelSet()
    for number, line in _lines(Path(path)):
        where = f"line {number}"
        label = label_from_dict(parse_json(line, where), where)
        check_fits_video(label, frame_count=frame_count, width_px=width_px, height_px=height_px, where=where)
        seen.add(label, where)
        yield label


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of every line that is not blank."""
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise InvalidInput("file", str(path), f"a file that can be read ({error})") from None
    with file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise InvalidInput(f"line {number}", raw[:40], f"at most {MAX_LINE_BYTES} bytes")
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            text = decode_utf8(raw, f"line {number}").strip(" \t\r\n")
            if text:
                yield number, text


def decode_utf8(raw: bytes, where: str) -> str:
    """UTF-8 as text; InvalidInput with the place of the first wrong byte."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        got = raw[max(error.start - 10, 0) : error.start + 10]
        raise InvalidInput(where, got, f"UTF-8; byte {error.start + 1} is not") from None


def parse_json(text: str, where: str) -> Any:
    """Parse strictly: no NaN or infinity, no key twice, no absurd number, no absurd depth."""

    def refuse_constant(name: str) -> NoReturn:
        raise InvalidInput(where, name, "finite numbers")

    def finite(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise InvalidInput(where, digits, "finite numbers")
        return value

    def small(digits: str) -> int:
        if len(digits) > 20:
            raise InvalidInput(where, digits, "numbers below 2**53")
        return int(digits)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidInput(prefixed(where, twice), "the same key twice", "each key once")
        return entry

    try:
        return json.loads(
            text, parse_constant=refuse_constant, parse_float=finite, parse_int=small, object_pairs_hook=once
        )
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno}"
        got = text[max(error.pos - 20, 0) : error.pos + 20]
        raise InvalidInput(where, got, f"JSON; at {place}: {error.msg}") from None
    except RecursionError:
        raise InvalidInput(where, text[:20], "JSON that is not nested thousands deep") from None


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
        label = Label(frame, track, name, state, shape_from_dict(entry), confidence, provenance)
        check_anchor(label)
    except InvalidInput as error:
        raise relocated(error, where) from None
    return label


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


def mask_size(value: object, name: str) -> tuple[int, int]:
    """``[height, width]`` as two integers; `Mask` checks their range."""
    if isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value):
        return value[0], value[1]
    raise InvalidInput(name, value, "two integers [height, width]")


def numbers(value: object, name: str, count: int, allowed: str) -> list[float]:
    """A list of ``count`` finite numbers (not bool); values are kept as they are, int or float."""
    if not isinstance(value, list) or len(value) != count:
        raise InvalidInput(name, value, allowed)
    for index, number in enumerate(value):
        if not is_number(number):
            raise InvalidInput(f"{name}[{index}]", number, "a finite number")
    return value


def is_number(value: object) -> bool:
    """Whether a parsed JSON value is a number that every reader keeps."""
    return type(value) in (int, float) and -LARGEST_NUMBER <= value <= LARGEST_NUMBER  # type: ignore[operator]


def relocated(error: InvalidInput, where: str) -> InvalidInput:
    """The same error, saying also in which line or entry."""
    return type(error)(prefixed(where, error.field), error.value, error.allowed)


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
