"""Frozen encoders: an image in, a feature pyramid out. Computed once per frame; never trained.

Each encoder is a module or folder in here, or comes from another package by the entry point group
``micromodels.encoders``. Several are composed by joining their names with ``+``. The default puts the pixels, then
EfficientNet-Lite0 (ImageNet; strides 2 to 32, run by ONNX Runtime), then DINOv2 ViT-S/14 (layers 9 and 12, on the
stride-32 grid, run by torch), and leaves the last out where its weights are not installed. ``Encoder.name`` says which
weights run; it is part of every cache key and of every saved micro-model.

This module names them without importing torch. Sources: Tan & Le, EfficientNet (ICML 2019), the *lite* variants; Oquab
et al., DINOv2 (TMLR 2024).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from micromodels.errors import InvalidInput
from micromodels.runtime.registry import Registry, missing_packages

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

__all__ = [
    "GRID_PX",
    "ComposedEncoder",
    "Encoder",
    "EncoderInfo",
    "EncoderSource",
    "Features",
    "Level",
    "Part",
    "Weights",
    "check_encoder",
    "default_encoder_name",
    "encoder_name",
    "encoder_parts",
    "encoders",
    "file_digest",
    "load_encoder",
    "select_device",
    "weights_digest",
    "work_size",
]

Image: TypeAlias = "npt.NDArray[np.uint8]"
Weights: TypeAlias = "Mapping[str, torch.Tensor]"
Features: TypeAlias = "list[npt.NDArray[Any]]"
"""One array ``(channels, height, width)`` per level, finest first: float16, or uint8 for the pixels themselves."""

SHORT_SIDE_PX, LONG_SIDE_PX = 480, 864
MAX_ENLARGEMENT = 2.5
"""Enlarging helps small objects (boxes of 20 pixels in 320 x 240); beyond this it only costs time."""

GRID_PX = 32
"""Work images have sides that are multiples of this, so that all levels align."""


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


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What can be known of an encoder without loading it.

    Attributes:
        name: what it is asked for by.
        title: what it is, in a few words.
        forms: how its name may be written: ``NAME``, ``NAME:MODEL``, ``NAME@WEIGHTS``, ``NAME:MODEL@WEIGHTS``.
        packages: that must be installed for the form ``NAME``, by the names they are imported by.
    """

    name: str
    title: str
    forms: tuple[str, ...]
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        allowed = [self.name + model + weights for model in ("", ":MODEL") for weights in ("", "@WEIGHTS")]
        for form in self.forms:
            if form not in allowed:
                raise InvalidInput("forms", form, ", ".join(allowed))

    @property
    def is_plain(self) -> bool:
        """Whether its name alone is enough: no model of a collection, no file of weights."""
        return self.name in self.forms

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that the form ``NAME`` lacks here."""
        return missing_packages(self.packages)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an encoder's name, as somebody wrote it.

    Attributes:
        text: all of it.
        name: of the encoder.
        model: behind ``:``; "" without.
        weights: behind ``@``; None without.
    """

    text: str
    name: str
    model: str
    weights: Path | None

    @classmethod
    def parse(cls, text: str) -> Part:
        """Of ``NAME[:MODEL][@WEIGHTS]``."""
        head, at, weights = text.partition("@")
        name, _, model = head.partition(":")
        return cls(text, name, model, Path(weights) if at else None)

    @property
    def form(self) -> str:
        """As ``EncoderInfo.forms`` writes it."""
        return self.name + (":MODEL" if self.model else "") + ("@WEIGHTS" if self.weights is not None else "")


class EncoderSource(Protocol):
    """Where an encoder comes from: what the registry holds."""

    @property
    def info(self) -> EncoderInfo:
        """What it is."""
        ...

    def load(self, part: Part, device: torch.device, tuned: Weights | None) -> Encoder:
        """Load it.

        Args:
            part: in one of the forms of ``info``; its file of weights, if any, is there.
            device: where it runs.
            tuned: weights that a micro-model has learned for the encoder ``lite0``; others have no use for them.

        Raises:
            InvalidInput: weights that are not there or do not fit.
            ModelError: weights of another network.
        """
        ...


ENCODERS: Registry[EncoderSource] = Registry(
    "encoder", __name__, "micromodels.encoders", "ENCODER", lambda source: source.info.name
)


def encoders() -> tuple[EncoderInfo, ...]:
    """What can be part of an encoder's name, for lists and help; neither torch nor weights are loaded."""
    return tuple(source.info for source in ENCODERS.all())


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
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise InvalidInput("device", device, "auto, cpu or cuda")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InvalidInput("device", device, "auto or cpu (torch finds no CUDA device here)")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


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
    return "pixels+lite0" if ENCODERS.get("dinov2s").info.missing else "pixels+lite0+dinov2s"


def encoder_name(asked: str) -> str:
    """The encoder that a setting means: ``auto`` is the default."""
    return default_encoder_name() if asked == "auto" else asked


def encoder_parts(name: str) -> list[Part]:
    """The parts of an encoder's name: a ``+`` in front of the name of an encoder separates them, one inside the path of
    a file of weights does not."""
    known = "|".join(map(re.escape, ENCODERS.names()))
    return [Part.parse(text) for text in re.split(rf"\+(?=(?:{known})(?:[+:@]|$))", name)]


def check_encoder(name: str) -> None:
    """Check the name of an encoder, without loading anything.

    Args:
        name: parts joined by ``+``, the finest first, each in a form that one of ``encoders()`` has.

    Raises:
        InvalidInput: a part that is not known, or not in one of its forms.
    """
    for part in encoder_parts(name):
        if part.name not in ENCODERS.names() or part.form not in ENCODERS.get(part.name).info.forms:
            forms = [form for info in encoders() for form in info.forms]
            raise InvalidInput("encoder", part.text, f"{', '.join(forms)}; several are joined by +")


def load_encoder(name: str, device: torch.device, tuned: Weights | None = None) -> Encoder:
    """Load the encoder of that name; loaded encoders are kept.

    Args:
        name: as ``check_encoder`` takes it.
        device: where it runs.
        tuned: weights for the part ``lite0``; None for ImageNet's.

    Raises:
        InvalidInput: an unknown part, or weights that are not there.
        ModelError: tuned weights that are not those of a Lite0.
    """
    check_encoder(name)
    if tuned is not None:
        return _composed(name, device, tuned)
    # Weights from a path may be replaced while this process runs: those are loaded again.
    load = _load_encoder.__wrapped__ if "@" in name else _load_encoder
    return load(name, str(device))


@lru_cache(maxsize=4)
def _load_encoder(name: str, device_name: str) -> Encoder:
    import torch

    return _composed(name, torch.device(device_name), None)


def _composed(name: str, device: torch.device, tuned: Weights | None) -> Encoder:
    parts = tuple(_load_part(part, device, tuned) for part in encoder_parts(name))
    return parts[0] if len(parts) == 1 else ComposedEncoder(parts)


def _load_part(part: Part, device: torch.device, tuned: Weights | None) -> Encoder:
    if part.weights is not None and not part.weights.is_file():
        raise InvalidInput("encoder", part.text, f"an existing file of weights after @ ({part.weights} does not exist)")
    return ENCODERS.get(part.name).load(part, device, tuned)


def weights_digest(tensors: Weights) -> str:
    """SHA-256 over names and values of tensors, hex; its first 12 digits are a version's name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().numpy().tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """The first 10 hex digits of the SHA-256 of a file, by which encoders name their weights."""
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _digest_of(path: Path, modified_ns: int, size_bytes: int) -> str:
    """Digest of a file; time and size are there so that a replaced file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:10]
