"""Opening, migrations, settings and errors."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import service.domain.errors
from micromodels.errors import FailedPrecondition, InvalidInput, MicromodelsError
from micromodels.labels.keys import LabelKey
from service.domain.errors import ResourceExhausted, StorageFailure, Unavailable
from service.domain.jobs import JobError
from service.settings import Settings
from service.store import Store
from service.store.database import Database
from service.store.projects import project_row
from service.store.schema import metadata
from tests.service.store.conftest import Place
from tests.service.store.helpers import ONTOLOGY, box, ready_video, settings_in


def test_migrations_make_the_tables_of_the_code(store: Store) -> None:
    """The schema that migrations build is the one that queries are written for."""
    with store._database.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_sqlite_is_set_up_for_safety(tmp_path: Path) -> None:
    """Write-ahead log, full synchronization and foreign keys are on, in every connection."""
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    with database.begin() as one, database.begin() as two:
        for connection in (one, two):
            pragmas = {p: connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")}
            assert pragmas == {"journal_mode": "wal", "synchronous": 2}
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


def test_one_server_per_folder(tmp_path: Path, place: Place) -> None:
    """A second server on the same data is refused; after the first has closed, or died, it is welcome."""
    settings = place(tmp_path)
    with Store.open(settings) as first:
        project = first.projects.create("p", ONTOLOGY)
        with pytest.raises(FailedPrecondition, match="another server"):
            Store.open(settings)
    with Store.open(settings) as second:
        assert second.is_exclusive
        assert second.projects.get(project.project_id) == project


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path, place: Place) -> None:
    """Rather than guess, the server says that it is too old."""
    settings = place(tmp_path)
    with Store.open(settings) as store, store._database.begin(write=True) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FailedPrecondition, match="another version"):
        Store.open(settings)


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


def test_a_locked_database_is_unavailable(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that another process holds for too long is worth a retry."""
    monkeypatch.setattr("service.store.database._BUSY_SECONDS", 0.1)
    settings = place(tmp_path, object_store_url="")
    with Store.open(settings) as store, Store.open(settings, exclusive=False) as other:
        project = store.projects.create("p", ONTOLOGY)
        with store._database.begin(write=True) as connection:
            project_row(connection, project.project_id, lock=True)
            with pytest.raises(Unavailable) as caught:
                other.projects.update(project.project_id, display_name="q")
        assert caught.value.retry_after_seconds > 0
        assert other.projects.update(project.project_id, display_name="q").display_name == "q"


def test_request_ids_are_forgotten(tmp_path: Path, place: Place) -> None:
    """After their time they may be used again."""
    with Store.open(place(tmp_path, request_id_hours=0.01)) as store:
        first = store.projects.create("p", ONTOLOGY, request_id="r")
        store.tidy()
        assert store.projects.create("p", ONTOLOGY, request_id="r") == first
        with store._database.begin(write=True) as connection:
            connection.exec_driver_sql("UPDATE requests SET created_at = created_at - 60000000")
        store.tidy()
        assert store.projects.create("p", ONTOLOGY, request_id="r") != first


def test_one_request_at_the_same_moment(store: Store) -> None:
    """However many calls with one request id come at once, through two servers, one acts and all get its answer."""
    with Store.open(store.settings, exclusive=False) as other, ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda i: (store, other)[i % 2].projects.create("p", ONTOLOGY, request_id="same"), range(16))
        assert len({project.project_id for project in made}) == 1


def test_writers_at_the_same_moment(store: Store) -> None:
    """Writes to one video, through two servers, take turns: each has a revision of its own, and none is lost."""
    project = store.projects.create("p", ONTOLOGY)
    video = ready_video(store, project.project_id)

    def write(number: int, server: Store) -> int:
        label = box(number % 10, x=float(number))
        return server.labels.write(project.project_id, video.video_id, [label], author=str(number)).revision

    with Store.open(store.settings, exclusive=False) as other, ThreadPoolExecutor(8) as pool:
        revisions = list(pool.map(lambda i: write(i, (store, other)[i % 2]), range(60)))
    assert sorted(revisions) == list(range(1, 61))
    for frame in range(10):
        history = store.history.of_label(project.project_id, video.video_id, LabelKey(frame=frame, name="1"))
        assert len(history) == 6
        assert [version.record.revision for version in history] == sorted(v.record.revision for v in history)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u:secret@h/d", "postgresql://"),
        ("no url: secret", "postgresql://"),
        ("postgresql://u:secret@127.0.0.1:1/d", "not available"),
    ],
)
def test_a_database_that_cannot_be_used(tmp_path: Path, url: str, says: str) -> None:
    """Another kind of URL is refused, a server that is not there is said to be away; no password is in the message."""
    with pytest.raises((InvalidInput, Unavailable), match=says) as caught:
        Store.open(settings_in(tmp_path, database_url=url))
    assert "secret" not in str(caught.value)
    Store.open(settings_in(tmp_path)).close()


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
        "SessionFailed": (JobError("OOM", "out of memory"),),
        "RevisionConflict": ((LabelKey(frame=1, name="a"),), 4),
        "Unavailable": ("busy", 2.0),
        "WrongOffset": (3, 5),
    }
    for name in set(service.domain.errors.__all__) - {"disk_errors"}:
        error = getattr(service.domain.errors, name)(*arguments.get(name, ("message",)))
        assert isinstance(error, MicromodelsError)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
        assert str(error)
