"""Decodes the whole video once to create its frame table. Runs in the decoding process only."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

from micromodels.errors import VideoError
from micromodels.video.containers import FrameSource
from micromodels.video.limits import DecodeLimits
from micromodels.video.pixels import (
    Orientation,
    bit_depth,
    fingerprint,
    is_16_bit,
    largest_sample,
    pixel_hash,
)
from micromodels.video.table import FrameTable
from micromodels.video.trouble import Trouble

__all__ = ["survey"]

_SAMPLES = 16
"""Minimum number of evenly spaced frames whose pixels are hashed; at most twice as many."""

_MISSING_TOLERATED = 2
"""Headers of intact files may be off by one or two."""
_SHORTEST_STEP_SECONDS, _LONGEST_STEP_SECONDS = 1e-4, 60.0

_NO_TIME = -(1 << 63)


@dataclass(slots=True)
class _Pass:
    """Results of decoding all frames once."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    fingerprints: array[int] = field(default_factory=lambda: array("Q"))
    keyframes: array[int] = field(default_factory=lambda: array("q"))
    hashes: dict[int, str] = field(default_factory=dict)
    sample_step: int = 1
    white: int = 0
    trouble: Trouble = field(default_factory=Trouble)
    other_sizes: int = 0
    logged_bytes: int = 0
    first: av.VideoFrame | None = None

    def add(self, frame: av.VideoFrame) -> None:
        index = len(self.pts)
        self.pts.append(_NO_TIME if frame.pts is None else frame.pts)
        self.dts.append(_NO_TIME if frame.dts is None else frame.dts)
        self.fingerprints.append(fingerprint(frame))
        if frame.key_frame:
            self.keyframes.append(index)
        if self.first is None:
            self.first = frame
        elif (frame.width, frame.height) != (self.first.width, self.first.height):
            self.other_sizes += 1
        if is_16_bit(frame):
            self.white = max(self.white, largest_sample(frame))
        if index % self.sample_step == 0:
            self.hashes[index] = pixel_hash(frame)
            if len(self.hashes) > 2 * _SAMPLES:
                self.sample_step *= 2
                self.hashes = {i: h for i, h in self.hashes.items() if i % self.sample_step == 0}

    @property
    def is_timed(self) -> bool:
        """Whether the presentation times identify the frames."""
        return _is_increasing(np.frombuffer(self.pts, np.int64))

    @property
    def is_suspect(self) -> bool:
        """Whether the decoder reported errors, or times are missing: threads may have changed the result."""
        return bool(self.trouble.error_count or self.trouble.corrupt_count or self.logged_bytes or not self.is_timed)

    def times(self) -> tuple[npt.NDArray[np.int64], int]:
        """Increasing times, and how many of them had to be estimated.

        If presentation times are bad, decoding times may be good: FFmpeg returns them in display order.
        """
        return min((_increasing(np.frombuffer(a, np.int64)) for a in (self.pts, self.dts)), key=lambda both: both[1])


def _decode_all(source: FrameSource, threads: int) -> _Pass:
    seen = _Pass()
    source.trouble = seen.trouble
    frames = source.from_start(threads=threads)
    logged_before = _logged_bytes()  # messages from opening are about other streams and metadata
    for frame in frames:
        if len(seen.pts) >= source.max_frames:
            raise VideoError(f"the video has more than {source.max_frames} frames; split it into parts")
        seen.add(frame)
    seen.logged_bytes = _logged_bytes() - logged_before
    return seen


def _logged_bytes() -> int:
    """Bytes that libraries have written to standard error, a file of the decoding process (see ``child.main``)."""
    return os.fstat(2).st_size


def survey(source: FrameSource, limits: DecodeLimits, threads: int) -> FrameTable:
    """Decode all frames once and create the frame table; ``content_hash`` is left empty.

    If the decoder reports errors, the file is decoded a second time on one thread. That pass counts, and the file is
    always read that way, because threads change how damaged data is decoded.

    Raises:
        VideoError: nothing can be decoded, or the video has too many frames.
    """
    seen = _decode_all(source, threads)
    is_suspect = seen.is_suspect
    if is_suspect and threads > 1:
        seen = _decode_all(source, 1)
    if seen.first is None:
        reason = f" ({seen.trouble.first_error})" if seen.trouble.first_error else ""
        # Decoders do not report which of the two it is.
        raise VideoError(
            f"no frame can be decoded{reason}: the data is damaged, or frames exceed {limits.max_pixels} pixels"
        )
    pts, repaired = seen.times()
    orientation = source.orientation or Orientation()
    width, height = seen.first.width, seen.first.height
    if orientation.transpose:
        width, height = height, width
    return FrameTable(
        pts=pts,
        time_base=Fraction(source.time_base),
        width_px=width,
        height_px=height,
        rotation_degrees=orientation.rotation_degrees,
        mirrored=orientation.mirrored,
        codec=source.codec,
        container=source.container,
        bit_depth=bit_depth(seen.first),
        white_level=_white_level(seen),
        content_hash="",
        pixel_hashes=dict(sorted(seen.hashes.items())),
        fingerprints=np.frombuffer(seen.fingerprints, np.uint64).copy(),
        keyframes=np.frombuffer(seen.keyframes, np.int64).copy(),
        single_threaded=is_suspect,
        seekable=seen.is_timed and len(seen.keyframes) > 0,
        decoder=decoder_versions(),
        warnings=tuple(source.warnings + _warnings(seen, repaired) + _doubts(source, pts)),
    )


def _doubts(source: FrameSource, pts: npt.NDArray[np.int64]) -> list[str]:
    """Warnings about a file that decodes without errors, but with an implausible frame count or times."""
    warnings: list[str] = []
    missing = source.listed_frames - len(pts)
    if missing > max(_MISSING_TOLERATED, source.listed_frames // 20):
        warnings.append(
            f"the file lists {source.listed_frames} frames but shows {len(pts)}: its edit list or time scale "
            "hides the others; convert the file again if you need them"
        )
    step_seconds = float(np.median(np.diff(pts))) * float(source.time_base) if len(pts) > 1 else 0.0
    if step_seconds and not _SHORTEST_STEP_SECONDS <= step_seconds <= _LONGEST_STEP_SECONDS:
        warnings.append(f"frames are {step_seconds:.3g} s apart: the file's time scale is probably wrong")
    return warnings


def decoder_versions() -> str:
    """Versions of PyAV and FFmpeg."""
    return f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"


def _white_level(seen: _Pass) -> int | None:
    if seen.first is None or not is_16_bit(seen.first):
        return None
    return int((1 << max(8, seen.white.bit_length())) - 1)


def _is_increasing(times: npt.NDArray[np.int64]) -> bool:
    return len(times) > 0 and times[0] != _NO_TIME and bool((np.diff(times) > 0).all())


def _increasing(times: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    """Make times strictly increasing; also returns how many were changed.

    A frame without a time, or not later than the previous one, is placed one usual step after the previous one.
    """
    if _is_increasing(times):
        return times.copy(), 0
    known = times[times != _NO_TIME]
    steps = np.diff(known)
    steps = steps[steps > 0]
    step = max(1, int(np.median(steps))) if len(steps) else 1
    fixed = times.copy()
    changed = 0
    for index, time in enumerate(times.tolist()):
        if index == 0:
            if time == _NO_TIME:
                fixed[0] = 0
                changed = 1
        elif time == _NO_TIME or time <= fixed[index - 1]:
            fixed[index] = fixed[index - 1] + step
            changed += 1
    return fixed, changed


def _warnings(seen: _Pass, repaired: int) -> list[str]:
    count = len(seen.pts)
    warnings: list[str] = []
    if seen.trouble.error_count:
        warnings.append(
            f"the file is damaged: {seen.trouble.error_count} errors while decoding, {count} frames decoded "
            f"(first error: {seen.trouble.first_error})"
        )
    if seen.trouble.corrupt_count:
        warnings.append(f"the decoder marked {seen.trouble.corrupt_count} of {count} frames as corrupt")
    if seen.other_sizes:
        warnings.append(f"{seen.other_sizes} of {count} frames differ in size and are scaled to the size of the first")
    if repaired:
        warnings.append(f"{repaired} of {count} frames have no usable time; it was estimated from the previous frame")
    if seen.logged_bytes and not warnings:
        warnings.append("the decoder reports errors in the file; some frames may look damaged")
    return warnings
