"""The process of a session: what it knows, what it is asked, and what is stored of what it says."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from micromodels.types import AnyLabel, Provenance
from service.domain.errors import SessionFailed, Unavailable
from service.domain.history import Act, ChangeKind, LabelDifference
from service.domain.jobs import (
    JobError,
)
from service.domain.labels import (
    LabelKey,
)
from service.domain.models import (
    ModelVersion,
)
from service.jobs.task_files import lay_out_learned
from service.settings import Settings, cache_folder
from service.store import Store
from service.store.codec import encode_label, encode_ontology
from service.worker.process import Lines, end_process, has_exited, how_it_ended, start_child
from service.worker.protocol import (
    Say,
    Task,
    key_to_json,
    label_from_json,
    label_to_json,
    write_labels,
    write_settled,
)
from service.worker.session import INTERACTIVE

__all__ = ["Question", "SessionProcess"]

_LOG = logging.getLogger(__name__)
_COMMIT_SECONDS = 0.1
"""Labels that come within this time of the last ones that were stored are stored together."""


def _quiet() -> None:
    return None


@dataclass(frozen=True)
class Question:
    """What a session is asked."""

    ask: str
    """``correct``, ``suggest``, ``swaps``, ``cuts`` or ``issues``."""
    model: ModelVersion
    """What computes; a session that has another one starts again."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the process needs to know, as JSON."""
    revision: int = 0
    """Of a correction: the revision of its labels."""
    author: str = ""
    """Of a correction: who made it."""
    on_news: Callable[[], None] = _quiet
    """Called in the session's thread when something has been stored."""


_News = dict[LabelKey, tuple[AnyLabel | None, bool]]
"""Labels by key, None for none, and whether people have settled them."""


class SessionProcess:
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
        self.was_heard = False
        """Whether it has said anything to the last question, or was killed for its silence."""
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
        self.learned, self.was_heard = 0, False
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
        heard = time.monotonic()
        stored = -math.inf
        try:
            for line in self._heard():
                if line is None:
                    if time.monotonic() - heard > self._settings.silence_seconds:
                        self.was_heard = True
                        self.end()
                else:
                    heard, self.was_heard = time.monotonic(), True
                    message = json.loads(line)
                    say = Say(message["say"])
                    if say is Say.ANSWER:
                        return message["value"]
                    if say in (Say.REFUSED, Say.ERROR):
                        raise SessionFailed(JobError(message["reason"], message["message"], message["error_class"]))
                    if say is Say.LEARNED:
                        self._keep(Path(message["folder"]), question.revision)
                    else:
                        self._note(message, changes)
                if changes and time.monotonic() - stored > _COMMIT_SECONDS:
                    self._store_changes(question, changes)
                    changes, stored = {}, time.monotonic()
        finally:
            self._store_changes(question, changes)
        raise SessionFailed(self._crash())

    def _note(self, message: Mapping[str, Any], changes: dict[LabelKey, AnyLabel | None]) -> None:
        """Keep a change to be stored; the anchors among them are people's alone to write."""
        key = LabelKey(*message["key"])
        label = None if message["label"] is None else label_from_json(message["label"])
        if label is not None and label.is_anchor:
            changes.pop(key, None)
        else:
            changes[key] = label

    def end(self) -> None:
        """Kill what is left of it."""
        if not self.has_ended:
            self.has_ended = True
            end_process(self._child)

    def _differences(self, question: Question) -> list[LabelDifference]:
        return self._store.history.differences(*self._ids, question.revision)

    def _news(self, differences: Sequence[LabelDifference]) -> _News:
        """What the process does not know yet, but with the keys of a correction as they were before it."""
        records, known = self._store.history.labels_since(*self._ids, self._known, but=self._own, also=self._differs)
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
        """Store predictions."""
        labels = [x for x in changes.values() if x is not None]
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
        self.learned = self._store.adapted_models.add(*self._ids, self.model, files, revision=revision).number

    def _task(self, news: _News, model: ModelVersion) -> Task:
        store, scratch = self._store, self._scratch
        project_id, video_id = self._ids
        table, labels, settled = scratch / "frame_table.json", scratch / "labels.in", scratch / "settled.json"
        table.write_text(json.dumps(store.videos.frame_table(project_id, video_id)))
        write_labels(labels, (label for label, _ in news.values() if label is not None))
        write_settled(settled, (key for key, (_, is_settled) in news.items() if is_settled))
        store.models.materialize(model, scratch / "model")
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
