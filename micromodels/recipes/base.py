"""Recipes, and the whole way: a video and a few seeds in, labels on every frame out.

``train`` makes a micro-model, ``MicroModel.propagate`` labels a video with it, ``label_video`` does both. How a
micro-model is made is a ``Recipe``: a module or folder beside this one that holds ``RECIPE``, or an entry point of the
group ``micromodels.recipes`` in another package. ``recipes()`` lists them without importing torch; the command line and
the server take their choices from there. The limits of settings stand here, once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from micromodels.encoding.encoders import check_encoder
from micromodels.errors import FailedPrecondition, InvalidInput, ModelError, OutOfMemory
from micromodels.runtime.registry import Registry, missing_packages
from micromodels.runtime.run import Run, Warned

if TYPE_CHECKING:
    import torch

    from micromodels.encoding.encoded_video import FrameSource
    from micromodels.encoding.encoders import Encoder, Weights
    from micromodels.labels.targets import SeedSet, TrackSpec
    from micromodels.propagation.base import TemporalInference
    from micromodels.recipes.manifest import Manifest
    from micromodels.training.frame_classifier import FrameClassifier
    from micromodels.training.head import DenseHead
    from micromodels.types import AnyLabel, FrameResult, Ontology

__all__ = [
    "AUTO",
    "DEFAULT_RECIPE",
    "MAX_EFFORT",
    "MAX_EXPERIMENTS",
    "MAX_SEED",
    "MIN_EFFORT",
    "CorrectableModel",
    "MicroModel",
    "Recipe",
    "RecipeInfo",
    "TrainInputs",
    "TrainSettings",
    "correctable",
    "label_video",
    "load_model",
    "recipe",
    "recipe_names",
    "recipes",
    "supports_corrections",
    "train",
]

AUTO = "auto"
"""Leaves the choice of recipe or encoder to the library."""
DEFAULT_RECIPE = "head"
"""What ``auto`` takes."""
MAX_EXPERIMENTS = 32
MIN_EFFORT, MAX_EFFORT = 0.01, 20.0
MAX_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class RecipeInfo:
    """What can be known of a recipe without importing what it needs.

    Attributes:
        name: what it is asked for by; saved micro-models keep it.
        title: what it is, in a few words.
        description: what it does and when to take it, one or two sentences.
        packages: that must be installed, by the names they are imported by.
        extra: of this package, which brings them: ``pip install 'micromodels-video[EXTRA]'``; "" without.
        needs_gpu: whether it is several times slower than others without one. It runs on a CPU all the same.
        supports_corrections: whether its micro-models are ``CorrectableModel``, so that label sessions take them and
            they can be retrained.
        supports_frame_classes: whether seeds may be labels of whole frames.
        supports_encoders: whether the encoder can be chosen.
        max_experiments: how many variants it can compare, 1 to ``MAX_EXPERIMENTS``.
    """

    name: str
    title: str
    description: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    needs_gpu: bool = False
    supports_corrections: bool = False
    supports_frame_classes: bool = False
    supports_encoders: bool = False
    max_experiments: int = 1

    def __post_init__(self) -> None:
        if not self.name or self.name == AUTO:
            raise InvalidInput("name", self.name, f"a word other than {AUTO}")
        if not 1 <= self.max_experiments <= MAX_EXPERIMENTS:
            raise InvalidInput("max_experiments", self.max_experiments, f"1 to {MAX_EXPERIMENTS}")

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that it lacks here."""
        return missing_packages(self.packages)

    def check(self, settings: TrainSettings) -> None:
        """Check that it can do what settings ask for.

        Raises:
            InvalidInput: it cannot.
        """
        if settings.experiments > self.max_experiments:
            allowed = f"{'1' if self.max_experiments == 1 else f'1 to {self.max_experiments}'} with recipe {self.name}"
            raise InvalidInput("experiments", settings.experiments, allowed)
        if settings.encoder != AUTO and not self.supports_encoders:
            raise InvalidInput("encoder", settings.encoder, f"{AUTO}: recipe {self.name} offers no choice")

    def require_packages(self) -> None:
        """Check that its packages are installed.

        Raises:
            InvalidInput: one is not; the message says what brings it.
        """
        if self.missing:
            remedy = f"; pip install 'micromodels-video[{self.extra}]' brings it" if self.extra else ""
            problem = f"the package {self.missing[0]} is not installed{remedy}"
            raise InvalidInput("recipe", self.name, f"a recipe whose packages are installed ({problem})")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to make a micro-model.

    Attributes:
        recipe: ``auto`` or one of ``recipe_names()``.
        experiments: how many variants of the recipe are tried, 1 to ``MAX_EXPERIMENTS`` or what the recipe allows; the
            best by leave-one-seed-out is kept.
        seed: of every random choice, 0 to ``MAX_SEED``.
        encoder: ``auto`` or a name as ``micromodels.encoding.encoders.check_encoder`` takes it.
        effort: factor on the number of views and steps, ``MIN_EFFORT`` to ``MAX_EFFORT``; below 1 is quicker and worse.

    Raises:
        InvalidInput: a value that is not allowed, or that the recipe cannot do.
    """

    recipe: str = AUTO
    experiments: int = 1
    seed: int = 0
    encoder: str = AUTO
    effort: float = 1.0

    def __post_init__(self) -> None:
        _require_integer("experiments", self.experiments, 1, MAX_EXPERIMENTS)
        _require_integer("seed", self.seed, 0, MAX_SEED)
        if not MIN_EFFORT <= self.effort <= MAX_EFFORT:
            raise InvalidInput("effort", self.effort, f"{MIN_EFFORT} to {MAX_EFFORT}")
        if self.encoder != AUTO:
            check_encoder(self.encoder)
        if self.recipe != AUTO:
            if self.recipe not in recipe_names():
                raise InvalidInput("recipe", self.recipe, ", ".join((AUTO, *recipe_names())))
            recipe(self.recipe).info.check(self)

    @property
    def recipe_name(self) -> str:
        """The recipe that is meant."""
        return DEFAULT_RECIPE if self.recipe == AUTO else self.recipe


def _require_integer(field: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(field, value, f"an integer from {low} to {high}")


@dataclass(frozen=True, slots=True)
class TrainInputs:
    """What a recipe trains from.

    Attributes:
        video: the open video.
        seeds: human labels, checked: there is at least one, and each track has a shape somewhere.
        settings: checked against the recipe.
        device: where to compute.
        run: cache, events, stopping.
        encoder_of: a micro-model of the same recipe, on whose encoder the new one is trained; None for a first
            training. Only recipes that support corrections get one.
    """

    video: FrameSource
    seeds: SeedSet
    settings: TrainSettings
    device: torch.device
    run: Run
    encoder_of: CorrectableModel | None = None


class MicroModel(Protocol):
    """A small network overfitted to one video and task."""

    @property
    def manifest(self) -> Manifest:
        """What it is."""
        ...

    def save(self, folder: str | os.PathLike[str]) -> None:
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


class CorrectableModel(MicroModel, Protocol):
    """A micro-model that can keep learning in a label session: a dense head on a frozen encoder."""

    @property
    def head(self) -> DenseHead | None:
        """The dense head; None where there are frame classes only."""
        ...

    @property
    def classifier(self) -> FrameClassifier | None:
        """The classifier of frames; None where there are no frame classes."""
        ...

    @property
    def tuned(self) -> Weights | None:
        """Weights of the encoder's part ``lite0``, where it has learned the seeds too."""
        ...

    def encoder_for(self, device: torch.device) -> Encoder:
        """The encoder, on a device."""
        ...

    def temporal(self, folder: Path | None = None, *, for_training: bool = False) -> TemporalInference:
        """How it follows objects from frame to frame; see ``micromodels.propagation.base.TemporalMethod``."""
        ...

    def learned(
        self,
        head: DenseHead | None,
        classifier: FrameClassifier | None,
        tracks: tuple[TrackSpec, ...],
        typical_areas: Sequence[float],
        seeds: SeedSet,
        frame_classes: tuple[str, ...] | None = None,
    ) -> CorrectableModel:
        """The version of this model that holds other weights, learned from ``seeds``; None keeps its frame classes."""
        ...

    def save_weights(self, folder: Path) -> None:
        """Save what ``load_model`` reads, without the graph for other programs, which takes long to write."""
        ...


class Recipe(Protocol):
    """How micro-models are made and loaded.

    The module that holds it is imported to list it: what needs torch is imported inside ``train`` and ``load``.
    """

    @property
    def info(self) -> RecipeInfo:
        """What it is, needs and can do."""
        ...

    def train(self, inputs: TrainInputs) -> MicroModel:
        """Make a micro-model; its manifest has the name of the recipe.

        Raises:
            InvalidInput: settings that it cannot do with these seeds.
            TrainingError: training failed.
            Cancelled: the user cancelled.
        """
        ...

    def load(self, folder: Path, manifest: Manifest) -> MicroModel:
        """Load a micro-model of this recipe. Nothing in the folder is executed.

        Raises:
            ModelError: files that are missing, damaged or do not fit the manifest.
        """
        ...


RECIPES: Registry[Recipe] = Registry(
    "recipe", __package__, "micromodels.recipes", "RECIPE", lambda found: found.info.name, apart=("base", "manifest")
)


def recipe_names() -> tuple[str, ...]:
    """Names of all recipes; none of them is imported."""
    return RECIPES.names()


def recipes() -> tuple[RecipeInfo, ...]:
    """What can be known of all recipes, for lists and help; neither torch nor their packages are imported."""
    return tuple(found.info for found in RECIPES.all())


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InvalidInput: it is not known here.
    """
    return RECIPES.get(name)


def supports_corrections(name: str) -> bool:
    """Whether micro-models of this recipe can learn from corrections; False also for one that is not known here."""
    return any(info.name == name and info.supports_corrections for info in recipes())


def correctable(model: MicroModel) -> CorrectableModel:
    """A micro-model as one that can keep learning.

    Raises:
        FailedPrecondition: its recipe does not support corrections.
    """
    name = model.manifest.recipe
    if not supports_corrections(name):
        raise FailedPrecondition(f"a micro-model of recipe {name!r} cannot learn from corrections; train a new one")
    return cast(CorrectableModel, model)


def train(
    video: FrameSource,
    seeds: Sequence[AnyLabel],
    settings: TrainSettings = TrainSettings(),
    *,
    ontology: Ontology | None = None,
    run: Run = Run(),
    encoder_of: CorrectableModel | None = None,
) -> MicroModel:
    """Make a micro-model from seeds.

    Args:
        video: an open video.
        seeds: human labels on a few of its frames.
        settings: recipe, experiments, effort, encoder.
        ontology: classes allowed and their properties; None for those of the seeds.
        run: device, cache, events, stopping.
        encoder_of: a micro-model of the same recipe whose encoder is kept, with what it has learned; None for the one
            that the settings name.

    Raises:
        FailedPrecondition: no seeds, a track that no seed shows, or frame classes that the recipe does not know.
        InvalidInput: seeds that do not fit the video or the ontology, or a recipe whose packages are not installed.
        TrainingError: training failed.
        Cancelled: the user cancelled.
    """
    found = recipe(settings.recipe_name)
    found.info.require_packages()
    import torch

    from micromodels.encoding.encoders import select_device
    from micromodels.labels.targets import SeedSet
    from micromodels.training.frame_classifier import one_sided_warnings

    table = video.table
    seed_set = SeedSet(seeds, table.frame_count, table.height_px, table.width_px, ontology)
    seed_set.require_trainable()
    if seed_set.frame_classes and not found.info.supports_frame_classes:
        raise FailedPrecondition(f"recipe {found.info.name!r} learns no frame classes; leave them out of the seeds")
    for message in one_sided_warnings(seed_set.frame_labels):
        run.on_event(Warned(message))
    device = select_device(run.device)
    try:
        return found.train(TrainInputs(video, seed_set, settings, device, run, encoder_of))
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"out of memory on {device}: {error}") from error


def load_model(folder: str | os.PathLike[str]) -> MicroModel:
    """Load a saved micro-model. Nothing in the folder is executed.

    Raises:
        ModelError: anything wrong with it.
    """
    from micromodels.recipes.manifest import Manifest

    folder = Path(folder)
    manifest = Manifest.load(folder)
    try:
        found = recipe(manifest.recipe)
        found.info.require_packages()
    except InvalidInput as error:
        raise ModelError(f"this micro-model cannot be loaded here: {error}") from error
    return found.load(folder, manifest)


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
