"""Immutable bytes, named by their SHA-256, in a folder; or in an object store, with the folder as its cache.

A blob appears completely or not at all, and is durable before its name is returned: temporary file, fsync, rename,
fsync of the folder. Equal bytes are stored once. With an object store, a blob is stored there before the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from micromodels.errors import InvalidInput
from service.domain.errors import NotFound, disk_errors
from service.domain.models import BlobFile
from service.store.objects import ObjectStore

__all__ = ["Blobs", "sync_folder"]

_CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[0-9a-f]{64}")


def sync_folder(folder: Path) -> None:
    """Make renames and new files in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Blobs:
    """The blobs below one folder. Methods may be called from any thread.

    With an object store each method may also raise ``StorageFailure`` (it refuses) and ``Unavailable`` (it cannot be
    reached).

    Args:
        folder: created if missing.
        objects: object store that holds the blobs; None to keep them in the folder.
    """

    def __init__(self, folder: Path, objects: ObjectStore | None = None) -> None:
        self._folder = folder
        self._objects = objects
        self._added: dict[str, float] = {}
        """When this process added each blob, by the monotonic clock; file times follow the wall clock."""
        self._temporary = folder / "tmp"
        with disk_errors():
            self._temporary.mkdir(parents=True, exist_ok=True)

    def add_bytes(self, data: bytes) -> str:
        """Store bytes and return their SHA-256.

        Raises:
            ResourceExhausted: the disk is full.
            StorageFailure: the disk failed.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if self._objects is None and self._touch(sha256):
            return sha256
        with disk_errors():
            descriptor, name = tempfile.mkstemp(dir=self._temporary)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                self._publish(Path(name), sha256)
            finally:
                Path(name).unlink(missing_ok=True)
        return sha256

    def add_file(self, path: Path) -> BlobFile:
        """Store a copy of a file.

        Raises:
            ResourceExhausted: the disk is full.
            StorageFailure: the disk failed.
        """
        digest, size_bytes = hashlib.sha256(), 0
        with disk_errors():
            descriptor, name = tempfile.mkstemp(dir=self._temporary)
            try:
                with os.fdopen(descriptor, "wb") as file, path.open("rb") as source:
                    while chunk := source.read(_CHUNK_BYTES):
                        digest.update(chunk)
                        size_bytes += len(chunk)
                        file.write(chunk)
                self._publish(Path(name), digest.hexdigest())
            finally:
                Path(name).unlink(missing_ok=True)
        return BlobFile(path.name, digest.hexdigest(), size_bytes)

    def adopt(self, path: Path, sha256: str) -> None:
        """Store a file without copying it. It must be on the same file system and never be written to again.

        Args:
            path: the file; the caller deletes it afterwards.
            sha256: its checksum, just computed by the caller.

        Raises:
            StorageFailure: the disk failed.
        """
        temporary = self._temporary / f"{sha256}.{os.getpid()}.{threading.get_ident()}"
        with disk_errors():
            temporary.unlink(missing_ok=True)
            os.link(path, temporary)
            self._publish(temporary, sha256)

    def path(self, sha256: str) -> Path:
        """The file of a blob; read only.

        Raises:
            DataLoss: the object store returned other bytes.
            InvalidInput: not a SHA-256 in hex.
            NotFound: no such blob.
            ResourceExhausted: the disk has no room for a copy.
        """
        path = self._place(sha256)
        if not path.is_file():
            if self._objects is None:
                raise NotFound("blob", sha256)
            self._fetch(self._objects, sha256)
        return path

    def _fetch(self, objects: ObjectStore, sha256: str) -> None:
        """Copy a blob from the object store into the folder."""
        with disk_errors():
            descriptor, name = tempfile.mkstemp(dir=self._temporary)
            os.close(descriptor)
        try:
            objects.fetch(sha256, Path(name))
            with disk_errors():
                self._publish(Path(name), sha256, fetched=True)
        finally:
            Path(name).unlink(missing_ok=True)

    def open(self, sha256: str) -> BinaryIO:
        """Open a blob for reading.

        Raises:
            NotFound: no such blob.
        """
        return self.path(sha256).open("rb")

    def size_bytes(self, sha256: str) -> int:
        """Size of a blob.

        Raises:
            NotFound: no such blob.
        """
        path = self._place(sha256)
        if self._objects is not None and not path.is_file():
            return self._objects.size_bytes(sha256)
        return self.path(sha256).stat().st_size

    def sweep(self, referenced: frozenset[str], unused_seconds: float) -> int:
        """Delete unreferenced blobs and leftover temporary files; returns how many.

        Args:
            referenced: names to keep.
            unused_seconds: only delete what was last added longer ago, because a blob is added before its reference.
        """
        moment, limit, removed = time.monotonic(), time.time() - unused_seconds, 0
        for name in [name for name, added in self._added.items() if moment - added > unused_seconds]:
            del self._added[name]
        keep = referenced | self._added.keys()
        for path in self._folder.glob("*/*"):
            if path.name not in keep and path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
                removed += 1
        return removed if self._objects is None else self._objects.sweep(keep, unused_seconds)

    def remove(self, names: Collection[str], since: float) -> list[str]:
        """Delete blobs at once, and return the names of the deleted ones.

        Args:
            names: unreferenced blobs.
            since: time of ``time.monotonic()``; blobs added again after it stay, because a reference will follow.
        """
        gone = []
        for sha256 in names:
            place, aside = self._place(sha256), self._temporary / f"{sha256}.gone"
            with contextlib.suppress(FileNotFoundError):
                place.replace(aside)  # move it away first: adding the same bytes from now on creates a new file
            if self._added.get(sha256, since) > since:
                with contextlib.suppress(FileNotFoundError):
                    aside.replace(place)
                continue
            if self._objects is not None:
                self._objects.remove(sha256)
            aside.unlink(missing_ok=True)
            gone.append(sha256)
        return gone

    def prune(self, limit_bytes: int) -> None:
        """With an object store, delete the least recently used copies in the folder until the rest fits."""
        if self._objects is None:
            return
        files = {path: path.stat() for path in self._folder.glob("??/*")}
        total = sum(stat.st_size for stat in files.values())
        for path, stat in sorted(files.items(), key=lambda item: max(item[1].st_atime, item[1].st_mtime)):
            if total <= limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size

    def _place(self, sha256: str) -> Path:
        if not _NAME.fullmatch(sha256):
            raise InvalidInput("sha256", sha256, "64 lower-case hex digits")
        return self._folder / sha256[:2] / sha256

    def _touch(self, sha256: str) -> bool:
        """Whether the blob exists; if so, it counts as added now."""
        try:
            os.utime(self._place(sha256))
        except FileNotFoundError:
            return False
        self._added[sha256] = time.monotonic()
        return True

    def _publish(self, temporary: Path, sha256: str, *, fetched: bool = False) -> None:
        place = self._place(sha256)
        self._added[sha256] = time.monotonic()
        if self._objects is not None and not fetched:
            self._objects.put(temporary, sha256)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if not place.parent.is_dir():
            place.parent.mkdir(exist_ok=True)
            sync_folder(self._folder)
        temporary.replace(place)
        os.utime(place)
        sync_folder(place.parent)
