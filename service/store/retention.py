"""Deletes videos past their project's retention: announced first, and only while the clock can be trusted.

A wrong clock must not delete anything: a video is deleted a day of running time after the announcement, which is in the
audit log before anything is deleted. While the time of day and the newest record disagree, nothing is announced,
counted or deleted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition
from service.domain.access import AuditRow
from service.domain.errors import NotFound
from service.store import schema
from service.store.audit import Audit
from service.store.clock import SteadyClock
from service.store.database import Database
from service.store.erasure import Erasure

__all__ = ["NOTICE_SECONDS", "Retention"]

NOTICE_SECONDS = 86_400
"""Running time of the server between the announcement of a deletion and the deletion."""
ANNOUNCED, WITHDRAWN = "retention.announced", "retention.withdrawn"
"""Methods in the audit log."""

_LOG = logging.getLogger(__name__)
_VIDEOS = schema.videos
_MAX_SILENCE_SECONDS = 3600.0
"""Longest time between two sweeps that counts as running time: the machine may have slept."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A video of a project with a retention."""

    key: int
    project_id: str
    video_id: str
    expires_at: datetime
    announced: bool
    notice_seconds: int


class Retention:
    """Sweeps videos that are past their time.

    Args:
        database: migrated.
        erasure: deletes them.
        audit: gets the announcements.
        clock: decides how old a video is.
        running_seconds: a clock that runs while the server does.
    """

    def __init__(
        self,
        database: Database,
        erasure: Erasure,
        audit: Audit,
        clock: SteadyClock,
        running_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._erasure, self._audit, self._clock = database, erasure, audit, clock
        self._running = running_seconds
        self._last = running_seconds()
        self._warned = False

    def sweep(self) -> list[AuditRow]:
        """Announce, withdraw and carry out deletions; returns the receipts of deleted videos.

        A video with an unfinished job is deleted in a later sweep.
        """
        now = self._running()
        elapsed, self._last = min(now - self._last, _MAX_SILENCE_SECONDS), now
        kept = self._kept()
        if kept and self._clock.disagrees:
            if not self._warned:
                _LOG.warning(
                    "retention is paused: the clock and the newest record differ by more than a day; "
                    "set the machine's clock right, and restart the server"
                )
            self._warned = True
            return []
        moment = self._clock.now()
        receipts = []
        for video in kept:
            overdue = video.expires_at < moment
            if overdue and video.announced and video.notice_seconds + elapsed >= NOTICE_SECONDS:
                receipts += self._delete(video)
            elif overdue and video.announced:
                self._store(video, notice_seconds=video.notice_seconds + round(elapsed))
            elif overdue:
                self._store(video, method=ANNOUNCED, expiry_announced=True, notice_seconds=0)
                _LOG.warning("video %s is past its retention; it will be deleted in a day", video.video_id)
            elif video.announced:
                self._store(video, method=WITHDRAWN, expiry_announced=False, notice_seconds=0)
        return receipts

    def _delete(self, video: _Kept) -> list[AuditRow]:
        try:
            return [self._erasure.delete(video.project_id, video.video_id, actor="retention")]
        except (FailedPrecondition, NotFound):
            return []

    def _store(self, video: _Kept, *, method: str = "", **values: Any) -> None:
        with self._database.begin(write=True) as connection:
            connection.execute(_VIDEOS.update().where(_VIDEOS.c.key == video.key).values(values))
            if method:
                self._audit.record(
                    connection,
                    method,
                    actor="retention",
                    project_id=video.project_id,
                    resource=f"projects/{video.project_id}/videos/{video.video_id}",
                    detail={"expires_at": video.expires_at.isoformat(), "notice_seconds": NOTICE_SECONDS},
                )

    def _kept(self) -> list[_Kept]:
        """Videos whose project limits their time, and those whose deletion was announced before it no longer did."""
        projects = schema.projects
        query = (
            sa.select(projects.c.project_id, projects.c.retention_days, _VIDEOS)
            .join(projects, projects.c.key == _VIDEOS.c.project)
            .where((projects.c.retention_days > 0) | _VIDEOS.c.expiry_announced)
        )
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        return [
            _Kept(
                int(row.key),
                row.project_id,
                row.video_id,
                row.created_at + timedelta(days=row.retention_days or 36_500),
                bool(row.expiry_announced),
                int(row.notice_seconds),
            )
            for row in rows
        ]
