"""The pixels themselves, stride 1: what a head needs to draw lines that are thinner than two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micromodels.encoding.encoders import EncoderInfo, Features, Image, Level, Part, Weights

if TYPE_CHECKING:
    import torch

__all__ = ["ENCODER", "PixelEncoder"]


class PixelEncoder:
    """See the module."""

    name = "pixels"
    levels = (Level(1, 3),)

    def encode(self, image: Image) -> Features:
        """See ``Encoder.encode``."""
        return [image.transpose(2, 0, 1).copy()]


class _Source:
    info = EncoderInfo("pixels", "The pixels themselves, for thin objects", ("pixels",))

    def load(self, part: Part, device: torch.device, tuned: Weights | None) -> PixelEncoder:
        """See ``EncoderSource.load``."""
        return PixelEncoder()


ENCODER = _Source()
