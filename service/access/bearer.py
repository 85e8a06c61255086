"""Access tokens as callers send them: ``mm_ID_SECRET``.

The secret has 256 random bits, so the store keeps its plain SHA-256. A slow hash would add nothing against guessing,
and a stolen database contains no usable token.
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
_REFUSED = "the token is not valid; send it as 'authorization: Bearer mm_...'"


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token: an id that may be displayed, and a secret."""

    token_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Bearer({self.token_id!r}, ...)"

    def __str__(self) -> str:
        return f"mm_{self.token_id}_{self.secret}"

    @property
    def sha256(self) -> str:
        """Checksum of the secret, as the store keeps it."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def fits(self, sha256: str) -> bool:
        """Whether the secret has this checksum. Takes constant time."""
        return hmac.compare_digest(self.sha256, sha256)


def new_bearer() -> Bearer:
    """A new random token."""
    return Bearer(secrets.token_hex(8), secrets.token_urlsafe(32))


def bearer_of(header: str) -> Bearer:
    """The token in the value of an ``authorization`` header.

    Raises:
        Unauthenticated: the header holds no token. The error does not repeat what was sent.
    """
    scheme, _, text = header.partition(" ")
    match = _TOKEN.fullmatch(text.strip())
    if scheme.lower() != "bearer" or match is None:
        raise Unauthenticated(_REFUSED)
    return Bearer(*match.groups())
