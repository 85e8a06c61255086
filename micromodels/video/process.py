"""The parent's side of the decoding process: start, messages, shared memory, end."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from micromodels.errors import VideoError
from micromodels.video import sandbox
from micromodels.video.protocol import HEADER, MAX_PAYLOAD_BYTES, Kind
from micromodels.video.source import VideoSource

__all__ = ["DecodeProcess"]

_LOG = logging.getLogger(__name__)
_SIGNALED = 128  # exit code of a sandbox whose process was ended by a signal: this plus the signal's number
_START_SECONDS = 120.0
"""Until the first message: imports from a cold disk on a busy machine are slow."""

# The child gets no other environment variables: no tokens, no proxies.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_ISOLATED = Path(__file__).with_name("isolated.py")


class DecodeProcess:
    """A running ``micromodels.video.child``; exec'd, never forked, so the parent may use threads and GPUs.

    It runs in a sandbox if one is available (``sandbox``).

    Args:
        source: the video to open; a sandbox contains no other.
    """

    def __init__(self, source: VideoSource) -> None:
        self._sandbox = sandbox.prefix(source.path, source.names)
        self._unanswered: list[bytes] = []
        self._start()

    def _start(self) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill()
        self._shared = _anonymous_file()
        self._memory: npt.NDArray[np.uint8] | None = None
        self._buffer = bytearray()
        self._heard = False
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(_PACKAGE_ROOT), *(p for p in sys.path if p and os.path.isabs(p))]),
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",  # arenas of many threads would count against the address space
        }
        program = ["-m", "micromodels.video.child"] if self._sandbox else [str(_ISOLATED)]
        self._process = subprocess.Popen(
            # -P: a file av.py in the working directory must not be imported.
            [*self._sandbox, sys.executable, "-P", "-X", "faulthandler", *program, str(self._shared)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            pass_fds=(self._shared,),
            process_group=0,
            bufsize=0,
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._stderr, self._shared)

    @property
    def pid(self) -> int:
        """Process id of the decoder itself; in a sandbox it differs from the started process."""
        pid = self._process.pid
        while self._sandbox and (below := _children(pid)):
            pid = below[0]
        return pid

    @property
    def is_alive(self) -> bool:
        """Whether messages can still be exchanged."""
        return self._finalizer.alive

    def interrupt(self) -> None:
        """End the process without releasing anything, so that a thread waiting for a message is woken."""
        if self.is_alive:
            _kill(self._process)

    def kill(self) -> None:
        """End the process and reap it; no effect if it has ended."""
        self._finalizer()

    def share(self, count: int, size: int) -> None:
        """Allocate shared memory for ``count`` frames of ``size`` bytes."""
        import mmap

        os.ftruncate(self._shared, count * size)
        if hasattr(fcntl, "F_ADD_SEALS"):
            # Sealed, because a child that shrinks it would crash the parent.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        memory = mmap.mmap(self._shared, count * size, prot=mmap.PROT_READ)
        self._memory = np.frombuffer(memory, np.uint8).reshape(count, size)

    def slot(self, number: int, size: int) -> npt.NDArray[np.uint8]:
        """A copy of the first ``size`` bytes of one slot.

        Raises:
            VideoError: no such slot.
        """
        if self._memory is None or not (0 <= number < len(self._memory) and size <= self._memory.shape[1]):
            raise self._failed("it sent an invalid memory slot")
        return self._memory[number, :size].copy()

    def send(self, message: bytes) -> None:
        """Send one message.

        Raises:
            VideoError: the process has ended.
        """
        if not self._heard:
            self._unanswered.append(message)
        try:
            self._write(message)
        except (BrokenPipeError, ValueError):
            if self._leave_sandbox():
                return
            raise self._failed(self._exit_reason()) from None

    def _write(self, message: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(message)
        while view:
            view = view[self._process.stdin.write(view) :]

    def _leave_sandbox(self) -> bool:
        """Restart without a sandbox if the sandbox failed, that is, before the decoder sent its first message.

        A file cannot cause this: it is opened after that message.
        """
        if not self._sandbox or self._heard:
            return False
        _LOG.warning("a video is decoded without a sandbox: %s", self._exit_reason())
        self.kill()
        self._sandbox, self._buffer = [], bytearray()
        self._start()
        try:
            for message in self._unanswered:
                self._write(message)
        except (BrokenPipeError, ValueError):
            raise self._failed(self._exit_reason()) from None
        return True

    def receive(self, timeout_seconds: float) -> tuple[Kind, bytes]:
        """The next message; the process is ended if none arrives in time.

        Raises:
            VideoError: it does not answer, has crashed, or sends an invalid message.
        """
        limit = timeout_seconds if self._heard else max(timeout_seconds, _START_SECONDS)
        self._fill(HEADER.size, limit)
        number, length = HEADER.unpack_from(self._buffer)
        if length > MAX_PAYLOAD_BYTES or number not in set(Kind):
            raise self._failed("it sent an invalid message")
        self._fill(HEADER.size + length, limit)
        payload = bytes(self._buffer[HEADER.size : HEADER.size + length])
        del self._buffer[: HEADER.size + length]
        self._heard = True
        self._unanswered.clear()
        return Kind(number), payload

    def _fill(self, count: int, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while len(self._buffer) < count:
            assert self._process.stdout is not None
            descriptor = self._process.stdout.fileno()
            poll = select.poll()
            poll.register(descriptor, select.POLLIN | select.POLLHUP)
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise self._failed(f"no frame within {timeout_seconds:g} s")
            data = os.read(descriptor, max(65536, count - len(self._buffer)))
            if data:
                self._buffer += data
            elif not self._leave_sandbox():
                raise self._failed(self._exit_reason())

    def _exit_reason(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        if code is None:
            return "it closed its output"
        if self._sandbox and code > _SIGNALED:
            code = _SIGNALED - code
        if code == -signal.SIGXCPU:
            return "it used more processor time than the limit allows"
        if code < 0:
            return f"it was ended by {signal.Signals(-code).name}{self._stderr_tail()}"
        return f"it ended with exit code {code}{self._stderr_tail()}"

    def _stderr_tail(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 400))
        words = " ".join(self._stderr.read(400).decode(errors="replace").split())
        return f" ({words})" if words else ""

    def _failed(self, reason: str) -> VideoError:
        self.kill()
        return VideoError(f"the decoding process failed: {reason}")


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("micromodels-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _children(pid: int) -> list[int]:
    """Child processes of a process."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has ended, or the system does not report them
        return []


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group: a sandbox has more than one process."""
    if process.returncode is None:  # not reaped: the process id has not been reused
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], stderr: IO[Any], shared: int) -> None:
    _kill(process)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()
    stderr.close()
    os.close(shared)
