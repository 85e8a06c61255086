"""Encoded frames of one video: the bounded, disk-backed feature cache.

A frame is encoded once; its features, its work image and its gray thumbnail for optical flow are kept in one file per
frame, keyed by the video's content, the encoder and the work size. When the cache passes its bound the frames used
longest ago go, and come back by encoding again. Several threads may read and encode at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
import zipfile
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.encoding.encoders import Encoder, Features, work_size
from micromodels.runtime.parallel import mapped
from micromodels.runtime.run import Event, Run, Stage, StageFinished
from micromodels.video import FrameTable

__all__ = [
    "ARRAY_READING",
    "DEFAULT_CACHE_BYTES",
    "EncodedFrame",
    "EncodedVideo",
    "FrameSelection",
    "FrameSource",
    "level_statistics",
    "to_work_image",
]

Image = npt.NDArray[np.uint8]
T = TypeVar("T")

DEFAULT_CACHE_BYTES = 4 << 30
ARRAY_READING = threading.Lock()
"""Held while arrays are read from files: numpy parses their headers as Python, and some releases of CPython 3.11 raise
SystemError (gh-106905) where two threads parse at once."""
MEMORY_FRAMES = 8
"""Frames held in memory besides the files."""
SKIPPED_FRAMES = 4
"""Fewer frames than this between two wanted ones are decoded and dropped rather than sought past."""


class FrameSource(Protocol):
    """The part of ``micromodels.video.Video`` that encoding needs."""

    @property
    def table(self) -> FrameTable:
        """The frame table."""
        ...

    def frame(self, index: int) -> Image:
        """RGB uint8 ``(height, width, 3)``."""
        ...

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Image]]:
        """Frames in display order."""
        ...


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """What later stages know of a frame.

    Attributes:
        features: the encoder's levels, float16 ``(channels, h, w)``.
        gray: half-size gray work image, uint8 ``(height / 2, width / 2)``, for optical flow.
    """

    features: Features = field(repr=False)
    gray: npt.NDArray[np.uint8] = field(repr=False)


def to_work_image(image: Image, size: tuple[int, int]) -> Image:
    """Resize to ``size`` = (height, width): area averaging when shrinking, linear when enlarging."""
    if image.shape[:2] == size:
        return image
    shrinking = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8)


class EncodedVideo:
    """Encoded frames by index; a context manager that removes a temporary cache when it closes.

    Args:
        video: where frames come from.
        encoder: the frozen encoder.
        run: its ``cache_dir`` holds the cache (None: a temporary folder); it gets the times of decode and encode.
        max_bytes: bound of the cache on disk.
    """

    def __init__(self, video: FrameSource, encoder: Encoder, run: Run, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.video = video
        self.encoder = encoder
        self.size = work_size(video.table.height_px, video.table.width_px)
        self.frame_count = video.table.frame_count
        self._emit = run.on_event
        self._times: deque[Event] = deque()
        self._lock = threading.Lock()
        self._temporary = run.cache_dir is None
        base = Path(tempfile.mkdtemp(prefix="micromodels-")) if run.cache_dir is None else run.cache_dir
        key = f"{video.table.content_hash}|{encoder.name}|{self.size}"
        self._folder = base / hashlib.sha256(key.encode()).hexdigest()[:24]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._base = base
        self._memory: OrderedDict[int, EncodedFrame] = OrderedDict()
        self._max_bytes = max_bytes
        self._writing = 0  # files on their way to the disk, by any thread
        kept = [entry for entry in os.scandir(self._folder) if entry.name.removesuffix(".npz").isdecimal()]
        self._on_disk: OrderedDict[int, None] = OrderedDict(
            (int(entry.name.removesuffix(".npz")), None) for entry in sorted(kept, key=_modified)
        )

    def __enter__(self) -> EncodedVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget what is in memory; remove the cache if it was a temporary one."""
        self._memory.clear()
        if self._temporary:
            shutil.rmtree(self._base, ignore_errors=True)

    @property
    def capacity_frames(self) -> int:
        """How many encoded frames the cache holds before it forgets the first."""
        pixels = self.size[0] * self.size[1]
        per_frame = pixels // 4 + sum(2 * level.channels * pixels // level.stride**2 for level in self.encoder.levels)
        return max(1, self._max_bytes // per_frame)

    def image(self, index: int) -> Image:
        """The work image of a frame, decoded again; in any thread."""
        return to_work_image(self._timed_frame(index), self.size)

    def __getitem__(self, index: int) -> EncodedFrame:
        """The encoded frame ``index``; in any thread, so what it took is told later."""
        return self._look_up(index) or self._encode(index, self._timed_frame(index))

    def with_image(self, index: int, image: Image) -> EncodedFrame:
        """The encoded frame ``index``, whose picture is known; in any thread."""
        return self._look_up(index) or self._encode(index, image)

    def stream(self, indices: Sequence[int], work: Callable[[int, EncodedFrame], T]) -> Iterator[T]:
        """``work(index, encoded frame)`` of some frames in order, several frames at once, each in some thread.

        Missing frames are decoded sequentially and encoded.
        """

        def do(item: tuple[int, Image | None]) -> T:
            index, image = item
            encoded = self._look_up(index) if image is None else None
            if encoded is None:
                encoded = self._encode(index, self._timed_frame(index) if image is None else image)
            return work(index, encoded)

        for result in mapped(do, self._decoded(indices)):
            self.tell_times()
            yield result
        self.tell_times()

    def encoding_tasks(self, indices: Sequence[int]) -> Iterator[Callable[[], None]]:
        """One task for each frame that is not in the cache yet; frames are decoded as the tasks are taken."""
        for index, image in self._decoded(indices):
            if image is not None:
                yield partial(self._encode_missing, index, image)

    def tell_times(self) -> None:
        """Report the times spent by any thread so far; events go out only in the thread that calls this."""
        while self._times:
            with suppress(IndexError):
                self._emit(self._times.popleft())

    def _decoded(self, indices: Sequence[int]) -> Iterator[tuple[int, Image | None]]:
        """Each index with its picture, or with None where the cache has the frame."""
        frames: Iterator[tuple[int, Image]] | None = None
        position = stop = -1
        for place, index in enumerate(indices):
            if self._is_cached(index):
                yield index, None
                continue
            started = time.perf_counter()
            # What was cached when the run began may be encoded by another thread meanwhile, and the run be over.
            if frames is None or not position <= index < min(stop, position + SKIPPED_FRAMES):
                position, stop = index, _run_end(indices, place)
                frames = self.video.frames(position, stop)
            for _ in range(index - position + 1):
                _, image = next(frames)
            self.spent(Stage.DECODE, started)
            position = index + 1
            yield index, image

    def _is_cached(self, index: int) -> bool:
        with self._lock:
            return index in self._memory or index in self._on_disk

    def _timed_frame(self, index: int) -> Image:
        started = time.perf_counter()
        image = self.video.frame(index)
        self.spent(Stage.DECODE, started)
        return image

    def _encode_missing(self, index: int, image: Image) -> None:
        if not self._is_cached(index):
            self._encode(index, image)

    def _encode(self, index: int, image: Image) -> EncodedFrame:
        started = time.perf_counter()
        work = to_work_image(image, self.size)
        half = cv2.resize(work, (self.size[1] // 2, self.size[0] // 2), interpolation=cv2.INTER_AREA)
        gray = np.asarray(cv2.cvtColor(half, cv2.COLOR_RGB2GRAY), np.uint8)
        encoded = EncodedFrame(self.encoder.encode(work), gray)
        self._store(index, encoded)
        self.spent(Stage.ENCODE, started)
        return encoded

    def _look_up(self, index: int) -> EncodedFrame | None:
        with self._lock:
            if index in self._memory:
                self._memory.move_to_end(index)
                return self._memory[index]
            if index not in self._on_disk:
                return None
        try:
            path = self._folder / f"{index}.npz"
            with ARRAY_READING, path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                levels = [arrays[f"level{i}"] for i in range(len(self.encoder.levels))]
                encoded = EncodedFrame(levels, arrays["gray"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            # A cache file that another run evicted or a crash left short is not an error: encode again.
            with self._lock:
                self._on_disk.pop(index, None)
            return None
        with self._lock:
            if index in self._on_disk:
                self._on_disk.move_to_end(index)
            self._remember(index, encoded)
        return encoded

    def _remember(self, index: int, encoded: EncodedFrame) -> None:
        self._memory[index] = encoded
        while len(self._memory) > MEMORY_FRAMES:
            self._memory.popitem(last=False)

    def _store(self, index: int, encoded: EncodedFrame) -> None:
        size = sum(level.nbytes for level in encoded.features) + encoded.gray.nbytes
        evicted = []
        with self._lock:
            self._remember(index, encoded)
            self._writing += 1
            while self._on_disk and (len(self._on_disk) + self._writing) * size > self._max_bytes:
                evicted.append(self._on_disk.popitem(last=False)[0])
        for oldest in evicted:
            with suppress(OSError):
                (self._folder / f"{oldest}.npz").unlink()
        arrays = {f"level{i}": level for i, level in enumerate(encoded.features)}
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, gray=encoded.gray, allow_pickle=False, **arrays)
            os.replace(temporary, self._folder / f"{index}.npz")
            with self._lock:
                self._on_disk[index] = None
        except OSError:
            # A full disk costs time, not the job: the frame is encoded again when needed.
            with suppress(OSError):
                os.unlink(temporary)
        finally:
            with self._lock:
                self._writing -= 1

    def spent(self, stage: Stage, started: float) -> None:
        """Note a time for ``tell_times``; ``started`` is of ``time.perf_counter``. Any thread may."""
        self._times.append(StageFinished(stage, time.perf_counter() - started))


class FrameSelection:
    """Some frames of a video as a video of their own: frame i is the i-th of them.

    Args:
        video: the encoded video.
        frames: indices, ascending.
    """

    def __init__(self, video: EncodedVideo, frames: Sequence[int]) -> None:
        self.size = video.size
        self._video, self._frames = video, frames
        self._position = {frame: position for position, frame in enumerate(frames)}

    def image(self, index: int) -> Image:
        """See ``EncodedVideo.image``."""
        return self._video.image(self._frames[index])

    def stream(self, indices: Sequence[int], work: Callable[[int, EncodedFrame], T]) -> Iterator[T]:
        """See ``EncodedVideo.stream``."""
        chosen = [self._frames[index] for index in indices]
        return self._video.stream(chosen, lambda frame, encoded: work(self._position[frame], encoded))


def _run_end(indices: Sequence[int], place: int) -> int:
    """One past the last of the indices from ``place`` on that are read in one go."""
    end = indices[place] + 1
    for index in indices[place + 1 :]:
        if not end <= index < end + SKIPPED_FRAMES:
            break
        end = index + 1
    return end


def _modified(entry: os.DirEntry[str]) -> float:
    """Time of the last change; 0 for a file that another run evicted meanwhile."""
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def level_statistics(samples: Sequence[Features]) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Mean and standard deviation per channel of each level, over some frames of the video.

    Returns:
        One ``(mean, deviation)`` pair of float32 arrays ``(channels,)`` per level.
    """
    statistics = []
    for level in zip(*samples, strict=True):
        values = np.concatenate([maps.reshape(maps.shape[0], -1).astype(np.float32) for maps in level], axis=1)
        statistics.append((values.mean(axis=1), values.std(axis=1) + 1e-3))
    return statistics
