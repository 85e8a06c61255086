"""Reserved space for a full disk: without free space SQLite cannot even delete."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from service.domain.errors import ResourceExhausted

__all__ = ["Reserve"]

_LOW_SHARE = 0.5  # ordinary writes are refused when free space falls below this share of the reserve


class Reserve:
    """A file of fixed size beside the database.

    Ordinary writes call ``admit``, which refuses them while the disk is nearly full, before they fail half-way. Writes
    that free space, or end something, call ``open``, which deletes the file to make room for them. ``refill`` creates
    the file again when space is available. Without it, writes would use the last bytes and deleting would fail.

    Args:
        folder: folder on the disk to watch.
        size_bytes: 0 for no reserve and no check.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._folder = folder
        self._path = folder / "reserve"
        self._size_bytes = size_bytes

    def admit(self) -> None:
        """Admit an ordinary write.

        Raises:
            ResourceExhausted: the disk is nearly full.
        """
        if self._size_bytes and self._free_bytes() < self._size_bytes * _LOW_SHARE:
            reason = "the disk is full: free some space; reading and deleting still work"
            raise ResourceExhausted(reason, retry_after_seconds=60.0)

    def open(self) -> None:
        """Free the reserve for a write that must succeed."""
        if self._size_bytes and self._free_bytes() < self._size_bytes * _LOW_SHARE:
            self._path.unlink(missing_ok=True)

    def refill(self) -> None:
        """Create the file if it is missing and the disk has space."""
        if not self._size_bytes or self._path.exists() or self._free_bytes() < 2 * self._size_bytes:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
        except OSError:  # another thread was faster
            with contextlib.suppress(OSError):
                self._path.unlink()
        finally:
            os.close(descriptor)

    def _free_bytes(self) -> int:
        free = os.statvfs(self._folder)
        return free.f_bavail * free.f_frsize
