"""Errors that the service raises on purpose, besides the library's own.

::

    micromodels.errors.MicromodelsError
    ├── NotFound             the resource does not exist, or the caller may not see it     NOT_FOUND
    ├── AlreadyExists        the id is taken, or the request id had another body           ALREADY_EXISTS
    ├── Aborted              a concurrent change came first; read again and retry          ABORTED
    │   ├── RevisionConflict     labels changed since the base revision
    │   ├── UploadConflict       two writers on one upload
    │   └── StaleLease           a worker lost its job to another one
    ├── DataLoss             bytes do not match their checksum; nothing was stored         DATA_LOSS
    ├── Unauthenticated      no token, or one that is not valid                            UNAUTHENTICATED
    ├── PermissionDenied     the caller's role does not allow it                           PERMISSION_DENIED
    ├── ResourceExhausted    no room (disk, quota, queue)                                  RESOURCE_EXHAUSTED
    ├── Unavailable          the store cannot answer now; retry later                      UNAVAILABLE
    ├── SessionFailed        the process that computes corrections failed                  by its reason
    └── StorageFailure       the disk or the database failed; nothing was acknowledged     INTERNAL
    micromodels.errors.OutOfRange
    └── WrongOffset          the chunk does not start where the upload ends                OUT_OF_RANGE

The right-hand column is the gRPC status of each. All of them can be pickled.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from micromodels.errors import MicromodelsError, OutOfRange

if TYPE_CHECKING:
    from micromodels.labels.keys import LabelKey
    from service.domain.jobs import JobError

__all__ = [
    "Aborted",
    "AlreadyExists",
    "DataLoss",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "RevisionConflict",
    "SessionFailed",
    "StaleLease",
    "StorageFailure",
    "Unauthenticated",
    "Unavailable",
    "UploadConflict",
    "WrongOffset",
    "disk_errors",
]


class NotFound(MicromodelsError):
    """The resource does not exist.

    Args:
        kind: kind of resource, such as ``"video"``.
        name: the id that was given.
    """

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind = kind
        self.name = name

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} does not exist"


class AlreadyExists(MicromodelsError):
    """The id is taken, or the request id was used with another body.

    Args:
        kind: ``"project"``, ``"request_id"``, ...
        name: the id that was given.
    """

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind = kind
        self.name = name

    def __str__(self) -> str:
        if self.kind == "request_id":
            return f"request_id {self.name!r} was already used with another body; use a new one"
        return f"{self.kind} {self.name!r} already exists; choose another"


class Aborted(MicromodelsError):
    """A concurrent change came first: read again and retry."""


class RevisionConflict(Aborted):
    """Labels changed after the revision that the write was based on. Nothing was written.

    Args:
        conflicts: the keys that changed, in order of frames.
        current_revision: the video's current revision; read the changes up to it and merge.
    """

    def __init__(self, conflicts: tuple[LabelKey, ...], current_revision: int) -> None:
        super().__init__(conflicts, current_revision)
        self.conflicts = conflicts
        self.current_revision = current_revision

    def __str__(self) -> str:
        if not self.conflicts:
            return f"base_revision is ahead of the labels, which are at {self.current_revision}; read them again"
        shown = ", ".join(str(key) for key in self.conflicts[:5])
        more = f" and {len(self.conflicts) - 5} more" if len(self.conflicts) > 5 else ""
        now = f"the labels are now at {self.current_revision}; read them again"
        return f"changed by others since base_revision: {shown}{more}; {now}"


class UploadConflict(Aborted):
    """Another call is writing to the same upload."""


class StaleLease(Aborted):
    """The job was given to another worker, or has ended; this worker's later results are refused."""


class DataLoss(MicromodelsError):
    """The bytes do not match their checksum. They were not stored."""


class Unauthenticated(MicromodelsError):
    """The caller sent no token, or one that is unknown, revoked or expired."""


class PermissionDenied(MicromodelsError):
    """The caller's role does not allow this; the message names the roles that would."""


class ResourceExhausted(MicromodelsError):
    """No room for this at present.

    Args:
        message: which limit was reached, and its value.
        retry_after_seconds: when to try again; None if waiting does not help.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, retry_after_seconds)
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return self.message


class Unavailable(MicromodelsError):
    """The store cannot answer at present (locked, restarting, closing). Retry the same call later.

    Args:
        message: what is busy.
        retry_after_seconds: when to try again.
    """

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message, retry_after_seconds)
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return self.message


class SessionFailed(MicromodelsError):
    """A session could not compute what was requested. Acknowledged labels are stored.

    Args:
        error: why, in the form of a job's error.
    """

    def __init__(self, error: JobError) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return self.error.message


class StorageFailure(MicromodelsError):
    """The disk or the database failed. Nothing of the call was acknowledged; an operator must act."""


class WrongOffset(OutOfRange):
    """A chunk does not start where the upload ends.

    Args:
        offset: where the chunk starts, in bytes.
        expected: where the upload continues, in bytes.
    """

    def __init__(self, offset: int, expected: int) -> None:
        MicromodelsError.__init__(self, offset, expected)
        self.field = "offset"
        self.value = offset
        self.allowed = f"{expected}, where the upload continues"
        self.expected = expected


@contextmanager
def disk_errors() -> Iterator[None]:
    """Translate the operating system's errors on writing.

    Raises:
        ResourceExhausted: no space or quota left.
        StorageFailure: any other ``OSError``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted("the disk is full; free some space", retry_after_seconds=60.0) from error
        raise StorageFailure(f"the disk failed: {error.strerror}") from error
