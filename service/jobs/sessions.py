"""Sessions: for each video that somebody works on, a process that holds it ready and computes what they ask.

A session is a thread with a queue and one child process (``service.jobs.interactive``). It is no job: nothing waits
behind it, and no training makes it wait. What it computes is stored by the rules of all labels, so that a session that
dies loses nothing: the next question starts another process from what is stored.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from micromodels.errors import MicromodelsError
from micromodels.types import AnyLabel, Provenance
from service.access import Call, Caller, calling
from service.codec import encode_label, encode_ontology
from service.errors import ResourceExhausted, SessionFailed, Unavailable
from service.history import Act, ChangeKind, LabelDifference
from service.jobs import retrain_if_due
from service.jobs.interactive import INTERACTIVE
from service.jobs.learned import lay_out_learned
from service.jobs.processes import Lines, end_process, has_exited, how_it_ended, start_child
from service.jobs.protocol import (
    Say,
    Task,
    key_to_json,
    label_from_json,
    label_to_json,
    write_labels,
    write_settled,
)
from service.records import JobError, LabelKey, ModelVersion
from service.settings import Settings
from service.store import Store
from service.store.erasure import cache_folder

__all__ = ["Question", "Sessions"]

_LOG = logging.getLogger(__name__)
_COMMIT_SECONDS = 0.25
_RETRY_SECONDS = 5.0


def _quiet() -> None:
    return None


@dataclass(frozen=True)
class Question:
    """What a session is asked."""

    ask: str
    """``correct``, ``suggest``, ``swaps``, ``cuts`` or ``issues``."""
    model: ModelVersion
    """What computes; a session that has another one starts anew."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the process needs to know, as JSON."""
    revision: int = 0
    """Of a correction: the revision of its labels."""
    author: str = ""
    """Of a correction: who made it."""
    on_news: Callable[[], None] = _quiet
    """Called in the session's thread when something has been stored."""


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
        self._process: _Process | None = None
        self._corrected_by: str | None = None
        """Who has corrected something since a retraining was last thought of; None for nobody."""
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
        """Have the micro-model trained anew, once after each correction that nothing followed for a while."""
        author, self._corrected_by = self._corrected_by, None
        wanted = self._settings.retrain_corrections
        if author is None or not wanted:
            return
        project_id, video_id = self.ids
        resource = f"projects/{project_id}/videos/{video_id}"
        try:
            with calling(Call(Caller(author), "session/retrain", project_id, resource, only_noted=True)):
                retrain_if_due(self._store, project_id, video_id, wanted, author=author)
        except MicromodelsError as error:  # the next correction is followed by another try
            _LOG.warning("no retraining of video %s was begun: %s", video_id, error)
        except Exception:  # nobody waits for it, and this thread answers those who do wait
            _LOG.exception("no retraining of video %s was begun", video_id)

    def _count(self, more: int) -> None:
        with self._counting:
            self._waiting += more

    def _answer(self, question: Question, future: Future[Any], asked: float) -> None:
        if not future.set_running_or_notify_cancel():  # who asked has gone, and nothing was stored for it
            self._count(-1)
            return
        project_id, video_id = self.ids
        resource = f"projects/{project_id}/videos/{video_id}"
        call = Call(Caller(question.author), f"session/{question.ask}", project_id, resource, only_noted=True)
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
        process = self._process
        if process is not None and (process.is_gone or not process.suits(question.model)):
            self._close()
        if self._process is None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch.mkdir(parents=True)
            self._process = _Process(
                self._store, self._settings, self.ids, self._scratch, question, self._preload, self._ending
            )
        try:
            value = self._process.ask(question)
        finally:
            if self._process.has_ended:
                self._close()
        if question.revision:
            seconds, version = time.monotonic() - asked, question.model.provenance_version
            settled = (*self.ids, question.revision)
            learned = self._process.learned
            self._store.history.settle(*settled, seconds=seconds, model_version=version, learned=learned)
        return value

    def _close(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None
        shutil.rmtree(self._scratch, ignore_errors=True)


_News = dict[LabelKey, tuple[AnyLabel | None, bool]]
"""Labels by key, None for none, and whether people have settled them."""


class _Process:
    """One child process, what it knows, and what is stored of what it says."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        ids: tuple[str, str],
        scratch: Path,
        question: Question,
        preload: str,
        ending: threading.Event,
    ) -> None:
        self.model = question.model.provenance_version
        self._ontology = store.projects.get(ids[0]).ontology
        self.has_ended = False
        self._store, self._settings, self._ids, self._scratch = store, settings, ids, scratch
        self._ending = ending
        self._own: set[int] = set()
        """Revisions that are this process' own work: it need not be told of them."""
        self._differs: set[LabelKey] = set()
        """Keys where it has something else than what is stored."""
        self._known = 0
        self.learned = 0
        """Number of the state that the last question has led to; 0 if nothing was learned from it."""
        news = self._news([] if not question.revision else self._differences(question))
        self._child = start_child(self._task(news, question.model), scratch, preload, settings.trace_file)
        assert self._child.stdout is not None
        self._lines = Lines(self._child.stdout.fileno())

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, by whatever hand."""
        return self.has_ended or has_exited(self._child)

    def suits(self, model: ModelVersion) -> bool:
        """Whether it has this micro-model, and knows the classes of the project as they are now."""
        ontology = self._store.projects.get(self._ids[0]).ontology
        return self.model == model.provenance_version and self._ontology == ontology

    def ask(self, question: Question) -> Any:
        """Have a question answered; stores changes as they come.

        Raises:
            SessionFailed: it refused, or died.
            Unavailable: the server is stopping.
        """
        request: dict[str, Any] = {"ask": question.ask, **question.details}
        self.learned = 0
        differences: list[LabelDifference] = []
        if question.revision:
            differences = self._differences(question)
            said = [item.after.label for item in differences if item.after is not None]
            request["labels"] = [label_to_json(label) for label in said if label is not None]
            request["removals"] = [key_to_json(item.key) for item in differences if _takes_anchor_back(item)]
        news = self._news(differences)
        request["news"] = [
            [*key_to_json(key), None if label is None else encode_label(label), settled]
            for key, (label, settled) in news.items()
        ]
        self._send(request)
        changes: dict[LabelKey, AnyLabel | None] = {}
        stored = heard = time.monotonic()
        try:
            for line in self._heard():
                if line is None:
                    if time.monotonic() - heard > self._settings.silence_seconds:
                        self.end()
                else:
                    heard = time.monotonic()
                    message = json.loads(line)
                    say = Say(message["say"])
                    if say is Say.ANSWER:
                        return message["value"]
                    if say in (Say.REFUSED, Say.ERROR):
                        raise SessionFailed(JobError(message["reason"], message["message"], message["error_class"]))
                    if say is Say.LEARNED:
                        self._keep(Path(message["folder"]), question.revision)
                    else:
                        label = message["label"]
                        changes[LabelKey(*message["key"])] = None if label is None else label_from_json(label)
                if changes and time.monotonic() - stored > _COMMIT_SECONDS:
                    self._store_changes(question, changes)
                    changes, stored = {}, time.monotonic()
        finally:
            self._store_changes(question, changes)
        raise SessionFailed(self._crash())

    def end(self) -> None:
        """Kill what is left of it."""
        if not self.has_ended:
            self.has_ended = True
            end_process(self._child)

    def _differences(self, question: Question) -> list[LabelDifference]:
        return self._store.history.differences(*self._ids, question.revision)

    def _news(self, differences: Sequence[LabelDifference]) -> _News:
        """What the process does not know yet, but with the keys of a correction as they were before it."""
        records, known = self._store.history.news(*self._ids, self._known, but=self._own, also=self._differs)
        news: _News = {record.key: (record.label, record.is_settled) for record in records}
        self._differs = {r.key for r in records if any(d.key == r.key and r.revision > d.revision for d in differences)}
        for item in differences:
            keeps = item.before is not None and (item.after is not None or _takes_anchor_back(item))
            news[item.key] = (item.before.label if keeps and item.before is not None else None, False)
        self._known, self._own = known, set()
        return news

    def _heard(self) -> Iterator[bytes | None]:
        """Lines as they come, None where there was none for a while, until the process ends."""
        while not self.has_ended and not self._lines.ended:
            lines = list(self._lines.read(_COMMIT_SECONDS))
            yield from lines
            if not lines:
                yield None
            if self._ending.is_set():
                raise Unavailable("the session was ended while it worked; what was stored stays")

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the end of its messages tells that it has died
            rest = memoryview(json.dumps(request).encode() + b"\n")
            while rest:
                rest = rest[self._child.stdin.write(rest) :]

    def _store_changes(self, question: Question, changes: Mapping[LabelKey, AnyLabel | None]) -> None:
        """Store predictions; the anchors among them are people's alone to write."""
        labels = [x for x in changes.values() if x is not None and not x.is_anchor]
        labels = [replace(x, provenance=Provenance(x.provenance.kind, self.model)) for x in labels]
        gone = [key for key, label in changes.items() if label is None]
        if not question.revision or not (labels or gone):
            return
        act = Act(question.author, ChangeKind.RECOMPUTE, parent=question.revision, model_version=self.model)
        result = self._store.labels.recompute(*self._ids, labels, gone, act)
        if result.written or result.deleted:
            self._own.add(result.revision)
        self._differs |= set(result.kept_anchors)
        question.on_news()

    def _keep(self, folder: Path, revision: int) -> None:
        """Keep what the micro-model has learned: whatever becomes of the process, the next one goes on from there."""
        files = [self._store.blobs.add_file(path) for path in sorted(folder.iterdir())]
        self.learned = self._store.learned.add(*self._ids, self.model, files, revision=revision).number

    def _task(self, news: _News, model: ModelVersion) -> Task:
        store, scratch = self._store, self._scratch
        project_id, video_id = self._ids
        table, labels, settled = scratch / "frame_table.json", scratch / "labels.in", scratch / "settled.json"
        table.write_text(json.dumps(store.videos.frame_table(project_id, video_id)))
        write_labels(labels, (label for label, _ in news.values() if label is not None))
        write_settled(settled, (key for key, (_, is_settled) in news.items() if is_settled))
        store.models.materialise(model, scratch / "model")
        cache = cache_folder(self._settings, store.videos.get(project_id, video_id).content_hash)
        cache.mkdir(parents=True, exist_ok=True)
        return Task(
            kind=INTERACTIVE,
            spec={},
            video_path=str(store.videos.path(project_id, video_id)),
            scratch=str(scratch),
            cache=str(cache),
            device=self._settings.device,
            niceness=0,
            checkpoint={},
            ontology=encode_ontology(self._ontology),
            frame_table=str(table),
            labels=str(labels),
            model=str(scratch / "model"),
            learned=lay_out_learned(store, self._ids, self.model, scratch, 2),
            settled=str(settled),
        )

    def _crash(self) -> JobError:
        self.end()
        tail = (self._scratch / "stderr").read_bytes()[-2000:].decode(errors="replace")
        tail = tail.replace(str(self._store.videos.path(*self._ids)), "VIDEO")  # it may hold a name, which logs do not
        how = how_it_ended(self._child.returncode)
        _LOG.warning("the session of video %s died: %s; its last words:\n%s", self._ids[1], how, tail)
        return JobError(
            "WORKER_CRASHED", f"the session's process died: {how}; labels that were acknowledged are stored"
        )


def _takes_anchor_back(item: LabelDifference) -> bool:
    label = item.before.label if item.before is not None else None
    return item.after is None and label is not None and label.is_anchor
