"""Room that is kept for when the disk is full: SQLite cannot even delete without some."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from service.domain.errors import ResourceExhausted

__all__ = ["Reserve"]

_LOW_SHARE = 0.5  # of the reserve: with less than this free, ordinary writes are refused


class Reserve:
    """A file of a fixed size beside the database.

    Ordinary writes ask ``admit``, which refuses them while the disk is nearly full, before they fail half-way. Writes
    that make room, or end something, ask ``open``, which gives the file's bytes to them. ``refill`` makes it again
    when there is room. Without it the last bytes would go to writes, and nothing could be deleted any more.

    Args:
        folder: on the disk that is watched.
        size_bytes: 0 for no reserve and no check.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._folder = folder
        self._path = folder / "reserve"
        self._size_bytes = size_bytes

    def admit(self) -> None:
        """Let a write go on.

        Raises:
            ResourceExhausted: the disk is nearly full.
        """
        if self._size_bytes and self._free_bytes() < self._size_bytes * _LOW_SHARE:
            raise ResourceExhausted("the disk is full; reading and deleting go on", retry_after_seconds=60.0)

    def open(self) -> None:
        """Give the reserve to a write that must succeed."""
        if self._size_bytes and self._free_bytes() < self._size_bytes * _LOW_SHARE:
            self._path.unlink(missing_ok=True)

    def refill(self) -> None:
        """Make the file, if it is not there and there is room for it."""
        if not self._size_bytes or self._path.exists() or self._free_bytes() < 2 * self._size_bytes:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
        except OSError:  # somebody else was faster
            with contextlib.suppress(OSError):
                self._path.unlink()
        finally:
            os.close(descriptor)

    def _free_bytes(self) -> int:
        free = os.statvfs(self._folder)
        return free.f_bavail * free.f_frsize
