"""The gRPC server: servicers over the store, health, reflection, and what surrounds every call."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc.aio
from google.longrunning import operations_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from micromodels.errors import FailedPrecondition
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
from service.access.transport import PLAIN, Transport
from service.api.access import AccessServicer
from service.api.assignments import AssignmentServicer
from service.api.audit import AuditServicer
from service.api.authorization import Authorizer
from service.api.backend import Backend
from service.api.capabilities import CapabilityServicer
from service.api.corrections import CorrectionServicer
from service.api.diagnostics import DiagnosticsServicer
from service.api.history import HistoryServicer, TrackServicer
from service.api.interceptor import CallInterceptor
from service.api.labeling import LabelingServicer
from service.api.labels import LabelServicer
from service.api.micro_models import FileServicer, MicroModelServicer
from service.api.operations import OperationsServicer, Results
from service.api.projects import ProjectServicer
from service.api.reviews import ReviewServicer
from service.api.videos import VideoServicer
from service.sessions.pool import Sessions
from service.store import Store

__all__ = ["SERVICES", "ApiServer"]

SERVICES = (
    "google.longrunning.Operations",
    "micromodels.v1.AccessService",
    "micromodels.v1.AssignmentService",
    "micromodels.v1.CapabilityService",
    "micromodels.v1.CorrectionService",
    "micromodels.v1.DiagnosticsService",
    "micromodels.v1.AuditService",
    "micromodels.v1.FileService",
    "micromodels.v1.HistoryService",
    "micromodels.v1.LabelService",
    "micromodels.v1.LabelingService",
    "micromodels.v1.MicroModelService",
    "micromodels.v1.ProjectService",
    "micromodels.v1.ReviewService",
    "micromodels.v1.TrackService",
    "micromodels.v1.VideoService",
)
"""Full names of the services that health and reflection report."""

_LOG = logging.getLogger(__name__)
_MESSAGE_BYTES = 16 << 20
_OPTIONS = [
    ("grpc.so_reuseport", 0),  # otherwise a second server could start on the same port
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]


class ApiServer:
    """The gRPC side of a server. Create and use it in a running event loop.

    Args:
        store: open; stays open.
        host: address to listen on.
        port: 0 for any free port.
        transport: TLS and token requirements; if not on loopback, from ``transport_for``.
        local_socket: path of an additional Unix socket for other parts of this server; None for none. It is not
            encrypted, and requires tokens like the port.
        preload: module that session processes import first; empty for none.

    Attributes:
        port: the port it listens on.

    Raises:
        FailedPrecondition: the port is in use.
    """

    def __init__(
        self,
        store: Store,
        host: str,
        port: int,
        *,
        transport: Transport = PLAIN,
        local_socket: Path | None = None,
        preload: str = "",
    ) -> None:
        self._backend = Backend(store)
        self._sessions = Sessions(store, store.settings, preload=preload)
        self._health_update: asyncio.Future[None] | None = None
        self._health = health.aio.HealthServicer()
        authorizer = Authorizer(self._backend, transport.tokens_required)
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(authorizer, on_failure=self._storage_failed)], options=_OPTIONS
        )
        self._add_services()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        credentials = transport.grpc_credentials()
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
            if local_socket is not None:
                self._server.add_insecure_port(f"unix:{local_socket}")
        except RuntimeError as error:
            self._backend.close()
            reason = f"cannot listen on {host} port {port}: it may be in use"
            raise FailedPrecondition(f"{reason}; stop the other server, or choose another port") from error

    def _add_services(self) -> None:
        backend, sessions, server, results = self._backend, self._sessions, self._server, Results(self._backend.store)
        project_pb2_grpc.add_ProjectServiceServicer_to_server(ProjectServicer(backend, sessions), server)
        video_pb2_grpc.add_VideoServiceServicer_to_server(VideoServicer(backend, results, sessions), server)
        label_pb2_grpc.add_LabelServiceServicer_to_server(LabelServicer(backend), server)
        labeling_pb2_grpc.add_LabelingServiceServicer_to_server(LabelingServicer(backend, results), server)
        micro_model_pb2_grpc.add_MicroModelServiceServicer_to_server(MicroModelServicer(backend), server)
        access_pb2_grpc.add_AccessServiceServicer_to_server(AccessServicer(backend), server)
        capabilities_pb2_grpc.add_CapabilityServiceServicer_to_server(CapabilityServicer(backend), server)
        correction_pb2_grpc.add_CorrectionServiceServicer_to_server(CorrectionServicer(backend, sessions), server)
        diagnostics_pb2_grpc.add_DiagnosticsServiceServicer_to_server(DiagnosticsServicer(backend, sessions), server)
        history_pb2_grpc.add_HistoryServiceServicer_to_server(HistoryServicer(backend), server)
        track_pb2_grpc.add_TrackServiceServicer_to_server(TrackServicer(backend), server)
        review_pb2_grpc.add_ReviewServiceServicer_to_server(ReviewServicer(backend), server)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditServicer(backend), server)
        assignment_pb2_grpc.add_AssignmentServiceServicer_to_server(AssignmentServicer(backend), server)
        file_pb2_grpc.add_FileServiceServicer_to_server(FileServicer(backend), server)
        operations_pb2_grpc.add_OperationsServicer_to_server(OperationsServicer(backend, results), server)

    async def start(self) -> None:
        """Start listening."""
        await self._server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def _storage_failed(self) -> None:
        """Disk or database failed: report NOT_SERVING, so that traffic goes elsewhere, and alert the operator."""
        _LOG.critical("storage failed: this server reports NOT_SERVING; fix the disk or database, then restart it")
        self._health_update = asyncio.ensure_future(self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING))

    async def _set_health(self, status: int) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let running ones finish, and cut off those left after the grace period."""
        await self._health.enter_graceful_shutdown()
        self._backend.drain()
        await self._backend.run(self._sessions.stop)
        await self._server.stop(grace_seconds)
        self._backend.close()
