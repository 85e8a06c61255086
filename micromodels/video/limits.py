"""Resource limits of decoding."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from micromodels.errors import InvalidInput

__all__ = ["DecodeLimits"]


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Limits for one video; exceeding one raises ``VideoError``."""

    max_frames: int = 2_000_000
    """Most frames of a video; 18 hours at 30 frames per second."""

    max_pixels: int = 36_000_000
    """Most pixels of a frame; slightly more than 8192 x 4320."""

    memory_bytes: int = 4 << 30
    """Address space of the decoding process."""

    frame_timeout_seconds: float = 30.0
    """Longest time without a report from the working decoding process; it reports at least once per frame."""

    cpu_seconds: int = 600
    """Processor time that the decoding process may use between two reports."""

    threads: int = 0
    """Decoding threads; 0 for one per core, at most 8."""

    cache_bytes: int = 64 << 20
    """Size of the cache of decoded frames for random access, in bytes before conversion to RGB."""

    spool_bytes: int = 16 << 30
    """Disk space for frames that are given as an iterable: the size of the temporary file that keeps them."""

    def __post_init__(self) -> None:
        for name in ("max_frames", "max_pixels", "memory_bytes", "cpu_seconds", "spool_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInput(f"limits.{name}", value, "an integer >= 1")
        for name in ("threads", "cache_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidInput(f"limits.{name}", value, "an integer >= 0")
        if not (math.isfinite(self.frame_timeout_seconds) and self.frame_timeout_seconds > 0):
            raise InvalidInput("limits.frame_timeout_seconds", self.frame_timeout_seconds, "a finite number > 0")

    def to_dict(self) -> dict[str, int | float]:
        """Plain values, to send to the decoding process."""
        return asdict(self)
