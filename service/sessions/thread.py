"""The thread of one label session: answers its requests one by one, and ends after a while without any."""

from __future__ import annotations

import logging
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
from service.jobs.submit import retrain_if_due
from service.sessions.current_worker import CurrentWorker
from service.sessions.requests import PendingRequest, RequestQueue, SessionRequest
from service.settings import Settings
from service.store import Store

__all__ = ["SessionThread"]

_LOG = logging.getLogger(__name__)
_WAIT_SECONDS = 0.1


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
        self._store, self._settings, self._forget = store, settings, forget
        self._requests = RequestQueue()
        self._ending = threading.Event()
        self._worker = CurrentWorker(store, settings, ids, scratch, preload, self._ending)
        self._corrected_by: str | None = None
        """Author of the newest correction since the last decision about a retraining; None if there was none."""
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
            self._worker.close()
            self._requests.refuse_all(Unavailable("the session has ended; ask again"))

    def _is_over(self) -> bool:
        """Do what is due while no request waits; whether the session has been idle for long enough to end."""
        self._worker.follow_newest_model()
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
            self._worker.close()
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
        response = self._worker.respond(request)
        if request.revision:
            self._store.history.settle(
                *self.ids,
                request.revision,
                seconds=time.monotonic() - pending.received,
                model_version=request.model.provenance_version,
                learned=response.learned,
            )
        return response.value
