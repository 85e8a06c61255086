"""An open video: frames by index, decoded in another process.

``open_video`` also takes frames that are in memory already (``array_video``).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from micromodels.errors import InvalidInput, OutOfRange, VideoError
from micromodels.video.array_video import DEFAULT_FPS, ArrayVideo, array_video
from micromodels.video.limits import DecodeLimits
from micromodels.video.process import DecodeProcess
from micromodels.video.protocol import ERROR_KINDS, FRAME, READ, REQUEST, Kind, pack, pack_json
from micromodels.video.source import VideoSource, find_source
from micromodels.video.table import FrameTable

__all__ = ["Video", "open_video"]

RgbImage = npt.NDArray[np.uint8]

_SHARED_BYTES = 48 << 20
_MIN_SLOTS, _MAX_SLOTS = 2, 8


class Video:
    """An open video: its frame table, and its frames as RGB ``uint8`` arrays of shape ``(height, width, 3)``.

    Created by ``open_video``. A context manager; leaving it ends the decoding process. Threads may share it: each frame
    is read under a lock. Iterators and single reads may be mixed; switching between them costs a seek.
    If the decoding process crashes or hangs, the current call raises ``VideoError``, and the next call starts a new
    process.
    """

    def __init__(self, source: VideoSource, limits: DecodeLimits, table: FrameTable | None) -> None:
        self._source = source
        self._limits = limits
        self._lock = threading.Lock()
        self._request = 0
        self._closed = False
        self._process = DecodeProcess(source)
        self.table = self._start(table)

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self._source.path

    @property
    def name(self) -> str:
        """Name of the file or folder."""
        return self.path.name

    @property
    def frame_names(self) -> tuple[str, ...]:
        """File names of the frames of a folder, in order; empty for a video file."""
        return self._source.names or ()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def reopen(self) -> Video:
        """The same video opened once more: nothing is decoded for it, and every frame is checked against ``table``.

        Raises:
            VideoError: it cannot be opened any more.
        """
        try:
            return Video(self._source, self._limits, self.table)
        except OSError as error:
            raise VideoError(f"cannot read {self.name}: {error.strerror}") from None

    @property
    def decoder_pid(self) -> int:
        """Process id of the decoding process."""
        return self._process.pid

    def __repr__(self) -> str:
        t = self.table
        return f"Video({self.path.name!r}, {t.frame_count} frames, {t.width_px}x{t.height_px}, {t.codec})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding process; running and later reads raise ``VideoError``."""
        self._closed = True
        self._process.interrupt()
        with self._lock:
            self._process.kill()

    def frame(self, index: int) -> RgbImage:
        """One frame, RGB uint8 ``(height, width, 3)``.

        Raises:
            OutOfRange: no such frame.
            FrameMismatch: the file does not have the frame that the table records.
            VideoError: decoding failed.
        """
        if isinstance(index, bool) or not 0 <= index < self.table.frame_count:
            raise OutOfRange("frame", index, f"0 to {self.table.frame_count - 1}")
        with self._lock:
            request = self._ask(index, index + 1)
            image = self._next(request, index)
            if image is None:
                raise VideoError(f"frame {index} did not come")
            return image

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, RgbImage]]:
        """Frames ``start`` to ``stop`` (half-open; None: to the end) in display order, as ``(index, RGB)``.

        A few frames are decoded ahead; memory does not depend on the length of the video.

        Raises:
            OutOfRange: ``start`` or ``stop`` lies outside the video.
            FrameMismatch: the file does not have the frames that the table records.
            VideoError: decoding failed.
        """
        count = self.table.frame_count
        stop = count if stop is None else stop
        if not 0 <= start <= count:
            raise OutOfRange("start", start, f"0 to {count}")
        if not start <= stop <= count:
            raise OutOfRange("stop", stop, f"{start} to {count}")
        return self._frames(start, stop)

    def _frames(self, start: int, stop: int) -> Iterator[tuple[int, RgbImage]]:
        request = -1
        for index in range(start, stop):
            with self._lock:
                # Another read has replaced ours in the meantime, or none was started yet.
                if request != self._request:
                    request = self._ask(index, stop)
                image = self._next(request, index)
            if image is None:
                raise VideoError(f"frame {index} did not come")
            yield index, image

    def _start(self, table: FrameTable | None) -> FrameTable:
        try:
            return self._open(table)
        except BaseException:
            self._process.kill()
            raise

    def _open(self, table: FrameTable | None) -> FrameTable:
        """Have the decoding process open the video; with no table, have it make one while we hash the file."""
        names = self._source.names
        message = {
            "path": str(self._source.path),
            "names": None if names is None else list(names),
            "limits": self._limits.to_dict(),
            "table": None if table is None else table.to_dict(),
        }
        with ThreadPoolExecutor(1) as pool:
            digest = pool.submit(self._source.content_hash) if table is None else None
            self._process.send(pack_json(Kind.OPEN, message))
            reply = self._opened()
            if digest is not None:
                table = replace(_received_table(reply), content_hash=digest.result())
        assert table is not None
        size = table.width_px * table.height_px * 3
        slots = max(_MIN_SLOTS, min(_MAX_SLOTS, _SHARED_BYTES // size))
        self._process.share(slots, size)
        self._process.send(pack_json(Kind.SLOTS, {"count": slots, "bytes": size}))
        return table

    def _opened(self) -> dict[str, Any]:
        while True:
            kind, payload = self._process.receive(self._limits.frame_timeout_seconds)
            if kind is Kind.OPENED:
                reply: dict[str, Any] = json.loads(payload)
                return reply
            if kind is Kind.ERROR:
                raise _received_error(payload)

    def _ask(self, start: int, stop: int) -> int:
        if self._closed:
            raise VideoError("the video is closed")
        if not self._process.is_alive:
            self._process = DecodeProcess(self._source)
            self._start(self.table)
        self._request += 1
        self._process.send(pack(Kind.READ, READ.pack(self._request, start, stop)))
        return self._request

    def _next(self, request: int, index: int) -> RgbImage | None:
        """The next frame of a request; None if it ends instead."""
        height, width = self.table.height_px, self.table.width_px
        while True:
            if not self._process.is_alive:
                raise VideoError("the video is closed" if self._closed else "the decoding process has ended")
            kind, payload = self._process.receive(self._limits.frame_timeout_seconds)
            if kind is Kind.FRAME:
                answered, number, slot = FRAME.unpack(payload)
                if answered != request:
                    continue
                image = self._process.slot(slot, height * width * 3).reshape(height, width, 3)
                self._process.send(pack(Kind.DONE, REQUEST.pack(request)))
                if number != index:
                    raise VideoError(f"frame {number} came instead of {index}")
                return image
            if kind is Kind.END and REQUEST.unpack(payload)[0] == request:
                return None
            if kind is Kind.ERROR and json.loads(payload)["request"] == request:
                self._request += 1  # an iterator that continues requests its frames again
                raise _received_error(payload)


def _received_error(payload: bytes) -> VideoError:
    error = json.loads(payload)
    return ERROR_KINDS.get(error["kind"], VideoError)(str(error["message"]))


def _received_table(reply: dict[str, Any]) -> FrameTable:
    try:
        return FrameTable.from_dict(reply)
    except InvalidInput as error:
        raise VideoError(f"the decoding process sent a broken frame table: {error}") from None


@overload
def open_video(
    source: str | os.PathLike[str], limits: DecodeLimits | None = None, *, table: FrameTable | None = None
) -> Video: ...


@overload
def open_video(
    source: RgbImage | Iterable[RgbImage], limits: DecodeLimits | None = None, *, fps: float | Fraction | None = None
) -> ArrayVideo: ...


def open_video(
    source: str | os.PathLike[str] | RgbImage | Iterable[RgbImage],
    limits: DecodeLimits | None = None,
    *,
    table: FrameTable | None = None,
    fps: float | Fraction | None = None,
) -> Video | ArrayVideo:
    """Open a video file, a folder of pictures, or frames in memory; a context manager.

    Args:
        source: a video file; a folder of pictures; an array of frames, RGB uint8 ``(frames, height, width, 3)``, which
            is not copied; or an iterable of frames, RGB uint8 ``(height, width, 3)``, which is read once and kept in a
            temporary file (``limits.spool_bytes``).
        limits: what decoding may cost at most; None for ``DecodeLimits()``.
        table: of an earlier run, for a file or folder. Without it the whole video is decoded once to make one; with it
            that is left out, and every frame that is read is checked against it.
        fps: frames per second of frames in memory; None for 25.

    Raises:
        InvalidInput: a path that is a URL or names nothing that could be a video; frames of another shape or type; an
            argument that does not go with the source.
        VideoError: it cannot be decoded, or exceeds the limits.
    """
    limits = limits or DecodeLimits()
    if isinstance(source, (str, bytes, os.PathLike)):
        if fps is not None:
            raise InvalidInput("fps", fps, "nothing for a file or folder: its frames have times of their own")
        return Video(find_source(source), limits, table)
    if table is not None:
        raise InvalidInput("table", table, "nothing for frames in memory")
    if not isinstance(source, Iterable):
        raise InvalidInput("source", source, "a path, an array of frames, or an iterable of frames")
    return array_video(source, limits, DEFAULT_FPS if fps is None else fps)
