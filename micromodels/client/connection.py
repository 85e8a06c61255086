"""The connection to a server: channel, stubs, retries, readable errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.longrunning import operations_pb2_grpc
from google.protobuf.message import Message

from micromodels.client.errors import ApiError
from micromodels.v1 import (
    file_pb2_grpc,
    label_pb2_grpc,
    labeling_pb2_grpc,
    micro_model_pb2_grpc,
    project_pb2_grpc,
    video_pb2_grpc,
)

__all__ = ["Connection", "Stubs", "readable_errors"]

_MESSAGE_BYTES = 16 << 20
_RETRIES = 8
_LOOPBACK = ("localhost", "127.", "[::1]", "unix:")

# Every unary call is safe to repeat: it reads, it names what it changes, or it carries a request_id.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    *(
                        {"service": f"micromodels.v1.{name}Service"}
                        for name in ("Project", "Video", "Label", "MicroModel")
                    ),
                    *(
                        {"service": "micromodels.v1.LabelingService", "method": m}
                        for m in ("Train", "Propagate", "Export")
                    ),
                    {"service": "google.longrunning.Operations"},
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "5s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


class Stubs:
    """The services of the API, for what ``Client`` has no method for.

    Args:
        channel: from ``grpc.insecure_channel``.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self.projects = project_pb2_grpc.ProjectServiceStub(channel)
        self.videos = video_pb2_grpc.VideoServiceStub(channel)
        self.labels = label_pb2_grpc.LabelServiceStub(channel)
        self.micro_models = micro_model_pb2_grpc.MicroModelServiceStub(channel)
        self.labeling = labeling_pb2_grpc.LabelingServiceStub(channel)
        self.files = file_pb2_grpc.FileServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)


class Connection:
    """A channel, its stubs, and what goes with every call.

    Args:
        address: ``host:port`` of the server.
        token: sent as a bearer token with every call; only to a server on this machine, as nothing is encrypted yet.
        timeout_seconds: the longest that a single call may take.

    Raises:
        ValueError: a token for a server elsewhere.
    """

    def __init__(self, address: str, token: str | None, timeout_seconds: float) -> None:
        if token is not None and not address.startswith(_LOOPBACK):
            raise ValueError(f"address: got {address!r} with a token; allowed: a server on this machine")
        options = [
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.service_config", _SERVICE_CONFIG),
        ]
        self._channel = grpc.insecure_channel(address, options=options)
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._timeout_seconds = timeout_seconds
        self.stubs = Stubs(self._channel)

    def call(self, method: Any, request: Message, timeout_seconds: float | None = None) -> Any:
        """Make a unary call.

        Raises:
            ApiError: it failed.
        """
        with readable_errors():
            return method(request, timeout=timeout_seconds or self._timeout_seconds, metadata=self._metadata)

    def stream(self, start: Callable[[], tuple[Any, Message]]) -> Iterator[Any]:
        """The messages of a server stream that is started again when the connection breaks.

        Args:
            start: gives the method and the request that goes on behind the last message that arrived.

        Raises:
            ApiError: any other error, or the server stayed away for about a minute.
        """
        failures = 0
        while True:
            method, request = start()
            call = method(request, metadata=self._metadata)
            try:
                with readable_errors():
                    for message in call:
                        failures = 0
                        yield message
                return
            except ApiError as error:
                failures += 1
                if error.code != "UNAVAILABLE" or failures > _RETRIES:
                    raise
                time.sleep(error.retry_after_seconds or min(0.25 * 2**failures, 15.0))
            finally:
                call.cancel()  # a reader who stops early must not leave the stream open

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


@contextmanager
def readable_errors() -> Iterator[None]:
    """Raise what grpc raises as ``ApiError``."""
    try:
        yield
    except grpc.RpcError as error:
        raise ApiError.from_rpc_error(error) from error
