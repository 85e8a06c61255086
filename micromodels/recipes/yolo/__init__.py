"""The recipe ``yolo``: a YOLO11n of ultralytics, trained from scratch on views of the seeds, and ByteTrack.

A detection network where all seeds are boxes, a segmentation network where any is a mask or polygon. It starts from
random weights, so that nothing is downloaded, and knows only what the seeds show: slower to train than ``head`` and
worse wherever seeds are few. It is here to be compared with, and for those who need a YOLO.

Frame classes do not use ultralytics' classification network: from scratch on a few seeds it learns the frames by heart.
They use what ``head`` uses, logistic regression on a pretrained encoder (here EfficientNet-Lite0).

ultralytics is AGPL-3.0, an optional dependency (``pip install micromodels-video[yolo]``), imported by ``network`` and
``tracking`` beside this module when training, loading or labeling starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from micromodels.recipes.base import MAX_EXPERIMENTS, RecipeInfo, TrainInputs

if TYPE_CHECKING:
    from micromodels.recipes.manifest import Manifest
    from micromodels.recipes.yolo.training import YoloModel

__all__ = ["RECIPE"]


class _YoloRecipe:
    info = RecipeInfo(
        name="yolo",
        title="YOLO11n from scratch, with ByteTrack",
        description="For those who need a YOLO. Slower, and worse where seeds are few. ultralytics is AGPL-3.0.",
        packages=("ultralytics", "lap"),
        extra="yolo",
        supports_frame_classes=True,
        max_experiments=MAX_EXPERIMENTS,
    )

    def train(self, inputs: TrainInputs) -> YoloModel:
        """See ``Recipe.train``."""
        from micromodels.recipes.yolo.training import train

        return train(inputs)

    def load(self, folder: Path, manifest: Manifest) -> YoloModel:
        """See ``Recipe.load``."""
        from micromodels.recipes.yolo.training import load

        return load(folder, manifest)


RECIPE = _YoloRecipe()
