"""Requests to label sessions, and the queue of one session."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from service.domain.models import ModelVersion

__all__ = ["PendingRequest", "RequestQueue", "SessionRequest"]


def _do_nothing() -> None:
    return None


@dataclass(frozen=True)
class SessionRequest:
    """What a session is to compute."""

    method: str
    """``correct``, ``suggest``, ``swaps``, ``cuts`` or ``issues``."""
    model: ModelVersion
    """With which micro-model; a session that has another one is opened again."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the method, JSON-ready. Those of a correction are read from its revision."""
    revision: int = 0
    """Of a correction: the revision of its labels."""
    author: str = ""
    """Of a correction: who made it."""
    on_stored: Callable[[], None] = _do_nothing
    """Called in the session's thread when labels have been stored, and at the end."""


@dataclass(frozen=True)
class PendingRequest:
    """A request that waits for its answer."""

    request: SessionRequest
    future: Future[Any]
    received: float
    """By the monotonic clock."""


class RequestQueue:
    """Requests in the order in which they came."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[PendingRequest] = queue.SimpleQueue()
        self._corrections: dict[int, Future[Any]] = {}
        self._unanswered = 0
        self._counting = threading.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether no request waits, nor is worked on."""
        return self._unanswered == 0

    def put(self, request: SessionRequest) -> Future[Any]:
        """Queue a request; a correction that has been queued already is not computed twice."""
        known = self._corrections.get(request.revision) if request.revision else None
        if known is not None and not known.done():
            known.add_done_callback(lambda done: request.on_stored())
            return known
        future: Future[Any] = Future()
        if request.revision:
            self._corrections = {revision: old for revision, old in self._corrections.items() if not old.done()}
            self._corrections[request.revision] = future
        self._count(1)
        self._queue.put(PendingRequest(request, future, time.monotonic()))
        return future

    def get(self, timeout_seconds: float) -> PendingRequest | None:
        """The next request whose caller still waits; None if none comes in time. Call ``done`` after it."""
        try:
            pending = self._queue.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if pending.future.set_running_or_notify_cancel():
            return pending
        self.done()  # its caller has cancelled it
        return None

    def done(self) -> None:
        """Call this just before the future of a request is set."""
        self._count(-1)

    def refuse_all(self, error: Exception) -> None:
        """Answer every request that waits with an error."""
        while not self._queue.empty():
            pending = self.get(0.0)
            if pending is not None:
                self.done()
                pending.future.set_exception(error)

    def _count(self, more: int) -> None:
        with self._counting:
            self._unanswered += more
