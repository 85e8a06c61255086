"""The command line, with a fast stand-in for training and the real video, label, picture and report modules."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.service.cli.helpers import StandIn


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """Put the stand-in in the place of the real module, and take back what a test changes in it."""
    monkeypatch.setitem(sys.modules, "micromodels.recipes.base", StandIn("micromodels.recipes.base"))
    monkeypatch.setattr("micromodels.recipes.base", sys.modules["micromodels.recipes.base"], raising=False)
    for name in ("at_frame", "at_step", "error"):
        monkeypatch.setattr(StandIn, name, StandIn.__dict__[name])
    return StandIn


@pytest.fixture
def clip(tiny_clip: Path, tmp_path: Path) -> Path:
    """A copy of the tiny clip that a test may change."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip, folder)
    return folder
