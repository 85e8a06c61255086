"""The library on 128 x 96 pixels with an encoder that costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from micromodels import dense, dense_model, features
from micromodels.encoder import Encoder, Weights
from tests.core.doubles import ColourEncoder


def _own_size(height_px: int, width_px: int) -> tuple[int, int]:
    return height_px, width_px


def _colour_encoder(name: str, device: torch.device, tuned: Weights | None = None) -> Encoder:
    assert (name, tuned) == ("colour", None)
    return ColourEncoder()


@pytest.fixture
def own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos are encoded at their own size instead of 480 lines."""
    monkeypatch.setattr(features, "work_size", _own_size)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, own_size: None) -> None:
    """The whole line runs at the video's own size with the colour encoder."""
    for module in (dense, dense_model):
        monkeypatch.setattr(module, "load_encoder", _colour_encoder)
    monkeypatch.setattr(dense, "default_encoder_name", lambda: "colour")


@pytest.fixture(scope="module")
def tiny_module() -> object:
    """``tiny`` for fixtures that train once for a module."""
    patch = pytest.MonkeyPatch()
    patch.setattr(features, "work_size", _own_size)
    for module in (dense, dense_model):
        patch.setattr(module, "load_encoder", _colour_encoder)
    patch.setattr(dense, "default_encoder_name", lambda: "colour")
    yield patch
    patch.undo()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for a feature cache."""
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder
