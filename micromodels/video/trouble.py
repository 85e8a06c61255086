"""What goes wrong while decoding, counted. Runs in the decoding process only."""

from __future__ import annotations

from dataclasses import dataclass

from micromodels.errors import VideoError

__all__ = ["Trouble", "describe"]


@dataclass(slots=True)
class Trouble:
    """What was wrong with the data since this was last cleared; decoding went on."""

    error_count: int = 0
    first_error: str = ""
    corrupt_count: int = 0
    """Frames that the decoder marked as corrupt."""

    def note(self, where: str, error: Exception) -> None:
        """Count an error of decoding; running out of memory is not one to go on after."""
        if isinstance(error, MemoryError):
            raise VideoError("decoding needs more memory than the limit allows") from None
        self.error_count += 1
        self.first_error = self.first_error or f"{where}: {describe(error)}"


def describe(error: BaseException) -> str:
    """One line about an error of the decoding libraries, without paths."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
