"""The server: store, job runner, gRPC and web page in one process."""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # read when grpc is imported; forked children crash
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # no log line for every failed handshake

import asyncio
import logging
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from service.access.certificates import fingerprint, reachable_names
from service.access.transport import Transport, transport_for
from service.api import ApiServer
from service.jobs.runner import JobRunner
from service.settings import Settings
from service.store import Store
from service.store.metrics import watch_store
from service.telemetry.logs import set_up_logs
from service.telemetry.metrics import REGISTRY, serve_metrics
from service.telemetry.traces import set_up_traces, stop_traces
from service.web import WebServer

__all__ = ["DEFAULT_PAGE_PORT", "DEFAULT_PORT", "serve"]

DEFAULT_PORT = 50051
DEFAULT_PAGE_PORT = 8080

_LOG = logging.getLogger(__name__)
_GRACE_SECONDS = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MESSAGE_BYTES = 16 << 20  # same as the gRPC server


@dataclass(frozen=True, slots=True)
class _Listening:
    """Where a server listens, and what it calls when it does; see ``serve``."""

    host: str
    port: int
    page_port: int | None
    transport: Transport
    on_ready: Callable[[str], None]
    on_page: Callable[[str], None]


def serve(
    *,
    data_dir: Path | None = None,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    page_port: int | None = None,
    allowed_roots: Sequence[Path] = (),
    on_ready: Callable[[str], None] = lambda address: print(f"listening on {address}", flush=True),
    on_page: Callable[[str], None] = lambda address: print(address, flush=True),
    on_notice: Callable[[str], None] = lambda text: print(text, flush=True),
) -> None:
    """Serve until SIGTERM or SIGINT; returns when everything is closed.

    On a signal, new calls are refused, short ones finish, and running jobs return to the queue to continue at the next
    start. A second signal changes nothing. Call it in the main thread, in a process that exits afterwards.

    Args:
        data_dir: data folder; None for the environment's (see ``Settings``).
        host: a loopback address or ``localhost``; any other address requires TLS and tokens.
        port: 0 for any free port.
        page_port: port of the web page, 0 for any free port; None for no page.
        allowed_roots: folders whose files may be registered; empty for the environment's.
        on_notice: called with what users need to connect: the certificate, how to create the first token.
        on_ready: called with ``host:port`` when the server accepts calls.
        on_page: called with the address of the web page, after ``on_ready``.

    Raises:
        FailedPrecondition: another server uses the data folder or a port.
        InvalidInput: the host is not an address, or an environment variable is not valid.
        StorageFailure: the data folder cannot be used.
    """
    settings = Settings.from_environment(data_dir=data_dir, allowed_roots=tuple(allowed_roots) or None)
    set_up_logs(settings.log_format, settings.log_level)
    set_up_traces(settings.trace_file)
    with Store.open(settings) as store, _measured(store, settings):
        transport = transport_for(settings, host)
        _notify(transport, store, on_notice)
        asyncio.run(_serve(store, settings, _Listening(host, port, page_port, transport, on_ready, on_page)))


@contextmanager
def _measured(store: Store, settings: Settings) -> Iterator[None]:
    """Collect the store's metrics and serve them."""
    collector = watch_store(store)
    try:
        if settings.metrics_port:
            serve_metrics(settings.metrics_port)
        yield
    finally:
        REGISTRY.unregister(collector)
        stop_traces()


async def _serve(store: Store, settings: Settings, listening: _Listening) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop(number: int, frame: object) -> None:
        # From here on the process is shutting down. A handler of the loop would end with the loop, and a second signal
        # at that moment would kill the process before the store is closed.
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        loop.call_soon_threadsafe(stopping.set)

    for number in _SIGNALS:
        signal.signal(number, stop)
    # The page calls the API through this socket; only this user can enter the folder.
    with tempfile.TemporaryDirectory(prefix="micromodels-") as folder:
        socket = Path(folder) / "api"
        api = ApiServer(store, listening.host, listening.port, transport=listening.transport, local_socket=socket)
        runner = JobRunner(store, settings)
        await loop.run_in_executor(None, runner.start)
        try:
            await api.start()
            host = f"[{listening.host}]" if ":" in listening.host else listening.host
            listening.on_ready(f"{host}:{api.port}")
            async with _page(store, settings, listening, socket):
                await stopping.wait()
                _LOG.info("stopping")
        finally:
            await asyncio.gather(loop.run_in_executor(None, runner.stop), api.stop(_GRACE_SECONDS))


@asynccontextmanager
async def _page(store: Store, settings: Settings, listening: _Listening, socket: Path) -> AsyncIterator[None]:
    """Serve the web page, if it has a port."""
    if listening.page_port is None:
        yield
        return
    options = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    web = WebServer(
        store,
        grpc.aio.insecure_channel(f"unix:{socket}", options=options),
        listening.host,
        listening.page_port,
        hosts=reachable_names(listening.host, settings.tls_names),
        tls=listening.transport.ssl_context(),
    )
    await web.start()
    listening.on_page(web.address)
    try:
        yield
    finally:
        await web.stop()


def _notify(transport: Transport, store: Store, on_notice: Callable[[str], None]) -> None:
    """Report what clients need to connect."""
    certificate = transport.certificate
    if certificate is not None and certificate.ca_file is not None:
        ca = certificate.ca_file.resolve()
        on_notice(f"clients need this certificate: {ca} (SHA-256 {fingerprint(ca.read_bytes())})")
    if transport.tokens_required and not store.access.list(limit=1).items:
        on_notice("no token exists yet; create one: micromodels token create NAME --admin --data DIR")
