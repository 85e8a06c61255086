"""Exact frames as pictures: a child process decodes frame *i*, never the browser."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from micromodels.errors import OutOfRange
from micromodels.video import DecodeLimits, FrameTable, Video, open_video
from service.store import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["FRAME_TYPES", "FrameKey", "Frames"]

FRAME_TYPES = {"jpg": "image/jpeg", "webp": "image/webp"}
"""Media type by the suffix of a frame's address."""

_LANES = 2
"""Decoding processes per video: one can play in order while another seeks."""
_VIDEOS = 3
"""Videos with open decoding processes at the same time."""
_IDLE_SECONDS = 60.0
_AHEAD = 32
"""A frame at most this far ahead is reached by decoding on, not by a seek."""
_CACHE_BYTES = 192 << 20
_JPEG_QUALITY, _WEBP_QUALITY = 92, 90


@dataclass(frozen=True, slots=True)
class FrameKey:
    """One picture.

    Args:
        video: project id and video id.
        index: 0-based frame.
        width_px: width to scale down to; 0 for the size of the video.
        kind: key of ``FRAME_TYPES``.
    """

    video: tuple[str, str]
    index: int
    width_px: int
    kind: str


class Frames:
    """Provides pictures of frames, with limits on processes, threads and memory.

    Args:
        store: source of the videos and their frame tables.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_LANES * _VIDEOS, thread_name_prefix="frames")
        self._pictures: OrderedDict[FrameKey, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._lanes: list[_Lane] = []
        self._tables: OrderedDict[tuple[str, str], FrameTable] = OrderedDict()
        self._waiting: dict[FrameKey, asyncio.Future[bytes]] = {}

    async def get(self, key: FrameKey) -> bytes:
        """The encoded picture of a frame.

        Raises:
            FailedPrecondition: the video is not ready.
            FrameMismatch: the file's frames differ from the frame table.
            NotFound: no such video.
            OutOfRange: no such frame.
            VideoError: decoding failed.
        """
        picture = self._cached(key)
        if picture is not None:
            return picture
        if (running := self._waiting.get(key)) is not None:
            return await asyncio.shield(running)
        # Shielded: the first request may be cancelled while others wait for the same picture.
        task = asyncio.ensure_future(self._make(key))
        self._waiting[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    async def table(self, video: tuple[str, str]) -> FrameTable:
        """The frame table of a video; raises as ``get`` does."""
        known = self._tables.get(video)
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        table = await loop.run_in_executor(
            self._threads, lambda: FrameTable.from_dict(self._store.videos.frame_table(*video))
        )
        self._tables[video] = table
        while len(self._tables) > 2 * _VIDEOS:
            self._tables.popitem(last=False)
        return table

    async def close_idle(self) -> None:
        """Close idle decoding processes; runs until it is cancelled."""
        while True:
            await asyncio.sleep(_IDLE_SECONDS / 4)
            limit = time.monotonic() - _IDLE_SECONDS
            idle = [lane for lane in self._lanes if lane.used < limit and not lane.turn.locked()]
            self._lanes = [lane for lane in self._lanes if lane not in idle]
            for lane in idle:
                await asyncio.get_running_loop().run_in_executor(self._threads, lane.close)

    def drop(self, video: tuple[str, str]) -> None:
        """Drop a deleted video from the caches, and close its processes."""
        self._tables.pop(video, None)
        with self._lock:
            for key in [key for key in self._pictures if key.video == video]:
                self._bytes -= len(self._pictures.pop(key))

    def close(self) -> None:
        """Close every decoding process. Blocks until the threads have ended."""
        for lane in self._lanes:
            lane.interrupt()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()

    async def _make(self, key: FrameKey) -> bytes:
        table = await self.table(key.video)
        if not 0 <= key.index < table.frame_count:
            raise OutOfRange("frame", key.index, f"0 to {table.frame_count - 1}")
        lane = self._lane(key.video, key.index)
        lane.expected = key.index + 1
        async with lane.turn:
            picture = self._cached(key)  # the previous read of this lane may have decoded it
            if picture is not None:
                return picture
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, lane, key, table)

    def _read(self, lane: _Lane, key: FrameKey, table: FrameTable) -> bytes:
        """Read up to a frame; also cache the frames before it, which are likely to be requested next."""
        made = b""
        for index, image in lane.read(lambda: self._open(key.video, table), key.index):
            made = _encode(image, key.width_px, key.kind)
            self._keep(FrameKey(key.video, index, key.width_px, key.kind), made)
        return made

    def _open(self, video: tuple[str, str], table: FrameTable) -> Video:
        # Half of the threads: several lanes may decode while a job trains.
        limits = DecodeLimits(threads=2, cache_bytes=32 << 20)
        return open_video(self._store.videos.path(*video), limits, table=table)

    def _lane(self, video: tuple[str, str], index: int) -> _Lane:
        """The lane closest before a frame; if none is near, a new one or the least recently used."""
        mine = [lane for lane in self._lanes if lane.video == video]
        near = [lane for lane in mine if 0 <= index - lane.expected + 1 <= _AHEAD]
        if near:
            return min(near, key=lambda lane: index - lane.expected)
        if len(mine) >= _LANES:
            return min(mine, key=lambda lane: lane.used)
        if len(self._lanes) >= _LANES * _VIDEOS:
            oldest = min(self._lanes, key=lambda lane: lane.used)
            self._lanes.remove(oldest)
            asyncio.get_running_loop().run_in_executor(self._threads, oldest.close)
        self._lanes.append(_Lane(video))
        return self._lanes[-1]

    def _cached(self, key: FrameKey) -> bytes | None:
        with self._lock:
            picture = self._pictures.get(key)
            if picture is not None:
                self._pictures.move_to_end(key)
            return picture

    def _keep(self, key: FrameKey, picture: bytes) -> None:
        with self._lock:
            self._bytes += len(picture) - len(self._pictures.pop(key, b""))
            self._pictures[key] = picture
            while self._bytes > _CACHE_BYTES:
                self._bytes -= len(self._pictures.popitem(last=False)[1])

    def _forget(self, key: FrameKey, done: asyncio.Future[bytes]) -> None:
        self._waiting.pop(key, None)
        if not done.cancelled():
            done.exception()  # mark it as retrieved; no request may be left to do so


class _Lane:
    """One decoding process that reads a video in order, and seeks if necessary."""

    def __init__(self, video: tuple[str, str]) -> None:
        self.video = video
        self.turn = asyncio.Lock()
        self.used = time.monotonic()
        self.expected = 0
        self._open: Video | None = None
        self._frames: Iterator[tuple[int, Any]] | None = None
        self._next = -1
        self._guard = threading.Lock()

    def read(self, opener: Any, index: int) -> Iterator[tuple[int, Any]]:
        """The frames from the lane's position up to a frame if it is near; otherwise only that frame."""
        with self._guard:
            self.used = time.monotonic()
            if self._open is None:
                self._open = opener()
            if self._frames is None or not 0 <= index - self._next <= _AHEAD:
                self._frames, self._next = self._open.frames(index), index
            try:
                while self._next <= index:
                    number, image = next(self._frames)
                    self._next = number + 1
                    yield number, image
            except BaseException:
                self._frames = None
                raise
            self.used = time.monotonic()

    def interrupt(self) -> None:
        """Interrupt a running read."""
        if self._open is not None:
            self._open.close()

    def close(self) -> None:
        """Close the process."""
        self.interrupt()
        with self._guard:
            self._open, self._frames = None, None


def _encode(image: npt.NDArray[np.uint8], width_px: int, kind: str) -> bytes:
    """RGB uint8 ``(height, width, 3)`` as JPEG or WebP, scaled down to ``width_px`` if it is wider."""
    import cv2

    height, width = image.shape[:2]
    if 0 < width_px < width:
        size = (width_px, max(1, round(height * width_px / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(image.dtype, copy=False)
    if kind == "webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY]
    else:
        sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444  # keeps thin colored lines sharp
        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(f".{kind}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()
