"""The process of a job or a session: ``python -m service.worker.main [PRELOAD]`` reads a task from standard input and
does it.

It ends when its standard input does: nothing of a job outlives the server. ``PRELOAD`` is a module to import first.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import json
import os
import queue
import re
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any

from micromodels.errors import Cancelled, MicromodelsError
from micromodels.runtime.run import StopRequest
from service.telemetry.traces import set_up_traces, span, stop_traces
from service.worker.protocol import Order, Say, Task, error_reason

__all__ = ["main"]

_ORPHANED = 3


class _Pipe:
    """The way to the supervisor; see ``service.worker.jobs.Channel``."""

    def __init__(self, orders: IO[bytes], messages: IO[bytes]) -> None:
        self._orders = orders
        self._messages = messages
        self._writing = threading.Lock()
        self._stop = StopRequest.NONE
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def say(self, what: Say, **values: Any) -> None:
        """Send a message; blocks while the supervisor is behind."""
        line = json.dumps({"say": what.value, **values}).encode() + b"\n"
        with self._writing:
            self._messages.write(line)
            self._messages.flush()

    def should_stop(self) -> StopRequest:
        """What was ordered so far; a cancel is not taken back."""
        return self._stop

    def next_request(self) -> dict[str, Any]:
        """What a session is asked next; waits for it."""
        return self._requests.get()

    def has_request(self) -> bool:
        """Whether a request waits."""
        return not self._requests.empty()

    def _listen(self) -> None:
        for line in self._orders:
            if line.startswith(b"{"):
                self._requests.put(json.loads(line))
                continue
            order = Order(line.decode().strip())
            if order is Order.CANCEL:
                self._stop = StopRequest.CANCEL
            elif self._stop is StopRequest.NONE:
                self._stop = StopRequest.FINISH_EARLY
        os._exit(_ORPHANED)


def _is_of_device(error: BaseException) -> bool:
    """Whether the GPU failed, or went away; torch and ONNX Runtime say so in words."""
    return type(error).__name__ == "AcceleratorError" or re.search(r"\bCUDA\b.*(error|failure)", str(error)) is not None


def main() -> None:
    """Do one job; see the module."""
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not talk into the messages
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's business
    task = Task.from_line(sys.stdin.buffer.readline())
    os.nice(task.niceness)
    with contextlib.suppress(OSError):  # Linux weighs sessions (setsid) by this, and processes only within one
        Path("/proc/self/autogroup").write_text(str(task.niceness))
    with contextlib.suppress(OSError):  # where memory runs out, the system ends this process before the server
        Path("/proc/self/oom_score_adj").write_text("500")
    pipe = _Pipe(sys.stdin.buffer, messages)
    try:
        if len(sys.argv) > 1:
            importlib.import_module(sys.argv[1])
        from service.domain.jobs import JobKind
        from service.worker.jobs import WORK
        from service.worker.session import INTERACTIVE, interact

        set_up_traces(os.environ.get("MICROMODELS_TRACE_FILE", ""))
        with span(f"child {task.kind}", os.environ.get("TRACEPARENT", "")):
            if task.kind == INTERACTIVE:
                interact(task, pipe)
            else:
                WORK[JobKind(task.kind)](task, pipe)
        pipe.say(Say.DONE)
    except Cancelled:
        pipe.say(Say.CANCELLED)
    except (MicromodelsError, MemoryError) as error:
        name = type(error).__name__ if isinstance(error, MicromodelsError) else "OutOfMemory"
        pipe.say(Say.ERROR, error_class=name, reason=error_reason(error), message=str(error) or "out of memory")
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            pipe.say(Say.ERROR, error_class="ResourceExhausted", reason="RESOURCE_EXHAUSTED", message=message)
        else:
            reason = "DEVICE_LOST" if _is_of_device(error) else "INTERNAL"
            pipe.say(Say.ERROR, error_class="", reason=reason, message=message)
    stop_traces()
    sys.stderr.flush()
    os._exit(0)  # threads and finalizers of the libraries have nothing left to do


if __name__ == "__main__":
    main()
