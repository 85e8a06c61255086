"""Labels of one track as arrays over the frames of the video: what diagnostics and suggestions look at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from micromodels.labels.geometry import area_px, bounds
from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel, FrameLabel, Label, State

__all__ = ["TrackSeries", "empty_series", "no_boxes", "track_series", "visible_boxes"]

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TrackSeries:
    """One track over all frames; arrays have one value per frame of the video.

    Attributes:
        track: its id.
        object_class: its class.
        labeled: whether there is a label.
        shown: whether the label has a shape.
        fixed: whether the label is human, accepted or locked.
        confidence: of the label; NaN where it has none.
        boxes: ``(frames, 4)`` box around the shape in pixels, NaN where there is none.
        areas: pixels of the shape, NaN where there is none.
        is_frame_class: whether it is a frame class in the form of a track; shown where it holds.
    """

    track: str
    object_class: str
    labeled: Bools = field(repr=False)
    shown: Bools = field(repr=False)
    fixed: Bools = field(repr=False)
    confidence: Doubles = field(repr=False)
    boxes: Doubles = field(repr=False)
    areas: Doubles = field(repr=False)
    is_frame_class: bool = False

    def put(self, frame: int, label: AnyLabel | None, *, fixed: bool) -> None:
        """Write one label, or its absence, into the arrays; a frame class is shown where it is present."""
        self.labeled[frame] = label is not None
        self.fixed[frame] = label is not None and fixed
        self.confidence[frame] = np.nan if label is None or label.confidence is None else label.confidence
        self.shown[frame], self.boxes[frame], self.areas[frame] = False, np.nan, np.nan
        if isinstance(label, FrameLabel):
            self.shown[frame] = label.present
        elif label is not None and label.shape is not None:
            box = bounds(label.shape)
            if box is not None:
                self.shown[frame] = True
                self.boxes[frame], self.areas[frame] = box.as_list(), area_px(label.shape)

    @property
    def centers(self) -> Doubles:
        """``(frames, 2)`` centers of the boxes in pixels."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def sizes(self) -> Doubles:
        """``(frames,)`` roots of the boxes' areas in pixels."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return np.asarray(np.sqrt(sides[:, 0] * sides[:, 1]), np.float64)


def track_series(
    labels: Iterable[AnyLabel], frame_count: int, settled: Collection[LabelKey] = frozenset()
) -> dict[str, TrackSeries]:
    """Series of every track among the labels, by track id.

    Args:
        labels: labels of one video; frame classes among them are passed over.
        frame_count: of the video.
        settled: keys of labels that were accepted or locked.
    """
    made: dict[str, TrackSeries] = {}
    for label in labels:
        if isinstance(label, Label):
            if label.track not in made:
                made[label.track] = empty_series(label.track, label.object_class, frame_count)
            made[label.track].put(label.frame, label, fixed=label.is_anchor or LabelKey.of(label) in settled)
    return made


def empty_series(track: str, object_class: str, frame_count: int, *, is_frame_class: bool = False) -> TrackSeries:
    """A track, or a frame class in its form, without labels."""

    def no() -> Bools:
        return np.zeros(frame_count, bool)

    def unknown(*shape: int) -> Doubles:
        return np.full((frame_count, *shape), np.nan)

    return TrackSeries(track, object_class, no(), no(), no(), unknown(), unknown(4), unknown(), is_frame_class)


def no_boxes(frame: int) -> Sequence[npt.NDArray[np.float32]]:
    """No boxes on any frame."""
    del frame
    return ()


def visible_boxes(
    labels: Mapping[LabelKey, AnyLabel], tracks: Sequence[str]
) -> Callable[[int], Sequence[npt.NDArray[np.float32]]]:
    """Boxes of visible tracks by frame, from their labels."""

    def boxes(frame: int) -> list[npt.NDArray[np.float32]]:
        found = []
        for track in tracks:
            label = labels.get(LabelKey(frame=frame, name=track))
            if isinstance(label, Label) and label.state is State.VISIBLE and label.shape is not None:
                box = bounds(label.shape)
                if box is not None:
                    found.append(np.array(box.as_list(), np.float32))
        return found

    return boxes
