"""The label sessions of a server: one for each video that somebody works on, which computes what they ask for.

A session is a thread with a queue and one worker (``service.worker.session``). It is no job: nothing waits behind it,
and no training makes it wait. What it computes is stored by the rules of all labels, so that nothing is lost when the
worker dies: the next request starts another one from what is stored.
"""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import Future
from typing import Any

from service.domain.errors import ResourceExhausted, Unavailable
from service.sessions.requests import SessionRequest
from service.sessions.thread import SessionThread
from service.settings import Settings
from service.store import Store

__all__ = ["Sessions"]

_RETRY_SECONDS = 5.0


class Sessions:
    """All sessions of a server. Calls return at once; answers are futures.

    Args:
        store: open; stays open.
        settings: how many, and how long they stay.
        preload: module that the workers import first; empty for none.
    """

    def __init__(self, store: Store, settings: Settings, *, preload: str = "") -> None:
        self._store = store
        self._settings = settings
        self._preload = preload
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], SessionThread] = {}
        self._stopping = False
        self._opened = 0
        self._stop_listening = store.erasure.listen(self.end)  # a deleted video leaves no session
        if store.is_exclusive:  # left by workers that were killed
            for left in (settings.data_dir / "cache").glob("*/session-*"):
                shutil.rmtree(left, ignore_errors=True)

    def submit(self, project_id: str, video_id: str, request: SessionRequest) -> Future[Any]:
        """Queue a request to the session of a video; opens one if none is open.

        The future gives the answer, or raises ``SessionFailed`` or an error of the store.

        Raises:
            ResourceExhausted: as many sessions as the settings allow are at work.
            Unavailable: the server is stopping.
        """
        ids = (project_id, video_id)
        with self._lock:
            if self._stopping:
                raise Unavailable("the server is stopping")
            session = self._open.get(ids)
            if session is None:
                self._make_room()
                self._opened += 1
                scratch = self._settings.data_dir.resolve() / "scratch" / f"session-{self._opened}"
                session = SessionThread(self._store, self._settings, ids, scratch, self._preload, self._forget)
                self._open[ids] = session
            return session.submit(request)

    def end(self, project_id: str, video_id: str = "") -> None:
        """End the session of a video, or all of a project, and wait for it."""
        with self._lock:
            ending = [s for ids, s in self._open.items() if ids[0] == project_id and video_id in ("", ids[1])]
        for session in ending:
            session.stop()

    def stop(self) -> None:
        """End all sessions; what they have stored stays."""
        self._stop_listening()
        with self._lock:
            self._stopping = True
            ending = list(self._open.values())
        for session in ending:
            session.stop()

    def _make_room(self) -> None:
        if len(self._open) < self._settings.interactive_sessions:
            return
        idle = [(session.last_used, ids) for ids, session in self._open.items() if session.is_idle]
        if not idle:
            message = f"{len(self._open)} videos are being corrected, as many as this server allows; try again soon"
            raise ResourceExhausted(message, retry_after_seconds=_RETRY_SECONDS)
        self._open.pop(min(idle)[1]).stop(wait=False)

    def _forget(self, session: SessionThread, in_any_case: bool) -> bool:
        """Take a session out that is about to end; False if a request has come at the last moment."""
        with self._lock:
            if not session.is_idle and not in_any_case:
                return False
            if self._open.get(session.ids) is session:
                del self._open[session.ids]
            return True
