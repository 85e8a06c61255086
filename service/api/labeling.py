"""``LabelingService``: starts long-running work and reports its progress."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from google.longrunning import operations_pb2

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.recipes.base import AUTO
from micromodels.types import AnyLabel
from micromodels.v1 import labeling_pb2, labeling_pb2_grpc, micro_model_pb2
from service.access import current_caller
from service.api import names
from service.api.backend import Backend, Context
from service.api.errors import OperationFailed
from service.api.labels import label_batches, parse_labels, write_checked
from service.api.messages import operation_message, progress_message
from service.api.micro_models import version_number
from service.api.operations import Results
from service.api.page_tokens import decode_token, encode_token
from service.api.videos import check_path
from service.domain.access import Permission
from service.domain.codec import key_from_json, key_to_json
from service.domain.job_specs import (
    ARCHIVE,
    AutoLabelSpec,
    ExportSpec,
    JobSpec,
    PropagateSpec,
    RetrainSpec,
    TrainSpec,
)
from service.domain.jobs import Job, JobEvent, JobKind, JobState
from service.jobs.submit import (
    submit,
)

__all__ = ["LabelingServicer"]

_PICTURE = "flip_book_picture"
_TRAINS = (JobKind.TRAIN, JobKind.AUTO_LABEL, JobKind.RETRAIN)
_SETTINGS = ("recipe", "experiments", "seed", "device", "effort", "encoder")


class LabelingServicer(labeling_pb2_grpc.LabelingServiceServicer):
    """Starts long-running work and reports its progress.

    Args:
        backend: the store.
        results: converts jobs to operations.
    """

    def __init__(self, backend: Backend, results: Results) -> None:
        self._backend = backend
        self._run = backend.run
        self._store = backend.store
        self._results = results

    async def Train(self, request: labeling_pb2.TrainRequest, context: Context) -> operations_pb2.Operation:
        """See the proto."""
        project_id, video_id = names.VIDEO.parse(request.video, "video")
        model_id = ""
        if request.micro_model:
            model_id = _of_project(
                project_id, names.MICRO_MODEL.parse(request.micro_model, "micro_model"), "micro_model"
            )[0]
        with _under("settings", _SETTINGS):
            spec = TrainSpec(
                video_id, **_settings(request.settings), model_id=model_id, display_name=request.display_name
            )
        return await self._submit(project_id, spec, request.request_id)

    async def Propagate(self, request: labeling_pb2.PropagateRequest, context: Context) -> operations_pb2.Operation:
        """See the proto."""
        project_id, video_id = names.VIDEO.parse(request.video, "video")
        field = "micro_model_version"
        ids = names.MODEL_VERSION.parse(request.micro_model_version, field)
        model_id, version = _of_project(project_id, ids, field)
        spec = PropagateSpec(
            video_id,
            model_id,
            version_number(version, field),
            request.start_frame,
            request.stop_frame,
            request.device,
        )
        return await self._submit(project_id, spec, request.request_id)

    async def Retrain(self, request: labeling_pb2.RetrainRequest, context: Context) -> operations_pb2.Operation:
        """See the proto."""
        project_id, video_id = names.VIDEO.parse(request.video, "video")
        model_id, number = "", 0
        if request.micro_model_version:
            field = "micro_model_version"
            ids = names.MODEL_VERSION.parse(request.micro_model_version, field)
            model_id, version = _of_project(project_id, ids, field)
            number = version_number(version, field)
        with _under("settings", _SETTINGS):
            spec = RetrainSpec(video_id, **_settings(request.settings), model_id=model_id, version=number)
        return await self._submit(project_id, spec, request.request_id)

    async def Export(self, request: labeling_pb2.ExportRequest, context: Context) -> operations_pb2.Operation:
        """See the proto."""
        project_id, video_id = names.VIDEO.parse(request.video, "video")
        spec = ExportSpec(video_id, request.format)
        if spec.format == ARCHIVE:
            current_caller().check(Permission.MANAGE, project_id)  # the archive contains audit rows
        return await self._submit(project_id, spec, request.request_id)

    async def StopEarly(self, request: labeling_pb2.StopEarlyRequest, context: Context) -> operations_pb2.Operation:
        """See the proto."""
        return await self._run(self._stop_early, *names.OPERATION.parse(request.name))

    def _stop_early(self, project_id: str, job_id: str) -> operations_pb2.Operation:
        job = self._store.jobs.get(project_id, job_id)
        if job.kind not in _TRAINS:
            raise FailedPrecondition(f"operation {job_id!r} of kind {job.kind.value} does not train")
        return self._results.of(self._store.jobs.finish_early(project_id, job_id))

    async def WatchTraining(
        self, request: labeling_pb2.WatchTrainingRequest, context: Context
    ) -> AsyncIterator[labeling_pb2.WatchTrainingResponse]:
        """See the proto."""
        project_id, job_id = names.OPERATION.parse(request.name)
        after = decode_token("resume_token", request.resume_token, request.name) or 0
        async for event in self._backend.events(project_id, job_id, after):
            progress = await self._progress(event, request.flip_book)
            if progress is not None:
                token = encode_token(request.name, event.sequence)
                yield labeling_pb2.WatchTrainingResponse(progress=progress, resume_token=token)

    async def AutoLabel(
        self, request: labeling_pb2.AutoLabelRequest, context: Context
    ) -> AsyncIterator[labeling_pb2.AutoLabelResponse]:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.parent, "parent")
        with _under("settings", _SETTINGS):
            spec = AutoLabelSpec("", **_settings(request.settings))
        seeds = await self._run(_seeds, request)
        binding = _without_token(request)
        # Position of an interrupted call: the number of its events, and its last label.
        position = decode_token("resume_token", request.resume_token, binding) or {}
        video_id = ""
        async for response in self._bring_in(project_id, request, position):
            if isinstance(response, str):
                video_id = response
            else:
                yield response
        job = await self._run(self._start, (project_id, video_id), seeds, spec, request.request_id)
        yield labeling_pb2.AutoLabelResponse(operation=operation_message(job), resume_token=request.resume_token)
        async for event in self._backend.events(project_id, job.job_id, after=position.get("event", 0)):
            progress = await self._progress(event, request.flip_book)
            if progress is not None:
                token = encode_token(binding, {"event": event.sequence})
                yield labeling_pb2.AutoLabelResponse(progress=progress, resume_token=token)
        job = await self._run(self._succeeded, project_id, job.job_id)
        after = key_from_json(position["label"]) if "label" in position else None
        async for labels, last in label_batches(self._backend, (project_id, video_id), after, {}):
            reached = {"event": job.last_sequence, "label": key_to_json(last)}
            token = encode_token(binding, reached)
            batch = labeling_pb2.LabelBatch(labels=labels)
            yield labeling_pb2.AutoLabelResponse(labels=batch, resume_token=token)
        yield labeling_pb2.AutoLabelResponse(result=await self._run(self._results.auto_label_result, job))

    async def _bring_in(
        self, project_id: str, request: labeling_pb2.AutoLabelRequest, position: dict[str, Any]
    ) -> AsyncIterator[labeling_pb2.AutoLabelResponse | str]:
        """Register a path: yields its progress, and finally the id of the video."""
        source = request.WhichOneof("source")
        if source == "video":
            yield _of_project(project_id, names.VIDEO.parse(request.video, "video"), "video")[0]
            return
        if source is None:
            raise InvalidInput("source", None, "video or path")
        path = check_path(request.path)
        request_id = _part(request.request_id, "path")
        video = await self._run(
            self._store.videos.register,
            project_id,
            path,
            path.name,
            author=current_caller().name,
            request_id=request_id,
        )
        job = await self._run(self._store.jobs.get, project_id, video.probe_job_id)
        yield labeling_pb2.AutoLabelResponse(operation=operation_message(job), resume_token=request.resume_token)
        async for event in self._backend.events(project_id, job.job_id):
            progress = await self._progress(event, False)
            if progress is not None and not position:
                yield labeling_pb2.AutoLabelResponse(progress=progress)
        await self._run(self._succeeded, project_id, job.job_id)
        yield video.video_id

    def _start(self, ids: tuple[str, str], seeds: list[AnyLabel], spec: AutoLabelSpec, request_id: str) -> Job:
        project_id, video_id = ids
        if seeds:
            write_checked(self._store, ids, seeds, "seeds", request_id=_part(request_id, "seeds"))
        with _under("settings", _SETTINGS):
            return submit(
                self._store,
                project_id,
                replace(spec, video_id=video_id),
                author=current_caller().name,
                request_id=_part(request_id, "job"),
            )

    def _succeeded(self, project_id: str, job_id: str) -> Job:
        """A job that has ended successfully.

        Raises:
            OperationFailed: the job failed.
        """
        job = self._store.jobs.get(project_id, job_id)
        if job.state is not JobState.SUCCEEDED:
            raise OperationFailed(self._results.of(job).error)
        return job

    async def _submit(self, project_id: str, spec: JobSpec, request_id: str) -> operations_pb2.Operation:
        with _under("settings", _SETTINGS):
            job = await self._run(
                submit, self._store, project_id, spec, author=current_caller().name, request_id=request_id
            )
        return operation_message(job)

    async def _progress(self, event: JobEvent, pictures: bool) -> labeling_pb2.Progress | None:
        if event.kind != _PICTURE:
            return progress_message(event)
        if not pictures or not event.picture:
            return None
        return progress_message(event, await self._run(self._read, event.picture))

    def _read(self, blob: str) -> bytes:
        with self._store.blobs.open(blob) as file:
            return file.read()


def _settings(message: micro_model_pb2.TrainSettings) -> dict[str, Any]:
    return {
        "recipe": message.recipe or AUTO,
        "experiments": message.experiments or 1,
        "seed": message.seed,
        "device": message.device,
        "effort": message.effort or 1.0,
        "encoder": message.encoder or AUTO,
    }


def _seeds(request: labeling_pb2.AutoLabelRequest) -> list[AnyLabel]:
    seeds = parse_labels(request.seeds, "seeds")
    for index, seed in enumerate(seeds):
        if not seed.is_anchor:
            raise InvalidInput(f"seeds[{index}].provenance.kind", seed.provenance.kind.value, "human, or unset")
    return seeds


def _without_token(request: labeling_pb2.AutoLabelRequest) -> str:
    """The body of a request without its resume token, for comparison."""
    body = labeling_pb2.AutoLabelRequest()
    body.CopyFrom(request)
    body.ClearField("resume_token")
    return body.SerializeToString(deterministic=True).hex()


def _part(request_id: str, what: str) -> str:
    """The request id for one part of a call that does several things."""
    return f"{request_id}/{what}" if request_id else ""


def _of_project(project_id: str, ids: tuple[str, ...], field: str) -> tuple[str, ...]:
    """The ids below a project, which must be the project of the call."""
    if ids[0] != project_id:
        raise InvalidInput(field, names.PROJECT.format(ids[0]), f"a resource in {names.PROJECT.format(project_id)}")
    return ids[1:]


@contextmanager
def _under(path: str, fields: tuple[str, ...]) -> Iterator[None]:
    """Prefix errors about these fields with their path in the request."""
    try:
        yield
    except InvalidInput as error:
        if error.field not in fields:
            raise
        raise type(error)(f"{path}.{error.field}", error.value, error.allowed) from None
