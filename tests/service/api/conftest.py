from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from micromodels.v1 import video_pb2
from tests.service.api.harness import Running


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Iterator[Running]:
    """One server for all tests that do not stop it; each test makes its own project."""
    # Nothing is retrained while a slow machine leaves a session idle: tests that want it say so.
    made = Running(tmp_path_factory.mktemp("server"), tiny_clip / "video.mp4", retrain_idle_seconds=3600.0)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def video(running: Running) -> video_pb2.Video:
    """A video of 24 frames of 128x96 in a project of its own."""
    return running.video()
