"""Backup and restore: all data, in a folder of plain files with checksums.

A backup does not depend on the kind of database: one from SQLite can be restored into PostgreSQL and vice versa. It
holds::

    backup.json          written last: version of the tables, and rows, size and SHA-256 of each file
    tables/NAME.jsonl    one row per line, as {column: value}
    blobs/ab/abcdef...   the blobs that rows refer to, named by the SHA-256 of their bytes

It is taken from one snapshot of the database while servers keep running. Caches, scratch files and the bytes of
unfinished uploads are not included: after a restore these uploads start over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import micromodels
from micromodels.errors import FailedPrecondition
from service.domain.errors import DataLoss, NotFound, disk_errors
from service.domain.jobs import JobState
from service.domain.videos import UploadState
from service.settings import Settings
from service.store import Store, open_blobs, referenced_blobs
from service.store.blobs import Blobs, sync_folder
from service.store.database import Database, database_url, now
from service.store.deletion_receipts import FILE_NAME as RECEIPTS_FILE
from service.store.deletion_receipts import Receipt, read_receipts

__all__ = ["BackupReport", "back_up", "restore"]

_MANIFEST = "backup.json"
_FORMAT = 1
_ATTEMPTS = 3
_ROWS_AT_ONCE = 500
_CHUNK_BYTES = 1 << 20
# A worker that survives the restore may hold a newer fence than the backup.
_FENCE_STEP = 1 << 32


@dataclass(frozen=True, slots=True)
class BackupReport:
    """Content of a backup, or result of a restore."""

    rows: int
    blobs: int
    size_bytes: int
    schema: str
    """Version of the tables, the name of a migration."""
    created_at: str
    """ISO 8601, UTC."""
    erased_again: int = 0
    """Videos in the backup that were deleted after it was taken, and have been deleted again."""


def back_up(settings: Settings, folder: Path) -> BackupReport:
    """Write a backup; servers may keep running.

    Args:
        settings: data folder, database and object store.
        folder: a new or empty folder.

    Raises:
        FailedPrecondition: the folder is not empty, or the database does not exist yet.
        NotFound: a blob that the database refers to is missing.
        ResourceExhausted: the disk is full.
        StorageFailure: disk, database or object store failed.
        Unavailable: database or object store cannot be reached.
    """
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FailedPrecondition(f"{str(folder)!r} is not empty; choose an empty folder")
    url = database_url(settings)
    if url.startswith("sqlite") and not (settings.data_dir / "database.sqlite").is_file():
        raise FailedPrecondition(f"no database in {str(settings.data_dir)!r}; name a server's data folder with --data")
    database, blobs = Database(url, migrate=False), open_blobs(settings)
    try:
        for attempt in range(_ATTEMPTS):
            shutil.rmtree(folder / "tables", ignore_errors=True)
            schema, tables, names = _dump(database, folder / "tables")
            try:
                files = {name: _copy(blobs, name, folder / "blobs") for name in sorted(names)}
                break
            except NotFound:  # perhaps deleted after the snapshot; then a new snapshot does not refer to it
                if attempt == _ATTEMPTS - 1:
                    raise
    finally:
        database.close()
    manifest = {
        "format": _FORMAT,
        "micromodels": micromodels.__version__,
        "created_at": now().isoformat(timespec="seconds"),
        "schema": schema,
        "tables": tables,
        "blobs": files,
    }
    _write_durably(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    with disk_errors():
        sync_folder(folder)
    return _report(manifest)


def restore(settings: Settings, folder: Path, receipts: Sequence[Path] = ()) -> BackupReport:
    """Restore a backup of this or an earlier version into a new data folder, database and object store.

    All checksums are verified first, and rows become visible in one transaction at the end, so a damaged backup leaves
    no partial database. Jobs that were running when the backup was taken are queued again. Videos that were deleted
    after it was taken are deleted again, with their jobs, if a deletion receipt is found.

    Args:
        settings: where to restore; the database must be empty. Receipts already in the data folder are used too.
        folder: the backup.
        receipts: further receipts; see ``read_receipts``.

    Raises:
        DataLoss: a file of the backup is missing or has changed.
        FailedPrecondition: not a backup, made by a newer version, or the database is not empty.
        InvalidInput: a file is not a receipts file.
        ResourceExhausted: the disk is full.
        StorageFailure: disk, database or object store failed.
        Unavailable: database or object store cannot be reached.
    """
    manifest = _manifest(folder)
    known = settings.data_dir / RECEIPTS_FILE
    deleted: dict[str, Receipt] = {}
    for path in (*([known] if known.exists() else []), *receipts):
        deleted |= read_receipts(path)
    for name, file in manifest["tables"].items():
        _check(folder / "tables" / f"{name}.jsonl", file)
    with Store.lock_folder(settings):
        url = database_url(settings)
        if url.startswith("sqlite") and (settings.data_dir / "database.sqlite").exists():
            raise FailedPrecondition(f"{str(settings.data_dir)!r} already has a database; restore into a new folder")
        blobs = open_blobs(settings)
        for name, file in manifest["blobs"].items():
            _check(folder / "blobs" / name[:2] / name, {**file, "sha256": name})
            blobs.add_file(folder / "blobs" / name[:2] / name)
        database = Database(url, migrate=False)
        try:
            database.create_at(manifest["schema"], lambda connection: _load(connection, folder, manifest["tables"]))
        except BaseException:
            database.close()
            if url.startswith("sqlite"):
                for suffix in ("", "-wal", "-shm"):
                    (settings.data_dir / f"database.sqlite{suffix}").unlink(missing_ok=True)
            raise
        database.close()
    Database(url).close()  # upgrades the tables
    return replace(_report(manifest), erased_again=_erase_again(settings, deleted.values()))


def _erase_again(settings: Settings, deleted: Iterable[Receipt]) -> int:
    """Repeat deletions. No server is running on the restored data yet."""
    with Store.open(settings) as store:
        for receipt in deleted:
            try:
                store.videos.get(receipt.project_id, receipt.video_id)
            except NotFound:
                continue
            _cancel_all(store, receipt)
        return store.erasure.repeat(deleted)


def _cancel_all(store: Store, receipt: Receipt) -> None:
    """Cancel a project's jobs that work on a video, or use a micro-model, which may have seen it."""
    waiting = [state for state in JobState if not state.is_final]
    after = ""
    while True:
        page = store.jobs.list(receipt.project_id, states=waiting, after=after)
        for job in page.items:
            if job.video_id == receipt.video_id or job.spec.get("model_id"):
                store.jobs.cancel(receipt.project_id, job.job_id)
        if not page.next_after:
            return
        after = page.next_after


def _report(manifest: Mapping[str, Any]) -> BackupReport:
    files = [*manifest["tables"].values(), *manifest["blobs"].values()]
    return BackupReport(
        rows=sum(file["rows"] for file in manifest["tables"].values()),
        blobs=len(manifest["blobs"]),
        size_bytes=sum(file["size_bytes"] for file in files),
        schema=manifest["schema"],
        created_at=manifest["created_at"],
    )


# Writing a backup.


def _dump(database: Database, folder: Path) -> tuple[str, dict[str, Any], frozenset[str]]:
    """Write all tables of one snapshot; returns their version, the written files, and the referenced blobs."""
    with disk_errors():
        folder.mkdir()
    written: dict[str, Any] = {}
    with database.begin() as connection:
        schema = database.version(connection)
        if schema is None:
            raise FailedPrecondition("the database is empty: nothing to back up yet")
        tables = sa.MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                written[table.name] = _dump_table(connection, table, folder / f"{table.name}.jsonl")
        names = referenced_blobs(connection)
    with disk_errors():
        sync_folder(folder)
    return schema, written, names


def _dump_table(connection: sa.Connection, table: sa.Table, path: Path) -> dict[str, Any]:
    rows, digest = 0, hashlib.sha256()
    query = sa.select(table).order_by(*table.primary_key.columns)
    with disk_errors(), path.open("wb") as file:
        for row in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query).mappings():
            values = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
            line = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            file.write(line)
            digest.update(line)
            rows += 1
        file.flush()
        os.fsync(file.fileno())
        return {"rows": rows, "size_bytes": file.tell(), "sha256": digest.hexdigest()}


def _copy(blobs: Blobs, name: str, folder: Path) -> dict[str, Any]:
    """Copy a blob and check its bytes."""
    target = folder / name[:2] / name
    source = blobs.path(name)
    with disk_errors():
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with source.open("rb") as incoming, target.open("wb") as outgoing:
            while chunk := incoming.read(_CHUNK_BYTES):
                digest.update(chunk)
                outgoing.write(chunk)
            outgoing.flush()
            os.fsync(outgoing.fileno())
        if digest.hexdigest() != name:
            raise DataLoss(f"blob {name!r} is damaged: its SHA-256 is {digest.hexdigest()}")
        sync_folder(target.parent)
        return {"size_bytes": target.stat().st_size}


def _write_durably(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with disk_errors():
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


# Restoring a backup.


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
    except FileNotFoundError:
        raise FailedPrecondition(
            f"{str(folder)!r} is not a backup, or an unfinished one: {_MANIFEST} is missing"
        ) from None
    except ValueError as error:
        raise DataLoss(f"{str(folder / _MANIFEST)!r} is damaged: {error}") from None
    if not isinstance(manifest, dict) or not {"format", "schema", "tables", "blobs", "created_at"} <= manifest.keys():
        raise DataLoss(f"{str(folder / _MANIFEST)!r} is damaged: parts are missing")
    if manifest["format"] != _FORMAT:
        found = manifest["format"]
        raise FailedPrecondition(f"the backup has format {found}, this version reads {_FORMAT}; upgrade micromodels")
    return manifest


def _check(path: Path, expected: Mapping[str, Any]) -> None:
    """Compare a file with the manifest.

    Raises:
        DataLoss: the file is missing or differs.
    """
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
    except FileNotFoundError:
        raise DataLoss(f"the backup is incomplete: {str(path)!r} is missing") from None
    if (size_bytes, digest.hexdigest()) != (expected["size_bytes"], expected["sha256"]):
        raise DataLoss(
            f"the backup is damaged: {str(path)!r} no longer has the size and SHA-256 recorded in {_MANIFEST}"
        )


def _load(connection: sa.Connection, folder: Path, files: Mapping[str, Any]) -> None:
    """Fill the empty tables, which have the backup's version."""
    tables = sa.MetaData()
    tables.reflect(connection)
    unknown = files.keys() - tables.tables.keys()
    if unknown:
        raise DataLoss(f"the backup has tables that its version does not have: {', '.join(sorted(unknown))}")
    for table in tables.sorted_tables:
        if table.name not in files:
            continue
        count, binary = 0, [column.name for column in table.c if isinstance(column.type, sa.LargeBinary)]
        if connection.execute(sa.select(sa.literal(1)).select_from(table)).first() is not None:
            connection.execute(table.delete())  # rows created by the migrations
        for column in table.c:
            if isinstance(column.type, sa.JSON):
                column.type.none_as_null = True
        for rows in _batches(folder / "tables" / f"{table.name}.jsonl"):
            for row in rows:
                row.update({name: bytes.fromhex(row[name]) for name in binary if row[name] is not None})
            connection.execute(table.insert(), [_RESETS.get(table.name, dict)(row) for row in rows])
            count += len(rows)
        if count != files[table.name]["rows"]:
            raise DataLoss(f"the backup is damaged: table {table.name!r} has {count} rows")
        if connection.dialect.name == "postgresql" and "key" in table.c and count:
            sequence = sa.func.pg_get_serial_sequence(table.name, "key")
            connection.execute(
                sa.select(sa.func.setval(sequence, sa.select(sa.func.max(table.c.key)).scalar_subquery()))
            )


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for line in file:
            rows.append(json.loads(line))
            if len(rows) == _ROWS_AT_ONCE:
                yield rows
                rows = []
    if rows:
        yield rows


def _reset_job(row: dict[str, Any]) -> dict[str, Any]:
    """No worker holds the job any more; the new fence invalidates any worker that still does."""
    if row["state"] in (JobState.LEASED.value, JobState.RUNNING.value):
        row["state"] = JobState.QUEUED.value
    elif row["state"] == JobState.CANCELLING.value:
        row["state"] = JobState.CANCELLED.value
    row["fence"] += _FENCE_STEP
    return row


def _reset_upload(row: dict[str, Any]) -> dict[str, Any]:
    """The upload's bytes are not in the backup: it restarts at 0."""
    if row["state"] == UploadState.ACTIVE.value:
        row["offset_bytes"] = 0
    return row


_RESETS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"jobs": _reset_job, "uploads": _reset_upload}
