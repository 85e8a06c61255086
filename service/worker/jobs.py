"""What a worker does for each kind of job: calls the library and sends the results.

The library is imported inside the functions: a probe needs no torch.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from micromodels.errors import Cancelled
from micromodels.recipes.base import MIN_EFFORT, TrainSettings
from micromodels.runtime.run import PropagationProgress, StopRequest
from micromodels.types import AnyLabel, FrameResult
from service.domain.codec import decode_ontology
from service.domain.job_specs import (
    ARCHIVE,
    REVIEW_REPORT,
    AutoLabelSpec,
    ExportSpec,
    PropagateSpec,
    RetrainSpec,
    TrainSpec,
)
from service.domain.jobs import JobKind
from service.reports.archive import pack
from service.worker.channel import Channel, open_task_video, task_run
from service.worker.protocol import MessageType, Task, label_to_json, read_labels

if TYPE_CHECKING:
    from micromodels.labels.keys import LabelChange
    from micromodels.recipes.base import MicroModel
    from micromodels.video import Video

__all__ = ["HANDLERS"]


def _probe(task: Task, channel: Channel) -> None:
    from micromodels.video import open_video

    with open_video(task.video_path) as video:
        channel.send(MessageType.FRAME_TABLE, table=video.table.to_dict())


def _train(task: Task, channel: Channel) -> None:
    if "model_id" in task.checkpoint:
        return  # an earlier try was killed after its model was stored
    with open_task_video(task) as video:
        _trained(task, channel, video, TrainSpec(**task.spec))


def _trained(task: Task, channel: Channel, video: Video, spec: TrainSpec) -> MicroModel:
    """Train and send the model."""
    from micromodels.recipes.base import train

    seeds = list(read_labels(Path(task.labels)))
    settings = _settings(task, channel, spec)
    model = train(video, seeds, settings, ontology=decode_ontology(dict(task.ontology)), run=task_run(task, channel))
    _send_model(task, channel, model, {})
    return model


def _settings(task: Task, channel: Channel, spec: TrainSpec) -> TrainSettings:
    settings = spec.settings
    if task.checkpoint.get("smaller"):
        settings = replace(settings, experiments=1, effort=max(settings.effort / 2, MIN_EFFORT))
        message = "memory ran out; this try has one experiment and half the views and steps"
        channel.send(MessageType.EVENT, kind="warned", payload={"message": message}, picture="")
    return settings


def _send_model(task: Task, channel: Channel, model: MicroModel, metrics: Mapping[str, float]) -> None:
    folder = Path(task.scratch) / "trained"
    model.save(folder)
    manifest = model.manifest.to_dict()
    manifest["metrics"] = {**manifest["metrics"], **metrics}
    channel.send(MessageType.MODEL, folder=str(folder), manifest=manifest)


def _retrain(task: Task, channel: Channel) -> None:
    from micromodels.recipes.base import load_model
    from service.worker.session import open_session

    with open_task_video(task) as video:
        if "model_id" in task.checkpoint:  # an earlier try got that far
            _label(task, channel, video, load_model(Path(task.model)), range(video.table.frame_count))
            return
        with open_session(task, video, task_run(task, channel)) as session:
            retrained = session.retrain(_settings(task, channel, RetrainSpec(**task.spec)))
            scores = {"unseen_score": retrained.new_score, "unseen_score_before": retrained.old_score}
            unseen = list(retrained.held_out)
            channel.send(MessageType.RESULT, values={**scores, "unseen_frames": unseen, "replaced": retrained.better})
            if not retrained.better:
                return
            # All labels are computed before any is sent: after a cancel they are as they were.
            changes = _relabeled(task, channel, session.replace_model(retrained), video.table.frame_count)
            _send_model(task, channel, session.model, {**retrained.model.manifest.metrics, **scores})
            for frame, made in changes.items():
                channel.send(MessageType.FRAME, frame=frame, labels=[label_to_json(label) for label in made])


def _relabeled(
    task: Task, channel: Channel, changes: Iterable[LabelChange], frame_count: int
) -> dict[int, list[AnyLabel]]:
    """The labels that change, by frame."""
    run, started = task_run(task, channel), time.monotonic()
    found: dict[int, list[AnyLabel]] = {}
    for change in changes:
        if change.frame not in found:
            if run.should_stop() is StopRequest.CANCEL:
                raise Cancelled("cancelled while labels were computed; all are as they were")
            frame_seconds = (time.monotonic() - started) / (change.frame + 1)
            left_seconds = frame_seconds * (frame_count - change.frame - 1)
            run.on_event(PropagationProgress(change.frame + 1, frame_count, left_seconds))
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
    """Propagate, after the frames that earlier tries have stored, and send every frame."""
    anchors = [label for label in read_labels(Path(task.labels)) if label.is_anchor]
    rest = range(max(frames.start, int(task.checkpoint.get("next_frame", 0))), frames.stop)
    results: Iterable[FrameResult] = model.propagate(video, anchors, frames=rest, run=task_run(task, channel))
    for result in results:
        channel.send(MessageType.FRAME, frame=result.frame, labels=[label_to_json(label) for label in result.all()])


def _export(task: Task, channel: Channel) -> None:
    name = ExportSpec(**task.spec).format
    if name == ARCHIVE:
        path = pack(Path(task.scratch), Path(task.video_path), read_labels(Path(task.labels)))
    elif name == REVIEW_REPORT:  # made from the database alone: the server has written it
        from service.reports.audit_report import FILE_NAME

        path = Path(task.scratch) / FILE_NAME
    else:
        path = _written(task, name)
    channel.send(MessageType.FILE, path=str(path))


def _written(task: Task, name: str) -> Path:
    """All labels in one format, in a file; of a format that is a folder, a zip of it."""
    from micromodels.labels.files import write_labels
    from micromodels.labels.formats import FormatOptions, find_format
    from micromodels.video import FrameTable

    chosen = find_format(name)
    table = FrameTable.from_dict(json.loads(Path(task.frame_table).read_bytes()))
    options = FormatOptions(decode_ontology(dict(task.ontology)))
    path = Path(task.scratch) / "export" / chosen.file_name
    path.parent.mkdir()
    write_labels(path, read_labels(Path(task.labels)), video=table, format=name, options=options)
    return Path(shutil.make_archive(str(path), "zip", path)) if chosen.is_folder else path


HANDLERS: dict[JobKind, Callable[[Task, Channel], None]] = {
    JobKind.PROBE: _probe,
    JobKind.TRAIN: _train,
    JobKind.PROPAGATE: _propagate,
    JobKind.AUTO_LABEL: _auto_label,
    JobKind.EXPORT: _export,
    JobKind.RETRAIN: _retrain,
}
