from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.domain.videos import Project, VideoRecord
from service.settings import Settings
from service.store import Store
from tests.databases import BUCKET, Postgres
from tests.service.store.helpers import ONTOLOGY, ready_video, settings_in

KINDS = ["sqlite-folder", "postgresql-s3"]
"""Where the one contract suite runs: the default, and what a team has by URL."""

Place = Callable[..., Settings]


@pytest.fixture(scope="session", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Makes settings of a new, empty store in a folder; ``at=`` an earlier one gives another server of the same."""
    if request.param == "sqlite-folder":
        yield settings_in
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    request.getfixturevalue("s3")
    made: list[str] = []

    def make(folder: Path, **values: Any) -> Settings:
        made.append(postgres.database())
        name = made[-1].rpartition("/")[2]
        return settings_in(folder, **{"database_url": made[-1], "object_store_url": f"s3://{BUCKET}/{name}", **values})

    yield make
    for url in made:
        postgres.drop(url)


@pytest.fixture(scope="session")
def store(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all tests of the contract; each makes its own project."""
    roots = tmp_path_factory.mktemp("roots")
    with Store.open(place(tmp_path_factory.mktemp("store"), allowed_roots=(roots,))) as opened:
        yield opened


@pytest.fixture
def project(store: Store) -> Project:
    return store.projects.create("p", ONTOLOGY)


@pytest.fixture
def video(store: Store, project: Project) -> VideoRecord:
    """A ready video of 100 frames."""
    return ready_video(store, project.project_id)
