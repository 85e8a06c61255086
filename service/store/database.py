"""The database: connection, migrations, transactions, and translation of errors."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.labels.keys import LabelKey
from service.domain.errors import Aborted, AlreadyExists, ResourceExhausted, StorageFailure, Unavailable
from service.settings import Settings
from service.store import schema
from service.store.disk_reserve import Reserve

__all__ = [
    "Database",
    "DatabaseState",
    "check_id",
    "check_text",
    "database_url",
    "inspect_database",
    "new_id",
    "now",
    "once",
    "page_start",
    "row_key",
]

_WRITE = "micromodels_write"
_MIGRATING = 0x6D6D7302  # key of a PostgreSQL advisory lock: servers that start together migrate in turn
_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_BUSY_SECONDS = 15.0


class Database:
    """A migrated database. ``begin`` may be called from any thread.

    SQLite has one writer at a time. In PostgreSQL writers run concurrently: a transaction that changes a row it read
    before must have locked the row (``with_for_update``), and ``once`` serializes calls with the same request id. Reads
    see a snapshot in both.

    Args:
        url: SQLAlchemy URL of a SQLite or PostgreSQL database.
        migrate: whether to upgrade the tables.

    Attributes:
        reserve: checks the disk space before writes; None for no check.
        before_commit: called at the end of every writing transaction, inside it.
        after_failure: called when such a transaction is rolled back.

    Raises:
        FailedPrecondition: the database was written by a newer version of the service.
        InvalidInput: the URL names another kind of database, or its driver is not installed.
        StorageFailure: the database cannot be opened.
        Unavailable: the database cannot be reached.
    """

    def __init__(self, url: str, *, migrate: bool = True) -> None:
        self._engine = _engine(url)
        self._writing = threading.Lock()
        self._failure = ""
        self.reserve: Reserve | None = None
        self.before_commit: Callable[[sa.Connection], None] = lambda connection: None
        self.after_failure: Callable[[], None] = lambda: None
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        try:
            if migrate:
                self._migrate("head")
        except BaseException:
            self.close()
            raise

    @contextmanager
    def begin(self, write: bool = False, *, frees: bool = False) -> Iterator[sa.Connection]:
        """A transaction: committed at the end of the block, rolled back on any exception.

        Args:
            write: whether it may write.
            frees: whether it may also write on a full disk, because it frees space or ends something; see ``Reserve``.

        Raises:
            Aborted: another server wrote the same rows at the same time.
            ResourceExhausted: the disk is full.
            StorageFailure: the database failed, now or in an earlier write.
            Unavailable: the database stays locked, or cannot be reached.
        """
        if write:
            self._admit(frees)
        with self._broken_for_good(), _database_errors(), self._watched(write):
            if write and self.is_sqlite:  # SQLite has one writer: queue here rather than poll for its lock
                if not self._writing.acquire(timeout=_BUSY_SECONDS):
                    raise Unavailable("the database is busy; retry")
                try:
                    with self._engine.connect().execution_options(**{_WRITE: True}) as connection, connection.begin():
                        yield connection
                        self.before_commit(connection)
                finally:
                    self._writing.release()
            else:
                # A reader needs one snapshot for all statements; a writer must see the rows that it waited for.
                level = "READ COMMITTED" if write else "REPEATABLE READ"
                options: dict[str, Any] = {} if self.is_sqlite else {"isolation_level": level}
                with self._engine.connect().execution_options(**options) as connection, connection.begin():
                    yield connection
                    if write:
                        self.before_commit(connection)

    def _admit(self, frees: bool) -> None:
        """Refuse a write that would fail, or must not be tried."""
        if self._failure:
            raise StorageFailure(f"storage failed; read-only until the server restarts: {self._failure}")
        if self.reserve is not None:
            self.reserve.open() if frees else self.reserve.admit()

    @contextmanager
    def _broken_for_good(self) -> Iterator[None]:
        """Stop all writes after the first disk failure: a later commit that seems to succeed proves nothing."""
        try:
            yield
        except StorageFailure as error:
            if self.is_sqlite and re.search("I/O error|malformed", str(error)):
                self._failure = str(error)
            raise

    @contextmanager
    def _watched(self, write: bool) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if write:
                self.after_failure()
            raise

    def scrub(self) -> None:
        """Make deleted rows unreadable in the database files too, as far as possible.

        SQLite overwrites deleted rows (``secure_delete``); this also truncates its write-ahead log, which has older
        pages. PostgreSQL reuses the space of deleted rows after its own vacuum.
        """
        if self.is_sqlite:
            with _database_errors(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as plain:
                plain.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def version(self, connection: sa.Connection) -> str | None:
        """Version of the tables: the name of the last migration; None without tables."""
        from alembic.migration import MigrationContext

        return MigrationContext.configure(connection).get_current_revision()

    def create_at(self, version: str, fill: Callable[[sa.Connection], None]) -> None:
        """Create the tables of an earlier version in an empty database and fill them, in one transaction.

        Args:
            version: name of a migration.
            fill: writes rows.

        Raises:
            FailedPrecondition: the database is not empty, or ``version`` is unknown.
        """
        self._migrate(version, fill)

    def _migrate(self, target: str, fill: Callable[[sa.Connection], None] | None = None) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.begin(write=True) as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
            if fill is not None and sa.inspect(connection).get_table_names():
                raise FailedPrecondition("the database is not empty; use a new one")
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, target)
            except CommandError as error:
                raise FailedPrecondition(f"the database is from another version of micromodels: {error}") from error
            if fill is not None:
                fill(connection)


def database_url(settings: Settings) -> str:
    """The database URL of the settings."""
    return settings.database_url or f"sqlite:///{settings.data_dir.resolve() / 'database.sqlite'}"


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """State of a database."""

    kind: str
    """``sqlite`` or ``postgresql``."""
    revision: str
    """Version of its tables; empty without tables."""
    newest: str
    """Version of the tables in this program."""
    problem: str
    """What is wrong; empty if no problem was found."""


def inspect_database(settings: Settings) -> DatabaseState:
    """Inspect a database without changing it; also checks SQLite's pages.

    Raises:
        InvalidInput: the URL is of an unknown kind.
    """
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    newest = ScriptDirectory.from_config(config).get_current_head() or ""
    engine = _engine(database_url(settings))
    kind, revision, problem = engine.dialect.name, "", ""
    if kind == "sqlite" and not Path(engine.url.database or "").exists():
        return DatabaseState(kind, "", newest, "")
    try:
        with engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision() or ""
            if kind == "sqlite":
                result = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
                problem = "" if result == "ok" else result
    except sa.exc.DBAPIError as error:
        problem = str(error.orig)
    finally:
        engine.dispose()
    return DatabaseState(kind, revision, newest, problem)


def _engine(url: str) -> sa.Engine:
    """The engine for a URL; nothing is connected yet."""
    allowed = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME"
    options: dict[str, Any] = {}
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
        if backend == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            milliseconds = f"{_BUSY_SECONDS * 1000:.0f}"
            # Replace connections that broke while idle, such as after a restart of the database, at their next use.
            options["pool_pre_ping"] = True
            options["connect_args"] = {
                "connect_timeout": int(_BUSY_SECONDS),
                "options": f"-c lock_timeout={milliseconds} -c synchronous_commit=on -c timezone=utc",
                "prepare_threshold": None,  # also works behind a connection pooler
            }
        elif backend != "sqlite":
            raise InvalidInput("database_url", backend, allowed)
        return sa.create_engine(
            parsed, pool_size=8, max_overflow=8, pool_timeout=_BUSY_SECONDS, hide_parameters=True, **options
        )
    except sa.exc.ArgumentError:
        raise InvalidInput("database_url", "the configured URL", allowed) from None  # it may contain a password
    except ModuleNotFoundError as error:
        needs = "a database whose driver is installed: pip install 'micromodels-video[postgres]'"
        raise InvalidInput("database_url", backend, needs) from error


def _prepare_sqlite(connection: Any, record: object) -> None:
    del record
    connection.isolation_level = None  # the driver's own BEGINs come too late and are never IMMEDIATE
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",  # nothing of a deleted video stays in the file
        f"busy_timeout={_BUSY_SECONDS * 1000:.0f}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise Aborted("another server wrote the same rows at the same time; retry") from error
    except sa.exc.TimeoutError as error:
        raise Unavailable("the database is busy; retry") from error
    except sa.exc.DBAPIError as error:
        raise _translated(error) from error


# PostgreSQL's error codes have five characters; the longest matching prefix counts.
_BY_SQLSTATE: dict[str, str] = {
    "08": "unavailable",  # the connection broke
    "25006": "unavailable",  # read-only: a standby that has not been promoted yet
    "40": "aborted",  # deadlock, serialization
    "53": "unavailable",  # too many connections, out of memory
    "53100": "full",
    "55P03": "unavailable",  # a lock was held for too long
    "57": "unavailable",  # the database is shutting down, or starting
}


def _translated(error: sa.exc.DBAPIError) -> Exception:
    """The service's error for an error of the driver."""
    text = " ".join(str(error.orig).split())
    state = getattr(error.orig, "sqlstate", None)
    kind = next((_BY_SQLSTATE[state[:n]] for n in (5, 2) if state and state[:n] in _BY_SQLSTATE), "")
    if state is None and ("database or disk is full" in text):
        kind = "full"
    elif error.connection_invalidated or (state is None and re.search("locked|busy|connection|server closed", text)):
        kind = "unavailable"
    if kind == "full":
        return ResourceExhausted("the database's disk is full; free some space", retry_after_seconds=60.0)
    if kind == "unavailable":
        return Unavailable(f"the database is not available: {text}")
    if kind == "aborted":
        return Aborted("another server wrote the same rows at the same time; retry")
    return StorageFailure(f"the database failed: {text}")


def now() -> datetime:
    """Time stamp for rows; never used for decisions."""
    return datetime.now(UTC)


def new_id() -> str:
    """A new id that cannot be guessed."""
    return secrets.token_hex(8)


def row_key(row: sa.Row[Any]) -> LabelKey:
    """The key of a row that has the columns ``frame``, ``is_frame_class`` and ``name``."""
    return LabelKey(frame=row.frame, is_frame_class=row.is_frame_class, name=row.name)


def check_id(field: str, value: str) -> None:
    """Raise if a value is not an id.

    Raises:
        InvalidInput: not 1 to 63 of ``a-z``, ``0-9`` and ``-``, or a hyphen at an end.
    """
    if not _ID.fullmatch(value):
        raise InvalidInput(field, value, "1 to 63 characters a-z, 0-9 and -, not starting or ending with -")


def check_text(field: str, value: str, longest: int = 200) -> None:
    """Raise if a text is too long or has control characters.

    Raises:
        InvalidInput: too long, or a control character in it.
    """
    if len(value) > longest or any(ord(char) < 32 for char in value):
        raise InvalidInput(field, value, f"at most {longest} characters without control characters")


def page_start(after: str) -> int:
    """The row after which a listing continues.

    Raises:
        InvalidInput: not from an earlier page.
    """
    if not after:
        return 0
    if not re.fullmatch(r"[0-9]{1,18}", after):
        raise InvalidInput("after", after, "empty, or the next_after of an earlier page")
    return int(after)


def once(
    connection: sa.Connection, scope: str, request_id: str, body: object, act: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Call ``act`` once per request id: a repeat returns the first answer. Runs in the caller's transaction.

    Args:
        connection: a writing transaction.
        scope: where request ids are unique, such as ``"jobs.create/PROJECT"``.
        request_id: chosen by the caller; empty to always act.
        body: the rest of the request as JSON-like data, compared by checksum.
        act: does the work and returns the JSON answer to remember.

    Raises:
        AlreadyExists: the request id was used with another body.
    """
    if not request_id:
        return act()
    check_text("request_id", request_id)
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()
    table = schema.requests
    if connection.dialect.name != "sqlite":  # of two concurrent calls with one id the second waits for the first
        number = int.from_bytes(hashlib.sha256(f"{scope}\0{request_id}".encode()).digest()[:8], signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
    row = connection.execute(
        sa.select(table.c.body_sha256, table.c.answer).where(table.c.scope == scope, table.c.request_id == request_id)
    ).first()
    if row is not None:
        if row.body_sha256 != digest:
            raise AlreadyExists("request_id", request_id)
        return dict(row.answer)
    answer = act()
    values = {"scope": scope, "request_id": request_id, "body_sha256": digest, "answer": answer, "created_at": now()}
    connection.execute(table.insert().values(values))
    return answer
