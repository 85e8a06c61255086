"""``DiagnosticsService``: quality of a video's labels, and the work that people put into them."""

from __future__ import annotations

import asyncio
from typing import Any

from micromodels.errors import FailedPrecondition
from micromodels.v1 import diagnostics_pb2 as pb
from micromodels.v1 import diagnostics_pb2_grpc
from service.api import names
from service.api.backend import Backend, Context
from service.api.messages import timestamp
from service.domain.errors import NotFound
from service.domain.history import ChangeKind
from service.domain.models import ModelVersion
from service.domain.videos import VideoState
from service.reports.quality import ChangeIndex, Group, VideoDiagnostics, diagnose, draw
from service.sessions.pool import Sessions
from service.sessions.requests import SessionRequest

__all__ = ["DiagnosticsServicer"]

_SCORE = "leave_one_seed_out"
_NEWEST_POINTS = 200


class DiagnosticsServicer(diagnostics_pb2_grpc.DiagnosticsServiceServicer):
    """Measures labels by what people accepted and corrected.

    Args:
        backend: the store.
        sessions: the label sessions, which run the consistency checks.
    """

    def __init__(self, backend: Backend, sessions: Sessions) -> None:
        self._run = backend.run
        self._store = backend.store
        self._sessions = sessions

    async def GetDiagnostics(self, request: pb.GetDiagnosticsRequest, context: Context) -> pb.Diagnostics:
        """See the proto."""
        ids = names.video_ids(request.name, "name")
        message = await self._run(self._diagnose, ids, request.picture)
        if request.consistency_checks:
            for found in await asyncio.wrap_future(await self._run(self._check, ids)):
                message.issues.add(
                    kind=found["kind"],
                    frame_index=found["frame"],
                    tracks=found["tracks"],
                    score=found["score"],
                    explanation=found["text"],
                )
        return message

    def _check(self, ids: tuple[str, str]) -> Any:
        model = self._store.models.of_video(*ids)
        if model is None:
            raise FailedPrecondition(f"video {ids[1]!r} has no micro-model; train one first")
        return self._sessions.submit(*ids, SessionRequest("issues", model))

    def _diagnose(self, ids: tuple[str, str], picture: bool) -> pb.Diagnostics:
        video = self._store.videos.get(*ids)
        if video.state is not VideoState.READY:
            raise FailedPrecondition(f"video {video.video_id!r} is {video.state.value}, not ready, and has no labels")
        found = diagnose(self._store, *ids)
        total, model = found.total, self._store.models.of_video(*ids)
        message = pb.Diagnostics(
            name=names.VIDEO.format(*ids),
            label_revision=video.label_revision,
            frame_count=video.frame_count,
            manual_frame_count=len(found.manual_frames),
            label_count=total.labels,
            manual_label_count=total.manual,
            manual_share=total.manual / total.labels if total.labels else 0.0,
            speed_up=total.labels / total.manual if total.manual else None,
            mean_frame_seconds=self._seconds(*ids) / video.frame_count,
            estimated_quality=_estimate(model),
            observed_quality=total.quality,
            expected_wrong_share=_mean([1.0 - value for value in total.confidences]),
            classes=[_group(ids[0], name, group, found.acts) for name, group in sorted(found.classes.items())],
            tracks=[_group(ids[0], name, group, found.acts) for name, group in sorted(found.tracks.items())],
            verdicts=_points(ids[0], total, found.acts),
            versions=self._versions(ids[0], found),
            mean_frame_work_seconds=found.acts.work_seconds() / video.frame_count,
            picture=draw(found.strips, video.frame_count) if picture else b"",
        )
        _add_details(message, found)
        _add_effects(message, ids[0], found)
        return message

    def _versions(self, project_id: str, found: VideoDiagnostics) -> list[pb.VersionDiagnostics]:
        """Versions with current or reviewed labels."""
        messages = []
        for name, group in found.versions.items():
            message = pb.VersionDiagnostics(
                micro_model_version=names.provenance_to_wire(project_id, name),
                label_count=group.labels,
                accepted_count=group.accepted,
                corrected_count=len(group.overlaps),
                observed_quality=group.quality,
            )
            model = self._model(project_id, name)
            if model is not None:
                message.create_time.CopyFrom(timestamp(model.created_at))
                score = _estimate(model)
                if score is not None:
                    message.estimated_quality = score
            messages.append(message)
        return sorted(messages, key=lambda one: (one.create_time.ToNanoseconds(), one.micro_model_version))

    def _model(self, project_id: str, name: str) -> ModelVersion | None:
        """A version by the name in labels; None if it was deleted, or is from another tool."""
        model_id, _, number = name.partition("@")
        if not number.isdecimal():
            return None
        try:
            return self._store.models.get(project_id, model_id, int(number))
        except NotFound:
            return None

    def _seconds(self, project_id: str, video_id: str) -> float:
        """Total run time of operations on the video."""
        seconds, after = 0.0, ""
        while True:
            page = self._store.jobs.list(project_id, after=after, limit=500)
            for job in page.items:
                if job.video_id == video_id and job.started_at and job.ended_at:
                    seconds += (job.ended_at - job.started_at).total_seconds()
            after = page.next_after
            if not after:
                return seconds


def _add_details(message: pb.Diagnostics, found: VideoDiagnostics) -> None:
    for (name, predicted, corrected), count in found.confusions.most_common():
        message.confusions.add(property=name, predicted=predicted, corrected=corrected, count=count)
    for frame, overlaps in found.hardest():
        mean_iou = sum(overlaps) / len(overlaps)
        message.hardest_frames.add(frame_index=frame, corrected_count=len(overlaps), mean_iou=mean_iou)


def _add_effects(message: pb.Diagnostics, project_id: str, found: VideoDiagnostics) -> None:
    for effect in found.effects.values():
        change = effect.change
        message.corrections.add(
            revision=change.revision,
            author=change.author,
            change_time=timestamp(change.written_at),
            label_count=change.label_count,
            changed_count=effect.changed,
            duration_seconds=change.seconds,
            micro_model_version=names.provenance_to_wire(project_id, change.model_version),
            learned_count=change.learned,
            confidence_before=_mean([before for before, _ in effect.confidences]),
            confidence_after=_mean([after for _, after in effect.confidences]),
            checked_count=len(effect.agreements),
            agreement_before=_mean([before for before, _ in effect.agreements]),
            agreement_after=_mean([after for _, after in effect.agreements]),
            undone=change.undone_by > 0,
        )
    # Labels drawn before the first micro-model corrected nothing.
    corrected = (act for act in found.acts.all if act.kind is ChangeKind.CORRECT and act.model_version)
    standing = [act for act in corrected if not act.undone_by]
    message.correction_count = len(standing)


def _points(project_id: str, group: Group, acts: ChangeIndex) -> list[pb.VerdictPoint]:
    """Verdicts in order of the changes."""
    points = []
    for (revision, model_version), tally in sorted(group.by_act.items())[-_NEWEST_POINTS:]:
        act = acts.of(revision)
        count = tally.accepted + len(tally.overlaps)
        points.append(
            pb.VerdictPoint(
                revision=revision,
                author=act.author if act else "",
                judge_time=timestamp(act.written_at) if act else None,
                micro_model_version=names.provenance_to_wire(project_id, model_version),
                learned_count=acts.learned_before(model_version, revision),
                accepted_count=tally.accepted,
                corrected_count=len(tally.overlaps),
                mean_overlap=(sum(tally.overlaps) + tally.accepted) / count,
            )
        )
    return points


def _group(project_id: str, name: str, group: Group, acts: ChangeIndex) -> pb.GroupDiagnostics:
    verdicts = len(group.overlaps) + group.accepted
    return pb.GroupDiagnostics(
        name=name,
        label_count=group.labels,
        manual_label_count=group.manual,
        accepted_count=group.accepted,
        corrected_count=len(group.overlaps),
        corrected_share=len(group.overlaps) / verdicts if verdicts else None,
        corrected_mean_iou=_mean(group.overlaps),
        mean_confidence=_mean(group.confidences),
        verdicts=_points(project_id, group, acts),
    )


def _estimate(model: ModelVersion | None) -> float | None:
    value = model.metrics.get(_SCORE) if model is not None else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
