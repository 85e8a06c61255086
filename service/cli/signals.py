"""Ctrl-C and other signals: the first stops the work and keeps finished results, the second quits at once."""

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
    """A context manager in which signals set the answer of `__call__`; pass it to a run as ``should_stop``.

    Ctrl-C or SIGTERM: `StopRequest.CANCEL`; a second one: KeyboardInterrupt. Ctrl-\\ (SIGQUIT):
    `StopRequest.FINISH_EARLY`, which ends training with the weights it has and continues with labeling.

    Args:
        say: shows a line to the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._asked = StopRequest.NONE
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> StopRequest:
        """What the user has requested so far."""
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
        self._show("stopping; finished work is kept (press Ctrl-C again to quit at once)")

    def _finish(self, number: int, frame: FrameType | None) -> None:
        if self._asked is StopRequest.NONE:
            self._asked = StopRequest.FINISH_EARLY
            self._show("ending training early; continuing with labeling")

    def _show(self, text: str) -> None:
        # The signal may have interrupted a write to the same stream, which then refuses another one.
        with contextlib.suppress(RuntimeError):
            self._say(text)
