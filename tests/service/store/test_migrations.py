"""A database of any earlier version becomes one of this version, and everything in it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import service.store
from micromodels.labels.keys import LabelKey
from service.domain.codec import encode_label, encode_ontology
from service.domain.jobs import (
    JobState,
)
from service.domain.videos import (
    VideoState,
)
from service.settings import Settings
from service.store import (
    Store,
)
from service.store.backup import back_up, restore
from service.store.database import database_url, now
from service.store.schema import Instant, metadata
from tests.service.store.conftest import Place
from tests.service.store.helpers import ONTOLOGY, TABLE, box

MIGRATIONS = Path(service.store.__file__).parent / "migrations"


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    return made


REVISIONS = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()]


def test_the_migrations_are_one_line() -> None:
    """One head, one base, and no branch between them."""
    scripts = ScriptDirectory.from_config(config())
    assert len(scripts.get_heads()) == len(scripts.get_bases()) == 1
    assert all(not isinstance(script.down_revision, tuple) for script in scripts.walk_revisions())


def earlier(settings: Settings, revision: str) -> None:
    """A database as that version left it."""
    engine = sa.create_engine(database_url(settings).replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        made = config()
        made.attributes["connection"] = connection
        command.upgrade(made, revision)
        fill(connection)
    engine.dispose()


def check(settings: Settings) -> None:
    """All of it is there, in the tables of this version."""
    with Store.open(settings) as store:
        with store._database.begin() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert store.projects.get("old").ontology == ONTOLOGY
        video = store.videos.get("old", "clip")
        assert (video.state, video.frame_count) == (VideoState.READY, 100)
        assert [record.label for record in store.labels.stream("old", "clip")] == [box(7, x=2.0)]
        history = store.history.of_label("old", "clip", LabelKey(frame=7, name="1"))
        assert [(v.record.label, v.record.revision, v.record.author) for v in history] == [
            (box(7), 1, "ann"),
            (box(7, x=2.0), 2, "bob"),
        ]
        assert store.jobs.get("old", "job").state is JobState.SUCCEEDED
        result = store.labels.write("old", "clip", [box(8)], author="cid")
        assert (result.revision, result.written) == (3, 1)


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_earlier_database_is_brought_up_to_date(tmp_path: Path, place: Place, revision: str) -> None:
    """Whichever version wrote it: the tables are those of the code afterwards, and projects and labels are there."""
    settings = place(tmp_path, object_store_url="")
    earlier(settings, revision)
    check(settings)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_backup_of_an_earlier_version_comes_back(tmp_path: Path, place: Place, revision: str) -> None:
    """A backup has the tables of the version that the database had, and becomes one of this version."""
    settings, target = (place(tmp_path / name, object_store_url="") for name in "ab")
    settings.data_dir.mkdir()
    earlier(settings, revision)
    assert back_up(settings, tmp_path / "backup").schema == revision
    restore(target, tmp_path / "backup")
    check(target)


def fill(connection: sa.Connection) -> None:
    """A project with a video, two writes of one label, and a job: with the columns that the first version had."""
    tables = sa.MetaData()
    tables.reflect(connection)
    moment = Instant().process_bind_param(now(), connection.dialect)

    def insert(into: str, **values: Any) -> int:
        done = connection.execute(tables.tables[into].insert().values(**values))
        assert done.inserted_primary_key is not None
        return int(done.inserted_primary_key[0])

    made = {"created_at": moment, "updated_at": moment}
    project = insert("projects", project_id="old", display_name="Old", ontology=encode_ontology(ONTOLOGY), **made)
    facts = {name: TABLE[name] for name in ("frame_count", "width_px", "height_px", "content_hash")}
    ready = {"state": "ready", "label_revision": 2, "frame_table": TABLE, "created_at": moment}
    video = insert("videos", project=project, video_id="clip", **facts, **ready)
    for revision, author, label in ((1, "ann", box(7)), (2, "bob", box(7, x=2.0))):
        insert(
            "labels",
            video=video,
            frame=7,
            is_frame_class=False,
            name="1",
            class_name="polyp",
            revision=revision,
            is_current=revision == 2,
            by_human=True,
            payload=encode_label(label),
            author=author,
            written_at=moment,
        )
    empty: dict[str, Any] = {"spec": {}, "checkpoint": {}, "progress": {}, "result": {}}
    insert(
        "jobs",
        project=project,
        job_id="job",
        kind="train",
        state="succeeded",
        video_id="clip",
        created_at=moment,
        **empty,
    )
