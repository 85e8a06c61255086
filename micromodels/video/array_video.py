"""A video of frames in memory: an array, or an iterable that is stored in a temporary file."""

from __future__ import annotations

import hashlib
import math
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from micromodels.errors import FrameMismatch, InvalidInput, OutOfRange, VideoError
from micromodels.video.limits import DecodeLimits
from micromodels.video.table import FrameTable

__all__ = ["DEFAULT_FPS", "ArrayVideo", "array_video"]

RgbImage = npt.NDArray[np.uint8]

DEFAULT_FPS = 25
"""Default frames per second; the same as for folders of pictures."""

_FRAMES = "RGB uint8 of shape (frames, height, width, 3)"
_FRAME = "RGB uint8 of shape (height, width, 3)"


class ArrayVideo:
    """Frames in memory with their frame table; reads like ``Video``.

    Created by ``open_video``. Reading a frame returns a copy. The pixels belong to the caller: reading a frame that was
    changed after the video was opened is refused. Threads may share it.

    Args:
        frames: RGB uint8 ``(frames, height, width, 3)``.
        table: of these frames.
    """

    def __init__(self, frames: RgbImage, table: FrameTable) -> None:
        self._frames = frames
        self._is_closed = False
        self.table = table

    @property
    def name(self) -> str:
        """Name for messages."""
        return "frames in memory"

    @property
    def frame_names(self) -> tuple[str, ...]:
        """Empty: these frames have no files."""
        return ()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._is_closed

    def __repr__(self) -> str:
        t = self.table
        return f"ArrayVideo({t.frame_count} frames, {t.width_px}x{t.height_px})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Refuse reads from now on; a temporary file is deleted with the last video that uses it."""
        self._is_closed = True

    def reopen(self) -> ArrayVideo:
        """A separate video of the same frames, which are not copied."""
        return ArrayVideo(self._frames, self.table)

    def frame(self, index: int) -> RgbImage:
        """One frame, RGB uint8 ``(height, width, 3)``.

        Raises:
            OutOfRange: no such frame.
            FrameMismatch: its pixels were changed since the video was opened.
            VideoError: the video is closed.
        """
        if isinstance(index, bool) or not 0 <= index < self.table.frame_count:
            raise OutOfRange("frame", index, f"0 to {self.table.frame_count - 1}")
        if self._is_closed:
            raise VideoError("the video is closed")
        image = np.array(self._frames[index], order="C", subok=False)
        if zlib.crc32(image.data) != self.table.fingerprints[index]:
            raise FrameMismatch(f"the pixels of frame {index} were changed after the video was opened; open it again")
        return image

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, RgbImage]]:
        """Frames ``start`` to ``stop`` (half-open; None: to the end) in order, as ``(index, RGB)``.

        Raises:
            OutOfRange: ``start`` or ``stop`` lies outside the video.
            FrameMismatch: pixels were changed since the video was opened.
            VideoError: the video is closed.
        """
        count = self.table.frame_count
        stop = count if stop is None else stop
        if not 0 <= start <= count:
            raise OutOfRange("start", start, f"0 to {count}")
        if not start <= stop <= count:
            raise OutOfRange("stop", stop, f"{start} to {count}")
        return ((index, self.frame(index)) for index in range(start, stop))


def array_video(
    frames: RgbImage | Iterable[RgbImage], limits: DecodeLimits, fps: float | Fraction = DEFAULT_FPS
) -> ArrayVideo:
    """Create a video of frames in memory.

    Args:
        frames: RGB uint8 ``(frames, height, width, 3)``, which is not copied; or an iterable of ``(height, width, 3)``,
            read once and stored uncompressed in a temporary file, so that memory does not depend on their number.
        limits: ``max_frames``, ``max_pixels`` and, for an iterable, ``spool_bytes``.
        fps: frames per second; frame ``i`` is shown at ``i / fps`` seconds.

    Raises:
        InvalidInput: other arrays, frames of different sizes, no frame, or an invalid rate.
        VideoError: more frames or pixels than the limits allow, or no space for the temporary file.
    """
    rate = _rate(fps)
    if isinstance(frames, np.ndarray):
        array = frames
        problem = _problem(array, single=False)
        if problem:
            raise InvalidInput("frames", f"{array.dtype} of shape {array.shape}", f"{_FRAMES}; {problem}")
        _check_limits(len(array), array.shape[1:], limits)
    else:
        array = _spooled(frames, limits)
    return ArrayVideo(array, _table(array, rate))


def _rate(fps: float | Fraction) -> Fraction:
    try:
        rate = fps if isinstance(fps, Fraction) else Fraction(float(fps))
    except (TypeError, ValueError, OverflowError):
        rate = Fraction(0)
    rate = rate.limit_denominator(60_000)
    if isinstance(fps, bool) or rate <= 0:
        raise InvalidInput("fps", fps, "a finite number > 0")
    return rate


def _problem(array: npt.NDArray[np.generic], *, single: bool) -> str:
    """How to convert an array that is not frames (``single``: a frame); empty if it is valid."""
    shape = array.shape[-3:]
    missing = (3 if single else 4) - array.ndim
    if array.dtype.kind == "f":
        return "for values from 0 to 1: (x * 255).round().astype(np.uint8)"
    if array.dtype != np.uint8:
        return "convert the values to 0 to 255 and the type to uint8"
    if missing == 1 and shape[-1] == 3 and not single:
        return "for one frame: x[None]"
    if missing == 1 or (missing == 0 and shape[-1] == 1):
        gray = "x[..., None]" if missing else "x"
        return f"for gray frames: np.repeat({gray}, 3, axis=-1)"
    if missing == 0 and shape[-1] == 4:
        return "without alpha: x[..., :3]"
    if missing == 0 and shape[-1] != 3 and shape[0] == 3:
        return "with the channels last: np.moveaxis(x, -3, -1)"
    if missing or shape[-1] != 3 or 0 in array.shape:
        return "at least one frame and one pixel, three channels"
    return ""


def _check_limits(count: int, shape: tuple[int, ...], limits: DecodeLimits) -> None:
    if count > limits.max_frames:
        raise VideoError(f"the video has more than {limits.max_frames} frames; split it into parts")
    if shape[0] * shape[1] > limits.max_pixels:
        raise VideoError(f"the frames have {shape[0] * shape[1]} pixels; the limit is {limits.max_pixels} pixels")


def _spooled(frames: Iterable[RgbImage], limits: DecodeLimits) -> RgbImage:
    """The frames of an iterable as an array in an unnamed temporary file."""
    shape: tuple[int, ...] = ()
    count = 0
    with tempfile.TemporaryFile(buffering=0) as file:
        for image in _arrays(frames):
            problem = _problem(image, single=True)
            if problem:
                got = f"{image.dtype} of shape {image.shape}"
                raise InvalidInput(f"frames[{count}]", got, f"{_FRAME}; {problem}")
            shape = shape or image.shape
            if image.shape != shape:
                raise InvalidInput(f"frames[{count}]", image.shape, f"the shape of the first frame, {shape}")
            count += 1
            _check_limits(count, shape, limits)
            if count * math.prod(shape) > limits.spool_bytes:
                raise VideoError(
                    f"{count} frames take more than {limits.spool_bytes} bytes; raise DecodeLimits.spool_bytes, or "
                    "write them to a video file or a folder of pictures and open that"
                )
            _append(file, image)
        if not count:
            raise InvalidInput("frames", "no frames", "at least one frame")
        return np.memmap(file, np.uint8, mode="r", shape=(count, *shape))


def _arrays(frames: Iterable[RgbImage]) -> Iterator[npt.NDArray[np.generic]]:
    """Each frame as an array; accepts tensors and pictures that numpy can convert."""
    for index, frame in enumerate(frames):
        if not (hasattr(frame, "__array__") or hasattr(frame, "__array_interface__")):
            raise InvalidInput(f"frames[{index}]", frame, f"an array, {_FRAME}")
        yield np.asarray(frame)


def _append(file: IO[bytes], image: npt.NDArray[np.generic]) -> None:
    view = np.ascontiguousarray(image).data.cast("B")
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise VideoError(f"cannot store the frames in {tempfile.gettempdir()}: {error.strerror}") from None


def _table(frames: RgbImage, rate: Fraction) -> FrameTable:
    count, height, width = frames.shape[:3]
    digest = hashlib.sha256(f"rgb24 {width}x{height}\n".encode())
    fingerprints = np.zeros(count, np.uint64)
    for index in range(count):
        image = np.ascontiguousarray(frames[index])
        digest.update(image.data)
        fingerprints[index] = zlib.crc32(image.data)
    return FrameTable(
        pts=np.arange(count, dtype=np.int64),
        time_base=1 / rate,
        width_px=width,
        height_px=height,
        rotation_degrees=0,
        mirrored=False,
        codec="rawvideo",
        container="memory",
        bit_depth=8,
        white_level=None,
        content_hash=digest.hexdigest(),
        pixel_hashes={},
        fingerprints=fingerprints,
        keyframes=np.arange(count, dtype=np.int64),
        single_threaded=False,
        seekable=True,
        decoder="none",
    )
