"""Blobs in an object store: S3, Google Cloud Storage or any other that fsspec supports."""

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
    """Translate errors of fsspec's file systems.

    Raises:
        StorageFailure: the store refuses; retrying does not help.
        Unavailable: it cannot be reached, or failed temporarily.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except _REFUSED as error:
        raise StorageFailure(f"the object store refused access: {type(error).__name__}: {error}") from error
    except Exception as error:  # each protocol has its own network errors
        raise Unavailable(f"the object store is not available: {type(error).__name__}", 5.0) from error


class ObjectStore:
    """The objects below one URL, named by the SHA-256 of their bytes. Methods may be called from any thread.

    Credentials and endpoint come from the same variables as for the protocol's own tools, such as
    ``AWS_ACCESS_KEY_ID`` and ``AWS_ENDPOINT_URL``.

    Args:
        url: such as ``s3://bucket/folder``. The bucket must exist.

    Raises:
        InvalidInput: no such protocol, or its package is not installed.
        StorageFailure: the bucket does not exist, or the credentials are not valid.
        Unavailable: the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            allowed = f"a URL such as s3://bucket/folder, with its fsspec package installed ({error})"
            raise InvalidInput(_FIELD, url.partition(":")[0], allowed) from error
        try:
            self._ask_time()
        except FileNotFoundError:
            raise StorageFailure(f"the bucket of {url!r} does not exist; create it first") from None

    def put(self, path: Path, sha256: str) -> None:
        """Store a file's bytes. Replaces an object of that name, which renews its age for ``sweep``.

        Raises:
            StorageFailure: the store refuses.
            Unavailable: it cannot be reached.
        """
        with _object_errors():
            self._files.put_file(str(path), self._key(sha256))

    def fetch(self, sha256: str, target: Path) -> None:
        """Write an object's bytes to a file.

        Raises:
            DataLoss: the bytes do not match the checksum.
            NotFound: no such object.
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
                f"the object store returned wrong bytes for blob {sha256!r}: their SHA-256 is {digest.hexdigest()}"
            )

    def size_bytes(self, sha256: str) -> int:
        """Size of an object.

        Raises:
            NotFound: no such object.
            StorageFailure: the store refuses.
            Unavailable: it cannot be reached.
        """
        try:
            with _object_errors():
                return int(self._files.size(self._key(sha256)))
        except FileNotFoundError:
            raise NotFound("blob", sha256) from None

    def remove(self, sha256: str) -> None:
        """Delete one blob; no error if it does not exist.

        Raises:
            StorageFailure: the store refuses.
            Unavailable: it cannot be reached.
        """
        with _object_errors():
            if self._files.exists(self._key(sha256)):
                self._files.rm_file(self._key(sha256))

    def sweep(self, keep: frozenset[str], unused_seconds: float) -> int:
        """Delete objects that are older than this by the store's own clock; returns how many.

        Args:
            keep: names to keep at any age.
            unused_seconds: only older objects are deleted.

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
        """The store's time, read from a newly written object; also checks that the store is writable."""
        marker = f"{self._root}/{_CLOCK}"
        with _object_errors():
            self._files.pipe_file(marker, b"written to learn the time of the object store")
            moment: datetime = self._files.modified(marker)
        return moment

    def _key(self, sha256: str) -> str:
        return f"{self._root}/{sha256[:2]}/{sha256}"
