"""JSON Lines: the native format, a label in native form on each line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from micromodels.errors import InvalidInput
from micromodels.labels.formats import FormatOptions, LabelFormat, LabelPart
from micromodels.labels.label_json import SHAPE_KEYS, label_from_dict, label_to_dict
from micromodels.labels.strict_json import decode_utf8, parse_json, to_json
from micromodels.labels.validation import relocated
from micromodels.labels.video_info import VideoInfo
from micromodels.types import AnyLabel

__all__ = ["FORMAT", "MAX_LINE_BYTES"]

MAX_LINE_BYTES = 16 << 20
"""Longer lines are refused before they are parsed."""

OPTIONAL_KEYS = (*SHAPE_KEYS, "confidence", "provenance")


def _write(path: Path, labels: Iterable[AnyLabel], video: VideoInfo | None, options: FormatOptions) -> int:
    """Write labels as they come, one a line."""
    count = 0
    with path.open("x", encoding="utf-8", newline="\n") as file:
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


def _read(path: Path, video: VideoInfo | None, options: FormatOptions) -> Iterator[tuple[str, AnyLabel]]:
    """Labels line by line, in the order of the file; blank lines are skipped."""
    for number, line in _lines(path):
        where = f"line {number}"
        entry = parse_json(line, where)
        if isinstance(entry, dict):
            try:
                entry = options.without_nulls(entry, OPTIONAL_KEYS, where)
            except InvalidInput as error:
                raise relocated(error, where) from None
        yield where, label_from_dict(entry, where)


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


FORMAT = LabelFormat(
    name="jsonl",
    title="JSON Lines",
    file_name="labels.jsonl",
    extension=".jsonl",
    keeps=frozenset(LabelPart),
    loses="",
    read=_read,
    write=_write,
)
