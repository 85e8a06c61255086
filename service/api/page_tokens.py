"""Opaque tokens: where the next page starts, where a broken stream goes on."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from micromodels.errors import InvalidInput

__all__ = ["PageSize", "decode_token", "encode_token", "page_size"]

_LONGEST = 2000

PageSize = tuple[int, int]
"""What an unset page size means, and the largest."""


def encode_token(request: object, position: Any) -> str:
    """A token.

    Args:
        request: JSON-like data that the next call must repeat; only its checksum goes into the token.
        position: JSON-like data.
    """
    text = json.dumps([_digest(request), position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def decode_token(field: str, token: str, request: object) -> Any:
    """The position in a token; None for the empty one.

    Raises:
        InvalidInput: not one of ours, or of a request with other values.
    """
    if not token:
        return None
    try:
        if len(token) > _LONGEST:
            raise ValueError
        digest, position = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError):
        raise InvalidInput(field, token, "empty, or a token that the server gave out") from None
    if digest != _digest(request):
        raise InvalidInput(field, token, "a token that was given out for a request with the same other fields")
    return position


def page_size(asked: int, size: PageSize) -> int:
    """How many items a page has.

    Raises:
        InvalidInput: a negative number was asked for.
    """
    default, largest = size
    if asked < 0:
        raise InvalidInput("page_size", asked, f"0 for {default}, or 1 to {largest}")
    return min(asked or default, largest)


def _digest(request: object) -> str:
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()[:12]
