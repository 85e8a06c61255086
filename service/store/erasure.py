"""True deletion of a video, and everything that is kept about one.

A micro-model memorizes the videos that it was trained on, so it goes with any of them; so does every version that was
made from it. What was removed is listed in a receipt, which stays in the audit. Rows go in one transaction, which
leaves a note of the files that have to follow: a crash in between is made good at the next start.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition, MicromodelsError
from service.access.calls import audit_detail, current_caller
from service.domain.access import (
    AuditRow,
)
from service.domain.errors import NotFound
from service.domain.jobs import (
    JobKind,
)
from service.domain.models import (
    provenance_version,
)
from service.settings import Settings, cache_folder
from service.store import schema
from service.store.audit import Audit
from service.store.blobs import Blobs
from service.store.clock import SteadyClock
from service.store.database import Database
from service.store.deletion_receipts import RECEIPT, Receipt, append_receipts
from service.store.job_queue import FINAL_STATES, is_busy
from service.store.videos import video_row

__all__ = [
    "Erasure",
]

_LOG = logging.getLogger(__name__)
_TRUSTED_GAP = timedelta(days=7)
_SETTLED_SECONDS = 86_400.0
_PAGE_ROWS = 1000


class Erasure:
    """Deletes videos for good.

    Args:
        database: migrated.
        blobs: where files are.
        settings: the server's.
        audit: keeps receipts.
        clock: judges how old a video is.
    """

    def __init__(self, database: Database, blobs: Blobs, settings: Settings, audit: Audit, clock: SteadyClock) -> None:
        self._database = database
        self._blobs = blobs
        self._settings = settings
        self._audit = audit
        self._clock = clock
        self._begun = time.monotonic()
        self._listeners: list[Callable[[str, str], None]] = []
        self._behind = True  # whether receipts may be missing in the file: a crash may have come first

    def listen(self, forget: Callable[[str, str], None]) -> Callable[[], None]:
        """Have ``forget(project_id, video_id)`` called for every video that this process deletes; returns an end.

        It is called when the rows are gone, in the thread that deletes: whoever keeps something of videos in memory, or
        files of them open, lets go of it.
        """
        self._listeners = [*self._listeners, forget]

        def stop() -> None:
            self._listeners = [other for other in self._listeners if other is not forget]

        return stop

    def delete(
        self, project_id: str, video_id: str, *, actor: str = "", before: Mapping[str, Any] | None = None
    ) -> AuditRow:
        """Delete a video with all that was made of it, and return the receipt.

        Args:
            project_id: the video's project.
            video_id: which video.
            actor: who the receipt names; empty for the caller.
            before: what the receipt tells of an earlier deletion of the same video.

        Raises:
            FailedPrecondition: a job on it, or one that uses a micro-model which saw it, has not ended.
            NotFound: there is no such video.
        """
        since = time.monotonic()
        with self._database.begin(write=True, frees=True) as connection:
            row = video_row(connection, project_id, video_id, lock=True)
            if job_id := is_busy(connection, row.project, video_id):
                raise FailedPrecondition(f"job {job_id!r} on video {video_id!r} is not finished; cancel it first")
            models = _models_that_saw(connection, row.project, video_id)
            _refuse_running(connection, row.project, models)
            todo = {**_inventory(connection, row, models), "before": dict(before or {})}
            audit_detail(**{name: value for name, value in todo["counts"].items() if value})
            _delete_rows(connection, project_id, row, models)
            values = {"project_id": project_id, "video_id": video_id, "todo": todo, "created_at": self._clock.now()}
            values["actor"] = actor or current_caller().name
            key = connection.execute(schema.erasures.insert().values(values).returning(schema.erasures.c.key))
            made = int(key.scalar_one())
        return self._finish(made, since)

    def finish_all(self) -> int:
        """Remove the files of deletions that a crash interrupted; returns how many there were."""
        with self._database.begin() as connection:
            keys = connection.execute(sa.select(schema.erasures.c.key)).scalars().all()
        for key in keys:
            self._finish(key, time.monotonic())
        if self._behind:
            self._write_down(list(self._audit.rows(method=RECEIPT)), again=True)
        return len(keys)

    def repeat(self, receipts: Iterable[Receipt]) -> int:
        """Delete again what a backup has brought back; returns how many videos that were.

        Receipts that the audit does not have are put into it. Jobs that stand in the way must have been cancelled.

        Raises:
            FailedPrecondition: a job has not ended; see ``delete``.
        """
        count = 0
        for receipt in receipts:
            before = {"deleted_at": receipt.detail.get("deleted_at", ""), "actor": receipt.actor}
            try:
                self.delete(receipt.project_id, receipt.video_id, actor="restore", before=before)
                count += 1
            except NotFound:
                self._put_back(receipt)
        self._behind = True
        self.finish_all()
        return count

    def _put_back(self, receipt: Receipt) -> None:
        """Give the audit a receipt that it has lost."""
        try:
            self.receipt(receipt.project_id, receipt.video_id)
        except NotFound:
            with self._database.begin(write=True) as connection:
                self._audit.record(
                    connection,
                    RECEIPT,
                    actor=receipt.actor,
                    project_id=receipt.project_id,
                    resource=receipt.resource,
                    detail=receipt.detail,
                )

    def _write_down(self, rows: list[AuditRow], *, again: bool = False) -> None:
        """Keep receipts beside the database; where the disk refuses, the next round does it."""
        try:
            append_receipts(self._settings.data_dir, rows, again=again)
            self._behind = self._behind and not again
        except MicromodelsError as error:
            self._behind = True
            _LOG.warning("receipts are written down later: %s", error)

    def receipt(self, project_id: str, video_id: str) -> AuditRow:
        """What was removed with a video that was deleted.

        Raises:
            NotFound: there is none.
        """
        resource = f"projects/{project_id}/videos/{video_id}"
        found = next(self._audit.rows(project_id=project_id, resource=resource, method=RECEIPT), None)
        if found is None:
            raise NotFound("deletion receipt", video_id)
        return found

    def sweep(self) -> list[AuditRow]:
        """Delete the videos that are older than their projects keep them; returns the receipts.

        A video with a job that has not ended waits for the next time. After a start that found the clock far ahead of
        the newest record, nothing is deleted for a day: the clock may be wrong, and deletion cannot be undone.
        """
        if self._clock.gap > _TRUSTED_GAP and time.monotonic() - self._begun < _SETTLED_SECONDS:
            return []
        receipts = []
        for project_id, video_id in self._overdue(self._clock.now()):
            try:
                receipts.append(self.delete(project_id, video_id, actor="retention"))
            except (FailedPrecondition, NotFound):
                continue
        return receipts

    def _overdue(self, moment: datetime) -> list[tuple[str, str]]:
        projects, videos = schema.projects, schema.videos
        query = (
            sa.select(projects.c.project_id, projects.c.retention_days, videos.c.video_id, videos.c.created_at)
            .join(projects, projects.c.key == videos.c.project)
            .where(projects.c.retention_days > 0)
        )
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        return [
            (row.project_id, row.video_id)
            for row in rows
            if row.created_at + timedelta(days=row.retention_days) < moment
        ]

    def records(self, project_id: str, video_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row about a video, as (table, columns by name): its own, and those of every table that refers to it.

        Raises:
            NotFound: there is no such video (before the first row comes).
        """
        with self._database.begin() as connection:
            row = video_row(connection, project_id, video_id)
            models = _models_that_saw(connection, row.project, video_id)
        videos, jobs = schema.videos, schema.jobs
        yield from self._dump(videos, videos.c.key == row.key)
        for table in _about_videos():
            yield from self._dump(table, table.c.video == row.key)
        yield from self._dump(jobs, (jobs.c.project == row.project) & (jobs.c.video_id == video_id))
        for model in models:
            yield from self._dump(schema.models, schema.models.c.key == model.key)

    def _dump(self, table: sa.Table, which: sa.ColumnElement[bool]) -> Iterator[tuple[str, dict[str, Any]]]:
        key, after = table.c.key, 0
        while True:
            query = sa.select(table).where(which, key > after).order_by(key).limit(_PAGE_ROWS)
            with self._database.begin() as connection:
                rows = connection.execute(query).all()
            for row in rows:
                after = int(row.key)
                yield table.name, {name: _plain(value) for name, value in row._mapping.items()}
            if len(rows) < _PAGE_ROWS:
                return

    def _finish(self, key: int, since: float) -> AuditRow:
        """Remove the files, and write the receipt."""
        erasures = schema.erasures
        with self._database.begin() as connection:
            row = connection.execute(sa.select(erasures).where(erasures.c.key == key)).one()
            kept = _still_referenced(connection, row.todo["blobs"])
            shared = connection.execute(
                sa.select(sa.func.count())
                .select_from(schema.videos)
                .where(schema.videos.c.content_hash == row.todo["content_hash"])
            ).scalar_one()
        for forget in self._listeners:
            forget(row.project_id, row.video_id)
        removed = self._blobs.remove([name for name in row.todo["blobs"] if name not in kept], since)
        cache = cache_folder(self._settings, row.todo["content_hash"])
        cache_bytes = sum(_remove_folder(cache / f"checkpoints-{job_id}") for job_id in row.todo["jobs"])
        if row.todo["content_hash"] and not shared:
            cache_bytes += _remove_folder(cache)
        self._database.scrub()
        detail = {
            **row.todo["counts"],
            "content_sha256": row.todo["content_hash"],
            "micro_models": row.todo["models"],
            "blobs_removed": removed,
            "blobs_kept_for_others": len(row.todo["blobs"]) - len(removed),
            "cache_bytes": cache_bytes,
            **({"deleted_before": row.todo["before"]} if row.todo.get("before") else {}),
        }
        with self._database.begin(write=True, frees=True) as connection:
            connection.execute(erasures.delete().where(erasures.c.key == key))
            resource = f"projects/{row.project_id}/videos/{row.video_id}"
            receipt = self._audit.record(
                connection, RECEIPT, actor=row.actor, project_id=row.project_id, resource=resource, detail=detail
            )
        self._write_down([receipt])
        return receipt


def _about_videos() -> list[sa.Table]:
    """Every table whose rows belong to a video by a column of that name."""
    return [
        table
        for table in schema.metadata.sorted_tables
        if "video" in table.c and any(key.column.table is schema.videos for key in table.c.video.foreign_keys)
    ]


def _models_that_saw(connection: sa.Connection, project: int, video_id: str) -> list[sa.Row[Any]]:
    """Versions that were trained on a video, and those made from them."""
    models, jobs = schema.models, schema.jobs
    trained = sa.select(jobs.c.job_id).where(jobs.c.project == project, jobs.c.video_id == video_id)
    by_job = set(connection.execute(trained).scalars())
    query = sa.select(models).where(models.c.project == project).order_by(models.c.model_id, models.c.version)
    doomed: dict[tuple[str, int], sa.Row[Any]] = {}
    for row in connection.execute(query):  # parents come before their children
        saw = video_id in row.label_revisions or (row.job_id and row.job_id in by_job)
        if saw or (row.parent_version and (row.model_id, row.parent_version) in doomed):
            doomed[row.model_id, row.version] = row
    return list(doomed.values())


def _learned(video: sa.Row[Any], models: Iterable[sa.Row[Any]]) -> sa.ColumnElement[bool]:
    """Which learned states go with a video: its own, and what versions that saw it have learned on others."""
    states = schema.learned_states
    doomed = [provenance_version(model.model_id, model.version) for model in models]
    return sa.or_(states.c.video == video.key, states.c.model_version.in_(doomed))


def _refuse_running(connection: sa.Connection, project: int, models: Iterable[sa.Row[Any]]) -> None:
    jobs, ids = schema.jobs, {model.model_id for model in models}
    query = sa.select(jobs.c.job_id, jobs.c.spec).where(jobs.c.project == project, jobs.c.state.not_in(FINAL_STATES))
    for row in connection.execute(query):
        if row.spec.get("model_id") in ids:
            raise FailedPrecondition(f"job {row.job_id!r} uses a micro-model that saw the video; cancel it first")


def _inventory(connection: sa.Connection, video: sa.Row[Any], models: list[sa.Row[Any]]) -> dict[str, Any]:
    """What will be removed: counts, files, and checksums of the models."""
    jobs, events, labels = schema.jobs, schema.job_events, schema.labels
    mine = (jobs.c.project == video.project, jobs.c.video_id == video.video_id)
    states = sa.select(schema.learned_states.c.files).where(_learned(video, models))
    learned = {file["sha256"] for files in connection.execute(states).scalars() for file in files}
    blobs = {video.blob, *learned, *(file["sha256"] for model in models for file in model.files)}
    columns: list[sa.Column[Any]] = [jobs.c.job_id, jobs.c.kind, jobs.c.result]
    results = connection.execute(sa.select(*columns).where(*mine)).all()
    exported = [file["sha256"] for row in results for file in row.result.get("files", ())]
    pictures = connection.execute(
        sa.select(events.c.picture)
        .join(jobs, jobs.c.key == events.c.job)
        .where(*mine, events.c.picture != "")
        .distinct()
    )
    current = sa.select(sa.func.count()).where(labels.c.video == video.key, schema.IS_CURRENT)
    counts = {f"{table.name}_rows": _count(connection, table, video.key) for table in _about_videos()}
    counts |= {
        "labels": connection.execute(current.where(labels.c.payload.is_not(None))).scalar_one(),
        "frames": video.frame_count,
        "operations": len(results),
        "exports": sum(row.kind == JobKind.EXPORT.value for row in results),
        "micro_model_versions": len(models),
        "source_bytes": video.size_bytes if video.blob else 0,
    }
    return {
        "blobs": sorted({*blobs, *exported, *pictures.scalars()} - {""}),
        "content_hash": video.content_hash,
        "jobs": [row.job_id for row in results],
        "counts": counts,
        "models": [
            {"version": f"{model.model_id}@{model.version}", "files": [file["sha256"] for file in model.files]}
            for model in models
        ],
    }


def _count(connection: sa.Connection, table: sa.Table, video: int) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(table.c.video == video)
    return int(connection.execute(query).scalar_one())


def _delete_rows(connection: sa.Connection, project_id: str, video: sa.Row[Any], models: list[sa.Row[Any]]) -> None:
    jobs, uploads = schema.jobs, schema.uploads
    _forget_answers(connection, project_id, video)
    connection.execute(schema.learned_states.delete().where(_learned(video, models)))
    for model in models:
        connection.execute(schema.models.delete().where(schema.models.c.key == model.key))
    connection.execute(jobs.delete().where(jobs.c.project == video.project, jobs.c.video_id == video.video_id))
    connection.execute(uploads.delete().where(uploads.c.project == video.project, uploads.c.video_id == video.video_id))
    connection.execute(schema.videos.delete().where(schema.videos.c.key == video.key))


def _forget_answers(connection: sa.Connection, project_id: str, video: sa.Row[Any]) -> None:
    """Drop remembered answers that name what goes: the same request makes something new."""
    jobs, uploads, requests = schema.jobs, schema.uploads, schema.requests
    gone = {video.video_id}
    mine = (jobs.c.project == video.project, jobs.c.video_id == video.video_id)
    gone.update(connection.execute(sa.select(jobs.c.job_id).where(*mine)).scalars())
    mine = (uploads.c.project == video.project, uploads.c.video_id == video.video_id)
    gone.update(connection.execute(sa.select(uploads.c.upload_id).where(*mine)).scalars())
    inside = requests.c.scope.endswith(f"/{project_id}", autoescape=True)
    columns: list[sa.Column[Any]] = [requests.c.scope, requests.c.request_id, requests.c.answer]
    for row in connection.execute(sa.select(*columns).where(inside)).all():
        if not gone.isdisjoint(value for value in row.answer.values() if isinstance(value, str)):
            this = (requests.c.scope == row.scope, requests.c.request_id == row.request_id)
            connection.execute(requests.delete().where(*this))
    about = requests.c.scope.endswith(f"/{project_id}/{video.video_id}", autoescape=True)
    connection.execute(requests.delete().where(about))


def _still_referenced(connection: sa.Connection, names: list[str]) -> set[str]:
    """Those of some blobs that something else needs: the same bytes are kept once."""
    videos, events = schema.videos, schema.job_events
    found = set(connection.execute(sa.select(videos.c.blob).where(videos.c.blob.in_(names))).scalars())
    found.update(connection.execute(sa.select(events.c.picture).where(events.c.picture.in_(names))).scalars())
    for table in (schema.models, schema.learned_states):
        for files in connection.execute(sa.select(table.c.files)).scalars():
            found.update(file["sha256"] for file in files)
    for result in connection.execute(sa.select(schema.jobs.c.result)).scalars():
        found.update(file["sha256"] for file in result.get("files", ()))
    return found & set(names)


def _remove_folder(folder: Path) -> int:
    """Delete a folder and give the bytes that were in it."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    return size


def _plain(value: Any) -> Any:
    """A column's value as JSON has it."""
    return value.isoformat() if isinstance(value, datetime) else value
