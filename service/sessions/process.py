"""One worker of a label session: starts it with what is stored, sends it requests, stores what it computes."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel, Provenance
from service.domain.codec import encode_label, key_from_json, key_to_json
from service.domain.errors import SessionFailed, Unavailable
from service.domain.history import Act, ChangeKind, LabelDifference
from service.domain.jobs import JobError
from service.domain.models import ModelVersion
from service.jobs.task_files import TaskInputs, lay_out_task
from service.sessions.label_updates import LabelUpdates, Updates, removes_anchor
from service.sessions.requests import SessionRequest
from service.settings import Settings
from service.store import Store
from service.worker.process import WorkerProcess
from service.worker.protocol import SESSION, MessageType, Task, label_from_json, label_to_json

__all__ = ["Response", "SessionProcess"]

_LOG = logging.getLogger(__name__)
_COMMIT_SECONDS = 0.1
"""Labels that come within this time of the last ones that were stored are stored together."""
_LEARNED_STATES = 2
"""The newest state of a micro-model, and the one before it lest the newest cannot be read."""


@dataclass(frozen=True)
class Response:
    """What a worker has responded to a request."""

    value: Any
    learned: int = 0
    """Number of the state that its micro-model was stored as; 0 if it has not learned from this request."""


class SessionProcess:
    """One worker, with one micro-model and the classes of the project as they were when it started.

    Args:
        store: where video and labels are.
        settings: the server's.
        ids: of project and video.
        scratch: folder of the worker, which exists.
        request: the first one; pass it to ``call`` next.
        preload: module for the worker to import first; empty for none.
        ending: set when the session ends.

    Raises:
        MicromodelsError: of the store.
        OSError: the disk is full.

    Attributes:
        has_ended: whether ``end`` was called.
        has_responded: whether the worker has sent anything since the last request, or was killed for its silence.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        ids: tuple[str, str],
        scratch: Path,
        request: SessionRequest,
        preload: str,
        ending: threading.Event,
    ) -> None:
        self.has_ended = self.has_responded = False
        self._model_version = request.model.provenance_version
        self._ontology = store.projects.get(ids[0]).ontology
        self._store, self._settings, self._ids, self._ending = store, settings, ids, ending
        self._updates = LabelUpdates(store, ids)
        updates = self._updates.take(self._correction(request))
        task = self._lay_out(request.model, updates, scratch)
        self._worker = WorkerProcess(task, preload=preload, trace_file=settings.trace_file)

    def _lay_out(self, model: ModelVersion, labels: Updates, scratch: Path) -> Task:
        learned = self._store.adapted_models.of(*self._ids, self._model_version)
        inputs = TaskInputs(
            *self._ids,
            kind=SESSION,
            device=self._settings.device,
            labels=[label for label, _ in labels.values() if label is not None],
            settled=[key for key, (_, is_settled) in labels.items() if is_settled],
            model=model,
            learned=learned[-_LEARNED_STATES:],
        )
        return lay_out_task(self._store, self._settings, inputs, scratch)

    @property
    def is_gone(self) -> bool:
        """Whether the worker has ended, for whatever reason."""
        return self._worker.has_exited

    def suits(self, model: ModelVersion) -> bool:
        """Whether the worker has this micro-model, and the classes that the project has now."""
        ontology = self._store.projects.get(self._ids[0]).ontology
        return self._model_version == model.provenance_version and self._ontology == ontology

    def end(self) -> None:
        """Kill what is left of the worker."""
        self.has_ended = True
        self._worker.end()

    def call(self, request: SessionRequest) -> Response:
        """Have the worker do a request; stores labels and learned states as they come.

        Raises:
            SessionFailed: the worker has refused it, or died.
            Unavailable: the session ends.
        """
        self.has_responded = False
        self._send(request)
        learned = 0
        changes: dict[LabelKey, AnyLabel | None] = {}
        stored = -math.inf
        try:
            for message in self._messages():
                match message.get("type"):
                    case MessageType.CHANGE:
                        _add_change(message, changes)
                    case MessageType.LEARNED:
                        learned = self._store_learned(Path(message["folder"]), request.revision)
                    case MessageType.RESPONSE:
                        return Response(message["value"], learned)
                    case MessageType.REFUSED | MessageType.ERROR:
                        raise SessionFailed(JobError(message["reason"], message["message"], message["error_class"]))
                if changes and time.monotonic() - stored > _COMMIT_SECONDS:
                    self._store_changes(request, changes)
                    changes, stored = {}, time.monotonic()
        finally:
            self._store_changes(request, changes)
        raise SessionFailed(self._crash())

    def _correction(self, request: SessionRequest) -> list[LabelDifference]:
        """What a person drew or took back; predictions that only got another class reach the worker as they are."""
        found = self._store.history.differences(*self._ids, request.revision) if request.revision else []
        return [item for item in found if item.after is None or (item.after.label and item.after.label.is_anchor)]

    def _send(self, request: SessionRequest) -> None:
        correction = self._correction(request)
        parameters = dict(request.parameters)
        if request.revision:
            drawn = [item.after.label for item in correction if item.after is not None]
            parameters["labels"] = [label_to_json(label) for label in drawn if label is not None]
            parameters["removals"] = [key_to_json(item.key) for item in correction if removes_anchor(item)]
        updates = [
            [*key_to_json(key), None if label is None else encode_label(label), is_settled]
            for key, (label, is_settled) in self._updates.take(correction).items()
        ]
        self._worker.send_request({"method": request.method, "parameters": parameters, "updates": updates})

    def _messages(self) -> Iterator[Mapping[str, Any]]:
        """Messages as they come, an empty one after a moment without any, until the worker ends or is too silent."""
        heard = time.monotonic()
        while not self.has_ended and not self._worker.has_closed:
            messages = list(self._worker.messages(_COMMIT_SECONDS))
            if messages:
                heard, self.has_responded = time.monotonic(), True
                yield from messages
            elif time.monotonic() - heard > self._settings.silence_seconds:
                self.has_responded = True
                self.end()
            else:
                yield {}
            if self._ending.is_set():
                raise Unavailable("the session was ended while it worked; what was stored stays")

    def _store_changes(self, request: SessionRequest, changes: Mapping[LabelKey, AnyLabel | None]) -> None:
        """Store predictions."""
        labels = [x for x in changes.values() if x is not None]
        labels = [replace(x, provenance=Provenance(x.provenance.kind, self._model_version)) for x in labels]
        removed = [key for key, label in changes.items() if label is None]
        if not request.revision or not (labels or removed):
            return
        act = Act(request.author, ChangeKind.RECOMPUTE, parent=request.revision, model_version=self._model_version)
        self._updates.note_stored(self._store.labels.recompute(*self._ids, labels, removed, act))
        request.on_stored()

    def _store_learned(self, folder: Path, revision: int) -> int:
        """Store a learned state, from which the next worker starts; returns its number."""
        files = [self._store.blobs.add_file(path) for path in sorted(folder.iterdir())]
        return self._store.adapted_models.add(*self._ids, self._model_version, files, revision=revision).number

    def _crash(self) -> JobError:
        self.end()
        how = self._worker.how_it_ended
        output = self._worker.last_output()
        _LOG.warning("session worker of video %s died: %s; the end of its output:\n%s", self._ids[1], how, output)
        return JobError(
            "WORKER_CRASHED", f"the session's process died: {how}; labels that were acknowledged are stored"
        )


def _add_change(message: Mapping[str, Any], changes: dict[LabelKey, AnyLabel | None]) -> None:
    """Add a ``CHANGE`` to what is stored next; only people write anchors."""
    key = key_from_json(message["key"])
    label = None if message["label"] is None else label_from_json(message["label"])
    if label is not None and label.is_anchor:
        changes.pop(key, None)
    else:
        changes[key] = label
