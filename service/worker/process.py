"""A child process as its supervisor handles it: starting it, reading from it, telling it things, ending it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from service.telemetry.traces import traceparent
from service.worker.protocol import MAX_LINE_BYTES, Order, Task

__all__ = [
    "Lines",
    "await_exit",
    "end_process",
    "has_exited",
    "how_it_ended",
    "machine_memory_bytes",
    "memory_bytes",
    "oom_kills",
    "start_child",
    "tell",
]

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_EXIT_SECONDS = 5.0  # between a child's last word and its end


class Lines:
    """Complete lines from a pipe, without blocking for longer than asked."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self.ended = False

    def read(self, timeout_seconds: float) -> Iterator[bytes]:
        """What has arrived; waits for the first of it. Sets ``ended`` at the end of the pipe."""
        if not select.select([self._descriptor], [], [], timeout_seconds)[0]:
            return
        chunk = os.read(self._descriptor, 1 << 20)
        if not chunk:
            self.ended = True
            return
        self._buffer += chunk
        if len(self._buffer) > MAX_LINE_BYTES:
            raise ValueError("the child sent a line without an end")
        if b"\n" in chunk:
            *lines, rest = bytes(self._buffer).split(b"\n")
            self._buffer = bytearray(rest)
            yield from lines


def start_child(task: Task, scratch: Path, preload: str, trace_file: str = "") -> subprocess.Popen[bytes]:
    """Start a child on a task.

    Args:
        task: what it is to do.
        scratch: its folder; what it says of itself goes into ``stderr`` there.
        preload: module that it imports first; empty for none.
        trace_file: where its traces go; empty for nowhere.
    """
    paths = [str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"TRACEPARENT": traceparent(), "MICROMODELS_TRACE_FILE": trace_file}
    with (scratch / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.worker.main", *filter(None, [preload])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            start_new_session=True,  # Ctrl-C at the server's terminal is for the server alone
            bufsize=0,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died already, which the end of its messages will tell
        process.stdin.write(task.to_line())
    return process


def tell(process: subprocess.Popen[bytes], order: Order, told: set[Order]) -> None:
    """Send an order once."""
    if order in told:
        return
    told.add(order)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(order.value.encode() + b"\n")


def has_exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child that was not reaped has come to its end; it is not reaped by this."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def await_exit(process: subprocess.Popen[bytes]) -> None:
    """Give a child that has had its say time to end, without reaping it: its process id stays its own."""
    limit = time.monotonic() + _EXIT_SECONDS
    while not has_exited(process):
        if time.monotonic() > limit:
            return
        time.sleep(0.01)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the child's process group behind, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        return f"it was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"it exited with {code}"


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started; 0 where it does not tell."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def memory_bytes(pid: int) -> int:
    """Memory that a process has taken for itself; 0 where the system does not tell, or it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon:")), 0)


def machine_memory_bytes() -> int:
    """Memory of this machine, or of the container where that has less; 0 where the system does not tell."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # it is not there, or says "max"
            found = min(found, int(Path("/sys/fs/cgroup", limit).read_text()))
    return found
