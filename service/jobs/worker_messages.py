"""Takes the messages of a job's worker: what can be stored goes to the commits, the rest is kept for the job's end."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from micromodels.types import AnyLabel, Provenance
from service.domain.job_specs import RetrainSpec, TrainSpec, spec_from_dict
from service.domain.models import BlobFile, NewModel, provenance_version
from service.jobs.commits import Commits
from service.jobs.leased_job import LeasedJob
from service.jobs.task_files import JobTask
from service.worker.protocol import MessageType, label_from_json

__all__ = ["WorkerMessages"]


class WorkerMessages:
    """Messages of the worker of one try.

    Args:
        leased: the job.
        job_task: what the worker is doing.
        commits: where labels, events and progress go.

    Attributes:
        last: the message with which the worker ended: ``DONE``, ``CANCELLED`` or ``ERROR``; None if there was none.
        frame_table: of the video, if the worker has made it.
    """

    def __init__(self, leased: LeasedJob, job_task: JobTask, commits: Commits) -> None:
        self.last: Mapping[str, Any] | None = None
        self.frame_table: Mapping[str, Any] | None = None
        self._leased = leased
        self._commits = commits
        self._label_revision = job_task.label_revision
        self._model_version = job_task.model_version
        self._values: dict[str, Any] = {}
        self._files: list[BlobFile] = []

    @property
    def result(self) -> dict[str, Any]:
        """What the job has come to so far, as ``Job.result``."""
        result = {"video_id": self._leased.job.video_id, **self._values}
        if self._commits.frame_count:
            result["frames"] = self._commits.frame_count
        if self._files:
            result["files"] = [asdict(file) for file in self._files]
        return result

    def take(self, message: Mapping[str, Any]) -> None:
        """Take the next message."""
        self._commits.has_changes = True
        kind = MessageType(message["type"])
        if kind is MessageType.EVENT:
            self._take_event(message)
        elif kind is MessageType.FRAME:
            labels = [self._with_version(label_from_json(values)) for values in message["labels"]]
            self._commits.add_frame(int(message["frame"]), labels)
        elif kind is MessageType.FRAME_TABLE:
            self.frame_table = message["table"]
        elif kind is MessageType.MODEL:
            self._take_model(Path(message["folder"]), message["manifest"])
        elif kind is MessageType.RESULT:
            self._values |= message["values"]
        elif kind is MessageType.FILE:
            path = Path(message["path"])
            with self._leased.alive():
                self._files.append(self._leased.patiently(lambda: self._leased.store.blobs.add_file(path)))
        else:
            self.last = message

    def _take_event(self, message: Mapping[str, Any]) -> None:
        picture = ""
        if message["picture"]:
            data = base64.b64decode(message["picture"])
            picture = self._leased.patiently(lambda: self._leased.store.blobs.add_bytes(data))
        self._commits.progress.add(message["kind"], message["payload"], picture)

    def _take_model(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        with self._leased.alive():
            model = self._leased.patiently(lambda: self._new_model(folder, manifest))
        self._commits.commit(model=model, result=self._values)
        self._model_version = provenance_version(**self._leased.orders.model)

    def _new_model(self, folder: Path, manifest: Mapping[str, Any]) -> NewModel:
        job, store = self._leased.job, self._leased.store
        spec = spec_from_dict(job.kind, job.spec)
        assert isinstance(spec, TrainSpec)
        files = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                blob = store.blobs.add_file(path)
                files.append(BlobFile(path.relative_to(folder).as_posix(), blob.sha256, blob.size_bytes))
        return NewModel(
            model_id=spec.model_id,
            display_name=spec.display_name,
            parent_version=spec.version if isinstance(spec, RetrainSpec) else 0,  # Train starts from nothing
            recipe=str(manifest.get("recipe", spec.recipe)),
            metrics=manifest.get("metrics", {}),
            manifest=manifest,
            label_revisions={job.video_id: self._label_revision},
            files=tuple(files),
        )

    def _with_version(self, label: AnyLabel) -> AnyLabel:
        """A predicted label with the version of its model, which the library does not know."""
        if label.is_anchor:
            return label
        return replace(label, provenance=Provenance(label.provenance.kind, self._model_version))
