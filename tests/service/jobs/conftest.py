from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from micromodels.types import ObjectClass, Ontology
from service.store import Store
from tests.service.jobs.jobs_harness import Bench, short


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    settings = short(tmp_path)
    store = Store.open(settings)
    project = store.projects.create("p", Ontology((ObjectClass("thing"),)))
    made = Bench(store, settings, project.project_id)
    yield made
    if made.runner is not None:
        made.runner.stop()
    made.store.close()
