"""Storage of projects, videos, labels, jobs and models: one database, and one blob store."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition
from service.access.calls import discard_audit_detail
from service.domain.access import (
    AccessToken,
    AuditReport,
    AuditRow,
    Member,
)
from service.domain.errors import disk_errors
from service.domain.jobs import (
    Beat,
    Effects,
    Job,
    JobError,
    JobEvent,
    JobKind,
    JobState,
    Lease,
    NewEvent,
    Orders,
)
from service.domain.labels import (
    LabelRecord,
    ReviewState,
    WriteResult,
)
from service.domain.models import (
    AdaptedModel,
    BlobFile,
    ModelVersion,
    NewModel,
)
from service.domain.videos import (
    Page,
    Project,
    Upload,
    UploadState,
    VideoRecord,
    VideoState,
)
from service.settings import Settings
from service.store import schema
from service.store.access import Access
from service.store.adapted_models import AdaptedModels
from service.store.assignments import Assignments
from service.store.audit import Audit
from service.store.blobs import Blobs
from service.store.clock import SteadyClock
from service.store.database import Database, database_url, now
from service.store.disk_reserve import Reserve
from service.store.erasure import Erasure
from service.store.history import History
from service.store.jobs import Jobs, Watch
from service.store.labels import Labels
from service.store.models import Models
from service.store.objects import ObjectStore
from service.store.projects import Projects
from service.store.retention import Retention
from service.store.reviews import Reviews
from service.store.tracks import Tracks
from service.store.videos import Uploads, Videos

__all__ = [
    "AccessToken",
    "AdaptedModel",
    "AuditReport",
    "AuditRow",
    "Beat",
    "BlobFile",
    "Effects",
    "Job",
    "JobError",
    "JobEvent",
    "JobKind",
    "JobState",
    "LabelRecord",
    "Lease",
    "Member",
    "ModelVersion",
    "NewEvent",
    "NewModel",
    "Orders",
    "Page",
    "Project",
    "ReviewState",
    "Store",
    "Upload",
    "UploadState",
    "VideoRecord",
    "VideoState",
    "Watch",
    "WriteResult",
    "open_blobs",
    "referenced_blobs",
]


class Store:
    """The store of one data folder. Calls block, and may be made from any thread.

    When a method returns, its result is durable. Any method that uses the database may raise
    ``service.domain.errors.Unavailable`` (locked or out of reach), ``ResourceExhausted`` (disk full),
    ``StorageFailure`` (disk or database broken) or ``Aborted`` (another server wrote the same rows), besides its
    documented errors.

    Attributes:
        projects: see ``Projects``.
        videos: see ``Videos``.
        uploads: see ``Uploads``.
        labels: see ``Labels``.
        history: see ``History``.
        reviews: see ``Reviews``.
        tracks: see ``Tracks``.
        assignments: see ``Assignments``.
        jobs: see ``Jobs``; API operations are jobs.
        models: see ``Models``.
        adapted_models: see ``AdaptedModels``.
        blobs: see ``Blobs``.
        access: see ``Access``.
        audit: see ``Audit``.
        erasure: see ``Erasure``.
        clock: time of day for everything that expires.
    """

    def __init__(self, settings: Settings, database: Database, blobs: Blobs, lock: int | None) -> None:
        self.settings = settings
        self.blobs = blobs
        self.projects = Projects(database)
        self.videos = Videos(database, self.blobs, settings)
        self.uploads = Uploads(database, self.blobs, settings)
        self.labels = Labels(database)
        self.history = History(database)
        self.reviews = Reviews(database)
        self.tracks = Tracks(database)
        self.assignments = Assignments(database)
        self.jobs = Jobs(database)
        self.models = Models(database, self.blobs)
        self.adapted_models = AdaptedModels(database, self.blobs)
        self.clock = SteadyClock(_last_instant(database))
        self.access = Access(database, self.clock)
        self.audit = Audit(database, self.clock)
        self.erasure = Erasure(database, blobs, settings, self.audit, self.clock)
        self.retention = Retention(database, self.erasure, self.audit, self.clock)
        database.before_commit = self.audit.before_commit
        database.after_failure = discard_audit_detail
        self._database = database
        self._lock = lock
        if database.is_sqlite:
            database.reserve = Reserve(settings.data_dir, settings.reserve_bytes)
            with disk_errors():
                database.reserve.refill()

    @classmethod
    def open(cls, settings: Settings, *, exclusive: bool = True) -> Store:
        """Open or create the store in ``settings.data_dir`` and upgrade its tables.

        Args:
            settings: which folder and database.
            exclusive: whether to be the only server on this folder.

        Raises:
            FailedPrecondition: another server uses the folder, or a newer version wrote the database.
            InvalidInput: a URL of the settings is of an unknown kind, or its package is not installed.
            StorageFailure: folder, database or object store cannot be opened.
            Unavailable: database or object store cannot be reached.
        """
        with disk_errors():
            settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # private: it may hold patient videos
        lock = _lock(settings.data_dir / "lock") if exclusive else None
        try:
            blobs = open_blobs(settings)
            return cls(settings, Database(database_url(settings)), blobs, lock)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise

    @staticmethod
    @contextmanager
    def lock_folder(settings: Settings) -> Iterator[None]:
        """Lock the data folder against other servers for the block, without opening the store.

        Raises:
            FailedPrecondition: another server uses the folder.
            StorageFailure: the folder cannot be created.
        """
        with disk_errors():
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock(settings.data_dir / "lock")
        try:
            yield
        finally:
            os.close(lock)

    def tidy(self, unused_seconds: float = 3600.0) -> None:
        """Finish deletions; delete expired videos, idle uploads, old request ids and unreferenced blobs.

        Args:
            unused_seconds: only blobs last added longer ago are deleted.
        """
        if self._database.reserve is not None:
            with disk_errors():
                self._database.reserve.refill()
        self.erasure.finish_all()
        self.retention.sweep()
        if not self.clock.disagrees:
            self.uploads.expire()
        self._forget_requests()
        self.blobs.sweep(self._referenced(), unused_seconds)

    def _forget_requests(self) -> None:
        limit = now() - timedelta(hours=self.settings.request_id_hours)
        with self._database.begin(write=True, frees=True) as connection:
            connection.execute(schema.requests.delete().where(schema.requests.c.created_at < limit))

    def _referenced(self) -> frozenset[str]:
        with self._database.begin() as connection:
            return referenced_blobs(connection)

    @property
    def is_exclusive(self) -> bool:
        """Whether this is the only server on the folder."""
        return self._lock is not None

    @property
    def has_own_database(self) -> bool:
        """Whether only servers on this folder can reach the database."""
        return self._database.is_sqlite

    def close(self) -> None:
        """Close the database and unlock the folder."""
        self.audit.close()
        self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def referenced_blobs(connection: sa.Connection) -> frozenset[str]:
    """Names of all blobs referenced by rows."""
    names = set(connection.execute(sa.select(schema.videos.c.blob)).scalars())
    names.update(connection.execute(sa.select(schema.job_events.c.picture)).scalars())
    for files in connection.execute(sa.select(schema.models.c.files)).scalars():
        names.update(file["sha256"] for file in files)
    for result in connection.execute(sa.select(schema.jobs.c.result)).scalars():
        names.update(file["sha256"] for file in result.get("files", ()))
    if sa.inspect(connection).has_table(schema.learned_states.name):  # a backup also reads tables of earlier versions
        for files in connection.execute(sa.select(schema.learned_states.c.files)).scalars():
            names.update(file["sha256"] for file in files)
    return frozenset(names - {""})


def open_blobs(settings: Settings) -> Blobs:
    """Open the blob store of the settings.

    Raises:
        InvalidInput: the URL is of an unknown kind, or its package is not installed.
        StorageFailure: the folder or object store cannot be used.
        Unavailable: the object store cannot be reached.
    """
    folder, url = settings.data_dir / "blobs", settings.object_store_url
    if url.startswith("file://"):
        return Blobs(Path(url.removeprefix("file://")))
    return Blobs(folder, ObjectStore(url) if url else None)


def _last_instant(database: Database) -> datetime | None:
    """The newest instant on record."""
    table = schema.audit
    with database.begin() as connection:
        return connection.execute(sa.select(table.c.at).order_by(table.c.sequence.desc()).limit(1)).scalar()


def _lock(path: Path) -> int:
    """Lock the folder; the system releases the lock when this process ends in any way."""
    with disk_errors():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        folder = str(path.parent)
        raise FailedPrecondition(f"another server uses the data folder {folder!r}; stop it first") from None
    return descriptor
