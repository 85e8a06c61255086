"""Clips made on the spot for the tests of `micromodels.video`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest

from tests.micromodels.video import files
from tests.micromodels.video.files import Rgb


@pytest.fixture
def moving_square() -> Callable[..., Iterator[Rgb]]:
    """The generator of the frames that `make_clip` encodes."""
    return files.moving_square


class MakeClip(Protocol):
    def __call__(self, name: str, codec: str = "libx264", pix_fmt: str = "yuv420p", count: int = 60) -> Path: ...


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """Encodes `moving_square` into a file of this name; see `files.encode`."""

    def make(name: str, *arguments: Any, **options: Any) -> Path:
        return files.encode(tmp_path / name, *arguments, **options)

    return make


@pytest.fixture
def make_folder(tmp_path: Path):
    """Writes arrays as pictures, with OpenCV as an independent encoder."""
    import cv2

    def make(images: dict[str, npt.NDArray[np.generic]]) -> Path:
        folder = tmp_path / "pictures"
        folder.mkdir()
        for name, image in images.items():
            bgr = image[:, :, ::-1] if image.ndim == 3 else image
            assert cv2.imwrite(str(folder / name), np.ascontiguousarray(bgr))
        return folder

    return make
