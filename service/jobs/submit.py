"""Submitting jobs: checks what a caller, or the server itself, wants done, and queues it."""

from __future__ import annotations

from dataclasses import replace

from micromodels.correction.retrain_policy import retraining_is_due
from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.recipes.base import AUTO, recipe, supports_corrections
from service.domain.job_specs import (
    JobSpec,
    ProbeSpec,
    PropagateSpec,
    RetrainSpec,
    TrainSpec,
    spec_to_dict,
)
from service.domain.jobs import Job, JobKind
from service.domain.models import ModelVersion
from service.domain.videos import VideoRecord, VideoState
from service.store import Store

__all__ = ["retrain_if_due", "submit"]


def submit(store: Store, project_id: str, spec: JobSpec, *, author: str = "", request_id: str = "") -> Job:
    """Check that a job can be done and queue it.

    Args:
        store: where the video is and the job goes.
        project_id: the project of both.
        spec: what to do.
        author: who submits it; the labels that the job writes carry this name.
        request_id: submitting again with the same one, and the same spec, gives the same job.

    Raises:
        AlreadyExists: the request id was used with another spec.
        FailedPrecondition: the video is not ready, training has no human label to learn from, the micro-model to get a
            new version was trained on another video, or there is no micro-model of the video to retrain, or none that
            can learn from corrections.
        InvalidInput: a recipe whose packages are not installed; retraining by another recipe or encoder than the
            micro-model's.
        NotFound: there is no such project, video or model.
        OutOfRange: a frame past the end of the video.
    """
    video = store.videos.get(project_id, spec.video_id)
    if not isinstance(spec, ProbeSpec) and video.state is not VideoState.READY:
        raise FailedPrecondition(f"video {video.video_id!r} is {video.state.value}; it must be ready first")
    if isinstance(spec, RetrainSpec):
        spec = _check_retrain(store, project_id, spec, video)
    elif isinstance(spec, TrainSpec):
        if spec.model_id:
            _check_saw(store.models.get(project_id, spec.model_id), video)
        recipe(spec.settings.recipe_name).info.require_packages()
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


def _check_saw(model: ModelVersion, video: VideoRecord) -> None:
    """Raise if a model was not trained on a video: training starts from nothing, so nothing would come of it."""
    if video.video_id not in model.label_revisions:
        seen = ", ".join(map(repr, model.label_revisions))
        raise FailedPrecondition(
            f"micro-model {model.model_id!r} was trained on video {seen}, not on {video.video_id!r}, and training does "
            "not start from a micro-model; train a new one, or label the video with this one (Propagate)"
        )


def _check_retrain(store: Store, project_id: str, spec: RetrainSpec, video: VideoRecord) -> RetrainSpec:
    model = store.models.of_video(project_id, video.video_id)
    if spec.model_id:
        model = store.models.get(project_id, spec.model_id, spec.version)
    if model is None:
        raise FailedPrecondition(f"no micro-model has been trained on video {video.video_id!r}; train one first")
    _check_saw(model, video)
    if not supports_corrections(model.recipe):
        raise FailedPrecondition(
            f"a micro-model of recipe {model.recipe!r} cannot learn from corrections; train a new one"
        )
    if spec.recipe not in (AUTO, model.recipe):
        raise InvalidInput("recipe", spec.recipe, f"{AUTO} or {model.recipe}: that of the micro-model")
    if spec.encoder != AUTO:
        raise InvalidInput("encoder", spec.encoder, f"{AUTO}: that of the micro-model")
    return replace(
        spec,
        recipe=model.recipe,
        model_id=model.model_id,
        version=model.version,
        display_name=model.display_name,
    )


def retrain_if_due(store: Store, project_id: str, video_id: str, corrected_frames: int, *, author: str) -> Job | None:
    """Queue a retraining if enough was corrected since the last one; None if it is not due.

    Args:
        store: where the video is.
        project_id: the video's project.
        video_id: which video.
        corrected_frames: how many frames with hand labels must be newer than the last training.
        author: whose corrections they were.

    Raises:
        NotFound: there is no such project or video.
    """
    model = store.models.of_video(project_id, video_id)
    if model is None or not supports_corrections(model.recipe):
        return None
    last = store.jobs.newest(project_id, video_id, JobKind.RETRAIN)
    if last is not None and not last.state.is_final:
        return None
    trained = model.label_revisions[video_id]
    tried = max(trained, int(last.spec["revision"]) if last is not None else 0)
    drawn, unseen, fresh = (store.labels.anchor_frames(project_id, video_id, since) for since in (0, trained, tried))
    if not retraining_is_due(drawn, unseen, fresh, corrected_frames):
        return None
    revision = store.labels.revision(project_id, video_id)
    spec = RetrainSpec(video_id, model_id=model.model_id, version=model.version, revision=revision, automatic=True)
    return submit(store, project_id, spec, author=author, request_id=f"retrain/{video_id}/{revision}")
