"""A real server in this process: its event loop runs in a thread, its jobs in child processes with a fake library."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from micromodels.client import ApiError, Client
from micromodels.types import Box, FrameClass, Label, ObjectClass, Ontology, State
from micromodels.v1 import project_pb2, video_pb2
from service.access.transport import transport_for
from service.api import ApiServer
from service.jobs.runner import JobRunner
from service.settings import Settings
from service.store import Store

ONTOLOGY = Ontology((ObjectClass("square"), ObjectClass("letter", "#ff0000", flip=False)), (FrameClass("bright"),))


class Running:
    """A server and a client of it.

    Args:
        folder: data folder; ``folder / "root"`` is the allowed root.
        clip: a video that ``video`` registers.
        preload: module for job children to import first.
        settings: others than the usual ones; with ``auth="required"`` the client is an administrator's.
    """

    def __init__(
        self, folder: Path, clip: Path, preload: str = "tests.service.api.fake_labeling", **settings: Any
    ) -> None:
        self.folder, self.clip = folder, clip
        self.settings = Settings(data_dir=folder / "data", allowed_roots=(folder / "root", clip.parent), **settings)
        self.transport = transport_for(self.settings, "127.0.0.1")
        self._preload = preload
        self.start()

    def start(self, port: int = 0) -> None:
        self.store = Store.open(self.settings)
        self.runner = JobRunner(self.store, self.settings, preload=self._preload)
        self.runner.start()
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready, port)))
        self._thread.start()
        self.port = ready.result(120)
        self.address = f"127.0.0.1:{self.port}"
        token = str(self.store.access.issue("root", is_admin=True)[1]) if self.transport.tokens_required else None
        self.client = self.connect(token)
        self.stubs = self.client.stubs
        self.channel = grpc.insecure_channel(self.address)

    def stop(self) -> None:
        self.client.close()
        self.channel.close()
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self.runner.stop()
        self.store.close()

    async def _serve(self, ready: Future[int], port: int) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            api = ApiServer(self.store, "127.0.0.1", port, transport=self.transport, preload=self._preload)
            await api.start()
        except BaseException as error:
            ready.set_exception(error)
            raise
        ready.set_result(api.port)
        await self._stopping.wait()
        await api.stop(1.0)

    def connect(self, token: str | None = None, **options: Any) -> Client:
        certificate = self.transport.certificate
        if certificate is not None:
            options = {"ca_file": certificate.ca_file, **options}
        return Client(self.address, token=token, timeout_seconds=120, **options)

    def project(self, ontology: Ontology = ONTOLOGY) -> project_pb2.Project:
        return self.client.create_project("Test", ontology)

    def video(self, project: str = "") -> video_pb2.Video:
        return self.client.register_video(project or self.project().name, str(self.clip), timeout_seconds=240)


def box(frame: int, track: str = "1", object_class: str = "square", x1: float = 16.0) -> Label:
    """A seed."""
    return Label(frame, track, object_class, State.VISIBLE, Box(x1, 32, x1 + 32, 64))


def fresh_id() -> str:
    return str(uuid.uuid4())


@contextmanager
def refused(code: str, reason: str = "", field: str = "") -> Iterator[list[ApiError]]:
    """The block must fail with this status; the list then holds the error, read as a client reads it."""
    errors: list[ApiError] = []
    try:
        yield errors
    except grpc.RpcError as caught:
        errors.append(ApiError.from_rpc_error(caught))
    except ApiError as caught:
        errors.append(caught)
    assert errors, f"not refused; expected {code}"
    first = errors[0]
    assert first.code == code, first
    assert first.reason == (reason or first.reason), first
    assert first.reason, "an error without ErrorInfo"
    if field:
        assert field in first.fields, first.fields
