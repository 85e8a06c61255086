"""The decoding process: ``python -m micromodels.video.child``.

It reads messages (``protocol``) from standard input and writes them to standard output. It ends at once when its
standard input ends, that is, when its parent closes it or dies.

Argument: the number of an inherited file descriptor, the shared memory for frames.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt

from micromodels.errors import FrameMismatch, VideoError
from micromodels.video.containers import FrameSource, open_source
from micromodels.video.limits import DecodeLimits
from micromodels.video.pixels import Orientation, RgbConverter
from micromodels.video.protocol import FRAME, HEADER, READ, REQUEST, Kind, pack, pack_json
from micromodels.video.reader import FrameReader
from micromodels.video.survey import survey
from micromodels.video.table import FrameTable
from micromodels.video.trouble import describe

_BEAT_SECONDS = 0.5
_MAX_WRITTEN_FILE_BYTES = 1 << 20
_MAX_OPEN_FILES = 64


class _Inbox:
    """Messages from the parent, read in a separate thread, so that the parent's end is noticed during any work."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._queue: queue.SimpleQueue[tuple[Kind, bytes]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._request = 0
        self._done = 0
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def _listen(self) -> None:
        while True:
            header = self._stream.read(HEADER.size)
            if len(header) < HEADER.size:
                os._exit(0)
            number, length = HEADER.unpack(header)
            payload = self._stream.read(length)
            kind = Kind(number)
            if kind is Kind.DONE:
                with self._changed:
                    if REQUEST.unpack(payload)[0] == self._request:
                        self._done += 1
                        self._changed.notify()
                continue
            if kind is Kind.READ:
                with self._changed:
                    self._request, self._done = READ.unpack(payload)[0], 0
                    self._changed.notify()
            self._queue.put((kind, payload))

    def next(self) -> tuple[Kind, bytes]:
        return self._queue.get()

    def wait_for_slot(self, request: int, sent: int, slots: int) -> bool:
        """Wait until fewer than ``slots`` of ``sent`` frames are in use; False if another request arrived instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._request != request or sent - self._done < slots)
            return self._request == request


class _Outbox:
    """Messages to the parent."""

    def __init__(self, descriptor: int, cpu_seconds: Callable[[], int]) -> None:
        self._descriptor = descriptor
        self._cpu_seconds = cpu_seconds
        self._last = time.monotonic()

    def send(self, message: bytes) -> None:
        view = memoryview(message)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def beat(self) -> None:
        """Report progress at intervals, and extend the allowed processor time."""
        now = time.monotonic()
        if now - self._last >= _BEAT_SECONDS:
            self._last = now
            _allow_cpu_seconds(self._cpu_seconds())
            self.send(pack(Kind.BEAT))


def _allow_cpu_seconds(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _lower_limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(OSError, ValueError):  # some systems do not allow this limit
        resource.setrlimit(kind, (value, value))


def _confine(limits: DecodeLimits) -> None:
    _lower_limit(resource.RLIMIT_CORE, 0)
    _lower_limit(resource.RLIMIT_FSIZE, _MAX_WRITTEN_FILE_BYTES)
    _lower_limit(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    _lower_limit(resource.RLIMIT_AS, limits.memory_bytes)
    _allow_cpu_seconds(limits.cpu_seconds)


class _Worker:
    """One opened video."""

    def __init__(self, inbox: _Inbox, outbox: _Outbox, shared: int) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._shared = shared
        self._limits = DecodeLimits()
        self._reader: FrameReader | None = None
        self._converter: RgbConverter | None = None
        self._shape = (0, 0, 3)
        self._slots: list[npt.NDArray[np.uint8]] = []

    @property
    def cpu_seconds(self) -> int:
        return self._limits.cpu_seconds

    def open(self, message: dict[str, Any]) -> None:
        self._limits = DecodeLimits(**message["limits"])
        _confine(self._limits)
        threads = self._limits.threads or min(8, os.cpu_count() or 1)
        source = open_source(Path(message["path"]), message["names"], self._limits, self._outbox.beat)
        if message["table"] is None:
            table = survey(source, self._limits, threads)
            reply = table.to_dict()
        else:
            table, reply = FrameTable.from_dict(message["table"]), {}
        self._prepare(source, table, threads)
        self._outbox.send(pack_json(Kind.OPENED, reply))

    def _prepare(self, source: FrameSource, table: FrameTable, threads: int) -> None:
        orientation = Orientation.from_turn(table.rotation_degrees, table.mirrored)
        width, height = table.width_px, table.height_px
        self._shape = (height, width, 3)
        if orientation.transpose:
            width, height = height, width
        self._converter = RgbConverter(width, height, orientation, table.white_level)
        self._reader = FrameReader(source, table, threads, self._limits.cache_bytes)

    def take_slots(self, message: dict[str, Any]) -> None:
        count, size = int(message["count"]), int(message["bytes"])
        memory = np.frombuffer(mmap.mmap(self._shared, count * size), np.uint8).reshape(count, size)
        pixels = self._shape[0] * self._shape[1] * 3
        self._slots = [memory[i, :pixels].reshape(self._shape) for i in range(count)]

    def read(self, request: int, start: int, stop: int) -> None:
        if self._reader is None or self._converter is None:
            raise VideoError("no video is open")
        for sent, frame in enumerate(self._reader.frames(start, stop)):
            if not self._inbox.wait_for_slot(request, sent, len(self._slots)):
                return
            slot = sent % len(self._slots)
            self._converter.write(frame, self._slots[slot])
            self._outbox.send(pack(Kind.FRAME, FRAME.pack(request, start + sent, slot)))
        self._outbox.send(pack(Kind.END, REQUEST.pack(request)))

    def serve(self) -> None:
        self._outbox.send(pack(Kind.BEAT))  # started: later failures are not failures of the start
        while True:
            kind, payload = self._inbox.next()
            request = REQUEST.unpack_from(payload)[0] if kind is Kind.READ else 0
            try:
                _allow_cpu_seconds(self.cpu_seconds)
                if kind is Kind.OPEN:
                    self.open(json.loads(payload))
                elif kind is Kind.SLOTS:
                    self.take_slots(json.loads(payload))
                elif kind is Kind.READ:
                    self.read(*READ.unpack(payload))
            except FrameMismatch as error:
                self._report(request, "mismatch", str(error))
            except VideoError as error:
                self._report(request, "video", str(error))
            except MemoryError:
                self._report(request, "video", "decoding needs more memory than the limit allows")
            except Exception as error:
                # Broken files make the libraries raise almost anything.
                self._report(request, "video", f"decoding failed ({type(error).__name__}: {describe(error)})")

    def _report(self, request: int, kind: str, message: str) -> None:
        self._outbox.send(pack_json(Kind.ERROR, {"request": request, "kind": kind, "message": message}))


def main() -> None:
    """Serve one parent until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which may need frames while it stops
    # Only messages may reach the parent: redirect output of libraries to standard error.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # FFmpeg writes errors to standard error by itself. PyAV's own callback needs the interpreter lock in the decoder's
    # threads, and deadlocks when a decoder is freed while one of them logs.
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)
    worker: _Worker
    inbox = _Inbox(sys.stdin.buffer)
    outbox = _Outbox(answers, lambda: worker.cpu_seconds)
    worker = _Worker(inbox, outbox, int(sys.argv[1]))
    with contextlib.suppress(BrokenPipeError):
        worker.serve()


if __name__ == "__main__":
    main()
