"""Frames by index, each checked against the frame table. Runs in the decoding process only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import av
import numpy as np

from micromodels.errors import FrameMismatch, VideoError
from micromodels.video.containers import FrameSource
from micromodels.video.pixels import fingerprint, pixel_hash
from micromodels.video.survey import decoder_versions
from micromodels.video.table import FrameTable

__all__ = ["FrameReader"]

_WORTH_DECODING_THROUGH = 12
"""Decode at most this many frames rather than seek to a key frame."""

_SEEK_FAILURES_TOLERATED = 3

_LEAD = 6
"""Frames by which to seek before a key frame; more than decoders reorder in practice."""


class FrameReader:
    """Reads exactly the frames of the table, as fast as possible.

    A seek is trusted only if time and fingerprint of the frame it leads to agree with the table. Otherwise an earlier
    key frame is tried, and finally the file is read from its start.
    """

    def __init__(self, source: FrameSource, table: FrameTable, threads: int, cache_bytes: int) -> None:
        self._source = source
        self._table = table
        self._threads = 1 if table.single_threaded else threads
        self._seekable = table.seekable
        self._seek_failures = 0
        self._lead = 0
        self._stream: Iterator[av.VideoFrame] | None = None
        self._counting = False
        self._position = 0
        self._cache: OrderedDict[int, av.VideoFrame] = OrderedDict()
        self._cache_bytes = cache_bytes

    def frames(self, start: int, stop: int) -> Iterator[av.VideoFrame]:
        """Frames ``start`` to ``stop`` (half-open), in order.

        Raises:
            FrameMismatch: decoded frames differ from the table.
            VideoError: decoding fails.
        """
        keep = stop - start == 1
        for index in range(start, stop):
            yield self._frame(index, keep=keep)

    def _frame(self, index: int, *, keep: bool) -> av.VideoFrame:
        cached = self._cache.get(index)
        if cached is not None:
            self._cache.move_to_end(index)
            return cached
        if self._can_decode_on_to(index):
            frame = self._advance_to(index, keep=keep)
            if frame is not None:
                return frame
        if self._seekable:
            for target in self._seek_targets(index):
                frame = self._seek_and_advance(target, index, keep=keep)
                if frame is not None:
                    self._seek_failures = 0
                    return frame
            self._seek_failures += 1
            self._seekable = self._seek_failures < _SEEK_FAILURES_TOLERATED
        self._stream = self._source.from_start(threads=self._threads)
        self._position, self._counting = 0, True
        frame = self._advance_to(index, keep=keep)
        if frame is None:
            raise VideoError(f"frame {index} can no longer be decoded")
        return frame

    def _can_decode_on_to(self, index: int) -> bool:
        if self._stream is None or self._position > index:
            return False
        if not self._seekable:
            return True
        return self._keyframe_at_or_before(index) <= self._position + _WORTH_DECODING_THROUGH

    def _keyframe_at_or_before(self, index: int) -> int:
        place = int(np.searchsorted(self._table.keyframes, index, side="right")) - 1
        return int(self._table.keyframes[place]) if place >= 0 else 0

    def _seek_targets(self, index: int) -> Iterator[int]:
        """Frames to try seeking to, in order, until one leads to ``index``.

        The nearest key frame is best. Containers that seek by decoding time overshoot it when given its presentation
        time, and frames may refer across it. In that case seek earlier, and remember to do so.
        """
        place = int(np.searchsorted(self._table.keyframes, index, side="right")) - 1
        if place < 0:
            return
        keyframe = int(self._table.keyframes[place])
        yield max(0, keyframe - self._lead)
        if self._lead == 0:
            self._lead = _LEAD
            yield max(0, keyframe - _LEAD)
        for earlier in (place - 1, place - 4):
            if earlier >= 0:
                yield max(0, int(self._table.keyframes[earlier]) - _LEAD)

    def _seek_and_advance(self, target: int, index: int, *, keep: bool) -> av.VideoFrame | None:
        try:
            self._stream = self._source.from_near(target, int(self._table.pts[target]), threads=self._threads)
        except VideoError:
            raise
        except Exception:  # the container cannot seek; the caller tries another way
            self._stream = None
            return None
        self._position, self._counting = target, False
        return self._advance_to(index, keep=keep)

    def _advance_to(self, index: int, *, keep: bool) -> av.VideoFrame | None:
        """Decode up to frame ``index``; None if this stream does not lead to it."""
        if self._stream is None:
            return None
        for frame in self._stream:
            number = self._position if self._counting else self._index_of(frame)
            if number is not None and number > index:
                break
            sound = number is not None and fingerprint(frame) == int(self._table.fingerprints[number])
            if self._counting and not sound:
                self._stream = None
                raise FrameMismatch(self._mismatch(number))
            if number is None:
                continue
            self._position = number + 1
            if number == index and not sound:
                break
            if number == index or (sound and keep):
                self._check_pixels(number, frame)
                if keep:
                    self._remember(number, frame)
            if number == index:
                return frame
        self._stream = None
        return None

    def _index_of(self, frame: av.VideoFrame) -> int | None:
        time = frame.pts if frame.pts is not None else frame.dts
        if time is None:
            return None
        place = int(np.searchsorted(self._table.pts, time))
        return place if place < self._table.frame_count and int(self._table.pts[place]) == time else None

    def _check_pixels(self, index: int, frame: av.VideoFrame) -> None:
        expected = self._table.pixel_hashes.get(index)
        if expected is not None and pixel_hash(frame) != expected:
            raise FrameMismatch(self._mismatch(index))

    def _mismatch(self, index: int | None) -> str:
        text = f"frame {index} differs from the frame table: the file or its decoder has changed"
        versions = decoder_versions()
        return text if versions == self._table.decoder else f"{text} ({self._table.decoder} then, {versions} now)"

    def _remember(self, index: int, frame: av.VideoFrame) -> None:
        size = sum(plane.buffer_size for plane in frame.planes)
        self._cache[index] = frame
        self._cache.move_to_end(index)
        while len(self._cache) > 1 and len(self._cache) * size > self._cache_bytes:
            self._cache.popitem(last=False)
