"""JSON from outside, read strictly: what the readers of labels share."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from micromodels.errors import InvalidInput
from micromodels.labels.validation import prefixed

__all__ = ["decode_utf8", "is_number", "numbers", "parse_json", "to_json"]

LARGEST_NUMBER = 2.0**53
"""Numbers past this one are refused: not every reader of JSON keeps their value."""


def to_json(value: object) -> str:
    """Compact JSON, never NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


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
