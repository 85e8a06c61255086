"""Tokens as callers hold them: ``mm_ID_SECRET``.

The secret has 256 bits of randomness, so the store keeps its plain SHA-256: there is nothing to guess that a slow hash
would protect, and a stolen database holds no token.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from service.domain.errors import Unauthenticated

__all__ = ["Bearer", "bearer_of", "new_bearer"]

_TOKEN = re.compile(r"mm_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_REFUSED = "no valid token: send one as 'authorization: Bearer mm_...'"


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token: the id that may be shown, and the secret."""

    token_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Bearer({self.token_id!r}, ...)"

    def __str__(self) -> str:
        return f"mm_{self.token_id}_{self.secret}"

    @property
    def sha256(self) -> str:
        """What is kept of it."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def fits(self, sha256: str) -> bool:
        """Whether this is the token that a checksum is of; takes the same time whatever the answer."""
        return hmac.compare_digest(self.sha256, sha256)


def new_bearer() -> Bearer:
    """A fresh token."""
    return Bearer(secrets.token_hex(8), secrets.token_urlsafe(32))


def bearer_of(header: str) -> Bearer:
    """The token in the value of an ``authorization`` header.

    Raises:
        Unauthenticated: it holds none. What was sent is not repeated in the error.
    """
    scheme, _, text = header.partition(" ")
    match = _TOKEN.fullmatch(text.strip())
    if scheme.lower() != "bearer" or match is None:
        raise Unauthenticated(_REFUSED)
    return Bearer(*match.groups())
