"""What a worker does for a label session: holds one video open with its micro-model and answers requests.

Requests come as lines of JSON after the task, one at a time: ``method`` (a key of ``_METHODS``), its ``parameters``,
and ``updates``: labels that others have changed since the last request, as ``[frame, is_frame_class, name, payload or
null, settled]``. The reply is any number of ``CHANGE`` and ``LEARNED`` and then one ``RESPONSE`` or ``REFUSED``.
Between requests the session is prepared for the next one.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from micromodels.errors import Cancelled, MicromodelsError, ModelError
from micromodels.labels.keys import LabelChange, LabelKey
from micromodels.runtime.run import Run, StopRequest
from service.domain.codec import decode_label, decode_ontology, key_from_json, key_to_json
from service.worker.channel import Channel, open_task_video
from service.worker.protocol import (
    MessageType,
    Task,
    error_fields,
    label_from_json,
    label_to_json,
    read_labels,
    read_settled,
)

if TYPE_CHECKING:
    from micromodels.correction.session import LabelSession
    from micromodels.video import Video

__all__ = ["Conversation", "open_session", "serve_session"]

_MANY_AT_ONCE = 20
"""A person who accepts more labels than this at once has not looked at each of them."""


class Conversation(Channel, Protocol):
    """A channel that brings requests."""

    def next_request(self) -> Mapping[str, Any]:
        """The next request; waits for it."""

    def has_request(self) -> bool:
        """Whether a request waits."""


def serve_session(task: Task, channel: Conversation) -> None:
    """Answer requests until the server closes the pipe, which ends the process."""
    preparing = False

    def should_stop() -> StopRequest:
        return StopRequest.CANCEL if preparing and channel.has_request() else StopRequest.NONE

    run = Run(task.device, Path(task.cache), lambda event: None, should_stop)
    with open_task_video(task) as video, open_session(task, video, run) as session:
        prepared = False
        learned = session.model.manifest.version
        while True:
            if not prepared and not channel.has_request():
                preparing = True
                prepared = _prepare(session)
                preparing = False
                continue
            request = channel.next_request()
            try:
                _adopt(session, request["updates"])
                value = _METHODS[request["method"]](session, request["parameters"], channel)
                learned = _send_learned(session, learned, task, channel)
                channel.send(MessageType.RESPONSE, value=value)
                prepared = prepared and request["method"] not in ("correct", "cuts")
            except MicromodelsError as error:
                channel.send(MessageType.REFUSED, **error_fields(error))


def open_session(task: Task, video: Video, run: Run) -> LabelSession:
    """A session on the task's video and labels, with what its micro-model has learned from earlier corrections."""
    from micromodels.correction.session import LabelSession
    from micromodels.recipes.base import load_model

    models = [load_model(Path(task.model))]
    for folder in task.learned:
        try:
            models.append(load_model(Path(folder)))
        except ModelError as error:  # for example of another encoder: the state before it is used
            logging.getLogger(__name__).warning("a learned state cannot be used: %s", error)
    *earlier, model = models
    return LabelSession(
        video,
        model,
        list(read_labels(Path(task.labels))),
        settled=read_settled(Path(task.settled)),
        ontology=decode_ontology(dict(task.ontology)),
        run=run,
        earlier=earlier,
    )


def _send_learned(session: LabelSession, known: str, task: Task, channel: Channel) -> str:
    """Send the micro-model if it has learned since version ``known``; returns its version."""
    version = session.model.manifest.version
    if version != known:
        folder = Path(task.scratch) / "learned"
        shutil.rmtree(folder, ignore_errors=True)
        session.model.save_weights(folder)
        channel.send(MessageType.LEARNED, folder=str(folder))
    return version


def _prepare(session: LabelSession) -> bool:
    """Compute what the next request needs; False if a request came meanwhile."""
    try:
        session.prepare()
    except Cancelled:
        return False
    except MicromodelsError:
        return True  # the next request meets the same error and is refused with it
    return True


def _adopt(session: LabelSession, updates: Iterable[list[Any]]) -> None:
    """Give the session the labels that others have changed."""
    settled: list[LabelKey] = []
    loose: list[LabelKey] = []
    changed: list[LabelChange] = []
    for *values, payload, is_settled in updates:
        key = key_from_json(values)
        label = None if payload is None else decode_label(key, payload)
        changed.append(LabelChange(key, session.labels.get(key), label))
        (settled if is_settled else loose).append(key)
    session.unsettle(key for key in loose if key in session.settled)
    session.adopt(changed)
    session.settle(settled, looked_at=len(settled) <= _MANY_AT_ONCE)


def _correct(session: LabelSession, parameters: Mapping[str, Any], channel: Channel) -> Any:
    labels = [label_from_json(values) for values in parameters["labels"]]
    removals = [key for values in parameters["removals"] if (key := key_from_json(values)) in session.labels]
    for change in session.correct(labels, removals):
        after = None if change.after is None else label_to_json(change.after)
        channel.send(MessageType.CHANGE, key=key_to_json(change.key), label=after)
    return None


def _suggest(session: LabelSession, parameters: Mapping[str, Any], channel: Channel) -> Any:
    del channel
    return [
        {
            "frame": found.frame,
            "tracks": list(found.tracks),
            "expected_gain": found.expected_gain_frames,
            "wrong_probability": found.wrong_probability,
            "reason": found.reason_kind.value,
            "text": found.reason_text,
        }
        for found in session.suggest(parameters["count"], skip=parameters["skip"])
    ]


def _swaps(session: LabelSession, parameters: Mapping[str, Any], channel: Channel) -> Any:
    del parameters, channel
    return [
        {"frame": s.frame, "start": s.start, "tracks": list(s.tracks), "score": s.score, "text": s.text}
        for s in session.suspected_swaps()
    ]


def _cuts(session: LabelSession, parameters: Mapping[str, Any], channel: Channel) -> Any:
    del parameters, channel
    session.prepare()  # cuts are known only where frames were encoded
    return session.scene_cuts()


def _issues(session: LabelSession, parameters: Mapping[str, Any], channel: Channel) -> Any:
    del parameters, channel
    return [
        {"kind": i.kind.value, "frame": i.frame, "tracks": list(i.tracks), "score": i.score, "text": i.text}
        for i in session.issues()
    ]


_METHODS: dict[str, Callable[[LabelSession, Mapping[str, Any], Channel], Any]] = {
    "correct": _correct,
    "suggest": _suggest,
    "swaps": _swaps,
    "cuts": _cuts,
    "issues": _issues,
}
