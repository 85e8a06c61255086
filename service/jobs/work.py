"""What a job's child does, kind by kind: calls the library and says what comes of it.

The library is imported inside the functions: a probe needs no torch.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from micromodels.events import Event, FlipBookPicture, Run, StopRequest
from micromodels.types import FrameResult
from service.codec import decode_ontology
from service.jobs.archive import pack
from service.jobs.protocol import Say, Task, label_to_json, read_labels
from service.jobs.review_report import FILE_NAME
from service.jobs.specs import MIN_EFFORT, AutoLabelSpec, ExportSpec, PropagateSpec, TrainSpec
from service.records import JobKind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from micromodels.labeling import MicroModel
    from micromodels.video import Video

__all__ = ["WORK", "Channel", "event_kind", "open_task_video"]

_JPEG_QUALITY = 85


class Channel(Protocol):
    """The way to the supervisor."""

    def say(self, what: Say, **values: Any) -> None:
        """Send a message; blocks while the supervisor is behind."""

    def should_stop(self) -> StopRequest:
        """What was ordered so far."""


def event_kind(event: Event) -> str:
    """Snake case of the event's class: the ``kind`` under which it is stored."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def _jpeg(image: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _run(task: Task, channel: Channel) -> Run:
    def on_event(event: Event) -> None:
        payload = {field.name: getattr(event, field.name) for field in fields(event)}
        picture = _jpeg(payload.pop("image")) if isinstance(event, FlipBookPicture) else ""
        channel.say(Say.EVENT, kind=event_kind(event), payload=payload, picture=picture)

    checkpoints = Path(task.checkpoints) if task.checkpoints else None
    return Run(task.device, Path(task.cache), on_event, channel.should_stop, checkpoints)


def open_task_video(task: Task) -> AbstractContextManager[Video]:
    """The video of a task, with the frame table that was made of it before."""
    from micromodels.video import FrameTable, open_video

    table = FrameTable.from_dict(json.loads(Path(task.frame_table).read_bytes()))
    return open_video(task.video_path, table=table)


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
    from micromodels.labeling import TrainSettings, train

    seeds = list(read_labels(Path(task.labels)))
    settings = TrainSettings(recipe=spec.recipe, experiments=spec.experiments, seed=spec.seed, effort=spec.effort)
    if task.checkpoint.get("smaller"):
        settings = replace(settings, experiments=1, effort=max(settings.effort / 2, MIN_EFFORT))
        message = "memory ran out; this try has one experiment and half the views and steps"
        channel.say(Say.EVENT, kind="warned", payload={"message": message}, picture="")
    model = train(video, seeds, settings, ontology=decode_ontology(dict(task.ontology)), run=_run(task, channel))
    folder = Path(task.scratch) / "trained"
    model.save(folder)
    channel.say(Say.MODEL, folder=str(folder), manifest=model.manifest.to_dict())
    return model


def _propagate(task: Task, channel: Channel) -> None:
    from micromodels.labeling import load_model

    spec = PropagateSpec(**task.spec)
    with open_task_video(task) as video:
        stop = spec.stop_frame or video.table.frame_count
        _label(task, channel, video, load_model(Path(task.model)), range(spec.start_frame, stop))


def _auto_label(task: Task, channel: Channel) -> None:
    from micromodels.labeling import load_model

    with open_task_video(task) as video:
        if task.model:  # an earlier try got that far
            model = load_model(Path(task.model))
        else:
            model = _trained(task, channel, video, AutoLabelSpec(**task.spec))
        _label(task, channel, video, model, range(video.table.frame_count))


def _label(task: Task, channel: Channel, video: Video, model: MicroModel, frames: range) -> None:
    """Propagate, from where an earlier try got to, and say every frame."""
    anchors = list(read_labels(Path(task.labels)))
    rest = range(max(frames.start, int(task.checkpoint.get("next_frame", 0))), frames.stop)
    results: Iterable[FrameResult] = model.propagate(video, anchors, frames=rest, run=_run(task, channel))
    for result in results:
        channel.say(Say.FRAME, frame=result.frame, labels=[label_to_json(label) for label in result.all()])


def _export(task: Task, channel: Channel) -> None:
    from micromodels.label_files import write_coco, write_jsonl
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
}
