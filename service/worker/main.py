"""The worker process: ``python -m service.worker.main [PRELOAD]`` reads one task from standard input and does it.

It ends when its standard input does, so that no worker outlives the server. ``PRELOAD`` is a module to import first.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any

from micromodels.errors import Cancelled, MicromodelsError
from micromodels.runtime.run import StopRequest
from service.telemetry.traces import set_up_traces, span, stop_traces
from service.worker.protocol import SESSION, MessageType, Order, Task, error_fields

__all__ = ["main"]

_ORPHANED = 3


class _PipeChannel:
    """The ``Conversation`` of ``service.worker.session`` on two pipes."""

    def __init__(self, orders: IO[bytes], messages: IO[bytes]) -> None:
        self._orders = orders
        self._messages = messages
        self._writing = threading.Lock()
        self._stop = StopRequest.NONE
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message_type: MessageType, /, **values: Any) -> None:
        """Send a message; blocks while the server does not keep up."""
        line = json.dumps({"type": message_type.value, **values}).encode() + b"\n"
        with self._writing:
            self._messages.write(line)
            self._messages.flush()

    def should_stop(self) -> StopRequest:
        """What the server has ordered so far; a cancel stays."""
        return self._stop

    def next_request(self) -> dict[str, Any]:
        """The next request to a session; waits for it."""
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


def main() -> None:
    """Do one task; see the module."""
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the messages
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C
    task = Task.from_line(sys.stdin.buffer.readline())
    os.nice(task.niceness)
    with contextlib.suppress(OSError):  # Linux weighs sessions (setsid) by this, and processes only within one
        Path("/proc/self/autogroup").write_text(str(task.niceness))
    with contextlib.suppress(OSError):  # where memory runs out, the system ends this process before the server
        Path("/proc/self/oom_score_adj").write_text("500")
    channel = _PipeChannel(sys.stdin.buffer, messages)
    try:
        if len(sys.argv) > 1:
            importlib.import_module(sys.argv[1])
        from service.domain.jobs import JobKind
        from service.worker.jobs import HANDLERS
        from service.worker.session import serve_session

        set_up_traces(os.environ.get("MICROMODELS_TRACE_FILE", ""))
        with span(f"worker {task.kind}", os.environ.get("TRACEPARENT", "")):
            if task.kind == SESSION:
                serve_session(task, channel)
            else:
                HANDLERS[JobKind(task.kind)](task, channel)
        channel.send(MessageType.DONE)
    except Cancelled:
        channel.send(MessageType.CANCELLED)
    except Exception as error:
        if not isinstance(error, (MicromodelsError, MemoryError)):
            traceback.print_exc()
        channel.send(MessageType.ERROR, **error_fields(error))
    stop_traces()
    sys.stderr.flush()
    os._exit(0)  # threads and finalizers of the libraries have nothing left to do


if __name__ == "__main__":
    main()
