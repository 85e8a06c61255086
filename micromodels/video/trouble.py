"""Counts decoding errors. Runs in the decoding process only."""

from __future__ import annotations

from dataclasses import dataclass

from micromodels.errors import VideoError

__all__ = ["Trouble", "describe"]


@dataclass(slots=True)
class Trouble:
    """Errors in the data since the last clear; decoding continued after them."""

    error_count: int = 0
    first_error: str = ""
    corrupt_count: int = 0
    """Frames marked as corrupt by the decoder."""

    def note(self, where: str, error: Exception) -> None:
        """Count a decoding error. Running out of memory raises instead."""
        if isinstance(error, MemoryError):
            raise VideoError("decoding needs more memory than the limit allows") from None
        self.error_count += 1
        self.first_error = self.first_error or f"{where}: {describe(error)}"


def describe(error: BaseException) -> str:
    """An error of the decoding libraries in one line, without paths."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
