"""The thread of one label session: takes its requests one by one, keeps a worker ready, ends when idle."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from micromodels.errors import MicromodelsError
from service.access import Call, calling
from service.domain.access import Caller
from service.domain.errors import SessionFailed, Unavailable
from service.domain.jobs import JobError
from service.domain.models import ModelVersion
from service.jobs.submit import retrain_if_due
from service.sessions.process import Response, SessionProcess
from service.sessions.requests import PendingRequest, RequestQueue, SessionRequest
from service.settings import Settings
from service.store import Store

__all__ = ["SessionThread"]

_LOG = logging.getLogger(__name__)
_WAIT_SECONDS = 0.1
_LOOK_SECONDS = 1.0
"""Between two looks whether another micro-model is the video's newest."""


class SessionThread:
    """The session of one video; runs from the start on.

    Args:
        store: where the video is.
        settings: how long it stays.
        ids: of project and video.
        scratch: folder for its workers; made and deleted as needed.
        preload: module that its workers import first; empty for none.
        forget: called with the session when it is about to end, and with whether it ends in any case; returns False if
            a request has come meanwhile, so that it must stay.

    Attributes:
        ids: as given.
        last_used: when the last request was answered, by the monotonic clock.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        ids: tuple[str, str],
        scratch: Path,
        preload: str,
        forget: Callable[[SessionThread, bool], bool],
    ) -> None:
        self.ids = ids
        self.last_used = time.monotonic()
        self._store, self._settings, self._preload = store, settings, preload
        self._scratch, self._forget = scratch, forget
        self._requests = RequestQueue()
        self._ending = threading.Event()
        self._process: SessionProcess | None = None
        self._corrected_by: str | None = None
        """Author of the newest correction since the last decision about a retraining; None if there was none."""
        self._newest: ModelVersion | None = None
        """The video's newest micro-model when last looked at."""
        self._looked = 0.0
        self._thread = threading.Thread(target=self._run, name=f"session {ids[1]}", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether no request waits, nor is worked on."""
        return self._requests.is_idle

    def submit(self, request: SessionRequest) -> Future[Any]:
        """Queue a request; the future gives its answer."""
        return self._requests.put(request)

    def stop(self, wait: bool = True) -> None:
        """End worker and thread."""
        self._ending.set()
        if wait:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                pending = self._requests.get(_WAIT_SECONDS)
                if pending is not None:
                    self._answer(pending)
                elif self._is_over():
                    return
        finally:
            self._ending.set()
            self._forget(self, True)
            self._close()
            self._requests.refuse_all(Unavailable("the session has ended; ask again"))

    def _is_over(self) -> bool:
        """Do what is due while no request waits; whether the session has been idle for long enough to end."""
        self._follow_newest_model()
        idle_seconds = time.monotonic() - self.last_used
        if idle_seconds > self._settings.retrain_idle_seconds:
            self._retrain()
        return idle_seconds > self._settings.interactive_idle_seconds and self._forget(self, False)

    def _retrain(self) -> None:
        """Have the micro-model retrained if that is due; decided once after the last of some corrections."""
        author, self._corrected_by = self._corrected_by, None
        corrected_frames = self._settings.retrain_corrections
        if author is None or not corrected_frames:
            return
        try:
            with calling(self._call(author, "retrain")):
                retrain_if_due(self._store, *self.ids, corrected_frames, author=author)
        except MicromodelsError as error:  # the next correction is followed by another try
            _LOG.warning("no retraining of video %s was begun: %s", self.ids[1], error)
        except Exception:  # nobody waits for it, and this thread has requests to answer
            _LOG.exception("no retraining of video %s was begun", self.ids[1])

    def _follow_newest_model(self) -> None:
        """Start a worker with the video's newest micro-model as soon as there is one, before the next request."""
        if self._process is None or time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            before, self._newest = self._newest, self._store.models.of_video(*self.ids)
            if before is None or self._newest is None or self._newest == before or not self._process.suits(before):
                return  # nothing new, or requests name another model
            self._open(SessionRequest("suggest", self._newest))
        except Exception:  # the next request opens it, and is answered with the error
            _LOG.exception("the session of video %s could not be prepared", self.ids[1])
            self._close()

    def _answer(self, pending: PendingRequest) -> None:
        request = pending.request
        value, failure = None, None
        try:
            with calling(self._call(request.author, request.method)):  # what it stores is audited as the author's
                value = self._do(pending)
        except MicromodelsError as error:
            failure = error
        except Exception as error:
            _LOG.exception("the session of video %s", self.ids[1])
            failure = SessionFailed(JobError("INTERNAL", f"{type(error).__name__}: {error}"))
            self._close()
        self.last_used = time.monotonic()
        if request.revision:
            self._corrected_by = request.author
        self._requests.done()
        if failure is None:
            pending.future.set_result(value)
        else:
            pending.future.set_exception(failure)
        request.on_stored()

    def _call(self, author: str, method: str) -> Call:
        project_id, video_id = self.ids
        resource = f"projects/{project_id}/videos/{video_id}"
        return Call(Caller(author), f"session/{method}", project_id, resource, audited_if_detail=True)

    def _do(self, pending: PendingRequest) -> Any:
        request = pending.request
        response = self._respond(request)
        if request.revision:
            self._store.history.settle(
                *self.ids,
                request.revision,
                seconds=time.monotonic() - pending.received,
                model_version=request.model.provenance_version,
                learned=response.learned,
            )
        return response.value

    def _respond(self, request: SessionRequest) -> Response:
        """Call the worker; one that was there before and dies before it responds is replaced, once."""
        process = self._process
        if process is not None and not process.is_gone and process.suits(request.model):
            try:
                return process.call(request)
            except SessionFailed:
                if not process.has_ended or process.has_responded:
                    raise
                _LOG.warning("the worker of the session of video %s had died; starting another", self.ids[1])
            finally:
                if process.has_ended:
                    self._close()
        process = self._open(request)
        try:
            return process.call(request)
        finally:
            if process.has_ended:
                self._close()

    def _open(self, request: SessionRequest) -> SessionProcess:
        """Start the worker that a request needs, in place of the one that is there."""
        self._close()
        self._scratch.mkdir(parents=True)
        self._process = SessionProcess(
            self._store, self._settings, self.ids, self._scratch, request, self._preload, self._ending
        )
        return self._process

    def _close(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None
        shutil.rmtree(self._scratch, ignore_errors=True)
