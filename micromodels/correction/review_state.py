"""What a session knows besides the labels: their series, agreement, looks, cuts, and what people said of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from micromodels.correction.frame_suggestions import JudgedLabel, Signals, Suggestion, Trust, features_of, suggest
from micromodels.labels.keys import LabelKey
from micromodels.labels.track_arrays import TrackSeries, empty_series
from micromodels.propagation.base import FramePosterior
from micromodels.propagation.predictions import LOOK_SIZE, FramePrediction
from micromodels.types import AnyLabel, Label

__all__ = ["VideoReviewState"]

Doubles = npt.NDArray[np.float64]

NEAR_FRAMES = 4
"""Where a frame is wrong, so many to each side likely are too."""


class VideoReviewState:
    """Kept up to date by a session; arrays of one value per frame and track, nothing larger.

    Args:
        frame_count: of the video.
    """

    def __init__(self, frame_count: int) -> None:
        self._count = frame_count
        self._series: dict[tuple[str, bool], TrackSeries] = {}
        self._agreement: dict[str, Doubles] = {}
        self._looks: dict[str, npt.NDArray[np.float16]] = {}
        self._judged: list[JudgedLabel] = []
        self._cuts: set[int] = set()

    @property
    def tracks(self) -> Mapping[str, TrackSeries]:
        """Series of the object tracks by id."""
        return {name: series for (name, of_frame), series in self._series.items() if not of_frame}

    @property
    def frame_classes(self) -> Mapping[str, TrackSeries]:
        """Series of the frame classes by name; shown where they hold."""
        return {name: series for (name, of_frame), series in self._series.items() if of_frame}

    @property
    def cuts(self) -> frozenset[int]:
        """Frames behind a scene cut, as far as the video was looked at."""
        return frozenset(self._cuts)

    @property
    def trust(self) -> Trust:
        """How far labels can be trusted."""
        return Trust(self._judged)

    def put(self, key: LabelKey, label: AnyLabel | None, *, fixed: bool) -> None:
        """A label is another one now, or is fixed now."""
        place = (key.name, key.is_frame_class)
        if place not in self._series:
            name = label.object_class if isinstance(label, Label) else key.name
            self._series[place] = empty_series(key.name, name, self._count, is_frame_class=key.is_frame_class)
        self._series[place].put(key.frame, label, fixed=fixed)

    def boxes(self, frame: int) -> list[Doubles]:
        """Boxes around the shapes on a frame, in pixels of the video."""
        found = (one.boxes[frame] for (_, of_frame), one in self._series.items() if not of_frame)
        return [box for box in found if not np.isnan(box[0])]

    def surest(self, count: int, beside: Collection[int]) -> list[int]:
        """Predicted or accepted frames whose labels are likeliest to be right, spread over the video.

        Args:
            count: how many at most.
            beside: frames that are about to be others; those next to them are likely wrong too.
        """
        tracks = list(self.tracks.values())
        if not tracks:
            return []
        # Human labels have no confidence, and need none: they are learned from as what they are.
        accepted = [one.fixed & ~np.isnan(one.confidence) for one in tracks]
        confidence = np.min([np.where(a, 1.0, one.confidence) for a, one in zip(accepted, tracks, strict=True)], axis=0)
        good = np.all([one.labeled for one in tracks], axis=0) & ~np.isnan(confidence)
        for frame in beside:
            good[max(0, frame - NEAR_FRAMES) : frame + NEAR_FRAMES + 1] = False
        good &= confidence >= np.median(confidence[good]) if good.any() else False
        parts = np.array_split(np.arange(self._count), min(count, self._count))
        return [int(part[np.where(good[part], confidence[part], -1.0).argmax()]) for part in parts if good[part].any()]

    def judge(self, keys: Iterable[LabelKey], *, wrong: bool) -> None:
        """People said of predicted labels, as they are now, that they are right or wrong."""
        by_place: dict[tuple[str, bool], list[int]] = {}
        for key in keys:
            place = (key.name, key.is_frame_class)
            series = self._series.get(place)
            if series is not None and series.labeled[key.frame] and not series.fixed[key.frame]:
                by_place.setdefault(place, []).append(key.frame)
        for place, frames in by_place.items():
            features, distance = features_of(self._series[place], self._signals())
            self._judged += [JudgedLabel(features[frame], float(distance[frame]), wrong) for frame in frames]

    def predictions_of(self, tracks: Sequence[str]) -> Callable[[int, FramePrediction], None]:
        """What is shown the predictions of some tracks, and remembers how the objects look."""
        looks = [self._looks.setdefault(t, np.full((self._count, LOOK_SIZE), np.nan, np.float16)) for t in tracks]

        def watch(index: int, predictions: FramePrediction) -> None:
            for values, seen in zip(looks, predictions.looks, strict=True):
                values[index] = seen

        return watch

    def watch(self, tracks: Sequence[str], posteriors: Iterable[FramePosterior]) -> Iterator[FramePosterior]:
        """Pass posteriors of some tracks through, and remember agreement and cuts."""
        for posterior in posteriors:
            if posterior.scene_cut:
                self._cuts.add(posterior.frame)
            for position, track in enumerate(tracks):
                values = self._agreement.setdefault(track, np.full(self._count, np.nan))
                values[posterior.frame] = posterior.agreement[position]
            yield posterior

    def _signals(self) -> Signals:
        return Signals(self._count, self.cuts, self._agreement, self._looks)

    def suggest(self, count: int, skip: frozenset[int]) -> list[Suggestion]:
        """See ``LabelSession.suggest``."""
        return suggest(list(self._series.values()), self._signals(), self.trust, count, skip)
