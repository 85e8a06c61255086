"""Forwards proto JSON over HTTP to the gRPC servicers: one handler for all methods, found by descriptor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from aiohttp import web
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

from micromodels.errors import InvalidInput, MicromodelsError
from service.api.errors import error_status, make_status
from service.web.login import call_metadata
from service.web.responses import error_response, rpc_status, status_of

__all__ = [
    "Gateway",
    "parse_body",
]


_CALL_SECONDS = 330.0  # slightly longer than the longest WaitOperation
_BEAT_SECONDS = 15.0
_SMALL_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class _Method:
    call: Callable[..., Any]
    request: type[Message]
    streams: bool


class Gateway:
    """Answers ``POST /api/{full service name}/{method}`` with a JSON body.

    A unary response is the message as JSON. A stream is newline-delimited JSON: lines ``{"message": ...}`` and at the
    end ``{"status": ...}`` with the final ``google.rpc.Status`` (code 0 is omitted: ``{"status": {}}``). A stream
    without that line was cut off. Empty lines keep an idle stream alive. A failed call is ``{"error": ...}`` with the
    status and the matching HTTP code.

    Args:
        channel: to the gRPC server; stays open.
        services: full names of the services to offer; their modules have been imported.
    """

    def __init__(self, channel: grpc.aio.Channel, services: Sequence[str]) -> None:
        self._methods: dict[tuple[str, str], _Method] = {}
        for name in services:
            # Untyped: protobuf's stubs lack server_streaming.
            service: Any = descriptor_pool.Default().FindServiceByName(name)
            for method in service.methods:
                if not method.client_streaming:
                    self._methods[name, method.name] = _method(channel, name, method)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Forward one call and return its response."""
        method = self._methods.get((request.match_info["service"], request.match_info["method"]))
        if method is None:
            message = f"no such method: {request.match_info['service']}/{request.match_info['method']}"
            return error_response(make_status(code_pb2.UNIMPLEMENTED, "UNIMPLEMENTED", message))
        try:
            body = await _parse(await request.read(), method.request)
        except MicromodelsError as error:
            return error_response(error_status(error))
        metadata = call_metadata(request)
        if method.streams:
            return await _stream(request, method.call(body, metadata=metadata))
        try:
            answer = await method.call(body, metadata=metadata, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error_response(rpc_status(error))
        return web.Response(body=await _dump(answer), content_type="application/json")


def _method(channel: grpc.aio.Channel, service: str, method: Any) -> _Method:
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(
        f"/{service}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return _Method(call, request, method.server_streaming)


def parse_body(body: bytes, kind: type[Message]) -> Message:
    """Parse a JSON body; an empty body is an empty message.

    Raises:
        InvalidInput: it is not JSON, or not JSON of this message.
    """
    try:
        return json_format.Parse(body or b"{}", kind())
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("body", str(error)[:300], f"the JSON form of {kind.DESCRIPTOR.full_name}") from None


async def _parse(body: bytes, kind: type[Message]) -> Message:
    """``parse_body``, in a thread for large bodies."""
    return parse_body(body, kind) if len(body) <= _SMALL_BYTES else await asyncio.to_thread(parse_body, body, kind)


async def _dump(message: Message) -> bytes:
    def dump() -> bytes:
        # json.dumps gives one line; MessageToJson is slow or indents.
        return json.dumps(json_format.MessageToDict(message), ensure_ascii=False, separators=(",", ":")).encode()

    return dump() if message.ByteSize() <= _SMALL_BYTES else await asyncio.to_thread(dump)


async def _stream(request: web.Request, call: Any) -> web.StreamResponse:
    """Forward the messages of a server stream as they arrive."""
    try:
        first = await call.read()
        if first is grpc.aio.EOF and await call.code() is not grpc.StatusCode.OK:
            return error_response(await _ended(call))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        message = first
        while message is not grpc.aio.EOF:
            await response.write(b'{"message":' + await _dump(message) + b"}\n")
            message = await _read_with_beats(call, response)
        await response.write(b'{"status":' + await _dump(await _ended(call)) + b"}\n")
        await response.write_eof()
        return response
    except grpc.aio.AioRpcError as error:
        return error_response(rpc_status(error))
    finally:
        call.cancel()  # no effect after the end; otherwise the reader is gone


async def _read_with_beats(call: Any, response: web.StreamResponse) -> Any:
    """The next message, or the end; sends empty lines while waiting."""
    reading = asyncio.ensure_future(call.read())
    try:
        while True:
            done, _ = await asyncio.wait({reading}, timeout=_BEAT_SECONDS)
            if done:
                try:
                    return reading.result()
                except grpc.aio.AioRpcError:
                    return grpc.aio.EOF  # the status has the error
            await response.write(b"\n")
    finally:
        reading.cancel()


async def _ended(call: Any) -> status_pb2.Status:
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return status_pb2.Status()
    return status_of(code, await call.details(), await call.trailing_metadata())
