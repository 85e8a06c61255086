"""``micromodels.label`` and ``micromodels.train``: the whole way from a video and a few hand labels, in one call.

They take what a caller has (a path, an array, a label file) and do what ``micromodels.recipes`` offers step by step.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from rich.console import Console

from micromodels.errors import InvalidInput
from micromodels.labels.files import read_labels
from micromodels.labels.formats import FormatOptions
from micromodels.output.labeled_video import LabeledVideo
from micromodels.output.progress import Display
from micromodels.recipes import base
from micromodels.recipes.base import MicroModel, TrainSettings, load_model
from micromodels.runtime.run import Event, PropagationProgress, Run, TrainingProgress, Warned
from micromodels.types import AnyLabel, FrameLabel, Label, Ontology
from micromodels.video import ArrayVideo, Video, open_video

__all__ = ["Progress", "Seeds", "VideoLike", "label", "train"]

_LOG = logging.getLogger(__name__)

AnyPath: TypeAlias = str | os.PathLike[str]
VideoLike: TypeAlias = AnyPath | npt.NDArray[np.uint8] | Iterable[npt.NDArray[np.uint8]] | Video | ArrayVideo
"""A video file, a folder of pictures, RGB frames as an array or an iterable, or an open video."""
Seeds: TypeAlias = AnyPath | Iterable[AnyLabel]
"""A file of labels, or labels; the hand labels among them count."""
Progress: TypeAlias = bool | Callable[[Event], None] | None
"""True to show it, False not to, None to show it in a terminal or notebook only; or a function that gets the events."""


def label(
    video: VideoLike,
    seeds: Seeds = (),
    *,
    model: MicroModel | AnyPath | None = None,
    ontology: Ontology | None = None,
    recipe: str = "auto",
    experiments: int = 1,
    effort: float = 1.0,
    encoder: str = "auto",
    random_seed: int = 0,
    device: str = "auto",
    progress: Progress = None,
    cache_dir: AnyPath | None = None,
) -> LabeledVideo[MicroModel]:
    """Label every frame of a video: train a micro-model on the seeds, then propagate from them.

    Args:
        video: a video file, a folder of pictures, frames (RGB uint8 ``(frames, height, width, 3)`` or an iterable of
            ``(height, width, 3)``), or what ``open_video`` gave; that stays open, everything else is closed at the end.
        seeds: a file of labels, or labels; the hand labels among them count, and pass through unchanged. Trifles in a
            file are repaired with a warning; ``read_labels`` has options for that.
        model: a trained micro-model or its folder: nothing is trained, and seeds are optional.
        ontology: classes that are allowed and their colors; None for those of the seeds.
        recipe: how the micro-model is built: ``auto``, ``head``, ``finetune``, ``yolo``, or one of another package.
        experiments: how many variants of the recipe are tried; the best by leave-one-seed-out is kept.
        effort: factor on the number of training steps; below 1 is quicker and worse.
        encoder: ``auto`` or the name of a frozen encoder.
        random_seed: of every random choice.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: True to show it, False not to, None to show it in a terminal or notebook only; or a function that
            gets every event of ``micromodels.runtime.run`` (an error that it raises stops the work). Warnings that are
            not shown are logged.
        cache_dir: folder where encoded frames are kept for the next call; None for one that goes at the end.

    Raises:
        InvalidInput: an argument that is not allowed, or seeds that do not fit the video or the ontology.
        FailedPrecondition: neither seeds nor a model, or a track that no seed shows.
        VideoError: the video cannot be decoded.
        ModelError: the saved micro-model cannot be used.
        TrainingError: training failed.
    """
    settings = TrainSettings(recipe=recipe, experiments=experiments, seed=random_seed, encoder=encoder, effort=effort)
    if model is not None and settings != TrainSettings():
        raise InvalidInput("model", model, "None with settings of training: a trained micro-model is used as it is")
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model)
    with _started(video, seeds, device, progress, cache_dir) as work:
        if model is None:
            model = base.train(work.video, work.anchors, settings, ontology=ontology, run=work.run)
        results = tuple(model.propagate(work.video, work.anchors, run=work.run))
        return LabeledVideo(work.video, results, model, ontology)


def train(
    video: VideoLike,
    seeds: Seeds,
    *,
    ontology: Ontology | None = None,
    recipe: str = "auto",
    experiments: int = 1,
    effort: float = 1.0,
    encoder: str = "auto",
    random_seed: int = 0,
    device: str = "auto",
    progress: Progress = None,
    cache_dir: AnyPath | None = None,
) -> MicroModel:
    """Train a micro-model on a few hand labels of a video; ``label(video, model=...)`` labels any video with it.

    Args and errors are those of ``label``.
    """
    settings = TrainSettings(recipe=recipe, experiments=experiments, seed=random_seed, encoder=encoder, effort=effort)
    with _started(video, seeds, device, progress, cache_dir) as work:
        return base.train(work.video, work.anchors, settings, ontology=ontology, run=work.run)


@dataclass(frozen=True, slots=True)
class _Work:
    """What both calls begin with."""

    video: Video | ArrayVideo
    anchors: Sequence[AnyLabel]
    run: Run


@contextmanager
def _started(
    video: VideoLike, seeds: Seeds, device: str, progress: Progress, cache_dir: AnyPath | None
) -> Iterator[_Work]:
    """Open the video, read the seeds and show progress, until the work is done."""
    with (
        _shown(progress) as on_event,
        _opened(video) as opened,
        tempfile.TemporaryDirectory(prefix="micromodels-") as temporary,
    ):
        for message in opened.table.warnings:
            on_event(Warned(message))
        run = Run(device=device, cache_dir=Path(cache_dir or temporary), on_event=on_event)
        yield _Work(opened, _anchors(seeds, opened, run), run)


@contextmanager
def _opened(video: VideoLike) -> Iterator[Video | ArrayVideo]:
    """The video, which is closed at the end unless the caller has opened it."""
    if isinstance(video, (Video, ArrayVideo)):
        yield video
        return
    with open_video(video) as opened:
        yield opened


def _anchors(seeds: Seeds, video: Video | ArrayVideo, run: Run) -> Sequence[AnyLabel]:
    """The hand labels; predicted ones (of an earlier result, say) are left out with a warning."""
    if isinstance(seeds, (str, os.PathLike)):
        options = FormatOptions(warn=lambda message: run.on_event(Warned(message)))
        labels = read_labels(seeds, video=video, options=options)
    else:
        labels = _checked(seeds)
    anchors = [label for label in labels if label.is_anchor]
    if len(anchors) < len(labels):
        message = f"{len(labels) - len(anchors)} predicted labels are left out of the seeds; only hand labels count"
        run.on_event(Warned(message))
    return anchors


def _checked(seeds: Iterable[AnyLabel]) -> list[AnyLabel]:
    if not isinstance(seeds, Iterable):
        raise InvalidInput("seeds", seeds, "a file of labels, or a list of labels")
    labels = list(seeds)
    for index, one in enumerate(labels):
        if not isinstance(one, (Label, FrameLabel)):
            raise InvalidInput(f"seeds[{index}]", one, "a Label or a FrameLabel")
    return labels


@contextmanager
def _shown(progress: Progress) -> Iterator[Callable[[Event], None]]:
    """Where events go."""
    if callable(progress):
        yield progress
        return
    console = Console(stderr=True)
    if progress is False or (progress is None and not (console.is_terminal or console.is_jupyter)):
        yield _log_warning
        return
    with Display(console) as display:
        display.update("preparing", 0, None)

        def on_event(event: Event) -> None:
            if isinstance(event, (TrainingProgress, PropagationProgress)):
                display.forget("preparing")
            display.on_event(event)

        yield on_event


def _log_warning(event: Event) -> None:
    if isinstance(event, Warned):
        _LOG.warning(event.message)
