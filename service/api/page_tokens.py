"""Page tokens and resume tokens: opaque positions where the next page or an interrupted stream continues."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from micromodels.errors import InvalidInput

__all__ = ["PageSize", "decode_token", "encode_token", "page_size"]

_LONGEST = 2000

PageSize = tuple[int, int]
"""Default and largest page size."""


def encode_token(request: object, position: Any) -> str:
    """Create a token.

    Args:
        request: JSON-like data that the next call must repeat; the token contains only its checksum.
        position: JSON-like data.
    """
    text = json.dumps([_digest(request), position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def decode_token(field: str, token: str, request: object) -> Any:
    """The position in a token; None for an empty token.

    Raises:
        InvalidInput: not a token of this server, or of a request with other values.
    """
    if not token:
        return None
    try:
        if len(token) > _LONGEST:
            raise ValueError
        digest, position = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError):
        raise InvalidInput(field, token, "empty, or a token returned by the server") from None
    if digest != _digest(request):
        raise InvalidInput(field, token, "a token returned for a request with the same other fields")
    return position


def page_size(requested: int, size: PageSize) -> int:
    """The number of items of a page.

    Raises:
        InvalidInput: a negative page size.
    """
    default, largest = size
    if requested < 0:
        raise InvalidInput("page_size", requested, f"0 for {default}, or 1 to {largest}")
    return min(requested or default, largest)


def _digest(request: object) -> str:
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()[:12]
