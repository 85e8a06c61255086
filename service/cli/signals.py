"""Ctrl-C and its relatives: the first asks the work to stop and keep what is finished, the second ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from micromodels.runtime.run import StopRequest

__all__ = ["StopSignals"]


class StopSignals:
    """While it is entered, signals set what `__call__` answers; give it to a run as ``should_stop``.

    Ctrl-C or SIGTERM: `StopRequest.CANCEL`; once more: KeyboardInterrupt. Ctrl-\\ (SIGQUIT):
    `StopRequest.FINISH_EARLY`, which ends the training with what has been learned and goes on to label.

    Args:
        say: shows a line to the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._asked = StopRequest.NONE
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> StopRequest:
        """What the user has asked for until now."""
        return self._asked

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._cancel)
            self._before[signal.SIGQUIT] = signal.signal(signal.SIGQUIT, self._finish)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _cancel(self, number: int, frame: FrameType | None) -> None:
        if self._asked is StopRequest.CANCEL:
            raise KeyboardInterrupt
        self._asked = StopRequest.CANCEL
        self._tell("stopping; what is finished is kept (press Ctrl-C again to quit at once)")

    def _finish(self, number: int, frame: FrameType | None) -> None:
        if self._asked is StopRequest.NONE:
            self._asked = StopRequest.FINISH_EARLY
            self._tell("good enough: training ends here, labeling goes on")

    def _tell(self, text: str) -> None:
        # The signal may have come in the middle of a write to the same stream, which refuses another one then.
        with contextlib.suppress(RuntimeError):
            self._say(text)
