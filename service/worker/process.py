"""A worker process as the server handles it: starting it on a task, reading its messages, sending to it, ending it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.telemetry.traces import traceparent
from service.worker.protocol import MAX_LINE_BYTES, Order, Task

__all__ = ["WorkerProcess", "machine_memory_bytes"]

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_EXIT_SECONDS = 5.0  # between a worker's last message and its end
_LAST_OUTPUT_BYTES = 2000


class WorkerProcess:
    """A process that does one task, until it has ended or ``end`` is called.

    Args:
        task: what it does; its standard error goes into ``stderr`` in the task's scratch folder.
        preload: module that it imports first; empty for none.
        trace_file: where its traces go; empty for nowhere.

    Raises:
        OSError: it cannot be started; the disk may be full.

    Attributes:
        has_closed: whether it will send no more messages.
    """

    def __init__(self, task: Task, *, preload: str = "", trace_file: str = "") -> None:
        self.has_closed = False
        self._task = task
        self._sent: set[Order] = set()
        self._buffer = bytearray()
        self._oom_kills_before = _oom_kills()
        self._process = _start(task, preload, trace_file)
        self._write(task.to_line())

    def messages(self, timeout_seconds: float) -> Iterator[dict[str, Any]]:
        """Messages that have arrived; waits for the first. Sets ``has_closed`` at the end of them.

        Args:
            timeout_seconds: how long to wait at most.

        Raises:
            ValueError: a message is larger than any can be.
        """
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if not select.select([descriptor], [], [], timeout_seconds)[0]:
            return
        chunk = os.read(descriptor, 1 << 20)
        if not chunk:
            self.has_closed = True
            return
        self._buffer += chunk
        if len(self._buffer) > MAX_LINE_BYTES:
            raise ValueError(f"the worker sent a message of more than {MAX_LINE_BYTES} bytes")
        if b"\n" in chunk:
            *lines, rest = bytes(self._buffer).split(b"\n")
            self._buffer = bytearray(rest)
            yield from map(json.loads, lines)

    def send_order(self, order: Order) -> None:
        """Send an order, the first time that it is given."""
        if order not in self._sent:
            self._sent.add(order)
            self._write(order.value.encode() + b"\n")

    def send_request(self, request: Mapping[str, Any]) -> None:
        """Send a request to a session."""
        self._write(json.dumps(request).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; the end of its messages shows that
            rest = memoryview(line)
            while rest:
                rest = rest[self._process.stdin.write(rest) :]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; only before ``end``."""
        os.kill(self._process.pid, number)

    @property
    def memory_bytes(self) -> int:
        """Memory that it has allocated; 0 where the system does not report it, or it has ended."""
        try:
            text = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon:")), 0)

    @property
    def has_exited(self) -> bool:
        """Whether it has come to its end; it is not reaped by this, so that its process id stays its own."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def await_exit(self) -> None:
        """Wait a few seconds for a worker that has sent its last message."""
        limit = time.monotonic() + _EXIT_SECONDS
        while not self.has_exited and time.monotonic() < limit:
            time.sleep(0.01)

    def end(self) -> None:
        """Kill what is left of it and of the processes that it started, and reap it."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def how_it_ended(self) -> str:
        """Its exit code in words, after ``end``."""
        code = self._process.returncode
        if code < 0:
            return f"it was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"it exited with {code}"

    @property
    def was_killed_for_memory(self) -> bool:
        """Whether the kernel killed it because memory ran out, as far as the system reports that; after ``end``."""
        return self._process.returncode == -signal.SIGKILL and _oom_kills() > self._oom_kills_before

    def last_output(self) -> str:
        """The end of its standard error, without the path of the video: it may hold a person's name."""
        written = (Path(self._task.scratch) / "stderr").read_bytes()[-_LAST_OUTPUT_BYTES:]
        return written.decode(errors="replace").replace(self._task.video_path, "VIDEO")


def _start(task: Task, preload: str, trace_file: str) -> subprocess.Popen[bytes]:
    paths = [str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"TRACEPARENT": traceparent(), "MICROMODELS_TRACE_FILE": trace_file}
    with (Path(task.scratch) / "stderr").open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "service.worker.main", *filter(None, [preload])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            start_new_session=True,  # Ctrl-C at the server's terminal is for the server alone
            bufsize=0,
        )


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started; 0 where it does not report that."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def machine_memory_bytes() -> int:
    """Memory of this machine, or of the container where that has less; 0 where the system does not report it."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # it is not there, or is "max"
            found = min(found, int(Path("/sys/fs/cgroup", limit).read_text()))
    return found
