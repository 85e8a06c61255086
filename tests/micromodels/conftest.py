"""The library on 128 x 96 pixels with an encoder that costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from micromodels.encoding import encoded_video
from tests.micromodels.doubles import using_encoder


def _own_size(height_px: int, width_px: int) -> tuple[int, int]:
    return height_px, width_px


@pytest.fixture
def own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos are encoded at their own size instead of 480 lines."""
    monkeypatch.setattr(encoded_video, "work_size", _own_size)


@pytest.fixture
def tiny(own_size: None) -> Iterator[None]:
    """The whole line runs at the video's own size with the color encoder."""
    with using_encoder():
        yield


@pytest.fixture(scope="module")
def tiny_module() -> Iterator[None]:
    """``tiny`` for fixtures that train once for a module."""
    with pytest.MonkeyPatch.context() as patch, using_encoder():
        patch.setattr(encoded_video, "work_size", _own_size)
        yield


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for a feature cache."""
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder
