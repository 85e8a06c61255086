"""What the service raises on purpose, besides the library's own errors.

::

    micromodels.errors.MicromodelsError
    ├── NotFound             the resource does not exist (or is not the caller's)          NOT_FOUND
    ├── AlreadyExists        an id, or a request id with another body, is taken            ALREADY_EXISTS
    ├── Aborted              somebody else was faster; read again and retry                ABORTED
    │   ├── RevisionConflict     labels changed since the base revision
    │   ├── UploadConflict       two writers on one upload
    │   └── StaleLease           a worker lost its job to another one
    ├── DataLoss             bytes do not match their checksum; nothing was stored         DATA_LOSS
    ├── Unauthenticated      no token, or one that is not valid (any more)                 UNAUTHENTICATED
    ├── PermissionDenied     the caller's role does not allow it                           PERMISSION_DENIED
    ├── ResourceExhausted    no room (disk, quota, queue)                                  RESOURCE_EXHAUSTED
    ├── Unavailable          the store cannot answer now; retry later                      UNAVAILABLE
    ├── SessionFailed        the process that computes corrections died, or refused        by its reason
    └── StorageFailure       the disk or the database failed; nothing was acknowledged     INTERNAL
    micromodels.errors.OutOfRange
    └── WrongOffset          an upload goes on elsewhere than where the chunk starts       OUT_OF_RANGE

The right-hand column is the gRPC status that each stands for. All of them survive pickling.
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
    """There is no such resource.

    Args:
        kind: what was looked for, e.g. ``"video"``.
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
            return f"request_id {self.name!r} was used before with another body; use a new one"
        return f"{self.kind} {self.name!r} exists already"


class Aborted(MicromodelsError):
    """Somebody else was faster: read again and retry."""


class RevisionConflict(Aborted):
    """Labels were changed after the revision that the write was based on. Nothing was written.

    Args:
        conflicts: the keys that changed, in order of frames.
        current_revision: the video's revision now; read from there on and merge.
    """

    def __init__(self, conflicts: tuple[LabelKey, ...], current_revision: int) -> None:
        super().__init__(conflicts, current_revision)
        self.conflicts = conflicts
        self.current_revision = current_revision

    def __str__(self) -> str:
        if not self.conflicts:
            return f"the base revision is ahead of the labels, which are at {self.current_revision}; read them again"
        shown = ", ".join(str(key) for key in self.conflicts[:5])
        more = f" and {len(self.conflicts) - 5} more" if len(self.conflicts) > 5 else ""
        return f"changed by somebody else since the base revision: {shown}{more}; now at {self.current_revision}"


class UploadConflict(Aborted):
    """Another call is writing to the same upload at this moment."""


class StaleLease(Aborted):
    """The job was given to another worker, or ended; what this worker has done since is refused."""


class DataLoss(MicromodelsError):
    """The bytes do not match their checksum. They were not stored."""


class Unauthenticated(MicromodelsError):
    """The caller has shown no token, or one that is unknown, revoked or expired."""


class PermissionDenied(MicromodelsError):
    """The caller is known, and the role does not allow this; the message says which would."""


class ResourceExhausted(MicromodelsError):
    """There is no room for this now.

    Args:
        message: which bound was met, and its value.
        retry_after_seconds: when to try again; None where waiting alone will not help.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, retry_after_seconds)
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return self.message


class Unavailable(MicromodelsError):
    """The store cannot answer at the moment (locked, restarting, closing); the same call may work later.

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
    """What a session was asked could not be computed. Labels that were acknowledged are stored.

    Args:
        error: why, as of a job.
    """

    def __init__(self, error: JobError) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return self.error.message


class StorageFailure(MicromodelsError):
    """The disk or the database failed. Nothing of the call was acknowledged; an operator has to look."""


class WrongOffset(OutOfRange):
    """A chunk does not start where the upload ends.

    Args:
        offset: where the chunk was said to start, in bytes.
        expected: where the upload goes on, in bytes.
    """

    def __init__(self, offset: int, expected: int) -> None:
        MicromodelsError.__init__(self, offset, expected)
        self.field = "offset"
        self.value = offset
        self.allowed = f"{expected}, where the upload goes on"
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
            raise ResourceExhausted("the disk is full", retry_after_seconds=60.0) from error
        raise StorageFailure(f"the disk failed: {error.strerror}") from error
