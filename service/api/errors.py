"""Errors as ``google.rpc.Status``: one table for failed calls and failed operations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from micromodels import errors as library
from micromodels.errors import InvalidInput, MicromodelsError
from service.domain import errors as service
from service.domain.errors import (
    AlreadyExists,
    NotFound,
    ResourceExhausted,
    RevisionConflict,
    Unavailable,
    WrongOffset,
)
from service.domain.jobs import JobError

__all__ = ["DOMAIN", "MalformedMessage", "OperationFailed", "Overloaded", "error_status", "job_status", "make_status"]

DOMAIN = "micromodels.dev"
_LONGEST_MESSAGE = 2000  # a status is sent in HTTP/2 headers, whose size is limited
_SHOWN_CONFLICTS = 10


class MalformedMessage(InvalidInput):
    """The bytes of a request are not a message of the method's type."""

    def __init__(self) -> None:
        super().__init__("", "bytes that do not parse", "a message of the method's type")

    def __str__(self) -> str:
        return "the request is not a valid message of the method's type"


class Overloaded(ResourceExhausted):
    """More concurrent calls than the server accepts."""


class OperationFailed(MicromodelsError):
    """The operation that a call waited for failed.

    Args:
        status: the operation's error.
    """

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return str(self.status.message)


@dataclass(frozen=True, slots=True)
class _Row:
    code: int
    reason: str


# Every class precedes its base class: the first match counts.
_TABLE: dict[type[MicromodelsError], _Row] = {
    MalformedMessage: _Row(code_pb2.INVALID_ARGUMENT, "MALFORMED_MESSAGE"),
    WrongOffset: _Row(code_pb2.OUT_OF_RANGE, "WRONG_OFFSET"),
    library.OutOfRange: _Row(code_pb2.OUT_OF_RANGE, "OUT_OF_RANGE"),
    library.InvalidInput: _Row(code_pb2.INVALID_ARGUMENT, "INVALID_INPUT"),
    library.FailedPrecondition: _Row(code_pb2.FAILED_PRECONDITION, "FAILED_PRECONDITION"),
    library.FrameMismatch: _Row(code_pb2.FAILED_PRECONDITION, "FRAME_MISMATCH"),
    library.VideoError: _Row(code_pb2.INVALID_ARGUMENT, "VIDEO_REFUSED"),
    library.ModelError: _Row(code_pb2.INVALID_ARGUMENT, "MODEL_REFUSED"),
    library.Diverged: _Row(code_pb2.ABORTED, "DIVERGED"),
    library.OutOfMemory: _Row(code_pb2.RESOURCE_EXHAUSTED, "OOM"),
    library.TrainingError: _Row(code_pb2.INTERNAL, "TRAINING_FAILED"),
    library.Cancelled: _Row(code_pb2.CANCELLED, "CANCELLED"),
    NotFound: _Row(code_pb2.NOT_FOUND, "NOT_FOUND"),
    AlreadyExists: _Row(code_pb2.ALREADY_EXISTS, "ALREADY_EXISTS"),
    RevisionConflict: _Row(code_pb2.ABORTED, "REVISION_CONFLICT"),
    service.UploadConflict: _Row(code_pb2.ABORTED, "UPLOAD_CONFLICT"),
    service.Aborted: _Row(code_pb2.ABORTED, "ABORTED"),
    service.Unauthenticated: _Row(code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED"),
    service.PermissionDenied: _Row(code_pb2.PERMISSION_DENIED, "PERMISSION_DENIED"),
    service.DataLoss: _Row(code_pb2.DATA_LOSS, "CHECKSUM_MISMATCH"),
    ResourceExhausted: _Row(code_pb2.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"),
    Unavailable: _Row(code_pb2.UNAVAILABLE, "UNAVAILABLE"),
    service.StorageFailure: _Row(code_pb2.INTERNAL, "STORAGE_FAILURE"),
}
_INTERNAL = _Row(code_pb2.INTERNAL, "INTERNAL")
_BY_CLASS_NAME = {kind.__name__: row for kind, row in _TABLE.items()}
# Reasons of jobs that ended without an exception of this project, or that say more than the exception's class.
_BY_JOB_REASON = {
    "DECODE_CRASH": _Row(code_pb2.INTERNAL, "DECODE_CRASH"),
    "DEVICE_LOST": _Row(code_pb2.UNAVAILABLE, "DEVICE_LOST"),
    "OOM": _Row(code_pb2.RESOURCE_EXHAUSTED, "OOM"),
    "WORKER_CRASHED": _Row(code_pb2.INTERNAL, "WORKER_CRASHED"),
}


def make_status(
    code: int, reason: str, message: str, metadata: Mapping[str, str] | None = None, details: tuple[Message, ...] = ()
) -> status_pb2.Status:
    """A status with an ErrorInfo and further details."""
    if len(message) > _LONGEST_MESSAGE:
        message = message[: _LONGEST_MESSAGE - 3] + "..."
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata or {})
    packed = []
    for detail in (info, *details):
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=message, details=packed)


def error_status(error: MicromodelsError) -> status_pb2.Status:
    """The status of an error."""
    if isinstance(error, OperationFailed):
        return error.status
    if isinstance(error, service.SessionFailed):
        return job_status(error.error)
    row = next((row for kind, row in _TABLE.items() if isinstance(error, kind)), _INTERNAL)
    reason, metadata = row.reason, {}
    details: list[Message] = []
    if isinstance(error, InvalidInput) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field[:200], description=_shorten(str(error), 500)
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, WrongOffset):
        metadata["expected_offset"] = str(error.expected)
    if isinstance(error, (NotFound, AlreadyExists)):
        if error.kind == "request_id":
            reason = "REQUEST_ID_REUSED"
        details.append(error_details_pb2.ResourceInfo(resource_type=error.kind, resource_name=error.name[:200]))
    if isinstance(error, RevisionConflict):
        metadata["current_revision"] = str(error.current_revision)
        metadata["conflicts"] = _shorten("; ".join(map(str, error.conflicts[:_SHOWN_CONFLICTS])), 1000)
    if isinstance(error, (ResourceExhausted, Unavailable)) and error.retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(math.ceil(error.retry_after_seconds * 1e9))
        details.append(retry)
    return make_status(row.code, reason, str(error), metadata, tuple(details))


def job_status(error: JobError) -> status_pb2.Status:
    """The status of a failed operation."""
    row = _BY_JOB_REASON.get(error.reason) or _BY_CLASS_NAME.get(error.error_class) or _INTERNAL
    return make_status(row.code, row.reason, error.message, {"job_reason": error.reason[:100]})


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
