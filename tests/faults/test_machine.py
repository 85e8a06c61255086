"""Faults of the machine: processes killed, stopped and told to end. The number of each test is the fault's."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings
from tests.databases import Postgres
from tests.faults.killing import run

KILLS = 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_f52_kill_9_under_write_load(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """100 times kill -9 of server and workers while four writers write: no acknowledged label is lost or stored twice.

    `scripts/kill9` does it 1,000 times.
    """
    url = ""
    if kind == "postgresql":
        cluster: Postgres = request.getfixturevalue("postgres")
        url = cluster.database()
    tally = run(Settings(data_dir=tmp_path, database_url=url, min_free_bytes=0), KILLS)
    print(tally)
    assert (tally.lost, tally.duplicated, tally.orphans) == ([], [], [])
    assert tally.kills >= KILLS
    assert tally.acknowledged > KILLS
    assert tally.repeated > 0, "no kill hit a write: the load is too small to show anything"
