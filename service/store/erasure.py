"""Permanent deletion of a video, and access to everything stored about one.

A micro-model memorizes the videos it was trained on. Deleting a video therefore also deletes micro-models trained on
it, and every version made from those. A receipt in the audit log lists what was removed. Rows are deleted in one
transaction, which records the files to delete next; after a crash the next start deletes them.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
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
_PAGE_ROWS = 1000


class Erasure:
    """Deletes videos permanently.

    Args:
        database: migrated.
        blobs: store of the files.
        settings: the server's.
        audit: stores receipts.
        clock: decides how old a video is.
    """

    def __init__(self, database: Database, blobs: Blobs, settings: Settings, audit: Audit, clock: SteadyClock) -> None:
        self._database = database
        self._blobs = blobs
        self._settings = settings
        self._audit = audit
        self._clock = clock
        self._listeners: list[Callable[[str, str], None]] = []
        self._incomplete = True  # whether the receipts file may lack receipts, such as after a crash

    def listen(self, forget: Callable[[str, str], None]) -> Callable[[], None]:
        """Call ``forget(project_id, video_id)`` for every video that this process deletes; returns a stop function.

        It is called after the rows are deleted, in the deleting thread. Listeners must drop what they hold in memory of
        the video, and close its files.
        """
        self._listeners = [*self._listeners, forget]

        def stop() -> None:
            self._listeners = [other for other in self._listeners if other is not forget]

        return stop

    def delete(
        self, project_id: str, video_id: str, *, actor: str = "", before: Mapping[str, Any] | None = None
    ) -> AuditRow:
        """Delete a video with everything derived from it, and return the receipt.

        Args:
            project_id: the video's project.
            video_id: which video.
            actor: name in the receipt; empty for the caller.
            before: receipt detail of an earlier deletion of the same video.

        Raises:
            FailedPrecondition: a job works on it, or uses a micro-model trained on it.
            NotFound: no such video.
        """
        since = time.monotonic()
        with self._database.begin(write=True, frees=True) as connection:
            row = video_row(connection, project_id, video_id, lock=True)
            if job_id := is_busy(connection, row.project, video_id):
                raise FailedPrecondition(f"job {job_id!r} works on video {video_id!r}; cancel it first")
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
        """Delete the files of deletions that a crash interrupted; returns the number of deletions."""
        with self._database.begin() as connection:
            keys = connection.execute(sa.select(schema.erasures.c.key)).scalars().all()
        for key in keys:
            self._finish(key, time.monotonic())
        if self._incomplete:
            self._write_down(list(self._audit.rows(method=RECEIPT)), again=True)
        return len(keys)

    def repeat(self, receipts: Iterable[Receipt]) -> int:
        """Delete videos again that a restored backup brought back; returns how many.

        Receipts missing from the audit log are added to it. Cancel the videos' jobs first.

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
        self._incomplete = True
        self.finish_all()
        return count

    def _put_back(self, receipt: Receipt) -> None:
        """Add a lost receipt to the audit log."""
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
        """Write receipts to the file beside the database; if the disk fails, the next round retries."""
        try:
            append_receipts(self._settings.data_dir, rows, again=again)
            self._incomplete = self._incomplete and not again
        except MicromodelsError as error:
            self._incomplete = True
            _LOG.warning("deletion receipts could not be written to receipts.jsonl, will retry: %s", error)

    def receipt(self, project_id: str, video_id: str) -> AuditRow:
        """The receipt of a deleted video.

        Raises:
            NotFound: no receipt for this video.
        """
        resource = f"projects/{project_id}/videos/{video_id}"
        found = next(self._audit.rows(project_id=project_id, resource=resource, method=RECEIPT), None)
        if found is None:
            raise NotFound("deletion receipt", video_id)
        return found

    def records(self, project_id: str, video_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row about a video, as (table, columns by name): its own, and those of all tables that refer to it.

        Raises:
            NotFound: no such video (raised before the first row).
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
        """Delete the files, and write the receipt."""
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
    """Every table with a ``video`` column."""
    return [
        table
        for table in schema.metadata.sorted_tables
        if "video" in table.c and any(key.column.table is schema.videos for key in table.c.video.foreign_keys)
    ]


def _models_that_saw(connection: sa.Connection, project: int, video_id: str) -> list[sa.Row[Any]]:
    """Versions trained on a video, and versions made from them."""
    models, jobs = schema.models, schema.jobs
    trained = sa.select(jobs.c.job_id).where(jobs.c.project == project, jobs.c.video_id == video_id)
    by_job = set(connection.execute(trained).scalars())
    query = sa.select(models).where(models.c.project == project).order_by(models.c.model_id, models.c.version)
    doomed: dict[tuple[str, int], sa.Row[Any]] = {}
    for row in connection.execute(query):  # parents precede their children
        saw = video_id in row.label_revisions or (row.job_id and row.job_id in by_job)
        if saw or (row.parent_version and (row.model_id, row.parent_version) in doomed):
            doomed[row.model_id, row.version] = row
    return list(doomed.values())


def _learned(video: sa.Row[Any], models: Iterable[sa.Row[Any]]) -> sa.ColumnElement[bool]:
    """The adapted models to delete with a video: its own, and those of deleted versions on other videos."""
    states = schema.learned_states
    doomed = [provenance_version(model.model_id, model.version) for model in models]
    return sa.or_(states.c.video == video.key, states.c.model_version.in_(doomed))


def _refuse_running(connection: sa.Connection, project: int, models: Iterable[sa.Row[Any]]) -> None:
    jobs, ids = schema.jobs, {model.model_id for model in models}
    query = sa.select(jobs.c.job_id, jobs.c.spec).where(jobs.c.project == project, jobs.c.state.not_in(FINAL_STATES))
    for row in connection.execute(query):
        if row.spec.get("model_id") in ids:
            raise FailedPrecondition(f"job {row.job_id!r} uses a micro-model trained on the video; cancel it first")


def _inventory(connection: sa.Connection, video: sa.Row[Any], models: list[sa.Row[Any]]) -> dict[str, Any]:
    """What will be deleted: counts, files, and checksums of the models."""
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
    """Delete remembered answers that name deleted resources, so that the same request creates new ones."""
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
    """Those of the blobs that other rows still refer to; equal bytes are stored once."""
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
    """Delete a folder; returns its size in bytes."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    return size


def _plain(value: Any) -> Any:
    """A column's value for JSON."""
    return value.isoformat() if isinstance(value, datetime) else value
