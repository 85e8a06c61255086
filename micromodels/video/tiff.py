"""TIFF pictures and stacks, decoded by tifffile. Runs in the decoding process only.

FFmpeg silently decodes tiled pictures as black, JPEG-compressed ones as noise, and only the first page of a stack.
Files that tifffile cannot convert faithfully to 8- or 16-bit gray or RGB are refused with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import tifffile

from micromodels.errors import VideoError
from micromodels.video.exif import orientation_of_value
from micromodels.video.limits import DecodeLimits
from micromodels.video.pixels import Orientation
from micromodels.video.trouble import Trouble, describe

__all__ = ["TIFF_SIGNATURES", "TiffStack", "tiff_picture"]

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Little and big endian, TIFF and BigTIFF."""

_ORIENTATION_TAG = 274
_LOSSLESS_COLOR = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE")
_JPEG = ("JPEG", "OJPEG", "JPEG_LOSSY", "JPEG_2000_LOSSY", "APERIO_JP2000_YCBC", "WEBP")
"""Compressions whose decoders convert YCbCr to RGB themselves."""
_FRAME_AXES = "TZIQ"
"""Time, depth, sequence, other: axes along which pages may be frames. Channels (C) are excluded."""
_MAX_CHANNELS = 7
"""ImageJ shows no more; programs without axes mark the frames of a stack as channels."""


class TiffStack:
    """A TIFF file of several pages, one per frame, in file order; all of one format and size.

    Frame ``i`` has the presentation time ``i`` in units of 1/25 second. See ``containers.FrameSource``.

    Raises:
        VideoError: only one page, pages of different size, several axes, or samples that cannot be shown faithfully.
    """

    codec = "tiff"
    container = "tiff"
    time_base = Fraction(1, 25)

    def __init__(self, path: Path, limits: DecodeLimits, beat: Callable[[], None]) -> None:
        self.trouble = Trouble()
        self.warnings: list[str] = []
        self.orientation: Orientation | None = None
        self._limits, self._beat = limits, beat
        try:
            self._file = tifffile.TiffFile(path)
            self._count, self._contiguous = self._look(path)
            self.listed_frames, self.max_frames = self._count, limits.max_frames
            page = self._file.pages.first
            _check(page, limits, "the stack")
            self.orientation = _orientation(page)
        except VideoError:
            raise
        except MemoryError:
            raise VideoError("the TIFF stack needs more memory than the limit allows") from None
        except Exception as error:  # tifffile raises many kinds of errors on broken files
            raise VideoError(f"not a readable TIFF stack ({describe(error)})") from None

    def _look(self, path: Path) -> tuple[int, npt.NDArray[Any] | None]:
        """Number of frames; also the pages as an array ``(frames, h, w[, samples])`` if only the first is listed."""
        series = [one for one in self._file.series if not one.keyframe.is_reduced]
        if len(series) > 1:
            shapes = ", ".join(" x ".join(map(str, one.shape)) for one in series[:3])
            raise VideoError(f"the TIFF file has {len(series)} pictures of different formats or sizes ({shapes})")
        if not series:
            raise VideoError("the TIFF file has no pictures")
        (only,) = series
        others = [(axis, n) for axis, n in zip(only.axes, only.shape, strict=True) if axis not in "YXS" and n > 1]
        if not others:
            raise VideoError(
                "a single TIFF picture; give the folder that holds the frames, a stack of several pages, or a video"
            )
        if len(others) == 1 and others[0][0] == "C" and others[0][1] > _MAX_CHANNELS:
            self.warnings.append(f"{others[0][1]} pages are marked as channels; they are read as frames")
        elif len(others) > 1 or others[0][0] not in _FRAME_AXES:
            named = ", ".join(f"{axis} = {n}" for axis, n in others)
            raise VideoError(
                f"the stack has the axes {only.axes} ({named}); only one of time or depth can be frames: "
                "export the channel and slices that you need as a separate stack"
            )
        count = others[0][1]
        if count > self._limits.max_frames:
            raise VideoError(f"the stack has {count} pages; the limit is {self._limits.max_frames} frames")
        if len(self._file.pages) >= count:
            return count, None
        # ImageJ lists only the first page if all pages follow each other uncompressed.
        if only.dataoffset is None:
            raise VideoError(f"the stack is incomplete: it lists {len(self._file.pages)} of {count} pages")
        pages: npt.NDArray[Any] = tifffile.memmap(path, series=0, mode="r")
        return count, pages.reshape(count, *[n for n in pages.shape if n > 1][1:])

    def from_start(self, *, threads: int) -> Iterator[av.VideoFrame]:
        """See ``FrameSource``."""
        return self._decode(0)

    def from_near(self, index: int, pts: int, *, threads: int) -> Iterator[av.VideoFrame]:
        """See ``FrameSource``."""
        return self._decode(index)

    def _decode(self, start: int) -> Iterator[av.VideoFrame]:
        first = self._file.pages.first
        for index in range(start, self._count):
            self._beat()
            name = f"page {index} of the stack"
            page = first if self._contiguous is not None else self._page(index, name)
            if (page.shape, page.dtype, page.photometric) != (first.shape, first.dtype, first.photometric):
                raise VideoError(f"{name}: its size or format differs from the first page")
            _check(page, self._limits, name)
            yield _frame(page, index, name, None if self._contiguous is None else self._contiguous[index])

    def _page(self, index: int, name: str) -> Any:
        try:
            return self._file.pages.get(index)
        except Exception as error:
            raise VideoError(f"{name}: cannot be decoded ({describe(error)})") from None


def tiff_picture(name: str, data: bytes, index: int, limits: DecodeLimits) -> tuple[av.VideoFrame, Orientation]:
    """Decode one picture of a folder of frames from the bytes of its file.

    Raises:
        VideoError: the file has several pages, or cannot be shown faithfully.
    """
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            full = [page for page in _listed(file, limits) if not page.is_reduced]
            if len(full) != 1:
                raise VideoError(f"{name}: has {len(full)} pages; open a stack as a file, not as a picture in a folder")
            (page,) = full
            _check(page, limits, name)
            return _frame(page, index, name, None), _orientation(page)
    except VideoError:
        raise
    except MemoryError:
        raise VideoError(f"{name}: needs more memory than the limit allows") from None
    except Exception as error:  # tifffile raises many kinds of errors on broken files
        raise VideoError(f"{name}: the picture cannot be decoded ({describe(error)})") from None


def _listed(file: tifffile.TiffFile, limits: DecodeLimits) -> list[Any]:
    if len(file.pages) > limits.max_frames:
        raise VideoError(f"the stack has {len(file.pages)} pages; the limit is {limits.max_frames} frames")
    pages = [file.pages.get(index) for index in range(len(file.pages))]
    # ImageJ's stacks list one page for all.
    return pages * max(1, int((file.imagej_metadata or {}).get("images", 1))) if len(pages) == 1 else pages


def _check(page: Any, limits: DecodeLimits, name: str) -> None:
    """Refuse, before decoding, a page that cannot be converted to gray or RGB without guessing."""
    if page.imagewidth * page.imagelength > limits.max_pixels:
        raise VideoError(
            f"{name}: {page.imagewidth} x {page.imagelength} pixels; the limit is {limits.max_pixels} pixels"
        )
    photometric, compression = page.photometric.name, page.compression.name
    if photometric not in _LOSSLESS_COLOR and not (photometric == "YCBCR" and compression in _JPEG):
        raise VideoError(f"{name}: color type {photometric} is not supported; save it as gray or RGB")
    if page.dtype not in (np.uint8, np.uint16, np.bool_):
        kind = "unknown" if page.dtype is None else str(page.dtype)
        raise VideoError(f"{name}: sample type {kind} is not supported; save it as unsigned 8 or 16 bit")
    if page.imagedepth != 1:
        raise VideoError(f"{name}: volumes are not supported; save the slices as pages")
    colors = 3 if photometric in ("RGB", "YCBCR") else 1
    extra = len(page.extrasamples)
    alpha = [int(kind) in (1, 2) for kind in page.extrasamples]
    if page.samplesperpixel != colors + extra or extra > 1 or (extra and not all(alpha)):
        raise VideoError(
            f"{name}: {page.samplesperpixel} bands; only gray and RGB are supported. Save the bands that you need"
        )


def _frame(page: Any, index: int, name: str, pixels: npt.NDArray[Any] | None) -> av.VideoFrame:
    """A page as a frame: ``gray``, ``gray16le``, ``rgb24`` or ``rgb48le``; alpha is dropped."""
    try:
        array = np.asarray(page.asarray() if pixels is None else pixels)
        frame = _frame_of(_color(page, array), page)
    except MemoryError:
        raise VideoError(f"{name}: needs more memory than the limit allows") from None
    except Exception as error:
        raise VideoError(f"{name}: the picture cannot be decoded ({describe(error)})") from None
    frame.pts = index
    frame.key_frame = True  # type: ignore[misc]  # the stub lacks the setter
    return frame


def _color(page: Any, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Samples ``(height, width)`` or ``(height, width, 3)`` with black at 0, uint8 or uint16."""
    if array.ndim == 3 and array.shape[0] == page.samplesperpixel and array.shape[2] != page.samplesperpixel:
        array = array.transpose(1, 2, 0)  # stored plane by plane
    if array.ndim == 3:
        array = array[..., :3] if page.photometric.name in ("RGB", "YCBCR") else array[..., 0]
    if page.photometric.name == "PALETTE":
        table = np.asarray(page.colormap)
        colors = (table.T >> 8 if table.max() > 255 else table.T).astype(np.uint8)
        return np.asarray(colors[array])
    bits = int(page.bitspersample)
    top = (1 << bits) - 1
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if page.photometric.name == "MINISWHITE":
        array = top - array
    if bits < 8:
        return (array.astype(np.uint16) * 255 // top).astype(np.uint8)
    return array


def _frame_of(array: npt.NDArray[Any], page: Any) -> av.VideoFrame:
    wide = array.dtype.itemsize == 2
    if array.shape[:2] != (page.imagelength, page.imagewidth):
        raise ValueError(f"an array of shape {array.shape}")
    name = ("rgb48le" if wide else "rgb24") if array.ndim == 3 else ("gray16le" if wide else "gray")
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(array, "<u2" if wide else np.uint8), format=name)


def _orientation(page: Any) -> Orientation:
    tag = page.tags.get(_ORIENTATION_TAG)
    return orientation_of_value(int(tag.value) if tag is not None else 1)
