"""The client's error for refused and failed calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from micromodels.errors import MicromodelsError

__all__ = ["ApiError"]


class ApiError(MicromodelsError):
    """A call or an operation failed.

    Args:
        code: name of the gRPC status, such as ``"NOT_FOUND"``.
        message: the server's message.
        reason: value of ``ErrorReason`` in the protos, such as ``"WRONG_OFFSET"``; empty if the server gave none.
        fields: by invalid field, what is wrong with it.
        metadata: further data for programs, such as ``expected_offset``; see the comments of ``ErrorReason``.
        retry_after_seconds: when to try again; None if the server did not say.
    """

    def __init__(
        self,
        code: str,
        message: str,
        reason: str = "",
        fields: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(code, message, reason, fields, metadata, retry_after_seconds)
        self.code = code
        self.message = message
        self.reason = reason
        self.fields = dict(fields or {})
        self.metadata = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason and self.reason != self.code else ""
        return f"{self.code}{reason}: {self.message}"

    @classmethod
    def from_status(cls, status: status_pb2.Status) -> ApiError:
        """Create from the status of a call or of an operation."""
        reason, retry = "", None
        fields: dict[str, str] = {}
        metadata: dict[str, str] = {}
        for detail in status.details:
            info, bad, wait = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RetryInfo(),
            )
            if detail.Unpack(info):
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad):
                fields = {violation.field: violation.description for violation in bad.field_violations}
            elif detail.Unpack(wait):
                retry = wait.retry_delay.ToTimedelta().total_seconds()
        return cls(code_pb2.Code.Name(status.code), status.message, reason, fields, metadata, retry)

    @classmethod
    def from_rpc_error(cls, error: grpc.RpcError) -> ApiError:
        """Create from grpc's error."""
        status = _status(error)
        if status is not None:
            return cls.from_status(status)
        code = error.code() if isinstance(error, grpc.Call) else None
        details = error.details() if isinstance(error, grpc.Call) else str(error)
        name = code.name if code is not None else "UNKNOWN"
        if name == "UNAVAILABLE":
            details = f"the server cannot be reached: {details}"
        return cls(name, details or "")


def _status(error: grpc.RpcError) -> status_pb2.Status | None:
    if not isinstance(error, grpc.Call):
        return None
    trailing: Iterable[object] | None = error.trailing_metadata()
    status: status_pb2.Status | None = rpc_status.from_call(error) if trailing is not None else None
    return status
