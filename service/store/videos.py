"""Videos and their uploads."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition, InvalidInput
from service.domain.errors import DataLoss, NotFound, ResourceExhausted, UploadConflict, WrongOffset, disk_errors
from service.domain.jobs import (
    JobKind,
)
from service.domain.videos import (
    Page,
    Upload,
    UploadState,
    VideoRecord,
    VideoState,
)
from service.settings import Settings
from service.store import schema
from service.store.blobs import Blobs, sync_folder
from service.store.database import Database, check_text, new_id, now, once, page_start
from service.store.job_queue import insert_job
from service.store.projects import project_row

__all__ = ["Uploads", "Videos", "video_row"]

_CHUNK_BYTES = 1 << 20
_SUMMARY = [column for column in schema.videos.c if column.name != "frame_table"]


def video_row(connection: sa.Connection, project_id: str, video_id: str, lock: bool = False) -> sa.Row[Any]:
    """The row of a video without its frame table; ``lock`` blocks other writers until the transaction ends.

    Raises:
        NotFound: no such video.
    """
    videos, projects = schema.videos, schema.projects
    query = (
        sa.select(*_SUMMARY)
        .join(projects, projects.c.key == videos.c.project)
        .where(projects.c.project_id == project_id, videos.c.video_id == video_id)
    )
    row = connection.execute(query.with_for_update(of=videos) if lock else query).first()
    if row is None:
        raise NotFound("video", video_id)
    return row


def _video(project_id: str, row: sa.Row[Any]) -> VideoRecord:
    return VideoRecord(
        project_id=project_id,
        video_id=row.video_id,
        display_name=row.display_name,
        state=VideoState(row.state),
        source_path=row.source_path,
        blob=row.blob,
        content_hash=row.content_hash,
        size_bytes=row.size_bytes,
        frame_count=row.frame_count,
        width_px=row.width_px,
        height_px=row.height_px,
        probe_job_id=row.probe_job_id,
        error=row.error,
        label_revision=row.label_revision,
        created_at=row.created_at,
    )


def _insert_video(connection: sa.Connection, project: sa.Row[Any], author: str, values: dict[str, Any]) -> str:
    """Create a video and the job that probes it."""
    video_id = new_id()
    job_id = insert_job(connection, project, JobKind.PROBE, {"video_id": video_id}, video_id, author)
    row = {"project": project.key, "video_id": video_id, "state": VideoState.PROBING.value, "probe_job_id": job_id}
    connection.execute(schema.videos.insert().values(**row, **values, created_at=now()))
    return video_id


class Videos:
    """Videos of a store."""

    def __init__(self, database: Database, blobs: Blobs, settings: Settings) -> None:
        self._database = database
        self._blobs = blobs
        self._allowed_roots = settings.allowed_roots

    def register(
        self, project_id: str, path: Path, display_name: str, *, author: str = "", request_id: str = ""
    ) -> VideoRecord:
        """Register a file or a folder of frames on the server; the job ``probe_job_id`` builds its frame table.

        Raises:
            AlreadyExists: the request id was used with another body.
            InvalidInput: the path does not exist or is not below an allowed root, or the name is not allowed.
            NotFound: no such project.
        """
        check_text("display_name", display_name)
        source = self._allowed(path)

        def act() -> dict[str, Any]:
            size_bytes = source.stat().st_size if source.is_file() else 0
            values = {"display_name": display_name, "source_path": str(source), "size_bytes": size_bytes}
            return {"video_id": _insert_video(connection, project, author, values)}

        with self._database.begin(write=True) as connection:
            project = project_row(connection, project_id)
            body = [str(source), display_name]
            answer = once(connection, f"videos.register/{project_id}", request_id, body, act)
            return _video(project_id, video_row(connection, project_id, answer["video_id"]))

    def _allowed(self, path: Path) -> Path:
        allowed = "a file or folder below " + (
            ", ".join(map(str, self._allowed_roots)) or "an allowed root; set one with --allow-root"
        )
        if not path.is_absolute() or "\0" in str(path):
            raise InvalidInput("path", str(path), "an absolute path: " + allowed)
        source = path.resolve()  # follows links: the target must be allowed
        if not any(source.is_relative_to(root.resolve()) for root in self._allowed_roots):
            raise InvalidInput("path", str(path), allowed)
        if not source.is_file() and not source.is_dir():
            raise InvalidInput("path", str(path), allowed + " that exists")
        return source

    def get(self, project_id: str, video_id: str) -> VideoRecord:
        """One video.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            return _video(project_id, video_row(connection, project_id, video_id))

    def list(self, project_id: str, *, after: str = "", limit: int = 100) -> Page[VideoRecord]:
        """Videos of a project, oldest first.

        Raises:
            InvalidInput: ``after`` is not from an earlier page.
            NotFound: no such project.
        """
        table = schema.videos
        with self._database.begin() as connection:
            project = project_row(connection, project_id)
            rows = connection.execute(
                sa.select(*_SUMMARY)
                .where(table.c.project == project.key, table.c.key > page_start(after))
                .order_by(table.c.key)
                .limit(limit + 1)
            ).all()
        items = tuple(_video(project_id, row) for row in rows[:limit])
        return Page(items, str(rows[limit - 1].key) if len(rows) > limit else "")

    def frame_table(self, project_id: str, video_id: str) -> dict[str, Any]:
        """The frame table in the form of ``FrameTable.to_dict``.

        Raises:
            FailedPrecondition: the video is not ready.
            NotFound: no such video.
        """
        table = schema.videos
        with self._database.begin() as connection:
            key = video_row(connection, project_id, video_id).key
            data = connection.execute(sa.select(table.c.frame_table).where(table.c.key == key)).scalar_one()
        if data is None:
            raise FailedPrecondition(f"video {video_id!r} is not ready; see its state and error")
        return dict(data)

    def path(self, project_id: str, video_id: str) -> Path:
        """Path of the video's file or folder, for reading.

        Raises:
            NotFound: no such video, or its file is missing.
        """
        video = self.get(project_id, video_id)
        return self._blobs.path(video.blob) if video.blob else Path(video.source_path)


def _upload(project_id: str, row: sa.Row[Any]) -> Upload:
    return Upload(
        project_id=project_id,
        upload_id=row.upload_id,
        display_name=row.display_name,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        offset_bytes=row.offset_bytes,
        state=UploadState(row.state),
        video_id=row.video_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _upload_row(connection: sa.Connection, project_id: str, upload_id: str) -> sa.Row[Any]:
    uploads, projects = schema.uploads, schema.projects
    query = sa.select(uploads).join(projects, projects.c.key == uploads.c.project)
    query = query.where(projects.c.project_id == project_id, uploads.c.upload_id == upload_id)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound("upload", upload_id)
    return row


def _used_bytes(connection: sa.Connection, project: int) -> int:
    """Bytes of a project's uploaded videos and unfinished uploads."""
    videos, uploads = schema.videos, schema.uploads
    there = sa.select(sa.func.sum(videos.c.size_bytes)).where(videos.c.project == project, videos.c.blob != "")
    coming = sa.select(sa.func.sum(uploads.c.size_bytes))
    coming = coming.where(uploads.c.project == project, uploads.c.state == UploadState.ACTIVE.value)
    return sum(int(connection.execute(query).scalar() or 0) for query in (there, coming))


class Uploads:
    """Unfinished uploads. Chunks are durable before they are acknowledged."""

    def __init__(self, database: Database, blobs: Blobs, settings: Settings) -> None:
        self._database = database
        self._blobs = blobs
        self._settings = settings
        self._folder = settings.data_dir / "uploads"
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        with disk_errors():
            self._folder.mkdir(parents=True, exist_ok=True)

    def begin(
        self, project_id: str, display_name: str, size_bytes: int, *, sha256: str = "", request_id: str = ""
    ) -> Upload:
        """Start an upload of a given size.

        Args:
            project_id: project of the video.
            display_name: name for people, usually the file's name; never used as a path.
            size_bytes: exact size of the file.
            sha256: checksum of the file, 64 hex digits; empty if unknown.
            request_id: a repeat with the same body returns the same upload.

        Raises:
            AlreadyExists: the request id was used with another body.
            InvalidInput: name, size or checksum are not allowed.
            NotFound: no such project.
            ResourceExhausted: the disk has no space for it, or the project's limit is reached.
        """
        check_text("display_name", display_name)
        sha256 = sha256.lower()
        if sha256 and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
            raise InvalidInput("sha256", sha256, "64 hex digits, or empty")
        if not 1 <= size_bytes <= self._settings.max_upload_bytes:
            raise InvalidInput("size_bytes", size_bytes, f"1 to {self._settings.max_upload_bytes}")

        def act() -> dict[str, Any]:
            free = os.statvfs(self._folder)
            if free.f_bavail * free.f_frsize - size_bytes < self._settings.min_free_bytes:
                reason = f"the disk has no space for {size_bytes} bytes; free some space"
                raise ResourceExhausted(reason, retry_after_seconds=60.0)
            used = _used_bytes(connection, project.key)
            if used + size_bytes > self._settings.project_bytes:
                bound = f"the project uses {used} of its {self._settings.project_bytes} bytes"
                raise ResourceExhausted(f"{bound}; no space for {size_bytes} more. Delete videos first")
            values = {"upload_id": new_id(), "display_name": display_name, "size_bytes": size_bytes, "sha256": sha256}
            moment = now()
            state = UploadState.ACTIVE.value
            connection.execute(
                schema.uploads.insert().values(
                    **values, project=project.key, state=state, created_at=moment, updated_at=moment
                )
            )
            return {"upload_id": values["upload_id"]}

        with self._database.begin(write=True) as connection:
            project = project_row(connection, project_id, lock=True)  # so that concurrent uploads are added up
            body = [display_name, size_bytes, sha256]
            answer = once(connection, f"uploads.begin/{project_id}", request_id, body, act)
            return _upload(project_id, _upload_row(connection, project_id, answer["upload_id"]))

    def get(self, project_id: str, upload_id: str) -> Upload:
        """One upload.

        Raises:
            NotFound: no such upload.
        """
        with self._database.begin() as connection:
            return _upload(project_id, _upload_row(connection, project_id, upload_id))

    def append(self, project_id: str, upload_id: str, offset: int, data: bytes, *, crc32: int | None = None) -> Upload:
        """Store the next chunk.

        Args:
            project_id: the upload's project.
            upload_id: which one.
            offset: where the chunk starts; must be the upload's ``offset_bytes``.
            data: the bytes.
            crc32: ``zlib.crc32`` of the bytes; None if already checked.

        Raises:
            DataLoss: the checksum does not match; nothing was stored.
            FailedPrecondition: the upload is no longer active.
            InvalidInput: more bytes than declared.
            NotFound: no such upload.
            ResourceExhausted: the disk is full.
            StorageFailure: the disk failed.
            UploadConflict: another call is writing to it.
            WrongOffset: the upload continues at another offset, which the error names.
        """
        if crc32 is not None and zlib.crc32(data) != crc32:
            found = f"{zlib.crc32(data):08x}"
            raise DataLoss(f"chunk at offset {offset}: its CRC-32 is {found}, expected {crc32:08x}; send it again")
        with self._alone(upload_id):
            upload = self._active(project_id, upload_id)
            if offset != upload.offset_bytes:
                raise WrongOffset(offset, upload.offset_bytes)
            if offset + len(data) > upload.size_bytes:
                raise InvalidInput("data", f"{len(data)} bytes", f"at most {upload.size_bytes - offset} bytes")
            self._store(upload_id, offset, data)
            table = schema.uploads
            with self._database.begin(write=True) as connection:
                done = connection.execute(
                    table.update()
                    .where(table.c.upload_id == upload_id, table.c.offset_bytes == offset)
                    .values(offset_bytes=offset + len(data), updated_at=now())
                )
                if done.rowcount != 1:
                    raise UploadConflict(f"another server is writing to upload {upload_id!r}")
                return _upload(project_id, _upload_row(connection, project_id, upload_id))

    def finish(self, project_id: str, upload_id: str, *, author: str = "") -> VideoRecord:
        """Check size and checksum and turn the upload into a video; a repeat returns the same video.

        Reads the whole file once. The video is ``PROBING`` until the job ``probe_job_id`` has built its frame table.

        Raises:
            DataLoss: the checksum does not match; the upload failed and its bytes were deleted.
            FailedPrecondition: bytes are missing, or the upload was cancelled.
            NotFound: no such upload.
            StorageFailure: the disk failed.
            UploadConflict: another call is writing to it.
        """
        with self._alone(upload_id):
            upload = self.get(project_id, upload_id)
            if upload.state is not UploadState.FINISHED:
                self._finish(self._active(project_id, upload_id), author)
            with self._database.begin() as connection:
                video_id = _upload_row(connection, project_id, upload_id).video_id
                return _video(project_id, video_row(connection, project_id, video_id))

    def abort(self, project_id: str, upload_id: str) -> Upload:
        """Cancel an upload and delete its bytes; no effect on a finished one.

        Raises:
            NotFound: no such upload.
            UploadConflict: another call is writing to it.
        """
        with self._alone(upload_id):
            if self.get(project_id, upload_id).state is UploadState.ACTIVE:
                self._end(upload_id, UploadState.ABORTED)
            return self.get(project_id, upload_id)

    def expire(self) -> int:
        """Expire the uploads without a write for ``upload_idle_hours``; returns how many."""
        limit = now() - timedelta(hours=self._settings.upload_idle_hours)
        table = schema.uploads
        idle = sa.select(table.c.upload_id).where(table.c.state == "active", table.c.updated_at < limit)
        with self._database.begin() as connection:
            ids = connection.execute(idle).scalars().all()
        for upload_id in ids:
            with self._alone(upload_id):
                self._end(upload_id, UploadState.ABORTED)
        return len(ids)

    def _finish(self, upload: Upload, author: str) -> None:
        if upload.offset_bytes != upload.size_bytes:
            raise FailedPrecondition(
                f"upload {upload.upload_id!r} has {upload.offset_bytes} of {upload.size_bytes} bytes; send the rest"
            )
        part = self._part(upload.upload_id)
        digest = hashlib.sha256()
        with disk_errors(), part.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        sha256 = digest.hexdigest()
        if upload.sha256 and sha256 != upload.sha256:
            self._end(upload.upload_id, UploadState.FAILED)
            found = f"its SHA-256 is {sha256}, expected {upload.sha256}"
            raise DataLoss(f"upload {upload.upload_id!r}: {found}; start a new upload")
        # A crash between these two leaves the bytes both as blob and as part; a repeated finish succeeds.
        self._blobs.adopt(part, sha256)
        table = schema.uploads
        with self._database.begin(write=True) as connection:
            project = project_row(connection, upload.project_id)
            values = {"display_name": upload.display_name, "blob": sha256, "size_bytes": upload.size_bytes}
            video_id = _insert_video(connection, project, author, values)
            ended = {"state": UploadState.FINISHED.value, "video_id": video_id, "updated_at": now()}
            mine = (table.c.upload_id == upload.upload_id, table.c.state == UploadState.ACTIVE.value)
            if connection.execute(table.update().where(*mine).values(ended)).rowcount != 1:
                raise UploadConflict(f"another server has finished or cancelled upload {upload.upload_id!r}")
        part.unlink(missing_ok=True)

    def _end(self, upload_id: str, state: UploadState) -> None:
        table = schema.uploads
        with self._database.begin(write=True, frees=True) as connection:
            connection.execute(
                table.update().where(table.c.upload_id == upload_id).values(state=state.value, updated_at=now())
            )
        self._part(upload_id).unlink(missing_ok=True)

    def _active(self, project_id: str, upload_id: str) -> Upload:
        upload = self.get(project_id, upload_id)
        if upload.state is not UploadState.ACTIVE:
            raise FailedPrecondition(f"upload {upload_id!r} is {upload.state.value}; start a new one")
        return upload

    def _store(self, upload_id: str, offset: int, data: bytes) -> None:
        with disk_errors():
            part = self._part(upload_id)
            fresh = not part.exists()
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                view = memoryview(data)
                while view:
                    written = os.pwrite(descriptor, view, offset)
                    offset, view = offset + written, view[written:]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if fresh:
                sync_folder(self._folder)

    def _part(self, upload_id: str) -> Path:
        return self._folder / f"{upload_id}.part"

    @contextmanager
    def _alone(self, upload_id: str) -> Iterator[None]:
        with self._lock:
            if upload_id in self._busy:
                raise UploadConflict(f"another call is writing to upload {upload_id!r}")
            self._busy.add(upload_id)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(upload_id)
