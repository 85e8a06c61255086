"""What a job's child does, kind by kind: calls the library and says what comes of it.

The library is imported inside the functions: a probe needs no torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from micromodels.errors import Cancelled
from micromodels.runtime.run import PropagationProgress, StopRequest
from micromodels.types import AnyLabel, FrameResult
from service.domain.job_specs import (
    MIN_EFFORT,
    AutoLabelSpec,
    ExportSpec,
    PropagateSpec,
    RetrainSpec,
    TrainSpec,
)
from service.domain.jobs import JobKind
from service.reports.archive import pack
from service.reports.audit_report import FILE_NAME
from service.store.codec import decode_ontology
from service.worker.channel import Channel, _run, open_task_video
from service.worker.protocol import Say, Task, label_to_json, read_labels

if TYPE_CHECKING:
    from micromodels.labels.keys import LabelChange
    from micromodels.recipes.base import MicroModel, TrainSettings
    from micromodels.video import Video

__all__ = [
    "WORK",
]


def _probe(task: Task, channel: Channel) -> None:
    from micromodels.video import open_video

    with open_video(task.video_path) as video:
        channel.say(Say.FRAME_TABLE, table=video.table.to_dict())


def _train(task: Task, channel: Channel) -> None:
    if "model_id" in task.checkpoint:
        return  # an earlier try died after it had handed its model over
    with open_task_video(task) as video:
        _trained(task, channel, video, TrainSpec(**task.spec))


def _trained(task: Task, channel: Channel, video: Video, spec: TrainSpec) -> MicroModel:
    """Train and hand the model over."""
    from micromodels.recipes.base import train

    seeds = list(read_labels(Path(task.labels)))
    settings = _settings(task, channel, spec)
    model = train(video, seeds, settings, ontology=decode_ontology(dict(task.ontology)), run=_run(task, channel))
    _hand_over(task, channel, model, {})
    return model


def _settings(task: Task, channel: Channel, spec: TrainSpec) -> TrainSettings:
    from micromodels.recipes.base import TrainSettings

    settings = TrainSettings(recipe=spec.recipe, experiments=spec.experiments, seed=spec.seed, effort=spec.effort)
    if task.checkpoint.get("smaller"):
        settings = replace(settings, experiments=1, effort=max(settings.effort / 2, MIN_EFFORT))
        message = "memory ran out; this try has one experiment and half the views and steps"
        channel.say(Say.EVENT, kind="warned", payload={"message": message}, picture="")
    return settings


def _hand_over(task: Task, channel: Channel, model: MicroModel, metrics: Mapping[str, float]) -> None:
    folder = Path(task.scratch) / "trained"
    model.save(folder)
    manifest = model.manifest.to_dict()
    manifest["metrics"] = {**manifest["metrics"], **metrics}
    channel.say(Say.MODEL, folder=str(folder), manifest=manifest)


def _retrain(task: Task, channel: Channel) -> None:
    from micromodels.recipes.base import load_model
    from service.worker.session import open_session

    with open_task_video(task) as video:
        if "model_id" in task.checkpoint:  # an earlier try got that far
            _label(task, channel, video, load_model(Path(task.model)), range(video.table.frame_count))
            return
        with open_session(task, video, _run(task, channel)) as session:
            retrained = session.retrain(_settings(task, channel, RetrainSpec(**task.spec)))
            scores = {"unseen_score": retrained.new_score, "unseen_score_before": retrained.old_score}
            unseen = list(retrained.held_out)
            channel.say(Say.RESULT, values={**scores, "unseen_frames": unseen, "replaced": retrained.better})
            if not retrained.better:
                return
            # All of it before any of it is told: whoever cancels keeps the labels as they were.
            changes = _relabeled(task, channel, session.replace_model(retrained), video.table.frame_count)
            _hand_over(task, channel, session.model, {**retrained.model.manifest.metrics, **scores})
            for frame, made in changes.items():
                channel.say(Say.FRAME, frame=frame, labels=[label_to_json(label) for label in made])


def _relabeled(
    task: Task, channel: Channel, changes: Iterable[LabelChange], frame_count: int
) -> dict[int, list[AnyLabel]]:
    """What becomes other labels, by frame."""
    run, started = _run(task, channel), time.monotonic()
    found: dict[int, list[AnyLabel]] = {}
    for change in changes:
        if change.frame not in found:
            if run.should_stop() is StopRequest.CANCEL:
                raise Cancelled("cancelled while labels were computed; all are as they were")
            pace = (time.monotonic() - started) / (change.frame + 1)
            run.on_event(PropagationProgress(change.frame + 1, frame_count, pace * (frame_count - change.frame - 1)))
        if change.after is not None:
            found.setdefault(change.frame, []).append(change.after)
    return dict(sorted(found.items()))


def _propagate(task: Task, channel: Channel) -> None:
    from micromodels.recipes.base import load_model

    spec = PropagateSpec(**task.spec)
    with open_task_video(task) as video:
        stop = spec.stop_frame or video.table.frame_count
        _label(task, channel, video, load_model(Path(task.model)), range(spec.start_frame, stop))


def _auto_label(task: Task, channel: Channel) -> None:
    from micromodels.recipes.base import load_model

    with open_task_video(task) as video:
        if task.model:  # an earlier try got that far
            model = load_model(Path(task.model))
        else:
            model = _trained(task, channel, video, AutoLabelSpec(**task.spec))
        _label(task, channel, video, model, range(video.table.frame_count))


def _label(task: Task, channel: Channel, video: Video, model: MicroModel, frames: range) -> None:
    """Propagate, from where an earlier try got to, and say every frame."""
    anchors = [label for label in read_labels(Path(task.labels)) if label.is_anchor]
    rest = range(max(frames.start, int(task.checkpoint.get("next_frame", 0))), frames.stop)
    results: Iterable[FrameResult] = model.propagate(video, anchors, frames=rest, run=_run(task, channel))
    for result in results:
        channel.say(Say.FRAME, frame=result.frame, labels=[label_to_json(label) for label in result.all()])


def _export(task: Task, channel: Channel) -> None:
    from micromodels.labels.files import write_coco, write_jsonl
    from micromodels.video import FrameTable

    spec = ExportSpec(**task.spec)
    if spec.format == "archive":
        packed = pack(Path(task.scratch), Path(task.video_path), read_labels(Path(task.labels)))
        channel.say(Say.FILE, path=str(packed))
        return
    if spec.format == "review_report":  # the books are the server's: it has written it
        channel.say(Say.FILE, path=str(Path(task.scratch) / FILE_NAME))
        return
    labels = read_labels(Path(task.labels))
    path = Path(task.scratch) / {"jsonl": "labels.jsonl", "coco": "coco.json"}[spec.format]
    if spec.format == "jsonl":
        write_jsonl(path, labels)
    else:
        table = FrameTable.from_dict(json.loads(Path(task.frame_table).read_bytes()))
        write_coco(path, labels, table, decode_ontology(dict(task.ontology)))
    channel.say(Say.FILE, path=str(path))


WORK: dict[JobKind, Callable[[Task, Channel], None]] = {
    JobKind.PROBE: _probe,
    JobKind.TRAIN: _train,
    JobKind.PROPAGATE: _propagate,
    JobKind.AUTO_LABEL: _auto_label,
    JobKind.EXPORT: _export,
    JobKind.RETRAIN: _retrain,
}
