"""The recipe ``head``: a frozen encoder, a dense head overfitted on views of the seeds, offline temporal inference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from micromodels.recipes.base import MAX_EXPERIMENTS, RecipeInfo, TrainInputs

if TYPE_CHECKING:
    from micromodels.propagation.base import TemporalMethod
    from micromodels.recipes.head.model import DenseModel
    from micromodels.recipes.manifest import Manifest

__all__ = ["RECIPE", "HeadRecipe"]


class HeadRecipe:
    """Trains a dense head; other recipes are this one with another ``info`` and another temporal inference."""

    info = RecipeInfo(
        name="head",
        title="Small head on a frozen encoder",
        description="Trains in seconds and learns from corrections. The default.",
        supports_corrections=True,
        supports_frame_classes=True,
        supports_encoders=True,
        max_experiments=MAX_EXPERIMENTS,
    )
    brings_encoder = False
    """Whether its micro-models are saved with weights of the encoder that they have learned themselves."""

    @property
    def temporal(self) -> TemporalMethod:
        """How its micro-models follow objects from frame to frame."""
        from micromodels.propagation.sweeps import Sweeps

        return Sweeps.begin

    def train(self, inputs: TrainInputs) -> DenseModel:
        """See ``Recipe.train``."""
        from micromodels.recipes.head.training import train_head

        tuned = inputs.encoder_of.tuned if inputs.encoder_of is not None else None
        return train_head(inputs, self.info.name, self.temporal, tuned)

    def load(self, folder: Path, manifest: Manifest) -> DenseModel:
        """See ``Recipe.load``."""
        from micromodels.recipes.head.model import load_dense_model

        return load_dense_model(folder, manifest, self.temporal, brings_encoder=self.brings_encoder)


RECIPE = HeadRecipe()
