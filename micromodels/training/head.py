"""The trainable part of a micro-model: a small dense head on frozen features.

The head is a feature pyramid (Lin et al., CVPR 2017) with one output channel per track and one for the background, at
half the work resolution (or at all of it, for thin objects, where it is given the pixels themselves), plus the
distances to the four sides of the object's box where seeds are boxes (Tian et al., *FCOS*, ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from micromodels.encoding.encoders import Features, Level

__all__ = ["DenseHead", "HeadOutput", "HeadSettings", "bfloat16", "head_levels", "predict"]


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """Shape of a dense head.

    Attributes:
        levels: the encoder's levels that it looks at; one of stride 1 makes it a head for thin objects.
        tracks: number of tracks; the head has one channel more for the background.
        boxes: whether it predicts box sides.
        width: channels from stride 4 up.
        fine_width: channels at stride 2.
    """

    levels: tuple[Level, ...]
    tracks: int
    boxes: bool
    width: int = 48
    fine_width: int = 16

    @property
    def stride(self) -> int:
        """Of its logits, in work pixels: 1 or 2."""
        return 1 if any(level.stride == 1 for level in self.levels) else 2


def head_levels(levels: Sequence[Level], *, thin: bool) -> tuple[Level, ...]:
    """The encoder's levels that a head looks at: the pixels themselves only where objects are thin."""
    return tuple(level for level in levels if thin or level.stride > 1)


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What the head says of a batch.

    Attributes:
        logits: float ``(batch, tracks + 1, height / stride, width / stride)``; channel 0 is the background.
        sides: distances left, top, right, bottom to the box around the pixel's object in work pixels, float
            ``(batch, 4, height / 4, width / 4)``; None where the head predicts no boxes.
    """

    logits: torch.Tensor
    sides: torch.Tensor | None


def _resized(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _convolution(width: int) -> nn.Sequential:
    """3x3 convolution with batch normalization, which lets a few hundred steps take a high learning rate."""
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width, momentum=0.05))


class DenseHead(nn.Module):
    """Features to logits per track. Statistics of the video's features are part of the weights."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.settings = settings
        width, fine = settings.width, settings.fine_width
        self.laterals = nn.ModuleList(
            nn.Conv2d(4 * level.channels, fine, 3, padding=1)
            if level.stride == 1
            else nn.Conv2d(level.channels, fine if level.stride == 2 else width, 1)
            for level in settings.levels
        )
        for index, level in enumerate(settings.levels):
            self.register_buffer(f"mean{index}", torch.zeros(1, level.channels, 1, 1))
            self.register_buffer(f"deviation{index}", torch.ones(1, level.channels, 1, 1))
        self.strides = sorted({level.stride for level in settings.levels} - {1, 2}, reverse=True)
        self.mixes = nn.ModuleList(_convolution(width) for _ in self.strides)
        self.coarse_logits = nn.Conv2d(width, settings.tracks + 1, 1)
        self.to_fine = nn.Conv2d(width, fine, 1)
        self.fine = _convolution(fine)
        # Two by two logits of every cell of stride 2, where each pixel has its own (Shi et al., CVPR 2016).
        self.fine_logits = nn.Conv2d(fine, (settings.tracks + 1) * (4 if settings.stride == 1 else 1), 1)
        self.box_sides = nn.Conv2d(width, 4, 3, padding=1) if settings.boxes else None
        self.register_buffer("box_scale", torch.full((1, 4, 1, 1), 32.0))

    def set_statistics(self, statistics: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]) -> None:
        """Fix the normalization: mean and deviation per channel of each level."""
        for index, (mean, deviation) in enumerate(statistics):
            self.get_buffer(f"mean{index}").copy_(torch.from_numpy(mean)[None, :, None, None])
            self.get_buffer(f"deviation{index}").copy_(torch.from_numpy(deviation)[None, :, None, None])

    def fit_box_scale(self, boxes: Sequence[npt.NDArray[np.float32]]) -> None:
        """Fix the unit of distances to box sides, where there are any: half the median of drawn boxes' sides.

        Args:
            boxes: of each drawn frame, float32 ``(tracks, 4)`` in work pixels, NaN where a track has none.
        """
        if self.box_sides is None:
            return
        drawn = np.concatenate(boxes)
        drawn = drawn[~np.isnan(drawn[:, 0])]
        half = np.median(drawn[:, 2:] - drawn[:, :2], axis=0) / 2
        self.get_buffer("box_scale").copy_(torch.tensor([*half, *half])[None, :, None, None])

    def forward(self, features: Sequence[torch.Tensor]) -> HeadOutput:
        """Features per level, float ``(batch, channels, h, w)``, to a ``HeadOutput``.

        Levels finer than its own are passed over.
        """
        features = features[len(features) - len(self.settings.levels) :]
        by_stride: dict[int, torch.Tensor] = {}
        for index, (level, lateral, maps) in enumerate(zip(self.settings.levels, self.laterals, features, strict=True)):
            scale = self.get_buffer(f"deviation{index}").reciprocal()
            normal = torch.addcmul(-self.get_buffer(f"mean{index}") * scale, maps, scale)
            stride = max(2, level.stride)
            projected = lateral(F.pixel_unshuffle(normal, 2) if level.stride == 1 else normal)
            held = by_stride.get(stride)
            by_stride[stride] = projected if held is None else held + _resized(projected, held)
        x: torch.Tensor | None = None
        for stride, mix in zip(self.strides, self.mixes, strict=True):
            lateral_maps = by_stride[stride]
            x = F.relu(lateral_maps if x is None else lateral_maps + _resized(x, lateral_maps))
            x = mix(x)
        assert x is not None
        x = F.relu(x)
        coarse = self.coarse_logits(x)
        if 2 in by_stride:
            fine = F.relu(by_stride[2] + _resized(self.to_fine(x), by_stride[2]))
        else:
            size = (x.shape[-2] * self.strides[-1] // 2, x.shape[-1] * self.strides[-1] // 2)
            fine = F.relu(F.interpolate(self.to_fine(x), size=size, mode="bilinear", align_corners=False))
        fine = F.relu(self.fine(fine))
        logits, coarse = self.fine_logits(fine), _resized(coarse, fine)
        if self.settings.stride == 1:
            logits = F.pixel_shuffle(logits + coarse.repeat_interleave(4, dim=1), 2)
        else:
            logits = logits + coarse
        sides = None
        if self.box_sides is not None:
            # exp keeps distances positive; the clamp keeps a wild early step finite.
            size = (fine.shape[-2] // 2, fine.shape[-1] // 2)
            at_stride_4 = x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear")
            sides = torch.exp(self.box_sides(at_stride_4).float().clamp(-4, 4)) * self.get_buffer("box_scale")
        return HeadOutput(logits, sides)


def bfloat16(device: torch.device) -> torch.autocast:
    """Within, heads compute in bfloat16 where that is enough: half the time, on CPUs too."""
    return torch.autocast(device.type, torch.bfloat16)


@torch.inference_mode()
def predict(head: DenseHead, features: Features) -> HeadOutput:
    """What a head says of one frame, or of a part of it: the only forward pass outside of training.

    Args:
        head: in evaluation mode.
        features: of the encoder, all levels or those that the head looks at; arrays ``(channels, h, w)``.

    Returns:
        Float32 on the head's device, without the batch: logits ``(tracks + 1, height / stride, width / stride)`` and
        sides ``(4, height / 4, width / 4)`` or None.
    """
    device = next(head.parameters()).device
    inputs = [
        torch.from_numpy(level)[None].to(device).float().contiguous(memory_format=torch.channels_last)
        for level in features
    ]
    with bfloat16(device):
        output = head(inputs)
    return HeadOutput(output.logits[0].float(), None if output.sides is None else output.sides[0].float())
