"""A labeled video: the result of ``micromodels.label``, by frame and by track, to view and to save."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from types import MappingProxyType
from typing import Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from micromodels.errors import InvalidInput, OutOfRange, VideoError
from micromodels.labels.files import write_labels
from micromodels.labels.formats import FormatOptions
from micromodels.output.labeled_video_html import labeled_video_html
from micromodels.output.overlay import overlay
from micromodels.output.overlay_video import write_overlay
from micromodels.types import AnyLabel, FrameResult, Label, Ontology
from micromodels.video import ArrayVideo, Video

__all__ = ["LabeledVideo", "Track"]

Confidences = npt.NDArray[np.float32]
Model = TypeVar("Model", covariant=True)
"""A micro-model of any recipe; recipes lie beyond what this module imports."""


@dataclass(frozen=True, slots=True)
class Track:
    """One object through the video.

    Attributes:
        id: its name.
        object_class: its class.
        labels: by frame, including absent ones.
        confidence: read-only float32 ``(frames,)``: 0 to 1, 1 for hand labels, NaN without a label.
    """

    id: str
    object_class: str
    labels: Mapping[int, Label] = field(repr=False)
    confidence: Confidences = field(repr=False, compare=False)

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames on which the object has a shape, ascending."""
        return tuple(frame for frame, label in self.labels.items() if label.shape is not None)

    def __getitem__(self, frame: int) -> Label:
        """Its label on a frame.

        Raises:
            OutOfRange: it has no label on the frame.
        """
        try:
            return self.labels[operator.index(frame)]
        except KeyError:
            raise OutOfRange("frame", frame, f"a frame on which track {self.id} has a label") from None


class LabeledVideo(Sequence[FrameResult], Generic[Model]):
    """All labels of one video: ``result[12]`` are those of frame 12; iteration yields the frames in order.

    The labels are in memory; frames are read from the video when they are drawn. A closed video is reopened for that.

    Args:
        video: the video, open or closed.
        results: labels of every frame, in order.
        model: the micro-model that made them.
        ontology: colors of classes; None for the classes of the labels without colors.

    Raises:
        InvalidInput: not exactly one result per frame.
    """

    def __init__(
        self,
        video: Video | ArrayVideo,
        results: Iterable[FrameResult],
        model: Model,
        ontology: Ontology | None = None,
    ) -> None:
        self._results = tuple(results)
        count = video.table.frame_count
        if [result.frame for result in self._results] != list(range(count)):
            raise InvalidInput("results", f"{len(self._results)} results", f"one per frame, {count} in order")
        self.video = video
        """The video; it may be closed."""
        self.model = model
        """The micro-model that labeled it."""
        self.ontology = ontology or Ontology.from_labels(self.labels)
        """The classes."""

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> FrameResult: ...

    @overload
    def __getitem__(self, index: slice) -> list[FrameResult]: ...

    def __getitem__(self, index: int | slice) -> FrameResult | list[FrameResult]:
        """The labels of a frame, negative from the end; of a slice, a list of them.

        Raises:
            OutOfRange: no such frame; also an ``IndexError``.
        """
        return list(self._results[index]) if isinstance(index, slice) else self._results[self._frame(index)]

    def __iter__(self) -> Iterator[FrameResult]:
        return iter(self._results)

    def __repr__(self) -> str:
        return f"LabeledVideo({self.video.name!r}, {', '.join(self._facts())})"

    @cached_property
    def labels(self) -> tuple[AnyLabel, ...]:
        """Every label, in order of frames."""
        return tuple(label for result in self._results for label in result.all())

    @cached_property
    def tracks(self) -> Mapping[str, Track]:
        """The objects by id, in order of appearance."""
        found: dict[str, dict[int, Label]] = {}
        for result in self._results:
            for label in result.labels:
                found.setdefault(label.track, {})[label.frame] = label
        return MappingProxyType({id: self._track(id, labels) for id, labels in found.items()})

    @cached_property
    def confidence(self) -> Confidences:
        """The lowest confidence of each frame's labels: read-only float32 ``(frames,)``, 0 to 1.

        A hand label counts as 1. NaN if no label of a frame has a confidence.
        """
        values = (
            min((c for label in result.all() if not np.isnan(c := _confidence(label))), default=np.nan)
            for result in self._results
        )
        return _read_only(np.fromiter(values, np.float32, len(self)))

    @cached_property
    def frames_by_hand(self) -> tuple[int, ...]:
        """Frames with a human label, ascending."""
        return tuple(result.frame for result in self._results if any(label.is_anchor for label in result.all()))

    def save(self, path: str | os.PathLike[str], format: str | None = None) -> None:
        """Write all labels to a file; see ``micromodels.write_labels`` for the formats.

        Args:
            path: the file, replaced when the new one is complete.
            format: name of the format; None to choose it by the file name.

        Raises:
            InvalidInput: no such format, or one that cannot hold these labels.
        """
        write_labels(path, self.labels, video=self.video, format=format, options=FormatOptions(self.ontology))

    def plot(self, frame: int) -> Image.Image:
        """One frame with its labels drawn in, as an RGB Pillow image, which notebooks display.

        Args:
            frame: its index, negative from the end.

        Raises:
            OutOfRange: no such frame.
            VideoError: the video can no longer be read.
        """
        index = self._frame(frame)
        with self._reading() as video:
            return Image.fromarray(overlay(video.frame(index), self._results[index], self.ontology))

    def save_overlay(self, path: str | os.PathLike[str]) -> None:
        """Write an MP4 of the video with the labels drawn in.

        Raises:
            VideoError: the video can no longer be read.
        """
        with self._reading() as video:
            write_overlay(path, video, self._results, self.ontology)

    def _repr_html_(self) -> str:
        """For notebooks: five frames, and the confidence of all frames."""
        try:
            with self._reading() as video:
                return labeled_video_html(
                    self.video.name, self._facts(), video, self, self.confidence, self.frames_by_hand, self.ontology
                )
        except VideoError as error:
            return f"<div>{escape(repr(self))}: {escape(str(error))}</div>"

    def _facts(self) -> list[str]:
        table, tracks, hand = self.video.table, len(self.tracks), len(self.frames_by_hand)
        return [
            f"{len(self)} frame{'' if len(self) == 1 else 's'}",
            f"{table.width_px}x{table.height_px}",
            f"{tracks} track{'' if tracks == 1 else 's'}",
            f"{hand} frame{'' if hand == 1 else 's'} labeled by hand",
        ]

    def _frame(self, index: int) -> int:
        count, number = len(self), operator.index(index)
        if not -count <= number < count:
            raise OutOfRange("frame", index, f"{-count} to {count - 1}")
        return number % count

    def _track(self, id: str, labels: dict[int, Label]) -> Track:
        confidence = np.full(len(self), np.nan, np.float32)
        for frame, label in labels.items():
            confidence[frame] = _confidence(label)
        first = next(iter(labels.values()))
        return Track(id, first.object_class, MappingProxyType(labels), _read_only(confidence))

    @contextmanager
    def _reading(self) -> Iterator[Video | ArrayVideo]:
        if not self.video.is_closed:
            yield self.video
            return
        with self.video.reopen() as video:
            yield video


def _confidence(label: AnyLabel) -> float:
    if label.is_anchor:
        return 1.0
    return np.nan if label.confidence is None else label.confidence


def _read_only(array: Confidences) -> Confidences:
    array.flags.writeable = False
    return array
