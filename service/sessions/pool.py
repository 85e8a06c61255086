"""Sessions: for each video that somebody works on, a process that holds it ready and computes what they ask.

A session is a thread with a queue and one child process (``service.worker.session``). It is no job: nothing waits
behind it, and no training makes it wait. What it computes is stored by the rules of all labels, so that a session that
dies loses nothing: the next question starts another process from what is stored.
"""

from __future__ import annotations

import contextlib
import logging
import queue
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
from service.domain.errors import ResourceExhausted, SessionFailed, Unavailable
from service.domain.jobs import JobError
from service.domain.models import ModelVersion
from service.jobs.submit import retrain_if_due
from service.sessions.process import Question, SessionProcess
from service.settings import Settings
from service.store import Store

__all__ = ["Sessions"]

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
"""Between two looks whether another micro-model is the video's newest."""
_RETRY_SECONDS = 5.0


class Sessions:
    """All sessions of a server. Calls return at once; answers are futures.

    Args:
        store: open; stays open.
        settings: how many, and how long they stay.
        preload: module that the processes import first; empty for none.
    """

    def __init__(self, store: Store, settings: Settings, *, preload: str = "") -> None:
        self._store = store
        self._settings = settings
        self._preload = preload
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], _Session] = {}
        self._stopping = False
        self._made = 0
        self._stop_listening = store.erasure.listen(self.end)  # a deleted video leaves no session
        if store.is_exclusive:  # what processes that were killed have left
            for left in (settings.data_dir / "cache").glob("*/session-*"):
                shutil.rmtree(left, ignore_errors=True)

    def ask(self, project_id: str, video_id: str, question: Question) -> Future[Any]:
        """Put a question to the session of a video; opens one if there is none.

        The future gives the answer, or raises ``SessionFailed`` or an error of the store.

        Raises:
            ResourceExhausted: as many sessions as there may be are at work.
            Unavailable: the server is stopping.
        """
        ids = (project_id, video_id)
        with self._lock:
            if self._stopping:
                raise Unavailable("the server is stopping")
            session = self._open.get(ids)
            if session is None:
                self._make_room()
                self._made += 1
                scratch = self._settings.data_dir.resolve() / "scratch" / f"session-{self._made}"
                session = _Session(self._store, self._settings, ids, scratch, self._preload, self._forget)
                self._open[ids] = session
            return session.put(question)

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
            message = f"the server has {len(self._open)} videos open for correction, and works on all of them"
            raise ResourceExhausted(message, retry_after_seconds=_RETRY_SECONDS)
        self._open.pop(min(idle)[1]).stop(wait=False)

    def _forget(self, session: _Session, for_sure: bool) -> bool:
        """Take a session out that wants to end; False if a question came at the last moment."""
        with self._lock:
            if not session.is_idle and not for_sure:
                return False
            if self._open.get(session.ids) is session:
                del self._open[session.ids]
            return True


class _Session:
    """The thread of one session."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        ids: tuple[str, str],
        scratch: Path,
        preload: str,
        forget: Callable[[_Session, bool], bool],
    ) -> None:
        self.ids = ids
        self.last_used = time.monotonic()
        self._store, self._settings, self._preload = store, settings, preload
        self._scratch, self._forget = scratch, forget
        self._questions: queue.SimpleQueue[tuple[Question, Future[Any], float]] = queue.SimpleQueue()
        self._waiting = 0
        self._counting = threading.Lock()
        self._running: dict[int, Future[Any]] = {}
        self._ending = threading.Event()
        self._process: SessionProcess | None = None
        self._corrected_by: str | None = None
        """Who has corrected something since a retraining was last thought of; None for nobody."""
        self._newest: ModelVersion | None = None
        """The video's newest micro-model when last looked at."""
        self._looked = 0.0
        self._thread = threading.Thread(target=self._run, name=f"session {ids[1]}", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return self._waiting == 0

    def put(self, question: Question) -> Future[Any]:
        """Queue a question; a correction that is computed already is not computed twice."""
        known = self._running.get(question.revision) if question.revision else None
        if known is not None and not known.done():
            known.add_done_callback(lambda done: question.on_news())
            return known
        future: Future[Any] = Future()
        if question.revision:
            self._running = {key: old for key, old in self._running.items() if not old.done()}
            self._running[question.revision] = future
        self._count(1)
        self._questions.put((question, future, time.monotonic()))
        return future

    def stop(self, wait: bool = True) -> None:
        """End the process and the thread."""
        self._ending.set()
        if wait:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                try:
                    question, future, asked = self._questions.get(timeout=0.1)
                except queue.Empty:
                    self._follow()
                    quiet_seconds = time.monotonic() - self.last_used
                    if quiet_seconds > self._settings.retrain_idle_seconds:
                        self._retrain()
                    if quiet_seconds > self._settings.interactive_idle_seconds and self._forget(self, False):
                        return
                    continue
                self._answer(question, future, asked)
        finally:
            self._ending.set()
            self._forget(self, True)
            self._close()
            with contextlib.suppress(queue.Empty):
                while True:
                    _, future, _ = self._questions.get_nowait()
                    self._count(-1)
                    if future.set_running_or_notify_cancel():  # else who asked has gone
                        future.set_exception(Unavailable("the session has ended; ask again"))

    def _retrain(self) -> None:
        """Have the micro-model retrained, once after each correction that nothing followed for a while."""
        author, self._corrected_by = self._corrected_by, None
        wanted = self._settings.retrain_corrections
        if author is None or not wanted:
            return
        project_id, video_id = self.ids
        resource = f"projects/{project_id}/videos/{video_id}"
        try:
            with calling(Call(Caller(author), "session/retrain", project_id, resource, audited_if_detail=True)):
                retrain_if_due(self._store, project_id, video_id, wanted, author=author)
        except MicromodelsError as error:  # the next correction is followed by another try
            _LOG.warning("no retraining of video %s was begun: %s", video_id, error)
        except Exception:  # nobody waits for it, and this thread answers those who do wait
            _LOG.exception("no retraining of video %s was begun", video_id)

    def _follow(self) -> None:
        """Get ready with the video's newest micro-model as soon as it takes over, before anybody asks."""
        if self._process is None or time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            before, self._newest = self._newest, self._store.models.of_video(*self.ids)
            if before is None or self._newest is None or self._newest == before or not self._process.suits(before):
                return  # nothing new, or who asks wants another one
            self._open_process(Question("suggest", self._newest))
        except Exception:  # the next question opens it, and its asker is told
            _LOG.exception("the session of video %s did not get ready", self.ids[1])
            self._close()

    def _count(self, more: int) -> None:
        with self._counting:
            self._waiting += more

    def _answer(self, question: Question, future: Future[Any], asked: float) -> None:
        if not future.set_running_or_notify_cancel():  # who asked has gone, and nothing was stored for it
            self._count(-1)
            return
        project_id, video_id = self.ids
        resource = f"projects/{project_id}/videos/{video_id}"
        call = Call(Caller(question.author), f"session/{question.ask}", project_id, resource, audited_if_detail=True)
        try:
            with calling(call):  # what it stores is audited as the asker's
                value = self._ask(question, asked)
        except MicromodelsError as error:
            outcome: BaseException | None = error
        except Exception as error:
            _LOG.exception("the session of video %s", self.ids[1])
            outcome = SessionFailed(JobError("INTERNAL", f"{type(error).__name__}: {error}"))
            self._close()
        else:
            outcome = None
        self.last_used = time.monotonic()
        if question.revision:
            self._corrected_by = question.author
        self._count(-1)
        if outcome is None:
            future.set_result(value)
        else:
            future.set_exception(outcome)
        question.on_news()

    def _ask(self, question: Question, asked: float) -> Any:
        value, process = self._put(question)
        if question.revision:
            seconds, version = time.monotonic() - asked, question.model.provenance_version
            settled = (*self.ids, question.revision)
            learned = process.learned
            self._store.history.settle(*settled, seconds=seconds, model_version=version, learned=learned)
        return value

    def _put(self, question: Question) -> tuple[Any, SessionProcess]:
        """Have the process answer; one that was there before and dies without a word gives way to another, once."""
        process = self._process
        if process is not None and not process.is_gone and process.suits(question.model):
            try:
                return process.ask(question), process
            except SessionFailed:
                if not process.has_ended or process.was_heard:
                    raise
                _LOG.warning("the session of video %s had died before it was asked; asking another", self.ids[1])
            finally:
                if process.has_ended:
                    self._close()
        process = self._open_process(question)
        try:
            return process.ask(question), process
        finally:
            if process.has_ended:
                self._close()

    def _open_process(self, question: Question) -> SessionProcess:
        """Start the process that a question needs, in place of the one there is."""
        self._close()
        self._scratch.mkdir(parents=True)
        self._process = SessionProcess(
            self._store, self._settings, self.ids, self._scratch, question, self._preload, self._ending
        )
        return self._process

    def _close(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None
        shutil.rmtree(self._scratch, ignore_errors=True)
