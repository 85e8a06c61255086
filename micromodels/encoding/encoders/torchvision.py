"""Any classification network of torchvision by name, with weights from a file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from micromodels.encoding.encoders import Encoder, EncoderInfo, Part, Weights

if TYPE_CHECKING:
    import torch

__all__ = ["ENCODER"]


class _Source:
    info = EncoderInfo("torchvision", "A classification network of torchvision", ("torchvision:MODEL@WEIGHTS",))

    def load(self, part: Part, device: torch.device, tuned: Weights | None) -> Encoder:
        """See ``EncoderSource.load``."""
        from micromodels.encoding.named_network import load_named

        return load_named(part, _network, device)


def _network(model: str) -> Any:
    return importlib.import_module("torchvision.models").get_model(model, weights=None)


ENCODER = _Source()
