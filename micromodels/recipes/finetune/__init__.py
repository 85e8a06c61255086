"""The recipe ``finetune``: as ``head``, but the convolutional part of the encoder has learned the seeds first.

The frozen features are what ImageNet needed. Here EfficientNet-Lite0 and a head learn the views of the seeds together,
end to end, the network a good deal slower than the head; that head is thrown away, and another one is trained on the
tuned network as the recipe ``head`` does it. Every step passes over the pixels both ways, which is what GPUs are for.

Source: Caelles et al., *One-Shot Video Object Segmentation*, CVPR 2017, which tunes the whole network on one frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from micromodels.recipes import head
from micromodels.recipes.base import RecipeInfo, TrainInputs

if TYPE_CHECKING:
    from micromodels.recipes.head.model import DenseModel

__all__ = ["RECIPE"]


class _FinetuneRecipe(head.HeadRecipe):
    info = RecipeInfo(
        name="finetune",
        title="Encoder trained with the head",
        description="The encoder learns the seeds too: better where objects look like nothing in ImageNet, slower.",
        needs_gpu=True,
        supports_corrections=True,
        supports_frame_classes=True,
        supports_encoders=True,
        # Experiments are compared on a seed that they leave out, and the encoder has seen all of them.
        max_experiments=1,
    )
    brings_encoder = True

    def train(self, inputs: TrainInputs) -> DenseModel:
        """See ``Recipe.train``. Frame classes alone leave nothing to tune: the recipe ``head`` takes them over."""
        from micromodels.recipes.finetune.tuning import require_lite0, tuned_weights
        from micromodels.recipes.head.training import train_head

        require_lite0(inputs.settings.encoder)
        if not inputs.seeds.tracks:
            return head.RECIPE.train(inputs)
        tuned = tuned_weights(inputs) if inputs.encoder_of is None else inputs.encoder_of.tuned
        return train_head(inputs, self.info.name, self.temporal, tuned)


RECIPE = _FinetuneRecipe()
