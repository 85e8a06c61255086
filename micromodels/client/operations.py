"""Long-running operations: watch, wait, stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from micromodels.client.connection import Connection
from micromodels.client.errors import ApiError
from micromodels.client.messages import label_from_message
from micromodels.types import AnyLabel
from micromodels.v1 import labeling_pb2

__all__ = ["AutoLabelRun", "Operation"]

R = TypeVar("R", bound=Message)

_WAIT_SECONDS = 20.0


class Operation(Generic[R]):
    """A long-running operation; it continues when the client disconnects.

    Attributes:
        name: ``projects/{project}/operations/{operation}``, to pass to ``Client.operation`` later.
    """

    def __init__(self, connection: Connection, name: str, response: type[R]) -> None:
        self._connection = connection
        self._response = response
        self.name = name

    def __repr__(self) -> str:
        return f"Operation({self.name!r})"

    def metadata(self) -> labeling_pb2.OperationMetadata:
        """Its current state.

        Raises:
            ApiError: the call failed.
        """
        return _metadata(self._get())

    def watch(self, *, flip_book: bool = False) -> Iterator[labeling_pb2.Progress]:
        """Everything it reports, from its start to its end; resumes after a broken connection.

        Args:
            flip_book: whether to receive flip-book pictures.

        Raises:
            ApiError: the call failed. (A failure of the *operation* is raised by ``result``.)
        """
        token = ""

        def start() -> tuple[Any, Message]:
            request = labeling_pb2.WatchTrainingRequest(name=self.name, resume_token=token, flip_book=flip_book)
            return self._connection.stubs.labeling.WatchTraining, request

        for message in self._connection.stream(start):
            token = message.resume_token
            yield message.progress

    def result(self, timeout_seconds: float | None = None) -> R:
        """Wait until it ends and return its result.

        Raises:
            ApiError: it failed, it was cancelled (code ``CANCELLED``), or the call failed.
            TimeoutError: it has not ended in time; it continues on the server.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            left = _WAIT_SECONDS if deadline is None else min(_WAIT_SECONDS, deadline - time.monotonic())
            left = max(left, 0.0)
            request = operations_pb2.WaitOperationRequest(name=self.name)
            request.timeout.FromNanoseconds(int(left * 1e9))
            done = self._connection.call(self._connection.stubs.operations.WaitOperation, request, left + 30.0)
            if done.done:
                return self._unpack(done)
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{self.name} has not ended after {timeout_seconds} s; it continues on the server")

    def done(self) -> bool:
        """Whether it has ended.

        Raises:
            ApiError: the call failed.
        """
        return bool(self._get().done)

    def stop_early(self) -> None:
        """End training early, with the weights it has.

        Raises:
            ApiError: it does not train, has ended, or the call failed.
        """
        self._connection.call(self._connection.stubs.labeling.StopEarly, labeling_pb2.StopEarlyRequest(name=self.name))

    def cancel(self) -> None:
        """Ask it to stop; labels of finished frames are kept. ``result`` then raises ``ApiError`` ``CANCELLED``.

        Raises:
            ApiError: the call failed.
        """
        request = operations_pb2.CancelOperationRequest(name=self.name)
        self._connection.call(self._connection.stubs.operations.CancelOperation, request)

    def delete(self) -> None:
        """Delete the operation and its progress; labels and micro-models stay.

        Raises:
            ApiError: it has not ended, or the call failed.
        """
        request = operations_pb2.DeleteOperationRequest(name=self.name)
        self._connection.call(self._connection.stubs.operations.DeleteOperation, request)

    def _get(self) -> operations_pb2.Operation:
        request = operations_pb2.GetOperationRequest(name=self.name)
        found: operations_pb2.Operation = self._connection.call(self._connection.stubs.operations.GetOperation, request)
        return found

    def _unpack(self, done: operations_pb2.Operation) -> R:
        if done.HasField("error"):
            raise ApiError.from_status(done.error)
        response = self._response()
        if not done.response.Unpack(response):
            raise ApiError("INTERNAL", f"{self.name} returned an unexpected {done.response.type_url}")
        return response


class AutoLabelRun:
    """An AutoLabel call. Iterate over it for the progress, then read ``labels``.

    Attributes:
        operation: the running operation; None before the first message.
        result: its result; None until ``labels`` has been read completely.
    """

    def __init__(self, connection: Connection, request: labeling_pb2.AutoLabelRequest) -> None:
        self._connection = connection
        self._request = request
        self._events = self._listen()
        self._first_labels: labeling_pb2.LabelBatch | None = None
        self.operation: Operation[labeling_pb2.AutoLabelResult] | None = None
        self.result: labeling_pb2.AutoLabelResult | None = None

    def __iter__(self) -> Iterator[labeling_pb2.Progress]:
        """Yield the progress until the work is done.

        Raises:
            ApiError: the request was refused, or the operation failed or was cancelled.
        """
        for event in self._events:
            if event.HasField("progress"):
                yield event.progress
            elif event.HasField("labels"):
                self._first_labels = event.labels
                return
            elif event.HasField("result"):
                self.result = event.result

    def labels(self) -> Iterator[AnyLabel]:
        """The labels of every frame in order, including the seeds; waits until the work is done.

        Raises:
            ApiError: as iterating does.
        """
        for _ in self:
            pass
        if self._first_labels is not None:
            yield from map(label_from_message, self._first_labels.labels)
        for event in self._events:
            if event.HasField("labels"):
                yield from map(label_from_message, event.labels.labels)
            elif event.HasField("result"):
                self.result = event.result

    def stop_early(self) -> None:
        """See ``Operation.stop_early``; no effect before the operation has started."""
        if self.operation is not None:
            self.operation.stop_early()

    def cancel(self) -> None:
        """See ``Operation.cancel``; no effect before the operation has started."""
        if self.operation is not None:
            self.operation.cancel()

    def _listen(self) -> Iterator[labeling_pb2.AutoLabelResponse]:
        def start() -> tuple[Any, Message]:
            return self._connection.stubs.labeling.AutoLabel, self._request

        for message in self._connection.stream(start):
            self._request.resume_token = message.resume_token
            if message.HasField("operation"):
                self.operation = Operation(self._connection, message.operation.name, labeling_pb2.AutoLabelResult)
            else:
                yield message


def _metadata(operation: operations_pb2.Operation) -> labeling_pb2.OperationMetadata:
    metadata = labeling_pb2.OperationMetadata()
    operation.metadata.Unpack(metadata)
    return metadata
