"""The frame table: the frames of a video, their times, and checksums to recognize them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from micromodels.errors import InvalidInput, OutOfRange

__all__ = ["FrameTable"]

TABLE_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """The frames of one video, found by decoding all of them; headers are not trusted.

    Arrays are read-only and of length ``frame_count``. Two tables are equal when their ``to_dict()`` are.
    """

    pts: npt.NDArray[np.int64] = field(repr=False)
    """Presentation time of each frame in units of ``time_base``, strictly increasing."""

    time_base: Fraction
    """Seconds per unit of ``pts``."""

    width_px: int
    """Width as displayed, after rotation."""

    height_px: int
    """Height as displayed, after rotation."""

    rotation_degrees: int
    """Clockwise rotation from the coded to the displayed picture: 0, 90, 180 or 270."""

    mirrored: bool
    """Whether the picture is also flipped left to right, after the rotation."""

    codec: str
    """FFmpeg's name of the decoder."""

    container: str
    """FFmpeg's name of the container; ``"folder"`` for a folder of pictures, ``"memory"`` for frames in memory."""

    bit_depth: int
    """Bits per sample of the coded picture; frames are converted to 8."""

    white_level: int | None
    """For 16-bit samples: the value that becomes 255. It is ``2**n - 1`` with the smallest n from 8 to 16 that covers
    the largest sample of the video, so that 12-bit pictures stored in 16 bits are not black. Otherwise None."""

    content_hash: str
    """SHA-256 (hex) of the file's bytes; for a folder, of the lines ``<sha256>  <name>\\n`` of its files; for frames in
    memory, of the line ``rgb24 <width>x<height>\\n`` and the pixels of all frames."""

    pixel_hashes: Mapping[int, str] = field(repr=False)
    """SHA-256 (hex) of the decoded planes by frame index, for a sample of frames: the first, and evenly spaced ones
    after it. Planes are hashed before color conversion and rotation, which vary between processors."""

    fingerprints: npt.NDArray[np.uint64] = field(repr=False)
    """A 64-bit checksum of the decoded planes of each frame, checked whenever the frame is read. For frames in memory,
    the CRC-32 of the RGB pixels."""

    keyframes: npt.NDArray[np.int64] = field(repr=False)
    """Indices of the frames that the decoder marks as key frames, increasing."""

    single_threaded: bool
    """Whether the file is always decoded on one thread, because the decoder reported errors."""

    seekable: bool
    """Whether the times identify the frames; if not, the file is always read from the start."""

    decoder: str
    """Versions of the decoding libraries."""

    warnings: tuple[str, ...] = ()
    """Problems of the file, as text for users."""

    def __post_init__(self) -> None:
        count = len(self.pts)
        for name, dtype in (("pts", np.int64), ("fingerprints", np.uint64), ("keyframes", np.int64)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != dtype:
                raise InvalidInput(f"table.{name}", type(array).__name__, f"a flat array of {np.dtype(dtype).name}")
            array.flags.writeable = False
        if count < 1 or (count > 1 and not bool((np.diff(self.pts) > 0).all())):
            raise InvalidInput("table.pts", f"{count} times", "at least one, strictly increasing")
        if len(self.fingerprints) != count:
            raise InvalidInput("table.fingerprints", f"{len(self.fingerprints)} values", f"{count} values")
        if len(self.keyframes) and not (
            self.keyframes[0] >= 0 and self.keyframes[-1] < count and bool((np.diff(self.keyframes) > 0).all())
        ):
            raise InvalidInput("table.keyframes", self.keyframes, "increasing frame indices")
        if self.time_base <= 0:
            raise InvalidInput("table.time_base", self.time_base, "a fraction > 0")
        for name in ("width_px", "height_px", "bit_depth"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"table.{name}", getattr(self, name), "an integer >= 1")
        if self.rotation_degrees not in (0, 90, 180, 270):
            raise InvalidInput("table.rotation_degrees", self.rotation_degrees, "0, 90, 180 or 270")
        for index, digest in self.pixel_hashes.items():
            if not 0 <= index < count or not _SHA256.fullmatch(digest):
                raise InvalidInput("table.pixel_hashes", (index, digest), "frame indices with SHA-256 in hex")

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return len(self.pts)

    def pts_seconds(self, index: int) -> Fraction:
        """Exact presentation time of one frame in seconds.

        Raises:
            OutOfRange: no such frame.
        """
        if not 0 <= index < self.frame_count:
            raise OutOfRange("frame", index, f"0 to {self.frame_count - 1}")
        return int(self.pts[index]) * self.time_base

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON data; ``from_dict`` reads it."""
        return {
            "version": TABLE_VERSION,
            "frame_count": self.frame_count,
            "time_base": str(self.time_base),
            "width_px": self.width_px,
            "height_px": self.height_px,
            "rotation_degrees": self.rotation_degrees,
            "mirrored": self.mirrored,
            "codec": self.codec,
            "container": self.container,
            "bit_depth": self.bit_depth,
            "white_level": self.white_level,
            "content_hash": self.content_hash,
            "single_threaded": self.single_threaded,
            "seekable": self.seekable,
            "decoder": self.decoder,
            "warnings": list(self.warnings),
            "pixel_hashes": {str(index): digest for index, digest in self.pixel_hashes.items()},
            "keyframes": self.keyframes.tolist(),
            "pts": self.pts.tolist(),
            "fingerprints": base64.b64encode(self.fingerprints.astype("<u8").tobytes()).decode("ascii"),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FrameTable:
        """Read the form of ``to_dict``.

        Raises:
            InvalidInput: a value is missing or not valid.
        """
        if not isinstance(data, Mapping) or data.get("version") != TABLE_VERSION:
            raise InvalidInput("table.version", data.get("version") if isinstance(data, Mapping) else data, "1")
        try:
            return cls(
                pts=np.asarray(data["pts"], dtype=np.int64),
                time_base=Fraction(data["time_base"]),
                width_px=int(data["width_px"]),
                height_px=int(data["height_px"]),
                rotation_degrees=int(data["rotation_degrees"]),
                mirrored=bool(data["mirrored"]),
                codec=str(data["codec"]),
                container=str(data["container"]),
                bit_depth=int(data["bit_depth"]),
                white_level=None if data["white_level"] is None else int(data["white_level"]),
                content_hash=str(data["content_hash"]),
                pixel_hashes={int(index): str(digest) for index, digest in data["pixel_hashes"].items()},
                fingerprints=np.frombuffer(base64.b64decode(data["fingerprints"], validate=True), "<u8").astype(
                    np.uint64
                ),
                keyframes=np.asarray(data["keyframes"], dtype=np.int64),
                single_threaded=bool(data["single_threaded"]),
                seekable=bool(data["seekable"]),
                decoder=str(data["decoder"]),
                warnings=tuple(str(warning) for warning in data["warnings"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError, binascii.Error) as e:
            raise InvalidInput("table", f"{type(e).__name__}: {e}", "what FrameTable.to_dict wrote") from None
