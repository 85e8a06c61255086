"""What a head says of every frame: log-odds per track, before anything is known of the frames around it."""

from __future__ import annotations

import threading
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from micromodels.encoding.encoded_video import ARRAY_READING, EncodedFrame, EncodedVideo, FrameSelection
from micromodels.encoding.encoders import GRID_PX, Features
from micromodels.propagation.correlation_filter import matched_channels, matched_features
from micromodels.propagation.regions import Window, window_around
from micromodels.runtime.run import Run, Stage, StageFinished
from micromodels.training.frame_classifier import pooled
from micromodels.training.head import DenseHead, predict

__all__ = [
    "Boxes",
    "Detail",
    "FramePrediction",
    "HeadPredictions",
    "PredictionSource",
    "StoredPredictions",
    "TrackSelection",
    "one_against_rest",
    "with_details",
]

DEFAULT_PREDICTION_BYTES = 2 << 30
LOOK_SIZE = 64
SEEN_WEIGHT = 0.05
"""In cells of the deepest features: below it the head sees no object."""

DETAIL_LOG_ODDS = -5.0
"""Where a head of stride 1 holds an object for less likely, its detail is of no use."""
DETAIL_RIM = 4
"""Cells of stride 2 around it."""

Floats = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Boxes = Callable[[int], Sequence[npt.NDArray[np.float32]]]
"""Boxes in work pixels, ``(4,)`` each, by frame."""


@dataclass(frozen=True, slots=True)
class Detail:
    """What log-odds at full size are more than enlarged ones, in a window around an object.

    Attributes:
        top: of the window, in work pixels.
        left: of the window.
        values: float16 ``(height, width)``; of no size where the head sees nothing.
    """

    top: int
    left: int
    values: npt.NDArray[np.float16] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FramePrediction:
    """Predictions of one frame.

    Attributes:
        log_odds: float16 ``(tracks, height / 2, width / 2)``, on the device that works.
        details: of each track what ``log_odds`` lack of a head of stride 1; empty for one of stride 2.
        sides: float16 ``(4, height / 4, width / 4)`` distances to the box sides in work pixels, or None.
        gray: uint8 ``(height / 2, width / 2)``, for optical flow.
        pooled: float32 vector, for frame classes.
        looks: float16 ``(tracks, 64)``: how each object looks where the head sees it; NaN where it sees none.
        matched: float16 ``(channels, height / 8, width / 8)``, of ``matched_features``, where boxes are drawn; or None.
    """

    log_odds: torch.Tensor = field(repr=False)
    sides: npt.NDArray[np.float16] | None = field(repr=False)
    gray: npt.NDArray[np.uint8] = field(repr=False)
    pooled: Floats = field(repr=False)
    looks: npt.NDArray[np.float16] = field(repr=False)
    details: tuple[Detail, ...] = field(default=(), repr=False)
    matched: torch.Tensor | None = field(default=None, repr=False)


class PredictionSource(Protocol):
    """Where predictions comes from."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the work image."""
        ...

    @property
    def tracks(self) -> int:
        """Number of tracks that it speaks of."""
        ...

    @property
    def matched_channels(self) -> int:
        """Channels of ``FramePrediction.matched``; 0 without."""
        ...

    @property
    def device(self) -> torch.device:
        """Where log-odds are."""
        ...

    def stream(self, indices: range) -> Iterator[tuple[int, FramePrediction]]:
        """Predictions of a range of frames, in order."""
        ...

    def image(self, index: int) -> Image:
        """The work image of a frame, RGB uint8 ``(height, width, 3)``; decoded at each call, in any thread."""
        ...


class HeadPredictions:
    """Predictions straight from a head.

    Args:
        video: encoded frames.
        head: the dense head; None where the task has frame classes only.
        run: gets the time of prediction.
    """

    def __init__(self, video: EncodedVideo | FrameSelection, head: DenseHead | None, run: Run) -> None:
        self._video, self._head, self._run = video, head, run
        self.size = video.size
        self.tracks = head.settings.tracks if head is not None else 0
        boxed = head.settings if head is not None and head.settings.boxes else None
        self.matched_channels = matched_channels(boxed.levels) if boxed is not None else 0
        self.device = next(head.parameters()).device if head is not None else torch.device("cpu")

    def stream(self, indices: range) -> Iterator[tuple[int, FramePrediction]]:
        """See ``PredictionSource``; several frames at once."""
        for index, predictions, seconds in self._video.stream(indices, self.timed):
            self.tell(seconds)
            yield index, predictions

    def image(self, index: int) -> Image:
        """See ``PredictionSource``."""
        return self._video.image(index)

    def timed(
        self, index: int, encoded: EncodedFrame, older: FramePrediction | None = None, window: Window | None = None
    ) -> tuple[int, FramePrediction, float]:
        """Predictions of one frame, and the seconds that it took; in any thread.

        Args:
            index: its index.
            encoded: its features.
            older: what another head said of it, if that is known.
            window: the part that is predicted; the rest stays what it is in ``older``. None: all of it.
        """
        began = time.perf_counter()
        if older is not None and window is not None:
            predictions = self._update(encoded, older, window)
        else:
            predictions = self._predict(encoded, older)
        return index, predictions, time.perf_counter() - began

    def tell(self, seconds: float) -> None:
        """Report a time; only in the thread that works for the user."""
        if self._head is not None:
            self._run.on_event(StageFinished(Stage.PREDICT, seconds))

    @torch.inference_mode()
    def _predict(self, encoded: EncodedFrame, older: FramePrediction | None) -> FramePrediction:
        """All of a frame again; what does not depend on the head is taken from ``older``."""
        vector = pooled(encoded.features) if older is None else older.pooled
        if self._head is None:
            empty = torch.zeros((0, self.size[0] // 2, self.size[1] // 2), dtype=torch.float16)
            return FramePrediction(empty, None, encoded.gray, vector, np.zeros((0, LOOK_SIZE), np.float16))
        log_odds, sides, details = self._outputs(encoded.features)
        looks = _looks(encoded.features[-1], log_odds)
        matched = older.matched if older is not None else None
        if matched is None and self._head.settings.boxes:
            levels = self._head.settings.levels
            matched = torch.from_numpy(matched_features(encoded.features[-len(levels) :], levels)).to(self.device)
        return FramePrediction(log_odds.to(torch.float16), sides, encoded.gray, vector, looks, details, matched)

    @torch.inference_mode()
    def _update(self, encoded: EncodedFrame, older: FramePrediction, window: Window) -> FramePrediction:
        """What another head said, but for a window."""
        assert self._head is not None
        levels = self._head.settings.levels
        features = zip(encoded.features[-len(levels) :], levels, strict=True)
        part, part_sides, details = self._outputs([maps[window.at(level.stride)] for maps, level in features])
        log_odds = older.log_odds.float()
        log_odds[window.at(2)] = part
        sides = older.sides
        if part_sides is not None and sides is not None:
            sides = sides.copy()
            sides[window.at(4)] = part_sides
        top, left = window.top * GRID_PX, window.left * GRID_PX
        moved = tuple(replace(detail, top=detail.top + top, left=detail.left + left) for detail in details)
        looks = _looks(encoded.features[-1], log_odds)
        return FramePrediction(
            log_odds.to(torch.float16), sides, encoded.gray, older.pooled, looks, moved, older.matched
        )

    def _outputs(self, features: Features) -> tuple[torch.Tensor, npt.NDArray[np.float16] | None, tuple[Detail, ...]]:
        """Log-odds, box sides and details of features, or of a part of them."""
        assert self._head is not None
        output = predict(self._head, features)
        log_odds = one_against_rest(output.logits)
        details: tuple[Detail, ...] = ()
        if self._head.settings.stride == 1:
            # The likeliest pixel speaks for each four: a line is none that is averaged with what is beside it.
            full, log_odds = log_odds, F.max_pool2d(log_odds[None], 2)[0]
            details = tuple(_detail(*maps) for maps in zip(full.cpu().numpy(), log_odds.cpu().numpy(), strict=True))
        sides = output.sides.cpu().numpy().astype(np.float16) if output.sides is not None else None
        return log_odds, sides, details


def _detail(full: Floats, half: Floats) -> Detail:
    """What ``full`` says that ``half``, the maximum of each two by two of its pixels, does not."""
    near = half > DETAIL_LOG_ODDS
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if not len(rows):
        return Detail(0, 0, np.zeros((0, 0), np.float16))
    top, left = 2 * max(0, rows[0] - DETAIL_RIM), 2 * max(0, columns[0] - DETAIL_RIM)
    bottom, right = 2 * (rows[-1] + 1 + DETAIL_RIM), 2 * (columns[-1] + 1 + DETAIL_RIM)
    more = full - cv2.resize(half, full.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return Detail(top, left, more[top:bottom, left:right].astype(np.float16))


def with_details(log_odds: Floats, details: Sequence[Detail]) -> Floats:
    """Log-odds ``(tracks, h, w)`` at twice the size, with what each track's detail says more."""
    height, width = 2 * log_odds.shape[1], 2 * log_odds.shape[2]
    full = np.empty((len(log_odds), height, width), np.float32)
    for enlarged, half, detail in zip(full, log_odds, details, strict=True):
        enlarged[:] = cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR)
        rows, columns = detail.values.shape
        enlarged[detail.top : detail.top + rows, detail.left : detail.left + columns] += detail.values
    return full


def _looks(level: npt.NDArray[np.float16], log_odds: torch.Tensor) -> npt.NDArray[np.float16]:
    """Direction of the mean of the deepest features over each object, projected at random, which keeps distances."""
    weight = F.adaptive_avg_pool2d(torch.sigmoid(log_odds), level.shape[1:]).flatten(1).cpu()
    total = weight.sum(dim=1)
    maps = torch.from_numpy(level.reshape(len(level), -1)).float()
    directions = F.normalize(weight @ maps.T, dim=1)
    generator = torch.Generator().manual_seed(0)
    looks = directions @ torch.randn(len(level), LOOK_SIZE, generator=generator) / LOOK_SIZE**0.5
    looks[total < SEEN_WEIGHT] = torch.nan
    return np.asarray(looks.numpy(), np.float16)


def one_against_rest(logits: torch.Tensor) -> torch.Tensor:
    """Log-odds of each track against everything else: ``(tracks + 1, h, w)`` logits to ``(tracks, h, w)``."""
    if logits.shape[0] == 2:
        return (logits[1:] - logits[:1]).clamp(-16, 16)
    log_p = F.log_softmax(logits, dim=0)[1:]
    return (log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-7))).clamp(-16, 16)


class StoredPredictions:
    """Predictions that is predicted once per version of the head and kept in files.

    Memory does not grow with the video, nor the disk past ``max_bytes``: what was used longest ago goes and is
    predicted again when it is needed.

    Args:
        video: encoded frames.
        folder: where files go; made if needed.
        max_bytes: bound on them.
    """

    def __init__(self, video: EncodedVideo, folder: Path, max_bytes: int = DEFAULT_PREDICTION_BYTES) -> None:
        self._video, self._folder, self._max_bytes = video, folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self.size = video.size
        self._versions: OrderedDict[int, int] = OrderedDict()
        self._predictor: HeadPredictions | None = None
        self._around: Boxes | None = None
        self._version = -1
        self._lock = threading.Lock()

    @property
    def tracks(self) -> int:
        """Number of tracks of the present head."""
        return self._live.tracks

    @property
    def matched_channels(self) -> int:
        """Of the present head."""
        return self._live.matched_channels

    @property
    def device(self) -> torch.device:
        """Where log-odds are."""
        return self._live.device

    @property
    def _live(self) -> HeadPredictions:
        assert self._predictor is not None, "use_head comes first"
        return self._predictor

    def use_head(self, head: DenseHead | None, run: Run, around: Boxes | None = None) -> None:
        """Predict with this head from now on; what older heads said stays until it is asked for afresh.

        Args:
            head: the head; None where the task has frame classes only.
            run: gets the time of prediction.
            around: boxes of objects by frame. Frames that an older head has spoken of are predicted around them, and
                around what it saw, only; the rest of such a frame stays as it was. None: all of every frame.
        """
        self._predictor = HeadPredictions(self._video, head, run)
        self._around = around
        self._version += 1

    def stream(self, indices: range) -> Iterator[tuple[int, FramePrediction]]:
        """What is stored, of whichever version of the head knows all tracks; predicted where nothing is."""
        return self._stream(indices, fresh=False)

    def image(self, index: int) -> Image:
        """See ``PredictionSource``."""
        return self._video.image(index)

    def stream_fresh(self, indices: range) -> Iterator[tuple[int, FramePrediction]]:
        """What the present head says."""
        return self._stream(indices, fresh=True)

    def _stream(self, indices: range, *, fresh: bool) -> Iterator[tuple[int, FramePrediction]]:
        oldest = self._version if fresh else 0
        place = indices.start
        while place < indices.stop:
            predictions = self._read(place, oldest)
            if predictions is not None:
                yield place, predictions
                place += 1
                continue
            end = place + 1
            while end < indices.stop and self._versions.get(end, -1) < oldest:
                end += 1
            for index, predicted, seconds in self._video.stream(range(place, end), self._predicted):
                self._live.tell(seconds)
                yield index, predicted
            place = end

    def _predicted(self, index: int, encoded: EncodedFrame) -> tuple[int, FramePrediction, float]:
        older = self._read(index, 0)
        if older is not None and len(older.log_odds) > self.tracks:
            older = None
        window = None if older is None or self._around is None else window_around(older.log_odds, self._around(index))
        found = self._live.timed(index, encoded, older, window)
        self._write(index, found[1])
        return found

    def _path(self, index: int) -> Path:
        return self._folder / f"{index}.npz"

    def _read(self, index: int, oldest: int) -> FramePrediction | None:
        if self._versions.get(index, -1) < oldest:
            return None
        try:
            with ARRAY_READING, np.load(self._path(index), allow_pickle=False) as arrays:
                odds, sides, matched = arrays["log_odds"], arrays["sides"], arrays["matched"]
                predictions = FramePrediction(
                    torch.from_numpy(odds).to(self.device),
                    sides if sides.size else None,
                    arrays["gray"],
                    arrays["pooled"],
                    arrays["looks"],
                    tuple(Detail(int(y), int(x), arrays[f"detail{i}"]) for i, (y, x) in enumerate(arrays["corners"])),
                    torch.from_numpy(matched).to(self.device) if matched.size else None,
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            self._versions.pop(index, None)
            return None
        if len(odds) < self.tracks:
            self._versions.pop(index, None)
            return None
        with self._lock:
            if index in self._versions:
                self._versions.move_to_end(index)
        return predictions

    def _write(self, index: int, predictions: FramePrediction) -> None:
        odds = predictions.log_odds.cpu().numpy()
        sides = predictions.sides if predictions.sides is not None else np.zeros(0, np.float16)
        matched = predictions.matched.cpu().numpy() if predictions.matched is not None else np.zeros(0, np.float16)
        size = odds.nbytes + sides.nbytes + matched.nbytes + sum(detail.values.nbytes for detail in predictions.details)
        size += predictions.gray.nbytes + predictions.pooled.nbytes
        with self._lock:
            self._versions.pop(index, None)
            while self._versions and (len(self._versions) + 1) * size > self._max_bytes:
                oldest, _ = self._versions.popitem(last=False)
                self._path(oldest).unlink(missing_ok=True)
        with suppress(OSError):  # a full disk costs time, not the correction
            np.savez(
                self._path(index),
                log_odds=odds,
                sides=sides,
                gray=predictions.gray,
                pooled=predictions.pooled,
                looks=predictions.looks,
                matched=matched,
                corners=np.array([(detail.top, detail.left) for detail in predictions.details], np.int64).reshape(
                    -1, 2
                ),
                allow_pickle=False,
                **{f"detail{i}": detail.values for i, detail in enumerate(predictions.details)},
            )
            with self._lock:
                self._versions[index] = self._version


class TrackSelection:
    """Some tracks of stored predictions, in the order given.

    Args:
        source: where predictions comes from.
        tracks: positions of the tracks in it.
        watch: is shown the predictions that passes, with the index of the frame.
        fresh: whether only what the present head says will do.
    """

    def __init__(
        self,
        source: StoredPredictions,
        tracks: Sequence[int],
        watch: Callable[[int, FramePrediction], None],
        *,
        fresh: bool = False,
    ) -> None:
        self._stream, self._source = source.stream_fresh if fresh else source.stream, source
        self._tracks, self._watch = list(tracks), watch
        self.size, self.device, self.tracks = source.size, source.device, len(tracks)
        self.matched_channels = source.matched_channels

    def stream(self, indices: range) -> Iterator[tuple[int, FramePrediction]]:
        """See ``PredictionSource``."""
        chosen = self._tracks
        for index, predictions in self._stream(indices):
            details = tuple(predictions.details[track] for track in chosen) if predictions.details else ()
            part = replace(
                predictions, log_odds=predictions.log_odds[chosen], looks=predictions.looks[chosen], details=details
            )
            self._watch(index, part)
            yield index, part

    def image(self, index: int) -> Image:
        """See ``PredictionSource``."""
        return self._source.image(index)
