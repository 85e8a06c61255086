"""Opening, migrations, settings and errors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import service.errors
from micromodels.errors import FailedPrecondition, InvalidInput, MicromodelsError
from service.errors import ResourceExhausted, StorageFailure, Unavailable
from service.settings import Settings
from service.store import LabelKey, Store
from service.store.database import Database
from service.store.schema import metadata
from tests.store.helpers import ONTOLOGY, settings_in


def test_migrations_make_the_tables_of_the_code(store: Store) -> None:
    """The schema that migrations build is the one that queries are written for."""
    with store._database.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_sqlite_is_set_up_for_safety(tmp_path: Path) -> None:
    """Write-ahead log, full synchronisation and foreign keys are on, in every connection."""
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    with database.begin() as one, database.begin() as two:
        for connection in (one, two):
            pragmas = {p: connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")}
            assert pragmas == {"journal_mode": "wal", "synchronous": 2}
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


def test_one_server_per_folder(tmp_path: Path) -> None:
    """A second server on the same data is refused; after the first has closed, or died, it is welcome."""
    with Store.open(settings_in(tmp_path)) as first:
        project = first.projects.create("p", ONTOLOGY)
        with pytest.raises(FailedPrecondition, match="another server"):
            Store.open(settings_in(tmp_path))
    with Store.open(settings_in(tmp_path)) as second:
        assert second.is_exclusive
        assert second.projects.get(project.project_id) == project


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Rather than guess, the server says that it is too old."""
    with Store.open(settings_in(tmp_path)) as store, store._database.begin(write=True) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FailedPrecondition, match="another version"):
        Store.open(settings_in(tmp_path))


def test_a_full_database(tmp_path: Path) -> None:
    """No room is an error of its own; reading and deleting go on."""
    with Store.open(settings_in(tmp_path)) as store:
        project = store.projects.create("p", ONTOLOGY)

        def limit(connection: Any, record: object, proxy: object) -> None:
            connection.execute("PRAGMA max_page_count=1")  # SQLite takes it as: not one page more

        sa.event.listen(store._database._engine, "checkout", limit)

        def fill() -> None:
            for _ in range(1000):
                store.projects.create("x" * 200, ONTOLOGY)

        with pytest.raises(ResourceExhausted, match="full"):
            fill()
        assert store.projects.get(project.project_id) == project
        store.projects.delete(project.project_id)


def test_a_broken_database(tmp_path: Path) -> None:
    """Bytes that are no database are a storage failure, not a crash."""
    (tmp_path / "database.sqlite").write_bytes(b"x" * 8192)
    with pytest.raises(StorageFailure):
        Store.open(settings_in(tmp_path))


def test_a_locked_database_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that another process holds for too long is worth a retry."""
    monkeypatch.setattr("service.store.database._BUSY_SECONDS", 0.1)
    with Store.open(settings_in(tmp_path)) as store, Store.open(settings_in(tmp_path), exclusive=False) as other:
        with store._database.begin(write=True), pytest.raises(Unavailable) as caught:
            other.projects.create("p", ONTOLOGY)
        assert caught.value.retry_after_seconds > 0
        other.projects.create("p", ONTOLOGY)


def test_request_ids_are_forgotten(tmp_path: Path) -> None:
    """After their time they may be used anew."""
    with Store.open(settings_in(tmp_path, request_id_hours=0.01)) as store:
        first = store.projects.create("p", ONTOLOGY, request_id="r")
        store.tidy()
        assert store.projects.create("p", ONTOLOGY, request_id="r") == first
        with store._database.begin(write=True) as connection:
            connection.exec_driver_sql("UPDATE requests SET created_at = created_at - 60000000")
        store.tidy()
        assert store.projects.create("p", ONTOLOGY, request_id="r") != first


def test_settings_come_from_the_environment() -> None:
    """Every field has its variable; overrides win; what cannot be is refused with the name."""
    environment = {
        "MICROMODELS_DATA_DIR": "/data",
        "MICROMODELS_ALLOWED_ROOTS": "/a:/b",
        "MICROMODELS_HEAVY_JOBS": "3",
        "MICROMODELS_LEASE_SECONDS": "2.5",
        "OTHER": "x",
    }
    settings = Settings.from_environment(environment, heavy_jobs=4, light_jobs=None)
    assert (settings.data_dir, settings.allowed_roots) == (Path("/data"), (Path("/a"), Path("/b")))
    assert (settings.heavy_jobs, settings.light_jobs, settings.lease_seconds) == (4, 2, 2.5)
    for bad, match in (
        ({"MICROMODELS_HEAVY_JOBS": "many"}, "MICROMODELS_HEAVY_JOBS"),
        ({"MICROMODELS_HEAVY_JOBS": "-1"}, "heavy_jobs"),
        ({"MICROMODELS_DEVICE": "tpu"}, "device"),
    ):
        with pytest.raises(InvalidInput, match=match):
            Settings.from_environment(bad)
    with pytest.raises(InvalidInput, match="nonsense"):
        Settings.from_environment({}, nonsense=1)


def test_every_error_survives_pickling() -> None:
    """Errors cross process boundaries with all that they know."""
    arguments: dict[str, tuple[object, ...]] = {
        "AlreadyExists": ("project", "p"),
        "NotFound": ("project", "p"),
        "ResourceExhausted": ("full", 3.0),
        "RevisionConflict": ((LabelKey(1, False, "a"),), 4),
        "Unavailable": ("busy", 2.0),
        "WrongOffset": (3, 5),
    }
    for name in service.errors.__all__:
        error = getattr(service.errors, name)(*arguments.get(name, ("message",)))
        assert isinstance(error, MicromodelsError)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
        assert str(error)
