"""HTTP responses: gRPC statuses as JSON."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from aiohttp import web
from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2

__all__ = ["error_response", "rpc_status", "status_of"]

_HTTP: dict[int, int] = {
    code_pb2.CANCELLED: 499,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.ABORTED: 409,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}
"""HTTP code by gRPC code, as in ``google/rpc/code.proto``; every other code is 500."""

_STATUS_KEY = "grpc-status-details-bin"


def rpc_status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The status of a failed call, with its details."""
    return status_of(error.code(), error.details(), error.trailing_metadata())


def status_of(code: grpc.StatusCode, message: str | None, metadata: Any) -> status_pb2.Status:
    """The status of a call that has ended, from what gRPC gives of it.

    Args:
        code: of the call.
        message: for people; None for the name of the code.
        metadata: trailing metadata of the call, pairs of key and value; it holds the details, if there are any.
    """
    for key, value in metadata or ():
        if key == _STATUS_KEY:
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=code.value[0], message=message or code.name)


def error_response(status: status_pb2.Status) -> web.Response:
    """A failed call as JSON, as Google's APIs do it: ``{"error": status}``."""
    body = {"error": json_format.MessageToDict(status)}
    return web.json_response(body, status=_HTTP.get(status.code, 500), headers={"Cache-Control": "no-store"})
