"""Any convolutional network as an encoder: the last output of each stride."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from micromodels.encoding.encoders import Level, Part, file_digest
from micromodels.encoding.torch_encoder import TorchEncoder
from micromodels.errors import InvalidInput

__all__ = ["load_named"]


class _HookedPyramid(nn.Module):
    """The last output of each stride from 2 to 32 of any convolutional network, found on a probe image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._seen: dict[int, torch.Tensor] = {}
        self._height = 0
        for module in net.modules():
            if not list(module.children()):
                module.register_forward_hook(self._keep)
        self._height = 64
        maps = self(torch.zeros(1, 3, 64, 64))
        self.layout = [(64 // m.shape[-2], int(m.shape[1])) for m in maps]

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # A pooled 1 x 1 map is no level, whatever the height of the image says.
        dense = isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[-1] > 1
        if dense and self._height % output.shape[-2] == 0:
            stride = self._height // output.shape[-2]
            if stride in (2, 4, 8, 16, 32):
                self._seen[stride] = output

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        self._seen, self._height = {}, int(image.shape[-2])
        self.net(image)
        maps = [self._seen[stride] for stride in sorted(self._seen)]
        self._seen = {}
        return maps


def load_named(part: Part, network: Callable[[str], nn.Module], device: torch.device) -> TorchEncoder:
    """A classification network by name, with weights from a file, as an encoder.

    Args:
        part: with a model and a file of weights.
        network: makes the network of that model.
        device: where it runs.

    Raises:
        InvalidInput: no such network, or weights that do not fit it.
    """
    assert part.weights is not None
    try:
        net = network(part.model)
        if part.weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(str(part.weights))
        else:
            state = torch.load(part.weights, map_location="cpu", weights_only=True)
        net.load_state_dict(state)
    except Exception as error:
        shown = f"{part.name}:{part.model}@{part.weights.name}"
        raise InvalidInput("encoder", shown, f"a network and its weights ({error})") from error
    pyramid = _HookedPyramid(net.eval())
    levels = tuple(Level(stride, channels) for stride, channels in pyramid.layout)
    return TorchEncoder(f"{part.name}-{part.model}-{file_digest(part.weights)}", pyramid, levels, device)
