"""Converts the store's records to API messages; ``micromodels.client.messages`` converts labels and ontologies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from micromodels.client.messages import label_errors, label_from_message, label_to_message, ontology_to_message
from micromodels.errors import InvalidInput, OutOfRange
from micromodels.labels.keys import LabelKey
from micromodels.labels.validation import check_anchor
from micromodels.types import AnyLabel, Provenance
from micromodels.v1 import file_pb2, label_pb2, labeling_pb2, micro_model_pb2, project_pb2, video_pb2
from service.api import names
from service.domain.jobs import (
    Job,
    JobEvent,
    JobKind,
    JobState,
)
from service.domain.labels import (
    LabelRecord,
    ReviewState,
)
from service.domain.models import (
    BlobFile,
    ModelVersion,
)
from service.domain.videos import (
    Project,
    Upload,
    UploadState,
    VideoRecord,
    VideoState,
)

__all__ = [
    "file_message",
    "frame_message",
    "key_from_message",
    "key_to_message",
    "label_record_message",
    "model_message",
    "operation_message",
    "operation_metadata",
    "progress_message",
    "project_message",
    "timestamp",
    "upload_message",
    "video_message",
    "wire_label",
]

MAX_CHUNK_BYTES = 4 << 20

_VIDEO_STATES: dict[VideoState, video_pb2.VideoState.ValueType] = {
    VideoState.PROBING: video_pb2.VIDEO_STATE_PROBING,
    VideoState.READY: video_pb2.VIDEO_STATE_READY,
    VideoState.FAILED: video_pb2.VIDEO_STATE_FAILED,
}
_UPLOAD_STATES: dict[UploadState, video_pb2.UploadState.ValueType] = {
    UploadState.ACTIVE: video_pb2.UPLOAD_STATE_ACTIVE,
    UploadState.FINISHED: video_pb2.UPLOAD_STATE_FINISHED,
    UploadState.FAILED: video_pb2.UPLOAD_STATE_FAILED,
    UploadState.ABORTED: video_pb2.UPLOAD_STATE_ABORTED,
}
_KINDS: dict[JobKind, labeling_pb2.OperationKind.ValueType] = {
    JobKind.PROBE: labeling_pb2.OPERATION_KIND_PROBE,
    JobKind.TRAIN: labeling_pb2.OPERATION_KIND_TRAIN,
    JobKind.PROPAGATE: labeling_pb2.OPERATION_KIND_PROPAGATE,
    JobKind.AUTO_LABEL: labeling_pb2.OPERATION_KIND_AUTO_LABEL,
    JobKind.EXPORT: labeling_pb2.OPERATION_KIND_EXPORT,
    JobKind.RETRAIN: labeling_pb2.OPERATION_KIND_RETRAIN,
}
_REVIEWS: dict[ReviewState, label_pb2.ReviewState.ValueType] = {
    ReviewState.NONE: label_pb2.REVIEW_STATE_UNSPECIFIED,
    ReviewState.ACCEPTED: label_pb2.REVIEW_STATE_ACCEPTED,
    ReviewState.REJECTED: label_pb2.REVIEW_STATE_REJECTED,
}
_STATES: dict[JobState, labeling_pb2.OperationState.ValueType] = {
    JobState.QUEUED: labeling_pb2.OPERATION_STATE_QUEUED,
    JobState.LEASED: labeling_pb2.OPERATION_STATE_QUEUED,  # leased but not started: queued, for clients
    JobState.RUNNING: labeling_pb2.OPERATION_STATE_RUNNING,
    JobState.CANCELLING: labeling_pb2.OPERATION_STATE_CANCELLING,
    JobState.SUCCEEDED: labeling_pb2.OPERATION_STATE_SUCCEEDED,
    JobState.FAILED: labeling_pb2.OPERATION_STATE_FAILED,
    JobState.CANCELLED: labeling_pb2.OPERATION_STATE_CANCELLED,
}


def timestamp(moment: datetime) -> Timestamp:
    """An instant."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def project_message(project: Project) -> project_pb2.Project:
    """A project."""
    message = ontology_to_message(project.ontology)
    message.name = names.PROJECT.format(project.project_id)
    message.display_name, message.etag = project.display_name, project.etag
    message.retention_days = project.retention_days
    message.create_time.CopyFrom(timestamp(project.created_at))
    message.update_time.CopyFrom(timestamp(project.updated_at))
    return message


def upload_message(upload: Upload) -> video_pb2.Upload:
    """An upload."""
    return video_pb2.Upload(
        name=names.UPLOAD.format(upload.project_id, upload.upload_id),
        file_name=upload.display_name,
        size_bytes=upload.size_bytes,
        received_bytes=upload.offset_bytes,
        max_chunk_bytes=MAX_CHUNK_BYTES,
        state=_UPLOAD_STATES[upload.state],
        video=names.VIDEO.format(upload.project_id, upload.video_id) if upload.video_id else "",
    )


def video_message(video: VideoRecord, table: Mapping[str, Any] | None = None) -> video_pb2.Video:
    """A video; ``table`` (from ``FrameTable.to_dict``) adds the whole summary of its frames."""
    message = video_pb2.Video(
        name=names.VIDEO.format(video.project_id, video.video_id),
        display_name=video.display_name,
        state=_VIDEO_STATES[video.state],
        error=video.error,
        label_revision=video.label_revision,
        size_bytes=video.size_bytes,
        create_time=timestamp(video.created_at),
    )
    if video.state is VideoState.READY:
        summary = message.frame_table
        summary.frame_count, summary.content_sha256 = video.frame_count, video.content_hash
        summary.width_px, summary.height_px = video.width_px, video.height_px
    if table is not None:
        time_base = Fraction(table["time_base"])
        summary = message.frame_table
        summary.time_base_numerator, summary.time_base_denominator = time_base.as_integer_ratio()
        for field in ("rotation_degrees", "mirrored", "codec", "container", "bit_depth", "decoder"):
            setattr(summary, field, table[field])
        summary.warnings.extend(table["warnings"])
    return message


def frame_message(table: Mapping[str, Any], keyframes: frozenset[int], index: int) -> video_pb2.Frame:
    """A row of the frame table."""
    return video_pb2.Frame(
        frame_index=index,
        pts=table["pts"][index],
        pixel_hash=table["pixel_hashes"].get(str(index), ""),
        keyframe=index in keyframes,
    )


def key_to_message(key: LabelKey) -> label_pb2.LabelKey:
    """The key of a label."""
    if key.is_frame_class:
        return label_pb2.LabelKey(frame_index=key.frame, frame_class=key.name)
    return label_pb2.LabelKey(frame_index=key.frame, track=key.name)


def key_from_message(message: label_pb2.LabelKey, where: str) -> LabelKey:
    """The key of a label, from a message at a path in the request.

    Raises:
        InvalidInput: neither track nor frame class is set.
        OutOfRange: the frame is negative.
    """
    if message.frame_index < 0:
        raise OutOfRange(f"{where}.frame_index", message.frame_index, "a frame of the video, at least 0")
    subject = message.WhichOneof("subject")
    if subject is None:
        raise InvalidInput(f"{where}.subject", None, "track or frame_class")
    try:
        return LabelKey(
            frame=message.frame_index, is_frame_class=subject == "frame_class", name=getattr(message, subject)
        )
    except InvalidInput as error:
        raise InvalidInput(f"{where}.{subject}", error.value, error.allowed) from None


def wire_label(message: label_pb2.Label, where: str) -> AnyLabel:
    """Parse a label from a caller.

    Raises:
        InvalidInput: a value that is not allowed, or an ambiguous human label: a polygon that crosses itself, a shape
            without area, or a visible object without a shape.
        OutOfRange: the frame is negative.
    """
    label = label_from_message(message, where)
    with label_errors(where, "object"):
        check_anchor(label)
    version = names.provenance_from_wire(label.provenance.version)
    if version != label.provenance.version:
        label = replace(label, provenance=Provenance(label.provenance.kind, version))
    return label


def label_record_message(project_id: str, record: LabelRecord) -> label_pb2.Label:
    """A label for callers; the record must not be a deletion."""
    assert record.label is not None
    message = label_to_message(record.label, record.revision)
    message.provenance.version = names.provenance_to_wire(project_id, message.provenance.version)
    message.author = record.author
    message.write_time.CopyFrom(timestamp(record.written_at))
    if record.review or record.locked:
        message.review.state, message.review.locked = _REVIEWS[record.review], record.locked
        message.review.reviewer = record.reviewed_by
        if record.reviewed_at is not None:
            message.review.review_time.CopyFrom(timestamp(record.reviewed_at))
    return message


def file_message(name: str, file: BlobFile, saved_as: str = "") -> file_pb2.File:
    """A file under its resource name; saved under its own name or another."""
    return file_pb2.File(name=name, file_name=saved_as or file.name, size_bytes=file.size_bytes, sha256=file.sha256)


def model_message(model: ModelVersion) -> micro_model_pb2.MicroModelVersion:
    """A version of a micro-model."""
    ids = (model.project_id, model.model_id)
    message = micro_model_pb2.MicroModelVersion(
        name=names.MODEL_VERSION.format(*ids, model.version),
        display_name=model.display_name,
        parent_version=names.MODEL_VERSION.format(*ids, model.parent_version) if model.parent_version else "",
        recipe=model.recipe,
        metrics={name: float(value) for name, value in model.metrics.items() if _is_number(value)},
        operation=names.OPERATION.format(model.project_id, model.job_id) if model.job_id else "",
        create_time=timestamp(model.created_at),
    )
    for video_id, revision in model.label_revisions.items():
        message.seen_labels.add(video=names.VIDEO.format(model.project_id, video_id), label_revision=revision)
    for file in model.files:
        message.files.append(file_message(names.MODEL_FILE.format(*ids, model.version, file.name), file))
    json_format.ParseDict(_finite(model.manifest), message.manifest)
    return message


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(value: Any) -> Any:
    """JSON data without NaN and infinity, which a Struct cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def operation_message(job: Job) -> operations_pb2.Operation:
    """A job as an operation, without its result."""
    operation = operations_pb2.Operation(
        name=names.OPERATION.format(job.project_id, job.job_id), done=job.state.is_final
    )
    operation.metadata.Pack(operation_metadata(job))
    return operation


def operation_metadata(job: Job) -> labeling_pb2.OperationMetadata:
    """Metadata of a job's operation."""
    progress = job.progress
    message = labeling_pb2.OperationMetadata(
        kind=_KINDS[job.kind],
        state=_STATES[job.state],
        video=names.VIDEO.format(job.project_id, job.video_id) if job.video_id else "",
        create_time=timestamp(job.created_at),
        start_time=timestamp(job.started_at) if job.started_at else None,
        end_time=timestamp(job.ended_at) if job.ended_at else None,
        experiments=[_experiment(payload) for payload in progress.get("experiments", ())],
        warnings=progress.get("warnings", ()),
        stop_early=job.finish_early,
        tries=job.tries,
    )
    if "training" in progress:
        message.training.CopyFrom(_training(progress["training"]))
    if "propagation" in progress:
        message.propagation.CopyFrom(_propagation(progress["propagation"]))
    for stage, seconds in progress.get("stages", {}).items():
        message.stages.add(stage=stage, duration_seconds=seconds)
    if "model_id" in job.result:
        ids = (job.project_id, job.result["model_id"], job.result["version"])
        message.micro_model_version = names.MODEL_VERSION.format(*ids)
    return message


def progress_message(event: JobEvent, picture: bytes = b"") -> labeling_pb2.Progress | None:
    """Progress reported by a job; None for internal events."""
    message = labeling_pb2.Progress(event_time=timestamp(event.created_at))
    payload = event.payload
    if event.kind == "state":
        message.state = _STATES[JobState(payload["state"])]
    elif event.kind == "training_progress":
        message.training.CopyFrom(_training(payload))
    elif event.kind == "experiment_finished":
        message.experiment.CopyFrom(_experiment(payload))
    elif event.kind == "propagation_progress":
        message.propagation.CopyFrom(_propagation(payload))
    elif event.kind == "stage_finished":
        message.stage.stage, message.stage.duration_seconds = payload["stage"], payload["seconds"]
    elif event.kind == "warned":
        message.warning = payload["message"]
    elif event.kind == "flip_book_picture":
        message.picture.experiment, message.picture.step = payload["experiment"], payload["step"]
        message.picture.frame_index = payload["frame"]
        message.picture.image, message.picture.media_type = picture, "image/jpeg"
    else:
        return None
    return message


def _training(payload: Mapping[str, Any]) -> labeling_pb2.TrainingProgress:
    return labeling_pb2.TrainingProgress(
        experiment=payload["experiment"],
        experiment_count=payload["experiments"],
        step=payload["step"],
        step_count=payload["steps"],
        loss=payload["loss"],
        eta_seconds=payload["eta_seconds"],
    )


def _experiment(payload: Mapping[str, Any]) -> labeling_pb2.ExperimentResult:
    return labeling_pb2.ExperimentResult(
        experiment=payload["experiment"],
        settings=payload["settings"],
        score=payload["score"],
        kept=payload["kept"],
        duration_seconds=payload["seconds"],
    )


def _propagation(payload: Mapping[str, Any]) -> labeling_pb2.PropagationProgress:
    return labeling_pb2.PropagationProgress(
        frames_done=payload["frames_done"], frames_total=payload["frames_total"], eta_seconds=payload["eta_seconds"]
    )
