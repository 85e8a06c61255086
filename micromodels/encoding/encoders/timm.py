"""Any classification network of timm by name, with weights from a file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from micromodels.encoding.encoders import Encoder, EncoderInfo, Part, Weights

if TYPE_CHECKING:
    import torch

__all__ = ["ENCODER"]


class _Source:
    info = EncoderInfo("timm", "A classification network of timm", ("timm:MODEL@WEIGHTS",))

    def load(self, part: Part, device: torch.device, tuned: Weights | None) -> Encoder:
        """See ``EncoderSource.load``."""
        from micromodels.encoding.named_network import load_named

        return load_named(part, _network, device)


def _network(model: str) -> Any:
    return importlib.import_module("timm").create_model(model, pretrained=False)


ENCODER = _Source()
