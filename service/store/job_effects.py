"""Applies a worker's commit to the tables, in the transaction that has checked its fence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from service.access.calls import audit_detail
from service.domain.errors import NotFound
from service.domain.history import Act, ChangeKind
from service.domain.jobs import (
    Effects,
    JobKind,
    JobState,
    NewEvent,
)
from service.domain.models import provenance_version
from service.domain.videos import (
    VideoState,
)
from service.store import schema
from service.store.database import now
from service.store.labels import label_writes, write_labels
from service.store.models import insert_model

__all__ = ["apply_effects"]

_JOBS = schema.jobs
_EVENTS = schema.job_events
_THIN_EVERY = 500
_THIN_LIMITS = {
    "training_progress": 1000,
    "propagation_progress": 1000,
    "flip_book_picture": 1000,
}


def apply_effects(connection: sa.Connection, row: sa.Row[Any], effects: Effects) -> dict[str, Any]:
    """Apply effects to a locked job; returns id and version of the recorded model."""
    values: dict[str, Any] = {}
    model: dict[str, Any] = {}
    if effects.model is not None:
        model = insert_model(connection, row, effects.model)
        audit_detail(micro_model=f"{model['model_id']}@{model['version']}")
    if effects.progress is not None:
        values["progress"] = dict(effects.progress)
    if effects.checkpoint is not None or model:
        values["checkpoint"] = {**row.checkpoint, **(effects.checkpoint or {}), **model}
    if effects.result is not None or model:
        values["result"] = {**row.result, **(effects.result or {}), **model}
    if effects.labels or effects.frame_table is not None:
        video = _job_video(connection, row)
        if effects.labels:
            made_by = _model_version({**row.spec, **row.checkpoint, **model})
            base = effects.base_revision
            act = Act(row.author, ChangeKind.PROPAGATE, row.job_id, base=base, model_version=made_by)
            written = write_labels(connection, video, label_writes(effects.labels), act)
            values["result"] = {**values.get("result", row.result), "revision": written.revision}
        if effects.frame_table is not None:
            _make_ready(connection, video, effects.frame_table)
            audit_detail(frames=effects.frame_table["frame_count"])
    events = [*effects.events]
    if effects.state is not None:
        values |= _enter(connection, row, effects)
        audit_detail(operation=row.job_id, state=values["state"])
        events.append(NewEvent("state", {"state": values["state"]}))
    if events:
        values["last_sequence"] = _append_events(connection, row, events)
    if values:
        connection.execute(_JOBS.update().where(_JOBS.c.key == row.key).values(**values))
    return model


def _model_version(names: Mapping[str, Any]) -> str:
    """The version that a job labels with: the one it has trained, or was submitted for; empty if neither is known."""
    model_id, version = names.get("model_id"), names.get("version")
    return provenance_version(model_id, version) if model_id and version else ""


def _enter(connection: sa.Connection, row: sa.Row[Any], effects: Effects) -> dict[str, Any]:
    """Column values of a job that enters a state."""
    state = effects.state
    assert state is not None
    values: dict[str, Any] = {"state": state.value}
    if state is JobState.RUNNING:
        values["started_at"] = row.started_at or now()
        if row.state == JobState.CANCELLING.value:  # cancelled between lease and start: keep that state
            values["state"] = row.state
    elif state.is_final:
        values["ended_at"] = now()
        if effects.error is not None:
            values["error_reason"] = effects.error.reason
            values["error_message"] = effects.error.message
            values["error_class"] = effects.error.error_class
        if row.kind == JobKind.PROBE.value and state is not JobState.SUCCEEDED:
            videos = schema.videos
            error = effects.error.message if effects.error else "reading it was cancelled"
            failed = videos.update().where(videos.c.project == row.project, videos.c.video_id == row.video_id)
            connection.execute(failed.values(state=VideoState.FAILED.value, error=error))
    return values


def _job_video(connection: sa.Connection, row: sa.Row[Any]) -> sa.Row[Any]:
    videos = schema.videos
    columns: list[sa.Column[Any]] = [videos.c.key, videos.c.label_revision]
    query = sa.select(*columns)
    query = query.where(videos.c.project == row.project, videos.c.video_id == row.video_id).with_for_update()
    video = connection.execute(query).first()
    if video is None:
        raise NotFound("video", row.video_id)
    return video


def _make_ready(connection: sa.Connection, video: sa.Row[Any], table: Mapping[str, Any]) -> None:
    videos = schema.videos
    values = {name: table[name] for name in ("frame_count", "width_px", "height_px", "content_hash")}
    ready = {"state": VideoState.READY.value, "frame_table": dict(table), "error": ""}
    connection.execute(videos.update().where(videos.c.key == video.key).values(**values, **ready))


def _append_events(connection: sa.Connection, row: sa.Row[Any], events: Sequence[NewEvent]) -> int:
    """Number and store events; old progress events are dropped so that a long job stays bounded."""
    moment = now()
    last = int(row.last_sequence)
    rows = [
        {"job": row.key, "sequence": number, "kind": event.kind, "payload": dict(event.payload)}
        | {"picture": event.picture, "created_at": moment}
        for number, event in enumerate(events, start=last + 1)
    ]
    connection.execute(_EVENTS.insert(), rows)
    if (last + len(rows)) // _THIN_EVERY > last // _THIN_EVERY:
        for kind, limit in _THIN_LIMITS.items():
            _thin(connection, row.key, kind, limit)
    return last + len(rows)


def _thin(connection: sa.Connection, job: int, kind: str, limit: int) -> None:
    """If a kind has more than ``limit`` events, drop every second one, except in the newest fifth."""
    mine = (_EVENTS.c.job == job, _EVENTS.c.kind == kind)
    count = connection.execute(sa.select(sa.func.count()).where(*mine)).scalar_one()
    if count <= limit:
        return
    numbered = sa.select(
        _EVENTS.c.sequence, sa.func.row_number().over(order_by=_EVENTS.c.sequence).label("position")
    ).where(*mine)
    ranked = numbered.subquery()
    doomed = sa.select(ranked.c.sequence).where(ranked.c.position % 2 == 0, ranked.c.position < count - limit // 5)
    connection.execute(_EVENTS.delete().where(*mine, _EVENTS.c.sequence.in_(doomed)))
