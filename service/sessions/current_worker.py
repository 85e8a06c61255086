"""The worker that a label session has now: replaced when it has died, or when another micro-model is needed."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path

from service.domain.errors import SessionFailed
from service.domain.models import ModelVersion
from service.sessions.process import Response, SessionProcess
from service.sessions.requests import SessionRequest
from service.settings import Settings
from service.store import Store

__all__ = ["CurrentWorker"]

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
"""Between two looks whether another micro-model is the video's newest."""


class CurrentWorker:
    """At most one worker at a time, for the thread of the session alone.

    Args:
        store: where the video is.
        settings: the server's.
        ids: of project and video.
        scratch: folder of the worker; made and deleted as needed.
        preload: module that workers import first; empty for none.
        ending: set when the session ends.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        ids: tuple[str, str],
        scratch: Path,
        preload: str,
        ending: threading.Event,
    ) -> None:
        self._store, self._settings, self._ids = store, settings, ids
        self._scratch, self._preload, self._ending = scratch, preload, ending
        self._process: SessionProcess | None = None
        self._newest: ModelVersion | None = None
        """The video's newest micro-model when last looked at."""
        self._looked = 0.0

    def respond(self, request: SessionRequest) -> Response:
        """Call the worker; one that was there before and dies before it responds is replaced, once."""
        process = self._process
        if process is not None and not process.is_gone and process.suits(request.model):
            try:
                return process.call(request)
            except SessionFailed:
                if not process.has_ended or process.has_responded:
                    raise
                _LOG.warning("the worker of the session of video %s had died; starting another", self._ids[1])
            finally:
                if process.has_ended:
                    self.close()
        process = self._open(request)
        try:
            return process.call(request)
        finally:
            if process.has_ended:
                self.close()

    def follow_newest_model(self) -> None:
        """Start a worker with the video's newest micro-model as soon as there is one, before the next request."""
        if self._process is None or time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            before, self._newest = self._newest, self._store.models.of_video(*self._ids)
            if before is None or self._newest is None or self._newest == before or not self._process.suits(before):
                return  # nothing new, or requests name another model
            self._open(SessionRequest("suggest", self._newest))
        except Exception:  # the next request opens it, and is answered with the error
            _LOG.exception("the session of video %s could not be prepared", self._ids[1])
            self.close()

    def _open(self, request: SessionRequest) -> SessionProcess:
        """Start the worker that a request needs, in place of the one that is there."""
        self.close()
        self._scratch.mkdir(parents=True)
        self._process = SessionProcess(
            self._store, self._settings, self._ids, self._scratch, request, self._preload, self._ending
        )
        return self._process

    def close(self) -> None:
        """End the worker and delete its folder; the next request starts another one."""
        if self._process is not None:
            self._process.end()
            self._process = None
        shutil.rmtree(self._scratch, ignore_errors=True)
