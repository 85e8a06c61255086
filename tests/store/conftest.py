from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from service.store import Project, Store, VideoRecord
from tests.store.helpers import ONTOLOGY, ready_video, settings_in

DATABASES = ["sqlite"]
# The URL of an empty database of another kind: the same suite runs there too.
if url := os.environ.get("MICROMODELS_TEST_DATABASE_URL"):
    DATABASES.append(url)


@pytest.fixture(scope="session", params=DATABASES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all tests of the contract; each makes its own project."""
    url = "" if request.param == "sqlite" else request.param
    roots = tmp_path_factory.mktemp("roots")
    settings = settings_in(tmp_path_factory.mktemp("store"), database_url=url, allowed_roots=(roots,))
    with Store.open(settings) as opened:
        yield opened


@pytest.fixture
def project(store: Store) -> Project:
    return store.projects.create("p", ONTOLOGY)


@pytest.fixture
def video(store: Store, project: Project) -> VideoRecord:
    """A ready video of 100 frames."""
    return ready_video(store, project.project_id)
