"""Baselines: other methods to get from seeds to labels, run on the same seeds as the default.

A baseline yields one :class:`~micromodels.types.FrameResult` per frame in order, as the library does; seeds are passed
through. Only ``yolo`` and the library itself give a confidence.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from micromodels.errors import InvalidInput
from micromodels.types import AnyLabel, FrameLabel, FrameResult, Label
from scripts.benchmark.baselines_interpolation import copy_track, fill_frames, linear_track
from scripts.benchmark.baselines_tracking import follow_by_flow, follow_by_tracker, tracker_lacks
from scripts.benchmark.datasets import Clip, ClipKind
from scripts.benchmark.published_results import (
    boxes_published,
    published_boxes,
    published_masks,
    published_osvos,
)

if TYPE_CHECKING:
    from micromodels.recipes.base import MicroModel
    from micromodels.runtime.run import Run
    from micromodels.video import Video

__all__ = ["BASELINES", "System", "find_system", "train_recipe"]


class Propagate(Protocol):
    """From seeds to labels of every frame."""

    def __call__(self, clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        """Labels of every frame, in order."""
        ...


class LabelWith(Protocol):
    """From a micro-model and its seeds to labels of every frame."""

    def __call__(self, model: MicroModel, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        """Labels of every frame, in order."""
        ...


@dataclass(frozen=True, slots=True)
class System:
    """A method that turns seeds into labels.

    Attributes:
        name: as given to ``--baselines``.
        propagate: the method.
        lacking: why it cannot run on a clip (second argument: whether the seeds are frame classes); empty if it can.
        session_recipe: the library's recipe for label sessions that learn from corrections; empty to run the method
            again after every correction.
        title: its name in tables; ``name`` if empty.
        recipe: the library's recipe that trains its micro-model; systems with the same recipe share a micro-model.
            Empty for none.
        label: labels with that micro-model; None for none.
    """

    name: str
    propagate: Propagate
    lacking: Callable[[Clip, bool], str]
    session_recipe: str = ""
    title: str = ""
    recipe: str = ""
    label: LabelWith | None = None


def _copy(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """Copy of the nearest seed."""
    del clip, run
    return fill_frames(seeds, video.table.frame_count, copy_track)


def _linear(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """Keyframe interpolation: linear between two seeds that show the object, else a copy of the nearest."""
    del clip, run
    return fill_frames(seeds, video.table.frame_count, linear_track)


def _flow(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """Dense optical flow alone, from the nearest seed."""
    del clip, run
    return follow_by_flow(video, seeds)


def _tracker(name: str) -> Propagate:
    """A single-object tracker of OpenCV, from the nearest seed, both ways."""

    def propagate(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        del run
        return follow_by_tracker(name, clip.source.parents[2] / "peers", video, seeds)

    return propagate


def _boxes_of(tracker: str) -> Propagate:
    """Published boxes."""

    def propagate(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        del run
        return published_boxes(clip, tracker, video, seeds)

    return propagate


def train_recipe(recipe: str, video: Video, seeds: Sequence[AnyLabel], run: Run) -> MicroModel:
    """A micro-model of the library, with its default settings."""
    from micromodels.recipes import base

    return base.train(video, seeds, base.TrainSettings(recipe=recipe), run=run)


def _propagate(model: MicroModel, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """As the library does."""
    return model.propagate(video, seeds, run=run)


def _frame_by_frame(model: MicroModel, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """Labels every frame as if it were a separate video, without its neighbors and the seeds."""
    for frame in range(video.table.frame_count):
        (result,) = model.propagate(video, [], frames=range(frame, frame + 1), run=run)
        drawn = {_key(seed): seed for seed in seeds if seed.frame == frame}
        objects = [drawn.get(_key(label), label) for label in result.labels]
        classes = [drawn.get(_key(label), label) for label in result.frame_labels]
        yield FrameResult(
            frame,
            tuple(label for label in objects if isinstance(label, Label)),
            tuple(label for label in classes if isinstance(label, FrameLabel)),
        )


def _key(label: AnyLabel) -> tuple[bool, str]:
    return (True, label.track) if isinstance(label, Label) else (False, label.frame_class)


def _library(name: str, title: str, recipe: str, label: LabelWith, session_recipe: str = "") -> System:
    """The library with one of its recipes."""

    def propagate(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        del clip
        return label(train_recipe(recipe, video, seeds, run), video, seeds, run)

    return System(name, propagate, _library_lacks(recipe), session_recipe, title, recipe, label)


def _always(clip: Clip, frame_classes: bool) -> str:
    del clip, frame_classes
    return ""


def _objects_only(clip: Clip, frame_classes: bool) -> str:
    del clip
    return "does not support frame classes" if frame_classes else ""


def _osvos_lacks(clip: Clip, frame_classes: bool) -> str:
    published = clip.set_name == "davis2016" and not frame_classes and published_osvos(clip).is_dir()
    return "" if published else "masks are published for davis2016 only"


def _published_lacks(tracker: str, set_name: str) -> Callable[[Clip, bool], str]:
    def lacking(clip: Clip, frame_classes: bool) -> str:
        if clip.set_name != set_name or frame_classes:
            return f"boxes are published for {set_name} only"
        return "" if boxes_published(clip, tracker) else f"no boxes are published for {clip.name}"

    return lacking


def _tracker_lacks(name: str) -> Callable[[Clip, bool], str]:
    def lacking(clip: Clip, frame_classes: bool) -> str:
        if frame_classes or clip.kind not in {ClipKind.BOX, ClipKind.MANY_BOXES}:
            return "supports boxes only"
        return tracker_lacks(name)

    return lacking


def _library_lacks(recipe: str) -> Callable[[Clip, bool], str]:
    def lacking(clip: Clip, frame_classes: bool) -> str:
        del clip
        if recipe != "yolo":
            return ""
        if frame_classes:
            return "the YOLO recipe does not support frame classes"
        missing = [name for name in ("ultralytics", "lap") if importlib.util.find_spec(name) is None]
        return f"{missing[0]} is not installed" if missing else ""

    return lacking


_TRACKERS = {
    "csrt": "OpenCV CSRT",
    "kcf": "OpenCV KCF",
    "mil": "OpenCV MIL",
    "tld": "OpenCV TLD",
    "nano": "NanoTrack",
}
_PUBLISHED = (("TLD1.0", "tld"), ("MIL", "tld"), ("MEEM", "otb"), ("MUSTer", "otb"))


BASELINES: Mapping[str, System] = {
    system.name: system
    for system in (
        System("copy", _copy, _always, title="copy of the nearest seed"),
        System("linear", _linear, _always, title="linear interpolation"),
        System("flow", _flow, _objects_only, title="optical flow alone (DIS)"),
        System("osvos", published_masks, _osvos_lacks, title="OSVOS as published (frame 0)"),
        *(
            System(
                f"published-{tracker.lower()}",
                _boxes_of(tracker),
                _published_lacks(tracker, set_name),
                title=f"{tracker} as published (frame 0)",
            )
            for tracker, set_name in _PUBLISHED
        ),
        *(System(name, _tracker(name), _tracker_lacks(name), title=title) for name, title in _TRACKERS.items()),
        _library("yolo", "YOLO11n from scratch + ByteTrack", "yolo", _propagate),
        _library("head", "micromodels, recipe head", "head", _propagate, "head"),
        _library("finetune", "micromodels, recipe finetune", "finetune", _propagate, "finetune"),
        _library("default", "micromodels", "auto", _propagate, "auto"),
        _library("frames", "micromodels without temporal inference", "auto", _frame_by_frame),
    )
}
"""All systems by name; ``default`` is the library with default settings."""


def find_system(name: str) -> System:
    """The system of that name.

    Raises:
        InvalidInput: no such system.
    """
    if name not in BASELINES:
        raise InvalidInput("baselines", name, ", ".join(BASELINES))
    return BASELINES[name]
