"""The whole line: a video and a few seeds in, labels on every frame out.

``train`` makes a micro-model, ``MicroModel.propagate`` labels a video with it, ``label_video`` does both. A recipe is
one module that offers ``train`` and ``load``; ``auto`` takes the dense head.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from micromodels.encoding.encoded_video import FrameSource
from micromodels.errors import InvalidInput, ModelError
from micromodels.recipes.manifest import Manifest
from micromodels.runtime.run import Run
from micromodels.types import AnyLabel, FrameResult, Ontology

__all__ = ["RECIPES", "MicroModel", "TrainSettings", "label_video", "load_model", "train"]

RECIPES = {
    "head": "micromodels.recipes.head",
    "finetune": "micromodels.recipes.finetune",
    "yolo": "micromodels.recipes.yolo.recipe",
}
"""Recipe name to the module that holds it; modules are imported when asked for (ultralytics is AGPL-3.0)."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to make a micro-model.

    Attributes:
        recipe: ``auto``, ``head``, ``finetune`` or ``yolo``.
        experiments: how many variants of the recipe are tried; the best by leave-one-seed-out is kept.
        seed: of every random choice.
        encoder: ``auto`` or a name as ``micromodels.encoding.encoders.load_encoder`` takes it.
        effort: factor on the number of views and steps; below 1 is quicker and worse.
    """

    recipe: str = "auto"
    experiments: int = 1
    seed: int = 0
    encoder: str = "auto"
    effort: float = 1.0

    def __post_init__(self) -> None:
        if self.recipe not in ("auto", *RECIPES):
            raise InvalidInput("recipe", self.recipe, f"auto, {', '.join(RECIPES)}")
        if not 1 <= self.experiments <= 64:
            raise InvalidInput("experiments", self.experiments, "1 to 64")
        if not 0.01 <= self.effort <= 20:
            raise InvalidInput("effort", self.effort, "0.01 to 20")


class MicroModel(Protocol):
    """A small network overfitted to one video and task."""

    @property
    def manifest(self) -> Manifest:
        """What it is."""
        ...

    def save(self, folder: Path) -> None:
        """Write safetensors, ONNX and the manifest into ``folder`` (made if needed)."""
        ...

    def propagate(
        self, video: FrameSource, anchors: Sequence[AnyLabel], *, frames: range | None = None, run: Run = Run()
    ) -> Iterator[FrameResult]:
        """Label every frame of ``frames`` (None: all), in order, each once; anchors pass through unchanged.

        Without anchors this labels a video that the micro-model has never seen.

        Raises:
            InvalidInput: anchors that are not human labels or do not fit the video.
            Cancelled: the user cancelled.
        """
        ...


def _recipe(name: str) -> Any:
    try:
        return importlib.import_module(RECIPES[name])
    except ImportError as error:
        raise InvalidInput("recipe", name, f"a recipe whose packages are installed ({error})") from error


def train(
    video: FrameSource,
    seeds: Sequence[AnyLabel],
    settings: TrainSettings = TrainSettings(),
    *,
    ontology: Ontology | None = None,
    run: Run = Run(),
) -> MicroModel:
    """Make a micro-model from seeds.

    Args:
        video: an open video.
        seeds: human labels on a few of its frames.
        settings: recipe, experiments, effort.
        ontology: classes allowed and their properties; None for those of the seeds.
        run: device, cache, events, stopping.

    Raises:
        FailedPrecondition: no seeds, or a track that no seed shows.
        InvalidInput: seeds that do not fit the video or the ontology.
        TrainingError: training failed.
        Cancelled: the user cancelled.
    """
    name = "head" if settings.recipe == "auto" else settings.recipe
    model: MicroModel = _recipe(name).train(video, seeds, settings, ontology, run)
    return model


def load_model(folder: Path) -> MicroModel:
    """Load a saved micro-model. Nothing in the folder is executed.

    Raises:
        ModelError: anything wrong with it.
    """
    manifest = Manifest.load(folder)
    if manifest.recipe not in RECIPES:
        raise ModelError(f"recipe {manifest.recipe!r} is not known here; known: {sorted(RECIPES)}")
    model: MicroModel = _recipe(manifest.recipe).load(folder, manifest)
    return model


def label_video(
    video: FrameSource,
    seeds: Sequence[AnyLabel],
    settings: TrainSettings = TrainSettings(),
    *,
    ontology: Ontology | None = None,
    run: Run = Run(),
) -> Iterator[FrameResult]:
    """Train on the seeds, then label every frame: ``train`` and ``MicroModel.propagate`` over one feature cache."""
    with tempfile.TemporaryDirectory(prefix="micromodels-") as temporary:
        cached = replace(run, cache_dir=run.cache_dir or Path(temporary))
        model = train(video, seeds, settings, ontology=ontology, run=cached)
        yield from model.propagate(video, seeds, run=cached)
