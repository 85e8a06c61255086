"""A session's process: holds one video open with its micro-model and answers what it is asked, until nobody asks.

Requests come as lines of JSON after the task, one at a time: ``ask`` (a key of ``_ANSWERS``), ``news`` (labels that
became others since the last request, as ``[frame, is_frame_class, name, payload or null, settled]``) and what the
question needs. The answers are any number of ``CHANGE`` and then one ``ANSWER`` or ``REFUSED``. While nobody asks, it
gets ready for what may be asked next.
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
from service.store.codec import decode_label, decode_ontology, key_from_json, key_to_json
from service.worker.channel import Channel, open_task_video
from service.worker.protocol import Say, Task, label_from_json, label_to_json, read_labels, read_settled

if TYPE_CHECKING:
    from micromodels.correction.session import LabelSession
    from micromodels.video import Video

__all__ = ["INTERACTIVE", "Conversation", "interact", "open_session"]

INTERACTIVE = "interactive"
"""In place of the kind of a job."""

_MANY_AT_ONCE = 20
"""Whoever accepts more labels than this at once has not looked at each of them."""


class Conversation(Channel, Protocol):
    """A channel with questions on it."""

    def next_request(self) -> Mapping[str, Any]:
        """The next request; waits for it."""

    def has_request(self) -> bool:
        """Whether one waits."""


def interact(task: Task, channel: Conversation) -> None:
    """Answer until the supervisor closes the pipe, which ends the process."""
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
                _adopt(session, request["news"])
                value = _ANSWERS[request["ask"]](session, request, channel)
                learned = _tell_learned(session, learned, task, channel)
                channel.say(Say.ANSWER, value=value)
                prepared = prepared and request["ask"] not in ("correct", "cuts")
            except MicromodelsError as error:
                from service.worker.protocol import error_reason

                name, reason = type(error).__name__, error_reason(error)
                channel.say(Say.REFUSED, error_class=name, reason=reason, message=str(error))


def open_session(task: Task, video: Video, run: Run) -> LabelSession:
    """A session on the task's video and labels, which goes on with what its micro-model has learned."""
    from micromodels.correction.session import LabelSession
    from micromodels.recipes.base import load_model

    models = [load_model(Path(task.model))]
    for folder in task.learned:
        try:
            models.append(load_model(Path(folder)))
        except ModelError as error:  # of another encoder, say: what was before it is used
            logging.getLogger(__name__).warning("what was learned cannot be used: %s", error)
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


def _tell_learned(session: LabelSession, known: str, task: Task, channel: Channel) -> str:
    """Hand the micro-model over if it has learned; returns its version."""
    version = session.model.manifest.version
    if version != known:
        folder = Path(task.scratch) / "learned"
        shutil.rmtree(folder, ignore_errors=True)
        session.model.save_weights(folder)
        channel.say(Say.LEARNED, folder=str(folder))
    return version


def _prepare(session: LabelSession) -> bool:
    try:
        session.prepare()
    except Cancelled:
        return False
    except MicromodelsError:
        return True  # whoever asks next hears of it
    return True


def _adopt(session: LabelSession, news: Iterable[list[Any]]) -> None:
    """Let the session know what became of labels elsewhere."""
    settled: list[LabelKey] = []
    loose: list[LabelKey] = []
    changed: list[LabelChange] = []
    for *values, payload, is_settled in news:
        key = key_from_json(values)
        label = None if payload is None else decode_label(key, payload)
        changed.append(LabelChange(key, session.labels.get(key), label))
        (settled if is_settled else loose).append(key)
    session.unsettle(key for key in loose if key in session.settled)
    session.adopt(changed)
    session.settle(settled, looked_at=len(settled) <= _MANY_AT_ONCE)


def _correct(session: LabelSession, request: Mapping[str, Any], channel: Channel) -> Any:
    labels = [label_from_json(values) for values in request["labels"]]
    removals = [key for values in request["removals"] if (key := key_from_json(values)) in session.labels]
    for change in session.correct(labels, removals):
        after = None if change.after is None else label_to_json(change.after)
        channel.say(Say.CHANGE, key=key_to_json(change.key), label=after)
    return None


def _suggest(session: LabelSession, request: Mapping[str, Any], channel: Channel) -> Any:
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
        for found in session.suggest(request["count"], skip=request["skip"])
    ]


def _swaps(session: LabelSession, request: Mapping[str, Any], channel: Channel) -> Any:
    del request, channel
    return [
        {"frame": s.frame, "start": s.start, "tracks": list(s.tracks), "score": s.score, "text": s.text}
        for s in session.suspected_swaps()
    ]


def _cuts(session: LabelSession, request: Mapping[str, Any], channel: Channel) -> Any:
    del request, channel
    session.prepare()  # cuts are known only of frames that were looked at
    return session.scene_cuts()


def _issues(session: LabelSession, request: Mapping[str, Any], channel: Channel) -> Any:
    del request, channel
    return [
        {"kind": i.kind.value, "frame": i.frame, "tracks": list(i.tracks), "score": i.score, "text": i.text}
        for i in session.issues()
    ]


_ANSWERS: dict[str, Callable[[LabelSession, Mapping[str, Any], Channel], Any]] = {
    "correct": _correct,
    "suggest": _suggest,
    "swaps": _swaps,
    "cuts": _cuts,
    "issues": _issues,
}
