"""Checks of ``micromodels doctor``: what a server needs, one by one, with advice."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from micromodels.errors import MicromodelsError
from service.settings import Settings

__all__ = ["CHECKS", "Finding", "Level", "examine"]

_PACKAGES = ("torch", "onnxruntime", "av", "cv2", "numpy", "grpc", "sqlalchemy", "cryptography", "safetensors")
_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg", "prores", "gif", "png")
_LOW_FREE_BYTES = 20 << 30
_GIB = 1 << 30


class Level(StrEnum):
    """Severity of a finding."""

    GOOD = "good"
    NOTE = "note"
    """It works, with a caveat."""
    BAD = "bad"
    """The server does not work, or is not safe."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check."""

    level: Level
    subject: str
    text: str
    advice: str = ""


def _good(subject: str, text: str) -> Finding:
    return Finding(Level.GOOD, subject, text)


def _note(subject: str, text: str, advice: str) -> Finding:
    return Finding(Level.NOTE, subject, text, advice)


def _bad(subject: str, text: str, advice: str) -> Finding:
    return Finding(Level.BAD, subject, text, advice)


def examine(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    """Run all checks. Changes nothing, except for a temporary empty file in the data folder and a marker object in the
    object store.

    Args:
        settings: the server's.
        host: where it would listen.
        port: on which port.
    """
    for check in CHECKS:
        try:
            yield from check(settings, host, port)
        except (MicromodelsError, OSError, ImportError, RuntimeError) as error:
            name = check.__name__.strip("_")
            yield _bad(name, f"{type(error).__name__}: {error}", "fix this first")


def _versions(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    import micromodels

    yield _good("versions", f"micromodels {micromodels.__version__}, Python {platform.python_version()}")
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            yield _bad("packages", f"{name} cannot be imported: {error}", "run scripts/setup again, or reinstall")
    yield _good("packages", f"all {len(_PACKAGES)} required packages are installed")


def _devices(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    import onnxruntime
    import torch

    cores = os.cpu_count() or 1
    yield _good("processor", f"{cores} cores, {platform.machine()}; torch uses {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        if settings.device == "cuda":
            yield _bad("gpu", "MICROMODELS_DEVICE is cuda, but no CUDA device was found", "set it to auto")
        yield _good("gpu", "none found: everything runs on the processor")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield _good("gpu", f"{name}: {free / _GIB:.1f} of {total / _GIB:.1f} GiB free, CUDA {torch.version.cuda}")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        yield _note("gpu", "ONNX Runtime has no CUDA provider: frames are encoded slowly", "install onnxruntime-gpu")


def _codecs(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    import av

    missing = [name for name in _CODECS if name not in av.codecs_available]
    if missing:
        yield _note("codecs", f"cannot be decoded: {', '.join(missing)}", "install the PyAV wheel, which has them")
    yield _good("codecs", f"{len(_CODECS) - len(missing)} of {len(_CODECS)} common codecs, PyAV {av.__version__}")


def _weights(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    from micromodels.encoding.encoders import default_encoder_name

    yield _good("weights", f"the encoder is {default_encoder_name()}")


def _disk(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    folder = settings.data_dir
    where = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    if not os.access(where, os.W_OK):
        yield _bad("data folder", f"{where} is not writable", "make it writable for the user who runs the server")
        return
    if folder.is_dir():
        probe = folder / f".doctor-{os.getpid()}"
        probe.touch()
        probe.unlink()
        if stat.S_IMODE(folder.stat().st_mode) & 0o007:
            yield _note("data folder", f"every user of this machine can open {folder}", f"chmod o-rwx {folder}")
    else:
        yield _good("data folder", f"{folder} does not exist yet; the first start creates it")
    free = shutil.disk_usage(where).free
    if free < settings.min_free_bytes:
        yield _bad("disk", f"{free / _GIB:.1f} GiB free: uploads are refused", "free some space, or use another disk")
    elif free < _LOW_FREE_BYTES:
        yield _note("disk", f"{free / _GIB:.1f} GiB free", "caches may use MICROMODELS_CACHE_BYTES: free some space")
    else:
        yield _good("disk", f"{free / _GIB:.0f} GiB free")


def _database(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    from service.store.database import inspect_database

    state = inspect_database(settings)
    if state.problem:
        yield _bad("database", f"{state.kind}: {state.problem}", "restore a backup with micromodels restore")
    elif not state.revision:
        yield _good("database", f"{state.kind}: does not exist yet; the first start creates it")
    elif state.revision != state.newest:
        advice = "the next start upgrades it; make a backup first with micromodels backup"
        yield _note("database", f"{state.kind}: at version {state.revision}, newest is {state.newest}", advice)
    else:
        yield _good("database", f"{state.kind}, at version {state.revision}")


def _object_store(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    from service.store.objects import ObjectStore

    if settings.object_store_url and not settings.object_store_url.startswith("file:"):
        ObjectStore(settings.object_store_url)
        yield _good("object store", "reachable and writable")


def _ports(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    from service.server import DEFAULT_PAGE_PORT

    yield _port(host, port, "--port")
    yield _port(host, DEFAULT_PAGE_PORT, "--page-port")
    if settings.metrics_port:
        yield _port("127.0.0.1", settings.metrics_port, "MICROMODELS_METRICS_PORT")


def _port(host: str, port: int, setting: str) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            advice = f"stop the server that uses it, or choose another port with {setting}"
            return _note("port", f"{host} port {port}: {error.strerror}", advice)
    return _good("port", f"{host} port {port} is free")


def _access(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    from service.access.transport import is_loopback

    tls = settings.data_dir / "tls"
    for key in tls.glob("*.key"):
        if stat.S_IMODE(key.stat().st_mode) & 0o077:
            yield _bad("certificates", f"other users can read {key}", f"chmod 600 {key}")
    chain = Path(settings.tls_certificate) if settings.tls_certificate else tls / "server.pem"
    if chain.exists():
        from cryptography import x509

        ends = x509.load_pem_x509_certificate(chain.read_bytes()).not_valid_after_utc
        text = f"{chain.name} is valid until {ends:%Y-%m-%d}"
        if ends - datetime.now(UTC) < timedelta(days=30):
            advice = "replace it" if settings.tls_certificate else "restart the server, which creates a new one"
            yield _bad("certificates", text, advice)
        else:
            yield _good("certificates", text)
    open_to_all = is_loopback(host) and settings.auth != "required"
    yield _good("access", "this machine only, without tokens" if open_to_all else "tokens and TLS are required")


def _children(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    done = subprocess.run(
        [sys.executable, "-c", "import service.worker.main"], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        yield _bad("job processes", f"cannot start: {last[0]}", "run scripts/setup again, or reinstall")
    else:
        yield _good("job processes", "can start")
    yield _sandbox()


def _sandbox() -> Finding:
    from micromodels.video import sandbox

    if shutil.which("bwrap") is None:
        advice = "install it; on Debian and Ubuntu: apt-get install bubblewrap"
        return _note("isolation", "videos are decoded without a sandbox: bubblewrap is not installed", advice)
    if not sandbox.is_available():
        advice = "in a container, allow user namespaces; otherwise no action is needed"
        return _note("isolation", "videos are decoded without a sandbox: bubblewrap does not work here", advice)
    return _good("isolation", "videos are decoded in a sandbox")


CHECKS: tuple[Callable[[Settings, str, int], Iterator[Finding]], ...] = (
    _versions,
    _devices,
    _codecs,
    _weights,
    _disk,
    _database,
    _object_store,
    _ports,
    _access,
    _children,
)
"""In display order."""
