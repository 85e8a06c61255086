"""Jobs: what can be asked for (``submit``), and the runner that has it done in child processes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from micromodels.errors import FailedPrecondition, OutOfRange
from service.jobs.specs import AutoLabelSpec, ExportSpec, JobSpec, ProbeSpec, PropagateSpec, TrainSpec, spec_to_dict
from service.records import Job, VideoRecord, VideoState

if TYPE_CHECKING:  # the job children import this package, and need no database
    from service.store import Store

__all__ = ["AutoLabelSpec", "ExportSpec", "JobSpec", "ProbeSpec", "PropagateSpec", "TrainSpec", "submit"]


def submit(store: Store, project_id: str, spec: JobSpec, *, author: str = "", request_id: str = "") -> Job:
    """Check that a job can be done and queue it.

    Args:
        store: where the video is and the job goes.
        project_id: the project of both.
        spec: what to do.
        author: who asks; the labels that the job writes carry it.
        request_id: the same one with the same spec gives the same job.

    Raises:
        AlreadyExists: the request id was used with another spec.
        FailedPrecondition: the video is not ready, or training has no human label to learn from.
        NotFound: there is no such project, video or model.
        OutOfRange: a frame past the end of the video.
    """
    video = store.videos.get(project_id, spec.video_id)
    if not isinstance(spec, ProbeSpec) and video.state is not VideoState.READY:
        raise FailedPrecondition(f"video {video.video_id!r} is {video.state.value}; it must be ready first")
    if isinstance(spec, TrainSpec):
        if spec.model_id:
            store.models.get(project_id, spec.model_id)
        if next(store.labels.stream(project_id, spec.video_id, anchors_only=True), None) is None:
            raise FailedPrecondition(f"video {video.video_id!r} has no human label; training needs at least one")
    elif isinstance(spec, PropagateSpec):
        spec = _check_propagate(store, project_id, spec, video)
    return store.jobs.create(
        project_id, spec.kind, spec_to_dict(spec), video_id=spec.video_id, author=author, request_id=request_id
    )


def _check_propagate(store: Store, project_id: str, spec: PropagateSpec, video: VideoRecord) -> PropagateSpec:
    for name, value, allowed in (
        ("start_frame", spec.start_frame, video.frame_count - 1),
        ("stop_frame", spec.stop_frame, video.frame_count),
    ):
        if value > allowed:
            raise OutOfRange(name, value, f"0 to {allowed}")
    model = store.models.get(project_id, spec.model_id, spec.version)
    return replace(spec, version=model.version)
