"""Writes videos, for overlays."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from micromodels.errors import InvalidInput

__all__ = ["write_video"]

_H264_OPTIONS = {"preset": "veryfast", "crf": "20"}
_MPEG4_OPTIONS = {"qscale": "3"}


def write_video(path: str | os.PathLike[str], frames: Iterable[npt.NDArray[np.uint8]], fps: Fraction) -> None:
    """Write RGB frames as an MP4 that every browser plays (H.264, yuv420p, BT.709); replaces ``path`` at the end.

    Frames are uint8 ``(height, width, 3)``, all of one size; odd sizes are extended by repeating a row or column.
    PyAV's wheels include x264 (GPL-2.0-or-later); if PyAV was built without it, MPEG-4 part 2 is written instead.

    Raises:
        InvalidInput: no frames, frames of different size or type, or ``fps`` is not positive.
    """
    rate = Fraction(fps)
    if rate <= 0:
        raise InvalidInput("fps", fps, "a fraction > 0")
    rate = rate.limit_denominator(60_000)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with av.open(str(partial), mode="w", format="mp4", options={"movflags": "+faststart"}) as container:
            _encode(container, frames, rate)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _encode(container: av.container.OutputContainer, frames: Iterable[npt.NDArray[np.uint8]], rate: Fraction) -> None:
    stream: VideoStream | None = None
    reformatter = VideoReformatter()
    shape: tuple[int, ...] = ()
    for number, image in enumerate(frames):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise InvalidInput(f"frames[{number}]", (image.shape, image.dtype.name), "uint8 (height, width, 3)")
        if stream is None:
            shape = image.shape
            stream = _add_stream(container, shape[1] + shape[1] % 2, shape[0] + shape[0] % 2, rate)
        elif image.shape != shape:
            raise InvalidInput(f"frames[{number}]", image.shape, f"the size of the first frame, {shape}")
        if shape[0] % 2 or shape[1] % 2:
            image = np.pad(image, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = reformatter.reformat(
            rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
        )
        frame.pts, frame.time_base = number, 1 / rate
        container.mux(stream.encode(frame))
    if stream is None:
        raise InvalidInput("frames", "none", "at least one frame")
    container.mux(stream.encode(None))


def _add_stream(container: av.container.OutputContainer, width: int, height: int, rate: Fraction) -> VideoStream:
    with_h264 = "libx264" in av.codecs_available
    stream = container.add_stream("libx264" if with_h264 else "mpeg4", rate=rate)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.options = dict(_H264_OPTIONS if with_h264 else _MPEG4_OPTIONS)
    stream.codec_context.time_base = 1 / rate
    # 1 is BT.709 in all three lists of ISO/IEC 23091-2.
    stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
    stream.codec_context.color_range = ColorRange.MPEG
    return stream
