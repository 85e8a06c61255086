"""What stands in for a video and an encoder in these tests, and the small scene that they show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from micromodels.encoding import encoders
from micromodels.encoding.encoded_video import EncodedVideo
from micromodels.encoding.encoders import Encoder, EncoderInfo, Features, Level, Part, Weights
from micromodels.runtime.run import Event, Run, StopRequest
from micromodels.types import Box, Label, Mask, Polygon, Shape, ShapeKind, State
from micromodels.video import FrameTable

Rgb = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

HEIGHT, WIDTH = 96, 128
SQUARE_PX = 32
RED, BLUE = (220, 40, 40), (40, 60, 230)


def left_of(frame: int, speed: int = 2) -> int:
    """Left side of the square on a frame."""
    return 16 + speed * frame


def square(frame: int, speed: int = 2) -> Box:
    """Where the red square is."""
    left = left_of(frame, speed)
    return Box(left, 32, left + SQUARE_PX, 32 + SQUARE_PX)


def box_mask(box: Box, height: int = HEIGHT, width: int = WIDTH) -> Bools:
    """The pixels of a box with whole sides."""
    mask = np.zeros((height, width), bool)
    mask[max(0, int(box.y1)) : int(box.y2), max(0, int(box.x1)) : int(box.x2)] = True
    return mask


def scene(count: int, speed: int = 2, blue: bool = False) -> list[Rgb]:
    """A red square that moves right over fixed noise; with ``blue`` another that stands in the lower right corner."""
    background = np.random.default_rng(0).integers(60, 120, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    background = background.repeat(8, axis=0).repeat(8, axis=1)
    frames = []
    for index in range(count):
        image = background.copy()
        if blue:
            image[66:90, 100:124] = BLUE
        image[box_mask(square(index, speed))] = RED
        frames.append(image)
    return frames


class MemoryVideo:
    """A video that is a list of frames; counts how many it gave out."""

    def __init__(self, frames: list[Rgb], content_hash: str = "0" * 64) -> None:
        self.pictures = frames
        self.given_out = 0
        count = len(frames)
        self.table = FrameTable(
            pts=np.arange(count, dtype=np.int64),
            time_base=Fraction(1, 25),
            width_px=frames[0].shape[1],
            height_px=frames[0].shape[0],
            rotation_degrees=0,
            mirrored=False,
            codec="none",
            container="memory",
            bit_depth=8,
            white_level=None,
            content_hash=content_hash,
            pixel_hashes={},
            fingerprints=np.zeros(count, np.uint64),
            keyframes=np.zeros(1, np.int64),
            single_threaded=False,
            seekable=True,
            decoder="none",
        )

    def frame(self, index: int) -> Rgb:
        self.given_out += 1
        return self.pictures[index]

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Rgb]]:
        for index in range(start, len(self.pictures) if stop is None else stop):
            yield index, self.frame(index)


class ColorEncoder:
    """Mean colors and their squares at strides 2 to 32: features that tell the squares from the noise."""

    levels = tuple(Level(stride, 6) for stride in (2, 4, 8, 16, 32))

    def __init__(self, name: str = "color") -> None:
        self.name = name
        self.encoded = 0

    def encode(self, image: Rgb) -> Features:
        self.encoded += 1
        height, width = image.shape[:2]
        scaled = image.astype(np.float32) / 127.5 - 1
        values = np.concatenate([scaled, scaled**2], axis=2)
        maps = [
            cv2.resize(values, (width // level.stride, height // level.stride), interpolation=cv2.INTER_AREA)
            for level in self.levels
        ]
        return [np.ascontiguousarray(m.transpose(2, 0, 1)).astype(np.float16) for m in maps]


class Recorder:
    """Keeps the events of a run and asks it to stop at the n-th time it is asked."""

    def __init__(self, request: StopRequest = StopRequest.NONE, at: int = 0) -> None:
        self.events: list[Event] = []
        self._request, self._at = request, at
        self._asked = 0

    def _should_stop(self) -> StopRequest:
        self._asked += 1
        return self._request if self._asked > self._at else StopRequest.NONE

    @property
    def run(self) -> Run:
        return Run(device="cpu", on_event=self.events.append, should_stop=self._should_stop)


def encoded(frames: list[Rgb], run: Run | None = None) -> EncodedVideo:
    """The frames behind the color encoder; use under the fixture ``own_size``."""
    return EncodedVideo(MemoryVideo(frames), ColorEncoder(), run or Run(device="cpu"))


def drawn(box: Box, kind: ShapeKind) -> Shape:
    """A box as any kind of shape."""
    if kind is ShapeKind.BOX:
        return box
    if kind is ShapeKind.MASK:
        return Mask.from_array(box_mask(box))
    return Polygon(((box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2)))


def seed(frame: int, kind: ShapeKind = ShapeKind.MASK, track: str = "1", box: Box | None = None) -> Label:
    """A human label of the red square, or of another box."""
    return Label(frame, track, "square", State.VISIBLE, drawn(box or square(frame), kind))


class _Added:
    """What a registry holds, as another package would add it."""

    def __init__(self, encoder: Encoder) -> None:
        self.info = EncoderInfo("color", "Colors, for tests", ("color",))
        self._encoder = encoder

    def load(self, part: Part, device: torch.device, tuned: Weights | None) -> Encoder:
        assert tuned is None
        return self._encoder


@contextmanager
def using_encoder(encoder: Encoder | None = None) -> Iterator[None]:
    """Within, an encoder that costs nothing is the default, under the name ``color``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoders.ENCODERS._found(), "color", lambda: _Added(encoder or ColorEncoder()))
        patch.setattr(encoders, "default_encoder_name", lambda: "color")
        encoders._load_encoder.cache_clear()
        try:
            yield
        finally:
            encoders.ENCODERS._loaded.pop("color", None)
            encoders._load_encoder.cache_clear()
