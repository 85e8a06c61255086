"""What encoders of torch share: ImageNet's normalization, a frozen network as an encoder, where weights lie."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from micromodels.encoding.encoders import Features, Image, Level
from micromodels.errors import InvalidInput

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "TorchEncoder", "normalized", "package_file"]

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def normalized(image: Image) -> npt.NDArray[np.float32]:
    """An RGB uint8 image ``(height, width, 3)`` as ImageNet's networks take it: float32 ``(1, 3, height, width)``."""
    scaled: npt.NDArray[np.float32] = ((image.astype(np.float32) - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
    return np.ascontiguousarray(scaled[None])


def package_file(package: str, relative: str, encoder: str) -> Path:
    """A file of weights inside an installed package, which is not imported.

    Raises:
        InvalidInput: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / relative if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise InvalidInput("encoder", encoder, f"an encoder whose weights are installed (package {package} is missing)")
    return path


class TorchEncoder:
    """A frozen torch network that returns a list of maps ``(1, channels, h, w)``, finest first."""

    def __init__(self, name: str, net: nn.Module, levels: tuple[Level, ...], device: torch.device) -> None:
        self.name = name
        self.levels = levels
        self._device = device
        # bfloat16 halves the time of matrix products on CPUs that know it, and costs nothing measurable in quality.
        self._dtype = torch.bfloat16
        self._net = net.eval().requires_grad_(False).to(device=device, dtype=self._dtype)

    @torch.inference_mode()
    def encode(self, image: Image) -> Features:
        """See ``Encoder.encode``."""
        pixels = torch.from_numpy(normalized(image)).to(device=self._device, dtype=self._dtype)
        return [output[0].to(torch.float16).cpu().numpy() for output in self._net(pixels)]
