"""The command line, with a fast stand-in for training and the real video, label, picture and report modules."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from micromodels.recipes import base
from tests.service.cli.helpers import StandIn


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """Put the stand-in in the place of training and loading, and take back what a test changes in it."""
    for name in ("train", "load_model"):
        monkeypatch.setattr(base, name, getattr(StandIn, name))
    for name in ("at_frame", "at_step", "error"):
        monkeypatch.setattr(StandIn, name, StandIn.__dict__[name])
    return StandIn


@pytest.fixture
def clip(tiny_clip: Path, tmp_path: Path) -> Path:
    """A copy of the tiny clip that a test may change."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip, folder)
    return folder
