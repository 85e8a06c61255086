"""Adds jobs to the queue; ``service.store.jobs`` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from service.domain.jobs import JobKind, JobState
from service.store import schema
from service.store.database import new_id, now
from service.telemetry.traces import traceparent

__all__ = ["FINAL_STATES", "insert_job", "is_busy"]

FINAL_STATES = [state.value for state in JobState if state.is_final]
_JOBS = schema.jobs


def insert_job(
    connection: sa.Connection,
    project: sa.Row[Any],
    kind: JobKind,
    spec: Mapping[str, Any],
    video_id: str,
    author: str,
) -> str:
    """Queue a job in the caller's transaction; returns its id."""
    job_id = new_id()
    values = {"project": project.key, "job_id": job_id, "kind": kind.value, "spec": dict(spec), "video_id": video_id}
    empty: dict[str, Any] = {"checkpoint": {}, "progress": {}, "result": {}}
    more = {"state": JobState.QUEUED.value, "author": author, "traceparent": traceparent(), "created_at": now()}
    connection.execute(_JOBS.insert().values(**values, **empty, **more))
    return job_id


def is_busy(connection: sa.Connection, project: int, video_id: str) -> str:
    """The id of an unfinished job on the video; empty if none."""
    query = sa.select(_JOBS.c.job_id).where(_JOBS.c.project == project, _JOBS.c.video_id == video_id)
    return connection.execute(query.where(_JOBS.c.state.not_in(FINAL_STATES))).scalar() or ""
