"""Clips made on the spot for the tests of `micromodels.video`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
import pytest

Rgb = npt.NDArray[np.uint8]


def _moving_square(count: int, width: int = 96, height: int = 64) -> Iterator[Rgb]:
    """Every frame differs from every other: a square moves, the background brightens."""
    background = np.random.default_rng(1).integers(0, 120, (height // 8, width // 8, 3), dtype=np.uint8)
    background = background.repeat(8, axis=0).repeat(8, axis=1)
    for index in range(count):
        image = background + np.uint8(index % 100)
        left = 3 * index % (width - 24)
        image[16:40, left : left + 24] = (220, 40, 2 * index % 256)
        yield image


@pytest.fixture
def moving_square() -> Callable[..., Iterator[Rgb]]:
    """The generator of the frames that `make_clip` encodes."""
    return _moving_square


class MakeClip(Protocol):
    def __call__(self, name: str, codec: str = "libx264", pix_fmt: str = "yuv420p", count: int = 60) -> Path: ...


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """Encodes `moving_square` with short groups of pictures and B-frames where the codec has them."""

    def make(
        name: str,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        count: int = 60,
        *,
        options: dict[str, str] | None = None,
        pts: list[int] | None = None,
        rotation: int = 0,
        mirrored: bool = False,
        size: tuple[int, int] = (96, 64),
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.options = options or {}
            if codec == "libx264" and options is None:
                stream.options = {"g": "15", "bf": "3"}
            if rotation or mirrored:
                stream.set_display_rotation(rotation, hflip=mirrored)
            if pts is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for index, image in enumerate(_moving_square(count, *size)):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
                if pts is not None:
                    frame.pts, frame.time_base = pts[index], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

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
