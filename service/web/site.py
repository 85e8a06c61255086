"""The HTTP server and its routes."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import re
import ssl
from collections.abc import Callable, Collection
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from aiohttp import web

from micromodels.errors import FailedPrecondition, InvalidInput, MicromodelsError
from micromodels.v1 import file_pb2, file_pb2_grpc, video_pb2, video_pb2_grpc
from service.api import SERVICES
from service.api.errors import error_status
from service.api.names import VIDEO
from service.store import Store
from service.web.frames import FRAME_TYPES, FrameKey, Frames
from service.web.gateway import Gateway
from service.web.guard import add_headers, make_guard
from service.web.login import add_sign_in_routes, call_metadata
from service.web.responses import error_response, rpc_status

__all__ = ["WebServer"]

_LARGEST_BODY = 24 << 20  # the largest gRPC message, with its bytes as base64
_LARGEST_WIDTH = 8192
_SEEN_SECONDS = 5.0
_SEEN_MOST = 1000
_SHUTDOWN_SECONDS = 2.0
_STATIC = Path(str(resources.files("service.web"))) / "static"
_DOWNLOAD_HEADERS = {
    "Content-Type": "application/octet-stream",
    "Content-Disposition": "attachment",  # without a name: the page saves it under the one that File gives
    "Cache-Control": "no-store",
}
_NOT_BUILT = (
    "<!doctype html><meta charset=utf-8><title>micromodels</title><h1>The web page is not built</h1>"
    "<p>Install Node.js 20.19 or newer and run <code>scripts/setup</code>. "
    "The command line, the Python library and the gRPC API work without it."
)


class WebServer:
    """Serves the page. Create and use it in a running event loop.

    Args:
        store: open; source of the videos.
        channel: to the gRPC server of this process; closed with the server.
        host: address to listen on.
        port: 0 for any free port.
        hosts: names, besides the loopback names, that browsers may use for the server.
        tls: TLS context; None for plain HTTP.
        static: folder of the built page.

    Attributes:
        port: the port it listens on, once started.
    """

    def __init__(
        self,
        store: Store,
        channel: grpc.aio.Channel,
        host: str,
        port: int,
        *,
        hosts: Collection[str] = (),
        tls: ssl.SSLContext | None = None,
        static: Path = _STATIC,
    ) -> None:
        self._store, self._channel, self._tls = store, channel, tls
        self._stop_listening: Callable[[], None] = lambda: None
        self._host, self.port = host, port
        self._frames = Frames(store)
        self._videos = video_pb2_grpc.VideoServiceStub(channel)
        self._files = file_pb2_grpc.FileServiceStub(channel)
        self._seen: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        app = web.Application(middlewares=[make_guard({host, *hosts})], client_max_size=_LARGEST_BODY)
        app.on_response_prepare.append(add_headers)
        app.router.add_post("/api/{service}/{method}", Gateway(channel, SERVICES).handle)
        app.router.add_get("/frames/{video:.+}/{index:[0-9]{1,12}}.{kind}", self._frame)
        app.router.add_get("/files/{name:.+}", self._file)
        add_sign_in_routes(app, channel)
        _add_page(app, static)
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        self._idle: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """URL to open in a browser."""
        return f"http{'s' if self._tls else ''}://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}/"

    async def start(self) -> None:
        """Start listening.

        Raises:
            FailedPrecondition: the port is in use.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self.port, ssl_context=self._tls, reuse_port=False).start()
        except OSError as error:
            await self.stop()
            reason = f"cannot listen on {self._host} port {self.port} ({error.strerror})"
            raise FailedPrecondition(f"{reason}; choose another with --page-port") from error
        self.port = self._runner.addresses[0][1]
        self._idle = asyncio.create_task(self._frames.close_idle())
        loop = asyncio.get_running_loop()

        def forget(project_id: str, video_id: str) -> None:
            loop.call_soon_threadsafe(self._frames.drop, (project_id, video_id))

        self._stop_listening = self._store.erasure.listen(forget)

    async def stop(self) -> None:
        """Cut off running requests and end the decoding processes."""
        self._stop_listening()
        if self._idle is not None:
            self._idle.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._idle
        await self._runner.cleanup()
        await asyncio.get_running_loop().run_in_executor(None, self._frames.close)
        await self._channel.close()

    async def _frame(self, request: web.Request) -> web.StreamResponse:
        try:
            key = _frame_key(request)
            await self._check_may_see(request, key.video)
            table = await self._frames.table(key.video)
            etag = f"{table.content_hash[:20]}-{key.index}-{key.width_px}-{key.kind}"
            headers = {"Cache-Control": "private, max-age=86400", "ETag": f'"{etag}"'}
            if any(known.value == etag for known in request.if_none_match or ()):
                return web.Response(status=304, headers=headers)
            picture = await self._frames.get(key)
        except MicromodelsError as error:
            return error_response(error_status(error))
        except grpc.aio.AioRpcError as error:
            return error_response(rpc_status(error))
        return web.Response(body=picture, content_type=FRAME_TYPES[key.kind], headers=headers)

    async def _check_may_see(self, request: web.Request, video: tuple[str, str]) -> None:
        """Ask the API whether the caller may read the video; the answer is cached for some seconds."""
        now = asyncio.get_running_loop().time()
        metadata = call_metadata(request)
        key = (VIDEO.format(*video), tuple(metadata))
        if self._seen.get(key, 0.0) > now:
            return
        try:
            await self._videos.GetVideo(video_pb2.GetVideoRequest(name=key[0]), metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                self._frames.drop(video)
            raise
        if len(self._seen) >= _SEEN_MOST:
            self._seen.clear()
        self._seen[key] = now + _SEEN_SECONDS

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """A file of an operation or a micro-model as a download, through ReadFile."""
        name = request.match_info["name"]
        call = self._files.ReadFile(file_pb2.ReadFileRequest(name=name), metadata=call_metadata(request))
        try:
            message: Any = await call.read()
            response = web.StreamResponse(headers=_DOWNLOAD_HEADERS)
            await response.prepare(request)
            while message is not grpc.aio.EOF:
                await response.write(message.data)
                message = await call.read()
            await response.write_eof()
            return response
        except grpc.aio.AioRpcError as error:
            return error_response(rpc_status(error))
        finally:
            call.cancel()


def _frame_key(request: web.Request) -> FrameKey:
    """Parse the address of a frame.

    Raises:
        InvalidInput: not the name of a video, or a width or suffix that is not allowed.
    """
    parts = VIDEO.parse(request.match_info["video"], "video")
    kind = request.match_info["kind"]
    if kind not in FRAME_TYPES:
        raise InvalidInput("kind", kind, " or ".join(FRAME_TYPES))
    width = request.query.get("width", "0")
    if not re.fullmatch("[0-9]{1,5}", width) or int(width) > _LARGEST_WIDTH:
        raise InvalidInput("width", width, f"0 to {_LARGEST_WIDTH}; 0 for the size of the video")
    return FrameKey((parts[0], parts[1]), int(request.match_info["index"]), int(width), kind)


def _add_page(app: web.Application, static: Path) -> None:
    """Add one route per built file; a path from a browser is never looked up on the disk."""
    index = static / "index.html"

    async def page(request: web.Request) -> web.StreamResponse:
        headers = {"Cache-Control": "no-cache"}
        if not index.is_file():
            return web.Response(status=503, text=_NOT_BUILT, content_type="text/html", headers=headers)
        return web.FileResponse(index, headers=headers)

    app.router.add_get("/", page)
    for path in sorted(path for path in static.rglob("*") if path.is_file() and path != index):
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        # The names of built files contain a hash.
        headers = {"Cache-Control": "max-age=31536000, immutable", "Content-Type": kind}

        async def asset(
            request: web.Request, path: Path = path, headers: dict[str, str] = headers
        ) -> web.StreamResponse:
            return web.FileResponse(path, headers=headers)

        app.router.add_get("/" + path.relative_to(static).as_posix(), asset)
