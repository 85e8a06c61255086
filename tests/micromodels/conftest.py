"""The library on 128 x 96 pixels with an encoder that costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from micromodels.encoding import encoded_video
from micromodels.encoding.encoders import Encoder, Weights
from micromodels.recipes import head as head_recipe
from micromodels.recipes import head_model
from tests.micromodels.doubles import ColorEncoder


def _own_size(height_px: int, width_px: int) -> tuple[int, int]:
    return height_px, width_px


def _color_encoder(name: str, device: torch.device, tuned: Weights | None = None) -> Encoder:
    assert (name, tuned) == ("color", None)
    return ColorEncoder()


@pytest.fixture
def own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos are encoded at their own size instead of 480 lines."""
    monkeypatch.setattr(encoded_video, "work_size", _own_size)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, own_size: None) -> None:
    """The whole line runs at the video's own size with the color encoder."""
    for module in (head_recipe, head_model):
        monkeypatch.setattr(module, "load_encoder", _color_encoder)
    monkeypatch.setattr(head_recipe, "default_encoder_name", lambda: "color")


@pytest.fixture(scope="module")
def tiny_module() -> object:
    """``tiny`` for fixtures that train once for a module."""
    patch = pytest.MonkeyPatch()
    patch.setattr(encoded_video, "work_size", _own_size)
    for module in (head_recipe, head_model):
        patch.setattr(module, "load_encoder", _color_encoder)
    patch.setattr(head_recipe, "default_encoder_name", lambda: "color")
    yield patch
    patch.undo()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for a feature cache."""
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder
