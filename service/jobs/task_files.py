"""The task of a worker: what it works on, laid out as files in its scratch folder."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel
from service.domain.codec import encode_ontology
from service.domain.errors import NotFound
from service.domain.job_specs import JobSpec, PropagateSpec, TrainSpec, spec_from_dict
from service.domain.jobs import Job, JobKind
from service.domain.models import AdaptedModel, ModelVersion
from service.reports.archive import lay_out
from service.reports.audit_report import FILE_NAME, write_report
from service.settings import Settings, cache_folder
from service.store import Store
from service.worker.protocol import Task, write_labels, write_settled

__all__ = ["JobTask", "TaskInputs", "checkpoint_folder", "device_of", "lay_out_job", "lay_out_task"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskInputs:
    """What a worker is to work on, before it is laid out as files."""

    project_id: str
    video_id: str
    kind: str
    """As in ``Task``."""
    device: str
    labels: Iterable[AnyLabel] | None = None
    """None for a video that has no frame table yet."""
    settled: Iterable[LabelKey] = ()
    """Keys of labels that people accepted or locked."""
    model: ModelVersion | None = None
    learned: Sequence[AdaptedModel] = ()
    """What the model has learned on this video, the oldest state first."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: str = ""
    niceness: int = 0


def lay_out_task(store: Store, settings: Settings, inputs: TaskInputs, scratch: Path) -> Task:
    """Write the files of a task.

    Args:
        store: where everything is.
        settings: the server's.
        inputs: what to write.
        scratch: the worker's folder, which exists.

    Raises:
        NotFound: the project or the video is gone, or files of the model are.
        OSError: the disk is full.
    """
    ids = (inputs.project_id, inputs.video_id)
    frame_table = labels = settled = model = ""
    if inputs.labels is not None:
        frame_table = str(scratch / "frame_table.json")
        Path(frame_table).write_text(json.dumps(store.videos.frame_table(*ids)))
        labels = str(scratch / "labels.in")
        write_labels(Path(labels), inputs.labels)
        settled = str(scratch / "settled.json")
        write_settled(Path(settled), inputs.settled)
    if inputs.model is not None:
        model = str(scratch / "model")
        store.models.materialize(inputs.model, Path(model))
    cache = cache_folder(settings, store.videos.get(*ids).content_hash)
    cache.mkdir(parents=True, exist_ok=True)
    return Task(
        kind=inputs.kind,
        spec=inputs.spec,
        video_path=str(store.videos.path(*ids)),
        scratch=str(scratch),
        cache=str(cache),
        device=inputs.device,
        niceness=inputs.niceness,
        checkpoint=inputs.checkpoint,
        checkpoints=inputs.checkpoints,
        ontology=encode_ontology(store.projects.get(inputs.project_id).ontology),
        frame_table=frame_table,
        labels=labels,
        model=model,
        learned=_lay_out_learned(store, inputs.learned, scratch),
        settled=settled,
    )


def _lay_out_learned(store: Store, states: Iterable[AdaptedModel], scratch: Path) -> list[str]:
    folders = []
    for state in states:
        folder = scratch / f"learned-{state.number}"
        try:
            store.adapted_models.materialize(state, folder)
        except NotFound:  # its files are lost: the state before it is used
            _LOG.warning("state %d of %s has no files", state.number, state.model_version)
        else:
            folders.append(str(folder))
    return folders


@dataclass(frozen=True, slots=True)
class JobTask:
    """The task of a job, and what is recorded of its inputs with its results."""

    task: Task
    label_revision: int
    """Of the labels that the worker has; 0 where it has none, or an export's."""
    model_version: str
    """Of the micro-model that it has, as labels name it; empty where it has none."""

    @property
    def base_revision(self) -> int:
        """Labels that are newer than this stay as they are when results are stored; 0 for those of any age.

        A retraining computes all labels of a video, so it must not undo what people and sessions did meanwhile.
        """
        return self.label_revision if self.task.kind == JobKind.RETRAIN else 0


def lay_out_job(store: Store, settings: Settings, job: Job, scratch: Path, show_life: Callable[[], None]) -> JobTask:
    """Write the files of a job's task.

    Args:
        store: where everything is.
        settings: the server's.
        job: as it was leased for this try.
        scratch: the worker's folder; emptied first.
        show_life: called every now and then, for an export may be large.

    Raises:
        InvalidInput: the job's spec cannot be done by this version of the server.
        NotFound: the video is gone, or the model to use.
        OSError: the disk is full.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    spec = spec_from_dict(job.kind, job.spec)
    labels, settled, revision = _labels(store, job, show_life)
    model = _model(store, job)
    inputs = TaskInputs(
        project_id=job.project_id,
        video_id=job.video_id,
        kind=job.kind.value,
        device=str(job.checkpoint.get("device") or device_of(spec, settings)),
        labels=labels,
        settled=settled,
        model=model,
        learned=_learned(store, job, model),
        spec=job.spec,
        checkpoint=job.checkpoint,
        checkpoints=str(checkpoint_folder(store, settings, job)) if isinstance(spec, TrainSpec) else "",
        niceness=settings.job_niceness,
    )
    if job.spec.get("format") == "archive":
        lay_out(store, job, scratch, show_life)
    elif job.spec.get("format") == "review_report":
        write_report(store, job.project_id, job.video_id, scratch / FILE_NAME, show_life)
    task = lay_out_task(store, settings, inputs, scratch)
    return JobTask(task, revision, "" if model is None else model.provenance_version)


def device_of(spec: JobSpec, settings: Settings) -> str:
    """The device that a job was submitted for: ``auto``, ``cpu`` or ``cuda``."""
    wanted = spec.device if isinstance(spec, (TrainSpec, PropagateSpec)) else ""
    return wanted or settings.device


def checkpoint_folder(store: Store, settings: Settings, job: Job) -> Path:
    """Where the tries of a job keep the state of a training.

    Raises:
        NotFound: the video is gone.
    """
    content_hash = store.videos.get(job.project_id, job.video_id).content_hash
    return cache_folder(settings, content_hash) / f"checkpoints-{job.job_id}"


def _labels(
    store: Store, job: Job, show_life: Callable[[], None]
) -> tuple[Iterable[AnyLabel] | None, list[LabelKey], int]:
    """The labels that a job needs, which of them are settled, and the revision of both."""
    ids = (job.project_id, job.video_id)
    if job.kind is JobKind.PROBE:
        return None, [], 0
    if job.kind is JobKind.EXPORT:
        return _all_labels(store, ids, show_life), [], 0
    if job.kind is JobKind.RETRAIN:
        records, revision = store.history.labels_since(*ids, 0)
        labels = [record.label for record in records if record.label is not None]
        return labels, [record.key for record in records if record.is_settled], revision
    anchors, revision = store.labels.anchors(*ids)
    return anchors, [], revision


def _all_labels(store: Store, ids: tuple[str, str], show_life: Callable[[], None]) -> Iterator[AnyLabel]:
    for record in store.labels.stream(*ids):
        if record.label is not None:
            yield record.label
        show_life()


def _model(store: Store, job: Job) -> ModelVersion | None:
    """The model to use: the one that an earlier try has trained, else the one that the job was submitted for."""
    submitted_for_model = job.kind in (JobKind.PROPAGATE, JobKind.RETRAIN)
    if "model_id" in job.checkpoint and (submitted_for_model or job.kind is JobKind.AUTO_LABEL):
        source = job.checkpoint
    elif submitted_for_model:
        source = job.spec
    else:
        return None
    return store.models.get(job.project_id, source["model_id"], source["version"])


def _learned(store: Store, job: Job, model: ModelVersion | None) -> Sequence[AdaptedModel]:
    """What the model has learned that a retraining is to improve on; nothing once an earlier try has replaced it."""
    if model is None or job.kind is not JobKind.RETRAIN or "model_id" in job.checkpoint:
        return ()
    return store.adapted_models.of(job.project_id, job.video_id, model.provenance_version)
