"""Jobs: who may run them, and their results.

A worker holds a job by a lease with a fence, a number that grows whenever the job changes hands. Everything a worker
produces (labels, events, a model, the end of the job) is committed in a transaction that first checks the fence, so a
worker that lost its job because it hung, stopped or was cut off can do no harm.

Workers write heartbeats, and an observer checks them against its *own* monotonic clock (``Watch``): no decision
depends on the time of day of any machine.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition
from service.domain.errors import NotFound, StaleLease
from service.domain.jobs import (
    Beat,
    Effects,
    Job,
    JobError,
    JobEvent,
    JobKind,
    JobState,
    Lease,
    Orders,
)
from service.domain.videos import (
    Page,
)
from service.store import schema
from service.store.database import Database, once, page_start
from service.store.job_effects import apply_effects
from service.store.job_queue import FINAL_STATES, insert_job
from service.store.projects import project_row

__all__ = ["Jobs", "Watch"]

DEFAULT_TRIES = 3
"""A job that crashed its worker this often fails."""

MAX_TRIES = {"DEVICE_LOST": 2, "OOM": 2}
"""Lower limits for some reasons."""

_LOG = logging.getLogger(__name__)
_JOBS = schema.jobs
_EVENTS = schema.job_events
_HELD = [JobState.LEASED.value, JobState.RUNNING.value, JobState.CANCELLING.value]


class Watch:
    """Finds leases without heartbeats, by this process' monotonic clock.

    Args:
        lease_seconds: how long a heartbeat may stay unchanged.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._seen: dict[Beat, float] = {}

    def lapsed(self, held: Collection[Beat], clock_seconds: float) -> list[Beat]:
        """Those of ``held`` that stayed unchanged for the duration of a lease.

        Args:
            held: all leased jobs, from ``Jobs.held``.
            clock_seconds: ``time.monotonic()``.
        """
        self._seen = {beat: self._seen.get(beat, clock_seconds) for beat in held}
        return [beat for beat, since in self._seen.items() if clock_seconds - since > self._lease_seconds]


def _job(project_id: str, row: sa.Row[Any]) -> Job:
    error = JobError(row.error_reason, row.error_message, row.error_class) if row.error_reason else None
    return Job(
        project_id=project_id,
        job_id=row.job_id,
        kind=JobKind(row.kind),
        spec=row.spec,
        state=JobState(row.state),
        video_id=row.video_id,
        author=row.author,
        tries=row.tries,
        finish_early=row.finish_early,
        progress=row.progress,
        result=row.result,
        checkpoint=row.checkpoint,
        error=error,
        last_sequence=row.last_sequence,
        traceparent=row.traceparent,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _job_row(connection: sa.Connection, project_id: str, job_id: str, lock: bool = False) -> sa.Row[Any]:
    projects = schema.projects
    query = sa.select(_JOBS).join(projects, projects.c.key == _JOBS.c.project)
    query = query.where(projects.c.project_id == project_id, _JOBS.c.job_id == job_id)
    row = connection.execute(query.with_for_update(of=_JOBS) if lock else query).first()
    if row is None:
        raise NotFound("operation", job_id)
    return row


class Jobs:
    """Jobs of a store: first the methods for callers, then those for workers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: list[Callable[[str], None]] = []
        self._listening = threading.Lock()

    def create(
        self,
        project_id: str,
        kind: JobKind,
        spec: Mapping[str, Any],
        *,
        video_id: str = "",
        author: str = "",
        request_id: str = "",
    ) -> Job:
        """Queue a job. Call ``service.jobs.submit`` instead, which checks the spec.

        Raises:
            AlreadyExists: the request id was used with another body.
            NotFound: no such project.
        """

        def act() -> dict[str, Any]:
            return {"job_id": insert_job(connection, project, kind, spec, video_id, author)}

        with self._database.begin(write=True) as connection:
            project = project_row(connection, project_id)
            body = [kind.value, dict(spec), video_id, author]
            answer = once(connection, f"jobs.create/{project_id}", request_id, body, act)
            job = _job(project_id, _job_row(connection, project_id, answer["job_id"]))
        self._notify(job.job_id)
        return job

    def get(self, project_id: str, job_id: str) -> Job:
        """One job.

        Raises:
            NotFound: no such job.
        """
        with self._database.begin() as connection:
            return _job(project_id, _job_row(connection, project_id, job_id))

    def list(
        self,
        project_id: str,
        *,
        video_id: str = "",
        states: Collection[JobState] = (),
        after: str = "",
        limit: int = 100,
    ) -> Page[Job]:
        """Jobs of a project, oldest first; ``video_id`` and ``states`` empty for all.

        Raises:
            InvalidInput: ``after`` is not from an earlier page.
            NotFound: no such project.
        """
        with self._database.begin() as connection:
            project = project_row(connection, project_id)
            query = sa.select(_JOBS).where(_JOBS.c.project == project.key, _JOBS.c.key > page_start(after))
            if video_id:
                query = query.where(_JOBS.c.video_id == video_id)
            if states:
                query = query.where(_JOBS.c.state.in_([state.value for state in states]))
            rows = connection.execute(query.order_by(_JOBS.c.key).limit(limit + 1)).all()
        items = tuple(_job(project_id, row) for row in rows[:limit])
        return Page(items, str(rows[limit - 1].key) if len(rows) > limit else "")

    def newest(self, project_id: str, video_id: str, kind: JobKind) -> Job | None:
        """The newest job of a kind on a video; None if none.

        Raises:
            NotFound: no such project.
        """
        with self._database.begin() as connection:
            project = project_row(connection, project_id)
            query = sa.select(_JOBS).where(_JOBS.c.project == project.key, _JOBS.c.video_id == video_id)
            row = connection.execute(
                query.where(_JOBS.c.kind == kind.value).order_by(_JOBS.c.key.desc()).limit(1)
            ).first()
        return None if row is None else _job(project_id, row)

    def cancel(self, project_id: str, job_id: str) -> Job:
        """Ask a job to stop; finished work is kept. No effect on a job that has ended.

        Raises:
            NotFound: no such job.
        """
        with self._database.begin(write=True, frees=True) as connection:
            row = _job_row(connection, project_id, job_id, lock=True)
            if row.state == JobState.QUEUED.value:
                apply_effects(connection, row, Effects(state=JobState.CANCELLED))
            elif row.state in (JobState.LEASED.value, JobState.RUNNING.value):
                apply_effects(connection, row, Effects(state=JobState.CANCELLING))
            job = _job(project_id, _job_row(connection, project_id, job_id))
        self._notify(job_id)
        return job

    def finish_early(self, project_id: str, job_id: str) -> Job:
        """Ask a job to end training early, with the weights it has, and to continue with them.

        Raises:
            FailedPrecondition: the job has ended.
            NotFound: no such job.
        """
        with self._database.begin(write=True, frees=True) as connection:
            row = _job_row(connection, project_id, job_id, lock=True)
            if row.state in FINAL_STATES:
                raise FailedPrecondition(f"operation {job_id!r} has already ended ({row.state})")
            connection.execute(_JOBS.update().where(_JOBS.c.key == row.key).values(finish_early=True))
            job = _job(project_id, _job_row(connection, project_id, job_id))
        self._notify(job_id)
        return job

    def delete(self, project_id: str, job_id: str) -> None:
        """Delete a job that has ended, with its events. Labels and models stay.

        Raises:
            FailedPrecondition: the job has not ended.
            NotFound: no such job.
        """
        with self._database.begin(write=True, frees=True) as connection:
            row = _job_row(connection, project_id, job_id, lock=True)
            if row.state not in FINAL_STATES:
                raise FailedPrecondition(f"operation {job_id!r} is {row.state}; cancel it first")
            connection.execute(_JOBS.delete().where(_JOBS.c.key == row.key))

    def events(self, project_id: str, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[JobEvent]:
        """Events with a sequence number above ``after``, in order.

        Raises:
            NotFound: no such job.
        """
        with self._database.begin() as connection:
            row = _job_row(connection, project_id, job_id)
            query = sa.select(_EVENTS).where(_EVENTS.c.job == row.key, _EVENTS.c.sequence > after)
            rows = connection.execute(query.order_by(_EVENTS.c.sequence).limit(limit)).all()
        return [JobEvent(r.sequence, r.kind, r.payload, r.picture, r.created_at) for r in rows]

    def listen(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call ``callback(job_id)`` after every commit that changes a job; returns a stop function.

        It is called in the committing thread, so it must be quick, and only for this process' commits.
        """
        with self._listening:
            self._listeners = [*self._listeners, callback]

        def stop() -> None:
            with self._listening:
                self._listeners = [other for other in self._listeners if other is not callback]

        return stop

    def _notify(self, job_id: str) -> None:
        for callback in self._listeners:
            try:
                callback(job_id)
            except Exception:  # the commit stands, even if a listener fails
                _LOG.exception("a listener failed")

    def lease(self, worker: str, kinds: Collection[JobKind]) -> tuple[Lease, Job] | None:
        """Take the next queued job of some kinds; None if none.

        Users take turns: next is the user whose last job was taken longest ago. Within a user, projects take turns, and
        within a project the oldest job is first.

        Args:
            worker: name of the worker.
            kinds: what the worker can run now.
        """
        projects, others = schema.projects, _JOBS.alias()
        last_turn = sa.select(sa.func.max(others.c.turn)).where(others.c.author == _JOBS.c.author).scalar_subquery()
        query = (
            sa.select(_JOBS, projects.c.project_id)
            .join(projects, projects.c.key == _JOBS.c.project)
            .where(_JOBS.c.state == JobState.QUEUED.value, _JOBS.c.kind.in_([kind.value for kind in kinds]))
            .order_by(last_turn, projects.c.served, _JOBS.c.key)
            .limit(1)
        )
        with self._database.begin() as connection:  # check first, so that idle workers do not lock out writers
            if connection.execute(query).first() is None:
                return None
        with self._database.begin(write=True) as connection:
            row = connection.execute(query.with_for_update(of=_JOBS, skip_locked=True)).first()
            if row is None:
                return None
            turn = connection.execute(sa.select(sa.func.max(projects.c.served) + 1)).scalar_one()
            connection.execute(projects.update().where(projects.c.key == row.project).values(served=turn))
            values = {"fence": row.fence + 1, "tries": row.tries + 1, "turn": turn, "worker": worker}
            connection.execute(_JOBS.update().where(_JOBS.c.key == row.key).values(**values))
            apply_effects(connection, row, Effects(state=JobState.LEASED))
            job = _job(row.project_id, _job_row(connection, row.project_id, row.job_id))
        self._notify(job.job_id)
        return Lease(job.job_id, row.fence + 1, worker), job

    def beat(self, lease: Lease) -> Orders:
        """Write a heartbeat.

        Raises:
            StaleLease: the job is no longer this worker's.
        """
        return self.commit(lease, Effects())

    def commit(self, lease: Lease, effects: Effects, *, after_beat: int | None = None) -> Orders:
        """Apply everything or nothing; counts as a heartbeat.

        Args:
            lease: the worker's lease.
            effects: the effects to apply.
            after_beat: ``Orders.beat`` of this worker's previous commit, for a retry after the answer was lost: effects
                that were already applied are not applied twice. None for no check.

        Raises:
            StaleLease: the job is no longer this worker's; nothing was applied.
        """
        with self._database.begin(write=True, frees=_ends(effects)) as connection:
            row = _held_row(connection, lease.job_id, lease.fence)
            if row is None:
                raise StaleLease(f"worker {lease.worker!r} does not hold job {lease.job_id!r} with fence {lease.fence}")
            if after_beat is not None and row.beat == after_beat + 1:
                model = {name: row.checkpoint[name] for name in ("model_id", "version") if effects.model}
                return Orders(row.state == JobState.CANCELLING.value, row.finish_early, model, row.beat)
            connection.execute(_JOBS.update().where(_JOBS.c.key == row.key).values(beat=row.beat + 1))
            model = apply_effects(connection, row, effects)
        if effects != Effects():
            self._notify(lease.job_id)
        cancel = row.state == JobState.CANCELLING.value
        return Orders(cancel, row.finish_early, model, row.beat + 1)

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of jobs by (kind, state)."""
        query = sa.select(_JOBS.c.kind, _JOBS.c.state, sa.func.count()).group_by(_JOBS.c.kind, _JOBS.c.state)
        with self._database.begin() as connection:
            return {(kind, state): count for kind, state, count in connection.execute(query)}

    def held(self, worker_prefix: str = "") -> Sequence[Beat]:
        """All leased jobs, for ``Watch``; with ``worker_prefix`` only those of some workers."""
        query = sa.select(_JOBS.c.job_id, _JOBS.c.fence, _JOBS.c.beat).where(_JOBS.c.state.in_(_HELD))
        if worker_prefix:
            query = query.where(_JOBS.c.worker.startswith(worker_prefix, autoescape=True))
        with self._database.begin() as connection:
            return [Beat(row.job_id, row.fence, row.beat) for row in connection.execute(query)]

    def requeue(self, lease: Lease, reason: JobError | None) -> JobState:
        """Return an unfinished job to the queue; returns its new state.

        The job is queued again, or ends: as cancelled if that was requested, as failed if this was its last try.

        Args:
            lease: the worker's lease.
            reason: what went wrong; None if the server is stopping, which does not count as a try.

        Raises:
            StaleLease: the job is no longer this worker's.
        """
        with self._database.begin(write=True, frees=True) as connection:
            row = _held_row(connection, lease.job_id, lease.fence)
            if row is None:
                raise StaleLease(f"worker {lease.worker!r} does not hold job {lease.job_id!r} with fence {lease.fence}")
            state = _requeue(connection, row, reason)
        self._notify(lease.job_id)
        return state

    def reclaim(self, seen: Beat, reason: JobError) -> bool:
        """Requeue a job whose worker is gone; False if the worker wrote a heartbeat after ``seen``.

        Args:
            seen: the last observed heartbeat.
            reason: how the worker ended, as far as known.
        """
        with self._database.begin(write=True, frees=True) as connection:
            row = _held_row(connection, seen.job_id, seen.fence)
            if row is None or row.beat != seen.beat:
                return False
            _requeue(connection, row, reason)
        self._notify(seen.job_id)
        return True


def _ends(effects: Effects) -> bool:
    """Whether a commit must succeed even on a full disk: heartbeats, and the end of a job without new labels."""
    return effects == Effects() or (effects.state is not None and effects.state.is_final and not effects.labels)


def _held_row(connection: sa.Connection, job_id: str, fence: int) -> sa.Row[Any] | None:
    query = sa.select(_JOBS).where(_JOBS.c.job_id == job_id, _JOBS.c.fence == fence, _JOBS.c.state.in_(_HELD))
    return connection.execute(query.with_for_update()).first()


def _requeue(connection: sa.Connection, row: sa.Row[Any], reason: JobError | None) -> JobState:
    tries = row.tries if reason else row.tries - 1
    connection.execute(_JOBS.update().where(_JOBS.c.key == row.key).values(fence=row.fence + 1, tries=tries))
    effects = Effects(state=JobState.QUEUED)
    if row.state == JobState.CANCELLING.value:
        effects = Effects(state=JobState.CANCELLED)
    elif reason is not None and tries >= MAX_TRIES.get(reason.reason, DEFAULT_TRIES):
        message = f"failed after {tries} tries: {reason.message}"
        effects = Effects(state=JobState.FAILED, error=JobError(reason.reason, message, reason.error_class))
    apply_effects(connection, row, effects)
    assert effects.state is not None
    return effects.state
