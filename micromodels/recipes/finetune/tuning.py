"""End-to-end training of EfficientNet-Lite0 and a head on the pixels of the seeds' views."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from micromodels.encoding.encoded_video import level_statistics, to_work_image
from micromodels.encoding.encoders import (
    Encoder,
    Features,
    Level,
    Weights,
    encoder_name,
    encoder_parts,
    load_encoder,
    work_size,
)
from micromodels.encoding.encoders.lite0.network import Lite0Encoder, Lite0Pyramid, lite0
from micromodels.encoding.torch_encoder import IMAGENET_MEAN, IMAGENET_STD
from micromodels.errors import InvalidInput
from micromodels.labels.targets import boxed, has_thin_objects
from micromodels.recipes.base import TrainInputs
from micromodels.runtime.parallel import mapped, narrow_operations
from micromodels.runtime.run import Run, Stage, StageFinished
from micromodels.training.augmentation import ViewMaker
from micromodels.training.head import DenseHead, HeadOutput, HeadSettings
from micromodels.training.trainer import Clock, HeadTrainer, Sample

__all__ = ["require_lite0", "tuned_weights"]

LITE0 = "lite0"
VIEWS, STEPS = 32, 200
RATE, NETWORK_RATE = 4e-3, 0.05
"""Peak learning rate of the head, and what share of it the network has."""


def require_lite0(encoder: str) -> None:
    """Check that an encoder, by its name in the settings, has the part that is tuned.

    Raises:
        InvalidInput: it has not.
    """
    name = encoder_name(encoder)
    if LITE0 not in [part.text for part in encoder_parts(name)]:
        raise InvalidInput("encoder", name, f"an encoder with the part {LITE0}, which recipe finetune trains")


def tuned_weights(inputs: TrainInputs) -> Weights:
    """Weights of Lite0 that have learned the seeds.

    Raises:
        Diverged: the loss became NaN or infinite.
        Cancelled: the user cancelled.
    """
    return _Tuning(inputs).finish(inputs.run)


class _EndToEnd(DenseHead):
    """A head on the maps of a network that learns with it: pixels and the maps of frozen encoders in, logits out."""

    def __init__(self, settings: HeadSettings, network: Lite0Pyramid) -> None:
        super().__init__(settings)
        self.network = network
        self.register_buffer("image_mean", torch.from_numpy(IMAGENET_MEAN)[None, :, None, None])
        self.register_buffer("image_deviation", torch.from_numpy(IMAGENET_STD)[None, :, None, None])

    def train(self, mode: bool = True) -> _EndToEnd:
        """See ``nn.Module.train``; the network keeps ImageNet's statistics: those of a few crops are no better."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, features: Sequence[torch.Tensor]) -> HeadOutput:
        """As ``DenseHead.forward``, of the pixels ``(batch, 3, h, w)``, 0 to 255, and the frozen maps."""
        pixels, *frozen = features
        normal = (pixels - self.get_buffer("image_mean")) / self.get_buffer("image_deviation")
        # On CPUs the way back through convolutions channel by channel takes three times as long in bfloat16.
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
            maps = self.network(normal)
        return super().forward([pixels, *maps, *frozen])


class _Tuning:
    """One end-to-end training on views of the seeds."""

    def __init__(self, inputs: TrainInputs) -> None:
        self._video, self._seeds, self._settings = inputs.video, inputs.seeds, inputs.settings
        self._device = inputs.device
        self._size = work_size(self._video.table.height_px, self._video.table.width_px)
        self._targets = {frame: self._seeds.seed_frame(frame, self._size) for frame in self._seeds.frames}
        self._thin = has_thin_objects(self._targets.values(), self._seeds.tracks)
        self._frozen: list[Encoder] = [
            load_encoder(part.text, self._device)
            for part in encoder_parts(encoder_name(self._settings.encoder))
            if part.text not in ("pixels", LITE0)
        ]

    def finish(self, run: Run) -> Weights:
        """Train; returns the network's weights."""
        started = time.perf_counter()
        samples = self._samples()
        run.on_event(StageFinished(Stage.VIEWS, time.perf_counter() - started))
        started = time.perf_counter()
        head = self._head(samples[: len(self._targets)])
        frozen = [level for encoder in self._frozen for level in encoder.levels]
        trainer = HeadTrainer(
            head,
            self._settings.seed,
            learning_rate=RATE,
            slowly={"network": NETWORK_RATE},
            levels=[Level(1, 3), *frozen],
        )
        steps = max(4, round(STEPS * self._settings.effort))
        trainer.fit(samples, steps, Clock(0, 1, steps), run)
        run.on_event(StageFinished(Stage.TRAIN, time.perf_counter() - started))
        return {name: value.detach().cpu().contiguous() for name, value in head.network.net.state_dict().items()}

    def _samples(self) -> list[Sample]:
        """Views in turn over the seed frames, the frames themselves first: pixels and what frozen encoders see."""
        flip = all(c.flip for c in self._seeds.ontology.object_classes)
        images = {frame: to_work_image(self._video.frame(frame), self._size) for frame in self._targets}
        makers = {
            frame: ViewMaker(images[frame], target, (self._settings.seed, frame, 1), flip)
            for frame, target in self._targets.items()
        }
        per_frame = max(2, -(-round(VIEWS * self._settings.effort) // len(makers)))
        stride = 1 if self._thin else 2

        def sample(place: tuple[int, int]) -> Sample:
            frame, number = place
            view = makers[frame].view(number)
            features: Features = [np.ascontiguousarray(view.image.transpose(2, 0, 1))]
            features += [level for encoder in self._frozen for level in encoder.encode(view.image)]
            small = np.ascontiguousarray(view.label_map[::stride, ::stride])
            return Sample(features, small, view.boxes, self._targets[frame].known)

        places = ((frame, number) for number in range(per_frame) for frame in makers)
        with narrow_operations():
            return list(mapped(sample, places))

    def _head(self, plain: Sequence[Sample]) -> _EndToEnd:
        torch.manual_seed(self._settings.seed)
        levels = (*Lite0Encoder.levels, *(level for encoder in self._frozen for level in encoder.levels))
        if self._thin:
            levels = (Level(1, 3), *levels)
        head = _EndToEnd(HeadSettings(levels, len(self._seeds.tracks), any(boxed(self._seeds.tracks))), lite0())
        untuned = load_encoder(LITE0, self._device)
        seen: list[Features] = []
        for sample in plain:
            image = np.ascontiguousarray(sample.features[0].transpose(1, 2, 0))
            seen.append([sample.features[0], *untuned.encode(image), *sample.features[1:]][-len(levels) :])
        head.set_statistics(level_statistics(seen))
        head.fit_box_scale([sample.boxes for sample in plain])
        head.to(device=self._device)
        head.to(memory_format=torch.channels_last)
        return head
