from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from micromodels.v1 import video_pb2
from tests.service.web.browsing import ARGUMENTS, Visit, find_chromium, visiting
from tests.service.web.harness import Served


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Iterator[Served]:
    """One server with its page; job children use the fake library."""
    # Nothing is retrained while a slow machine leaves a session idle: tests that want it say so.
    made = Served(tmp_path_factory.mktemp("served"), tiny_clip / "video.mp4", retrain_idle_seconds=3600.0)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def video(served: Served) -> video_pb2.Video:
    """A video of 24 frames of 128x96 in a project of its own."""
    return served.video()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, headless, with a fresh profile."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=find_chromium(), headless=True, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def visit(served: Served, browser: Browser, built: Path) -> Iterator[Visit]:
    """A person who has just opened a browser."""
    with visiting(served, browser) as made:
        yield made


@pytest.fixture(scope="session")
def axe(repository: Path, built: Path) -> Path:
    """axe-core, installed with the page's packages."""
    return repository / "service" / "page" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="session")
def built(repository: Path) -> Path:
    """The folder of the built page; skips, and fails in CI or with npm there, where it was not built."""
    static = repository / "service" / "web" / "static"
    if not (static / "index.html").is_file():
        if os.environ.get("CI") or shutil.which("npm"):
            pytest.fail("scripts/setup has not built the page")
        pytest.skip("the page was not built: npm is not installed")
    return static
