"""``google.longrunning.Operations`` over the jobs of the store."""

from __future__ import annotations

import re

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2

from micromodels.errors import InvalidInput
from micromodels.v1 import labeling_pb2, micro_model_pb2, video_pb2
from service.api import names
from service.api.backend import Backend, Context
from service.api.errors import job_status, make_status
from service.api.messages import file_message, model_message, operation_message, video_message
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.errors import NotFound
from service.domain.jobs import (
    Job,
    JobError,
    JobKind,
    JobState,
)
from service.domain.models import (
    BlobFile,
)
from service.domain.videos import (
    VideoState,
)
from service.store import (
    Store,
)

__all__ = ["OperationsServicer", "Results"]

_PAGE = (50, 1000)
_LONGEST_WAIT_SECONDS = 300.0
_ANSWER_SECONDS = 1.0
_LONGEST_ORIGIN_PART = 60
_FILTER = re.compile(r'metadata\.video\s*=\s*"([^"]*)"')
_FILTERS = 'empty, or `metadata.video = "projects/{project}/videos/{video}"` with a video of the project'


def _filtered(project_id: str, text: str) -> str:
    """The video of a filter; empty for all.

    Raises:
        InvalidInput: the filter is not supported.
    """
    if not text:
        return ""
    match = _FILTER.fullmatch(text.strip())
    owner, video_id = names.video_ids(match[1], "filter") if match else ("", "")
    if owner != project_id:
        raise InvalidInput("filter", text, _FILTERS)
    return video_id


class Results:
    """Converts jobs to operations with their results. Calls block.

    Args:
        store: source of the jobs and their results.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def of_id(self, project_id: str, job_id: str) -> operations_pb2.Operation:
        """The operation of a job.

        Raises:
            NotFound: no such job.
        """
        return self.of(self._store.jobs.get(project_id, job_id))

    def of(self, job: Job) -> operations_pb2.Operation:
        """The operation of a job."""
        operation = operation_message(job)
        if job.state is JobState.SUCCEEDED:
            operation.response.Pack(self._response(job))
        elif job.state is JobState.FAILED:
            operation.error.CopyFrom(job_status(job.error or JobError("INTERNAL", "failed for an unknown reason")))
        elif job.state is JobState.CANCELLED:
            message = "cancelled; finished work is kept"
            operation.error.CopyFrom(make_status(code_pb2.CANCELLED, "CANCELLED", message))
        return operation

    def video(self, project_id: str, video_id: str) -> video_pb2.Video:
        """A video with the whole summary of its frames.

        Raises:
            NotFound: no such video.
        """
        video = self._store.videos.get(project_id, video_id)
        ready = video.state is VideoState.READY
        return video_message(video, self._store.videos.frame_table(project_id, video_id) if ready else None)

    def auto_label_result(self, job: Job) -> labeling_pb2.AutoLabelResult:
        """Result of an auto-label job."""
        ids = (job.project_id, job.result["model_id"], job.result["version"])
        return labeling_pb2.AutoLabelResult(
            video=names.VIDEO.format(job.project_id, job.video_id),
            micro_model_version=names.MODEL_VERSION.format(*ids),
            label_revision=self._revision(job),
            frame_count=job.result.get("frames", 0),
        )

    def _origin(self, job: Job) -> str:
        """Begin the names of exported files with the project and the video that they are of."""
        try:
            project = self._store.projects.get(job.project_id).display_name
            video = self._store.videos.get(job.project_id, job.video_id).display_name
        except NotFound:  # deleted since
            return ""
        parts = (re.sub(r"[^\w.]+", "_", text).strip("._")[:_LONGEST_ORIGIN_PART] for text in (project, video))
        return "".join(f"{part}-" for part in parts if part)

    def _response(self, job: Job) -> Message:
        if job.kind is JobKind.AUTO_LABEL:
            return self.auto_label_result(job)
        if job.kind is JobKind.PROPAGATE:
            frames = job.result.get("frames", 0)
            return labeling_pb2.PropagateResponse(label_revision=self._revision(job), frame_count=frames)
        if job.kind is JobKind.RETRAIN:
            return self._retrain_response(job)
        if job.kind is JobKind.EXPORT:
            ids = (job.project_id, job.job_id)
            files = [BlobFile(**file) for file in job.result.get("files", ())]
            origin = self._origin(job)
            return labeling_pb2.ExportResponse(
                files=[
                    file_message(names.EXPORT_FILE.format(*ids, file.name), file, origin + file.name) for file in files
                ]
            )
        if job.kind is JobKind.TRAIN:
            model_ids = (job.project_id, job.result["model_id"], job.result["version"])
            try:
                return model_message(self._store.models.get(*model_ids))
            except NotFound:  # deleted since; only its name is left
                return micro_model_pb2.MicroModelVersion(name=names.MODEL_VERSION.format(*model_ids))
        try:
            return self.video(job.project_id, job.video_id)
        except NotFound:
            return video_pb2.Video(name=names.VIDEO.format(job.project_id, job.video_id))

    def _retrain_response(self, job: Job) -> labeling_pb2.RetrainResponse:
        result, spec = job.result, job.spec
        message = labeling_pb2.RetrainResponse(
            replaced=result["replaced"],
            compared_version=names.MODEL_VERSION.format(job.project_id, spec["model_id"], spec["version"]),
            score_before=result["unseen_score_before"],
            score_after=result["unseen_score"],
            unseen_frames=result["unseen_frames"],
            changed_frame_count=result.get("frames", 0),
            label_revision=self._revision(job),
        )
        if result["replaced"]:
            ids = (job.project_id, result["model_id"], result["version"])
            message.micro_model_version = names.MODEL_VERSION.format(*ids)
        return message

    def _revision(self, job: Job) -> int:
        try:
            return self._store.labels.revision(job.project_id, job.video_id)
        except NotFound:
            return int(job.result.get("revision", 0))


class OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]  # comes without types
    """Reads, lists, awaits, cancels and deletes operations.

    Args:
        backend: the store.
        results: makes operations of jobs.
    """

    def __init__(self, backend: Backend, results: Results) -> None:
        self._backend = backend
        self._run = backend.run
        self._store = backend.store
        self._results = results

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """State of an operation."""
        return await self._run(self._results.of_id, *names.OPERATION.parse(request.name))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Context
    ) -> operations_pb2.ListOperationsResponse:
        """Operations of the project ``name``, optionally of one video, oldest first."""
        (project_id,) = names.PROJECT.parse(request.name)
        video_id = _filtered(project_id, request.filter)
        limit = page_size(request.page_size, _PAGE)
        query = f"{request.name} {request.filter}"
        after = decode_token("page_token", request.page_token, query) or ""
        page = await self._run(lambda: self._store.jobs.list(project_id, video_id=video_id, after=after, limit=limit))
        operations = await self._run(lambda: [self._results.of(job) for job in page.items])
        token = encode_token(query, page.next_after) if page.next_after else ""
        return operations_pb2.ListOperationsResponse(operations=operations, next_page_token=token)

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """The operation once it has ended, or its state after ``timeout``, five minutes or just before the deadline."""
        project_id, job_id = names.OPERATION.parse(request.name)
        limits = [_LONGEST_WAIT_SECONDS]
        if request.HasField("timeout"):
            limits.append(request.timeout.ToTimedelta().total_seconds())
        left = context.time_remaining()
        if left is not None:
            limits.append(left - _ANSWER_SECONDS)
        job = await self._backend.wait(project_id, job_id, max(min(limits), 0.0))
        return await self._run(self._results.of, job)

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: Context
    ) -> empty_pb2.Empty:
        """Ask an operation to stop; finished work is kept."""
        await self._run(self._store.jobs.cancel, *names.OPERATION.parse(request.name))
        return empty_pb2.Empty()

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: Context
    ) -> empty_pb2.Empty:
        """Delete an operation that has ended."""
        await self._run(self._store.jobs.delete, *names.OPERATION.parse(request.name))
        return empty_pb2.Empty()
