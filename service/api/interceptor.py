"""Wraps every call: authorization, malformed requests, limits on concurrency, and errors as statuses."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2

from micromodels.errors import InvalidInput, MicromodelsError
from service.access.calls import Call, calling, context_of
from service.api.authorization import RECHECK_SECONDS, Authorizer
from service.api.errors import Overloaded, error_status, make_status
from service.domain.errors import StorageFailure
from service.telemetry.calls import call_ended
from service.telemetry.metrics import OPEN_STREAMS
from service.telemetry.traces import span

__all__ = ["CallInterceptor"]

_LOG = logging.getLogger(__name__)
_OURS = ("/micromodels.", "/google.longrunning.")
_STATUS_KEY = "grpc-status-details-bin"
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_MALFORMED = object()
_END = object()
_LONGEST_REQUEST_ID = 128


class _Slots:
    """A limit on concurrent calls of one kind."""

    def __init__(self, limit: int, what: str) -> None:
        self._free = limit
        self._message = f"the server already has {limit} concurrent {what}, the most allowed; retry later"

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one slot.

        Raises:
            Overloaded: no slot is free.
        """
        if self._free == 0:
            raise Overloaded(self._message, retry_after_seconds=1.0)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


@dataclass(frozen=True, slots=True)
class _From:
    """Metadata of a call."""

    method: str
    header: str
    """Value of ``authorization``; empty if missing."""
    traceparent: str


class _Answer:
    """One call from start to end. Its end is reported once: to the audit log, the log and the metrics."""

    def __init__(self, authorizer: Authorizer, method: str) -> None:
        self._authorizer = authorizer
        self._method = method
        self._begun = time.monotonic()
        self._call: Call | None = None
        self._ended = False

    def seconds(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._begun

    async def admit(self, request: Any, header: str) -> Call:
        """Authorize the call; see ``Authorizer.admit``."""
        self._call = await self._authorizer.admit(self._method, None if request is _MALFORMED else request, header)
        return self._call

    def fail(self, error: Exception) -> status_pb2.Status:
        """End with an error; returns the status to send."""
        status = _status(self._method, error)
        self.end(code_pb2.Code.Name(status.code))
        return status

    def end(self, outcome: str) -> None:
        """End the call, before the response is sent; does nothing the second time."""
        if self._ended:
            return
        self._ended = True
        if self._call is not None:
            self._authorizer.ended(self._call, outcome)
        call_ended(self._method, outcome, self.seconds(), self._call)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of this API. Health and reflection are not wrapped, so that they answer under any load.

    Servicers raise ``micromodels`` and ``service`` errors and set no status codes; here the errors become a
    ``google.rpc.Status``. Any other exception is a bug: it is logged under an incident number that the caller gets.

    Args:
        authorizer: authenticates and authorizes calls, and writes their audit rows.
        unary_limit: most concurrent unary calls.
        stream_limit: most open streams.
        on_failure: called in the event loop when a call finds the disk or database broken.
    """

    def __init__(
        self,
        authorizer: Authorizer,
        unary_limit: int = 256,
        stream_limit: int = 512,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._authorizer = authorizer
        self._on_failure = on_failure
        self._unary = _Slots(unary_limit, "calls")
        self._streams = _Slots(stream_limit, "streams")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find the handler and wrap it; unknown methods have none."""
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OURS):
            return handler  # type: ignore[no-any-return]
        caller = _caller(handler_call_details)
        deserialize = _lenient(handler.request_deserializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(caller, handler.unary_stream), deserialize, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._call(caller, handler.unary_unary), deserialize, handler.response_serializer
        )

    def _call(self, caller: _From, behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def wrapped(request: Any, context: Any) -> Any:
            answer = _Answer(self._authorizer, caller.method)
            try:
                with self._unary.taken(), span(caller.method, caller.traceparent):
                    call = await answer.admit(request, caller.header)
                    with calling(call):
                        response = await behavior(_checked(request), context)
                    if answer.seconds() > RECHECK_SECONDS:  # the call took long; permissions may have changed
                        await self._authorizer.recheck_reading(call, caller.header)
                answer.end("OK")
                return response
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                await _abort(context, self._fail(answer, error))
            finally:
                answer.end("CANCELLED")

        return wrapped

    def _stream(
        self, caller: _From, behavior: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def wrapped(request: Any, context: Any) -> AsyncIterator[Any]:
            answer = _Answer(self._authorizer, caller.method)
            try:
                with self._streams.taken(), OPEN_STREAMS.track_inprogress(), span(caller.method, caller.traceparent):
                    call = await answer.admit(request, caller.header)
                    self._authorizer.opened(call)
                    given = behavior(_checked(request), context)
                    async with aclosing(self._watched(call, caller.header, given)) as responses:
                        async for response in responses:
                            yield response
                answer.end("OK")
            except (asyncio.CancelledError, GeneratorExit, grpc.aio.AbortError):
                raise
            except Exception as error:
                await _abort(context, self._fail(answer, error))
            finally:
                answer.end("CANCELLED")

        return wrapped

    def _fail(self, answer: _Answer, error: Exception) -> status_pb2.Status:
        if isinstance(error, StorageFailure):
            self._on_failure()
        return answer.fail(error)

    async def _watched(
        self, call: Call, header: str, responses: AsyncGenerator[Any, None]
    ) -> AsyncGenerator[Any, None]:
        """Yield the responses while the caller is authorized; checked also while no response arrives."""
        context, judged = context_of(call), time.monotonic()
        following: asyncio.Task[Any] | None = None
        try:
            while True:
                following = asyncio.create_task(_next(responses), context=context)
                while True:
                    left = judged + RECHECK_SECONDS - time.monotonic()
                    done, _ = await asyncio.wait({following}, timeout=max(left, 0.0))
                    if time.monotonic() - judged >= RECHECK_SECONDS:
                        await self._authorizer.recheck(call, header)
                        judged = time.monotonic()
                    if done:
                        break
                response = following.result()
                if response is _END:
                    return
                yield response
        finally:
            if following is not None and not following.done():
                following.cancel()
                await asyncio.wait({following})
            await responses.aclose()


async def _next(responses: AsyncGenerator[Any, None]) -> Any:
    return await anext(responses, _END)


def _caller(details: grpc.HandlerCallDetails) -> _From:
    found = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
    return _From(details.method, found.get("authorization", ""), found.get("traceparent", ""))


def _lenient(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a marker for bytes that do not parse; grpc itself would answer UNKNOWN with details of the parser."""

    def wrapped(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # any error of the parser is about the bytes
            return _MALFORMED

    return wrapped


def _checked(request: Any) -> Any:
    request_id = getattr(request, "request_id", "")
    if len(request_id) > _LONGEST_REQUEST_ID:
        raise InvalidInput("request_id", request_id, f"at most {_LONGEST_REQUEST_ID} characters")
    return request


def _status(method: str, error: Exception) -> status_pb2.Status:
    if isinstance(error, MicromodelsError):
        return error_status(error)
    incident = secrets.token_hex(4)
    _LOG.error("incident %s in %s", incident, method, exc_info=error)
    message = f"internal error; the server's log has details under incident {incident}"
    return make_status(code_pb2.INTERNAL, "INTERNAL", message, {"incident": incident})


async def _abort(context: Any, status: status_pb2.Status) -> None:
    # grpc encodes line breaks and characters beyond ASCII in the message; the details carry it unchanged.
    trailing = ((_STATUS_KEY, status.SerializeToString()),)
    await context.abort(_CODES[status.code], status.message, trailing)
