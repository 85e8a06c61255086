"""Decoded planes: fingerprint, orientation and conversion to RGB."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

__all__ = ["Orientation", "RgbConverter", "bit_depth", "fingerprint", "is_16_bit", "largest_sample", "pixel_hash"]

_SIXTEEN_BIT = re.compile(r"(gray16|ya16|rgb48|bgr48|rgba64|bgra64|gbrp16|gbrap16)(le|be)")


@dataclass(frozen=True, slots=True)
class Orientation:
    """How to display the coded picture: transposed first, then flipped."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of_frame(cls, frame: av.VideoFrame) -> Orientation:
        """Read the display matrix of a frame (ISO/IEC 14496-12, 6.2.2: ``x' = ax + cy``, ``y' = bx + dy``).

        Angles other than multiples of 90 degrees are rounded to the nearest one.
        """
        side_data: Any
        try:
            side_data = frame.side_data  # PyAV's stub describes it as a dict of strings
        except ValueError:  # PyAV 18 fails if FFmpeg attaches Exif, but still knows the angle
            return cls.from_turn(round(-frame.rotation / 90) * 90 % 360, False)
        raw = bytes(side_data.get("DISPLAYMATRIX", b""))
        if len(raw) != 36:
            return cls()
        a, b, _, c, d = (int(v) for v in np.frombuffer(raw, np.int32)[:5])
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @property
    def rotation_degrees(self) -> int:
        """Clockwise turn, before mirroring."""
        if self.transpose:
            return 90 if self.flip_x != self.mirrored else 270
        return 180 if self.flip_y else 0

    @property
    def mirrored(self) -> bool:
        """Whether the picture is flipped left to right after the turn."""
        return self.flip_x == self.flip_y if self.transpose else self.flip_x != self.flip_y

    @classmethod
    def from_turn(cls, rotation_degrees: int, mirrored: bool) -> Orientation:
        """The orientation with this turn and mirroring."""
        for transpose in (False, True):
            for flip_x in (False, True):
                for flip_y in (False, True):
                    orientation = cls(transpose, flip_x, flip_y)
                    if (orientation.rotation_degrees, orientation.mirrored) == (rotation_degrees, mirrored):
                        return orientation
        raise ValueError(f"rotation of {rotation_degrees} degrees")

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A view of an image ``(height, width, 3)`` as displayed."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


@lru_cache(maxsize=64)
def _row_bytes(format_name: str, width: int, height: int) -> tuple[int, ...] | None:
    """Bytes of picture data in one row of each plane; None for a palette or samples that are not whole bytes."""
    layout = av.VideoFormat(format_name, width, height)
    components = layout.components
    if layout.is_bit_stream or layout.has_palette or layout.is_bayer or any(c.bits < 8 for c in components):
        return None
    planes = max(c.plane for c in components) + 1
    if planes == 1:
        return (layout.padded_bits_per_pixel * width // 8,) if layout.padded_bits_per_pixel % 8 == 0 else None
    return tuple(sum(c.width * -(-c.bits // 8) for c in components if c.plane == plane) for plane in range(planes))


def _plane_rows(frame: av.VideoFrame) -> Iterator[npt.NDArray[np.uint8]]:
    """The planes of a frame as arrays ``(rows, bytes)`` without padding."""
    row_bytes = _row_bytes(frame.format.name, frame.width, frame.height)
    if row_bytes is None or any(plane.line_size <= 0 for plane in frame.planes):
        frame = frame.reformat(format="rgb24", threads=1)
        row_bytes = (frame.width * 3,)
    for plane, length in zip(frame.planes, row_bytes, strict=True):
        data = np.frombuffer(memoryview(plane), np.uint8)
        yield data[: plane.height * plane.line_size].reshape(plane.height, plane.line_size)[:, :length]


@lru_cache(maxsize=8)
def _weights(count: int, stream: int) -> npt.NDArray[np.uint64]:
    """Fixed odd 64-bit weights (SplitMix64 of a counter; Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 32)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    weights: npt.NDArray[np.uint64] = (z ^ (z >> np.uint64(31))) | np.uint64(1)
    return weights


def fingerprint(frame: av.VideoFrame) -> int:
    """A 64-bit checksum of the decoded planes: a weighted sum modulo 2**64, at the speed of memory.

    It distinguishes a frame from its neighbors and from one decoded with missing references. It does not protect
    against forgery.
    """
    total = 0
    for number, rows in enumerate(_plane_rows(frame)):
        whole = rows.shape[1] // 8
        sums = rows[:, : whole * 8].view(np.uint64) @ _weights(whole, 2 * number)
        if rows.shape[1] % 8:
            tail = np.zeros((rows.shape[0], 8), np.uint8)
            tail[:, : rows.shape[1] % 8] = rows[:, whole * 8 :]
            sums = sums + tail.view(np.uint64)[:, 0]
        total += int(sums @ _weights(len(sums), 2 * number + 1))
    return total & 0xFFFFFFFFFFFFFFFF


def pixel_hash(frame: av.VideoFrame) -> str:
    """SHA-256 (hex) of the format's name, the size and the rows of every plane."""
    digest = hashlib.sha256(f"{frame.format.name} {frame.width}x{frame.height}\n".encode())
    for rows in _plane_rows(frame):
        digest.update(rows.tobytes())
    return digest.hexdigest()


def bit_depth(frame: av.VideoFrame) -> int:
    """Bits per sample."""
    return max((c.bits for c in frame.format.components), default=8)


def is_16_bit(frame: av.VideoFrame) -> bool:
    """Whether the samples are linear 16-bit values, which need a white level."""
    return _SIXTEEN_BIT.fullmatch(frame.format.name) is not None


def _wide_samples(frame: av.VideoFrame, reformatter: VideoReformatter) -> npt.NDArray[np.uint16]:
    """A 16-bit frame as ``(height, width, 1 or 3)``, alpha dropped."""
    gray = frame.format.name.startswith(("gray", "ya"))
    wide = reformatter.reformat(frame, format="gray16le" if gray else "rgb48le", threads=1)
    channels = 1 if gray else 3
    rows = np.frombuffer(memoryview(wide.planes[0]), np.uint16).reshape(wide.height, wide.planes[0].line_size // 2)
    return rows[:, : wide.width * channels].reshape(wide.height, wide.width, channels)


def largest_sample(frame: av.VideoFrame) -> int:
    """The largest sample of a 16-bit frame, alpha aside."""
    return int(_wide_samples(frame, VideoReformatter()).max())


class RgbConverter:
    """Turns decoded frames of one video into RGB as displayed.

    swscale converts with the frame's matrix and range (BT.601 limited if unspecified). Alpha is dropped, the pixel
    aspect ratio is ignored, and fields are not deinterlaced. Frames of another size are scaled to the first frame's.
    """

    def __init__(self, width: int, height: int, orientation: Orientation, white_level: int | None) -> None:
        """``width`` and ``height`` are of the coded picture."""
        self._size = (width, height)
        self._orientation = orientation
        # One reformatter for all frames: setting up swscale costs more than converting a 720p frame.
        self._reformatter = VideoReformatter()
        self._levels: npt.NDArray[np.uint8] | None = None
        if white_level is not None:
            levels = np.arange(65536, dtype=np.float64) * (255.0 / white_level)
            self._levels = np.minimum(np.rint(levels), 255).astype(np.uint8)

    def write(self, frame: av.VideoFrame, out: npt.NDArray[np.uint8]) -> None:
        """Write one frame into ``out``, uint8 ``(height, width, 3)`` as displayed."""
        width, height = self._size
        if self._levels is not None and is_16_bit(frame) and (frame.width, frame.height) == self._size:
            np.copyto(out, self._orientation.apply(self._levels[_wide_samples(frame, self._reformatter)]))
            return
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        plane = rgb.planes[0]
        image = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)[:, : width * 3]
        np.copyto(out, self._orientation.apply(image.reshape(height, width, 3)))
