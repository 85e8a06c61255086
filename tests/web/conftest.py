from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from micromodels.v1 import video_pb2
from tests.web.harness import Served


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Iterator[Served]:
    """One server with its page; job children use the fake library."""
    made = Served(tmp_path_factory.mktemp("served"), tiny_clip / "video.mp4")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def video(served: Served) -> video_pb2.Video:
    """A video of 24 frames of 128x96 in a project of its own."""
    return served.video()
