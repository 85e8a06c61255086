"""The connection to a server: channel, stubs, retries, readable errors."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2_grpc
from google.protobuf.message import Message

from micromodels.client.errors import ApiError
from micromodels.v1 import (
    access_pb2_grpc,
    assignment_pb2_grpc,
    audit_pb2_grpc,
    capabilities_pb2_grpc,
    correction_pb2_grpc,
    diagnostics_pb2_grpc,
    file_pb2_grpc,
    history_pb2_grpc,
    label_pb2_grpc,
    labeling_pb2_grpc,
    micro_model_pb2_grpc,
    project_pb2_grpc,
    review_pb2_grpc,
    track_pb2_grpc,
    video_pb2_grpc,
)

__all__ = ["Connection", "Stubs", "Tls", "readable_errors"]

_MESSAGE_BYTES = 16 << 20
_RETRIES = 8
_LOOPBACK = ("localhost", "127.", "[::1]", "unix:")

_SAFE_SERVICES = (
    *("Project", "Video", "Label", "MicroModel", "History", "Track", "Review", "Assignment"),
    *("Capability", "Diagnostics", "Audit"),
)
_SAFE_METHODS = {
    "LabelingService": ("Train", "Propagate", "Retrain", "Export", "StopEarly"),
    "CorrectionService": ("SuggestFrames", "ListSuspectedSwaps", "ListSceneCuts"),
    "AccessService": ("GetCaller", "ListTokens", "ListMembers", "RevokeToken", "SetMember", "RemoveMember"),
}
# These calls are safe to repeat: they read, name what they change, or carry a request_id. Streams resume by themselves;
# IssueToken and RotateToken make another token each time.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    *({"service": f"micromodels.v1.{name}Service"} for name in _SAFE_SERVICES),
                    *(
                        {"service": f"micromodels.v1.{service}", "method": method}
                        for service, methods in _SAFE_METHODS.items()
                        for method in methods
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


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is encrypted. All files are PEM.

    Args:
        ca_file: certificate of the authority of the server's certificate; None for the system's authorities.
        certificate_file: client certificate, if the server requires one; needs ``key_file``.
        key_file: key of the client certificate.

    Raises:
        ValueError: only one of ``certificate_file`` and ``key_file`` is given.
    """

    ca_file: str | os.PathLike[str] | None = None
    certificate_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("key_file: got only one of certificate_file and key_file; allowed: both or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel.

        Raises:
            OSError: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(_bytes(self.ca_file), _bytes(self.key_file), _bytes(self.certificate_file))


def _bytes(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


class Stubs:
    """The services of the API, for calls without a ``Client`` method.

    Args:
        channel: to the server.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self.access = access_pb2_grpc.AccessServiceStub(channel)
        self.audit = audit_pb2_grpc.AuditServiceStub(channel)
        self.projects = project_pb2_grpc.ProjectServiceStub(channel)
        self.videos = video_pb2_grpc.VideoServiceStub(channel)
        self.labels = label_pb2_grpc.LabelServiceStub(channel)
        self.micro_models = micro_model_pb2_grpc.MicroModelServiceStub(channel)
        self.labeling = labeling_pb2_grpc.LabelingServiceStub(channel)
        self.corrections = correction_pb2_grpc.CorrectionServiceStub(channel)
        self.history = history_pb2_grpc.HistoryServiceStub(channel)
        self.tracks = track_pb2_grpc.TrackServiceStub(channel)
        self.capabilities = capabilities_pb2_grpc.CapabilityServiceStub(channel)
        self.diagnostics = diagnostics_pb2_grpc.DiagnosticsServiceStub(channel)
        self.assignments = assignment_pb2_grpc.AssignmentServiceStub(channel)
        self.reviews = review_pb2_grpc.ReviewServiceStub(channel)
        self.files = file_pb2_grpc.FileServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)


class Connection:
    """A channel, its stubs, and the metadata of every call.

    Args:
        address: ``host:port`` of the server.
        token: access token, sent with every call; without ``tls`` allowed only for a server on this machine.
        timeout_seconds: time limit of a single call.
        tls: TLS settings; None for no TLS.

    Raises:
        OSError: a file of ``tls`` cannot be read.
        ValueError: a token for a remote server without TLS.
    """

    def __init__(self, address: str, token: str | None, timeout_seconds: float, tls: Tls | None = None) -> None:
        if token is not None and tls is None and not address.startswith(_LOOPBACK):
            raise ValueError(
                f"address: got {address!r} with a token; allowed: a server on this machine, or TLS (ca_file)"
            )
        options = [
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.service_config", _SERVICE_CONFIG),
        ]
        if tls is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), options=options)
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
        """Messages of a server stream, which is restarted when the connection breaks.

        Args:
            start: returns the method and the request that continues after the last received message.

        Raises:
            ApiError: any other error, or the server was unreachable for about a minute.
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
                call.cancel()  # close the stream if the reader stops early

    def pages(self, method: Any, request: Any) -> Iterator[Any]:
        """Pages of a List call.

        Raises:
            ApiError: a call failed.
        """
        while True:
            page = self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


@contextmanager
def readable_errors() -> Iterator[None]:
    """Translate grpc's errors to ``ApiError``."""
    try:
        yield
    except grpc.RpcError as error:
        raise ApiError.from_rpc_error(error) from error
