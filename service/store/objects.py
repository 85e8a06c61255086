"""Blobs in an object store: S3, Google Cloud Storage or whatever else fsspec knows by URL."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from micromodels.errors import InvalidInput
from service.domain.errors import DataLoss, NotFound, StorageFailure, Unavailable

__all__ = ["ObjectStore"]

_CHUNK_BYTES = 1 << 20
_CLOCK = "clock"
_FIELD = "object_store_url"
_REFUSED = (PermissionError, NotImplementedError, ValueError, TypeError)


@contextmanager
def _object_errors() -> Iterator[None]:
    """Translate what fsspec's file systems raise.

    Raises:
        StorageFailure: the store refuses; trying again will not help.
        Unavailable: it cannot be reached, or failed in a way that may pass.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except _REFUSED as error:
        raise StorageFailure(f"the object store refuses: {type(error).__name__}: {error}") from error
    except Exception as error:  # each protocol has its own family of network errors
        raise Unavailable(f"the object store is not available: {type(error).__name__}", 5.0) from error


class ObjectStore:
    """The objects below one URL, named by the SHA-256 of their bytes. Methods may be called from any thread.

    Credentials and endpoint come from where the protocol's own tools take them, e.g. ``AWS_ACCESS_KEY_ID`` and
    ``AWS_ENDPOINT_URL``.

    Args:
        url: e.g. ``s3://bucket/folder``. The bucket must be there.

    Raises:
        InvalidInput: no such protocol, or its package is not installed.
        StorageFailure: the bucket is not there, or the credentials do not fit.
        Unavailable: the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            allowed = f"a URL such as s3://bucket/folder whose package is installed ({error})"
            raise InvalidInput(_FIELD, url.partition(":")[0], allowed) from error
        try:
            self._ask_time()
        except FileNotFoundError:
            raise StorageFailure(f"the object store has no bucket for {url!r}") from None

    def put(self, path: Path, sha256: str) -> None:
        """Keep a file's bytes; an object of that name is replaced, which makes it young again for ``old``.

        Raises:
            StorageFailure: the store refuses.
            Unavailable: it cannot be reached.
        """
        with _object_errors():
            self._files.put_file(str(path), self._key(sha256))

    def fetch(self, sha256: str, target: Path) -> None:
        """Write an object's bytes to a file.

        Raises:
            DataLoss: they do not have this checksum.
            NotFound: there is no such object.
            StorageFailure: the store refuses.
            Unavailable: it cannot be reached.
        """
        digest = hashlib.sha256()
        try:
            with _object_errors(), self._files.open(self._key(sha256), "rb") as source, target.open("wb") as file:
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
        except FileNotFoundError:
            raise NotFound("blob", sha256) from None
        if digest.hexdigest() != sha256:
            raise DataLoss(
                f"the object store gave other bytes for blob {sha256!r}: their SHA-256 is {digest.hexdigest()}"
            )

    def size_bytes(self, sha256: str) -> int:
        """Size of an object.

        Raises:
            NotFound: there is no such object.
            StorageFailure: the store refuses.
            Unavailable: it cannot be reached.
        """
        try:
            with _object_errors():
                return int(self._files.size(self._key(sha256)))
        except FileNotFoundError:
            raise NotFound("blob", sha256) from None

    def remove(self, sha256: str) -> None:
        """Delete one blob; one that is not there is no error.

        Raises:
            StorageFailure: the store refuses.
            Unavailable: the store cannot be reached.
        """
        with _object_errors():
            if self._files.exists(self._key(sha256)):
                self._files.rm_file(self._key(sha256))

    def sweep(self, keep: frozenset[str], unused_seconds: float) -> int:
        """Delete the objects that were put longer ago than this, by the store's own clock; returns how many.

        Args:
            keep: names that stay whatever their age.
            unused_seconds: only what is older goes.

        Raises:
            StorageFailure: the store refuses.
            Unavailable: it cannot be reached.
        """
        now, removed = self._ask_time(), 0
        with _object_errors():
            for path in self._files.find(self._root):
                if path.rpartition("/")[2] in keep | {_CLOCK}:
                    continue
                with suppress(FileNotFoundError):
                    if (now - self._files.modified(path)).total_seconds() > unused_seconds:
                        self._files.rm_file(path)
                        removed += 1
        return removed

    def _ask_time(self) -> datetime:
        """What time the store has, by the mark that it puts on a new object; also whether it can be written to."""
        marker = f"{self._root}/{_CLOCK}"
        with _object_errors():
            self._files.pipe_file(marker, b"written to learn the time of the object store")
            moment: datetime = self._files.modified(marker)
        return moment

    def _key(self, sha256: str) -> str:
        return f"{self._root}/{sha256[:2]}/{sha256}"
