"""Corners of the core that went wrong once or nearly did: odd files, odd seeds, odd sizes."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from micromodels.encoding import encoded_video
from micromodels.encoding.encoded_video import EncodedFrame, EncodedVideo
from micromodels.encoding.encoders import Level, load_encoder, work_size
from micromodels.errors import InvalidInput, ModelError, OutOfRange
from micromodels.labels.geometry import to_mask
from micromodels.labels.targets import SeedSet
from micromodels.propagation.mask_to_shape import trace
from micromodels.recipes.base import TrainSettings, load_model, train
from micromodels.runtime.run import Run
from micromodels.training.head import DenseHead, HeadSettings
from micromodels.types import AnyLabel, Box, FrameLabel, FrameResult, Label, Mask, ShapeKind, State
from tests.micromodels.doubles import (
    BLUE,
    HEIGHT,
    WIDTH,
    ColorEncoder,
    MemoryVideo,
    Rgb,
    box_mask,
    scene,
    seed,
    square,
)
from tests.micromodels.encoding.test_encoded_video import files, same
from tests.micromodels.propagation.test_sweeps import ColorHead, anchor, found, half, propagate
from tests.micromodels.recipes.test_head import WEIGHTS, edit

pytestmark = pytest.mark.usefixtures("tiny")

CPU = torch.device("cpu")
QUICK = TrainSettings(effort=0.02)
FRAMES = 4
CORNER = Box(100, 66, 124, 90)


def video() -> MemoryVideo:
    return MemoryVideo(scene(FRAMES))


@pytest.fixture(scope="module")
def saved(tiny_module: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one track, trained once for this module."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    train(video(), [seed(0)], QUICK, run=Run(device="cpu")).save(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A saved model to be tampered with."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def trained_and_labeled(clip: MemoryVideo, labels: list[AnyLabel]) -> list[FrameResult]:
    """What a model of the labels says of its own video."""
    run = Run(device="cpu")
    return list(train(clip, labels, QUICK, run=run).propagate(clip, labels, run=run))


def first_frame(cache: Path) -> EncodedFrame:
    with EncodedVideo(video(), ColorEncoder(), Run(cache_dir=cache)) as encoded:
        return encoded[0]


def flipped(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 255]) + content[201:]


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "no archive": lambda content: b"PK\x03\x04 nonsense",
    "half": lambda content: content[: len(content) // 2],
    "one byte": flipped,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_cache_files_are_encoded_again(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    """Whatever became of a file of the cache, the features are those that were put there."""
    before = first_frame(cache)
    (path,) = files(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert same(first_frame(cache), before)


def test_foreign_files_in_the_cache_do_no_harm(cache: Path) -> None:
    """A file among those of the cache whose name is no frame's is passed over."""
    before = first_frame(cache)
    (path,) = files(cache)
    (path.parent / "x.npz").write_bytes(b"1")
    assert same(first_frame(cache), before)


@pytest.fixture
def resnet18() -> torch.nn.Module:
    """ResNet-18 with random weights."""
    torch.manual_seed(3)
    network: torch.nn.Module = torchvision.models.resnet18(weights=None)
    return network


def test_paths_of_weights_may_hold_a_plus(tmp_path: Path, resnet18: torch.nn.Module) -> None:
    """``+`` joins encoders, and is a letter like any other in the path behind ``@``."""
    weights = tmp_path / "a+b.pth"
    torch.save(resnet18.state_dict(), weights)
    assert len(load_encoder(f"torchvision:resnet18@{weights}", CPU).levels) == 5


def test_the_lowest_image_has_a_map_at_every_level(tmp_path: Path, resnet18: torch.nn.Module) -> None:
    """An image of one cell in height has one row at stride 32."""
    weights = tmp_path / "resnet18.pth"
    torch.save(resnet18.state_dict(), weights)
    maps = load_encoder(f"torchvision:resnet18@{weights}", CPU).encode(np.zeros((32, 256, 3), np.uint8))
    assert [m.shape[1:] for m in maps] == [(16, 128), (8, 64), (4, 32), (2, 16), (1, 8)]


def test_weights_that_were_replaced_give_another_encoder(tmp_path: Path, resnet18: torch.nn.Module) -> None:
    """The name, by which features are cached, follows the content of the file and not its path."""
    weights = tmp_path / "resnet18.pth"
    torch.save(resnet18.state_dict(), weights)
    before = load_encoder(f"torchvision:resnet18@{weights}", CPU)
    torch.save({name: value + 1 for name, value in resnet18.state_dict().items()}, weights)
    assert load_encoder(f"torchvision:resnet18@{weights}", CPU).name != before.name


def test_an_encoder_of_one_coarse_level_can_have_boxes() -> None:
    """Sides come at a quarter of the image even where the finest level is at stride 32."""
    head = DenseHead(HeadSettings((Level(32, 8),), 1, True)).eval()
    with torch.inference_mode():
        output = head([torch.zeros(1, 8, 3, 4)])
    assert output.sides is not None
    assert output.sides.shape == (1, 4, 24, 32)


def test_an_absent_label_has_the_class_of_its_track() -> None:
    """A track has one class, also where the label that differs comes first and has no shape."""
    with pytest.raises(InvalidInput, match="track 1") as refused:
        SeedSet([Label(0, "1", "circle", State.ABSENT), seed(1)], FRAMES, HEIGHT, WIDTH)
    assert refused.value.field == "seeds.class"


def test_a_track_is_labeled_once_on_a_frame() -> None:
    """Two labels of one track on one frame contradict each other and are refused."""
    with pytest.raises(InvalidInput, match="track 1") as refused:
        SeedSet([seed(0), seed(0, box=Box(1, 1, 9, 9))], FRAMES, HEIGHT, WIDTH)
    assert refused.value.field == "seeds"


def test_masks_have_the_size_of_the_video() -> None:
    """A mask of another size is refused before anything is painted."""
    small = Label(0, "1", "square", State.VISIBLE, Mask.from_array(np.ones((10, 10), bool)))
    with pytest.raises(InvalidInput) as refused:
        SeedSet([small], FRAMES, HEIGHT, WIDTH)
    assert refused.value.field == "seeds[0].mask.size"


def test_a_diagonal_line_has_a_thin_outline() -> None:
    """Pixels that touch at corners only are outlined as the line that they are."""
    ring = trace(np.eye(60, dtype=bool))
    assert ring is not None
    assert to_mask(ring, 60, 60).sum() < 400


def test_the_outline_of_two_specks_is_not_what_lies_between() -> None:
    """Two pixels far apart give an outline of a few pixels, not one that spans both."""
    mask = np.zeros((60, 60), bool)
    mask[2, 2] = mask[50, 50] = True
    ring = trace(mask)
    assert ring is not None
    assert to_mask(ring, 60, 60).sum() < 10


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"width": float("inf")}},
        {"settings": {"width": -4}},
        {"settings": {"width": 1e5}},
        {"seed_frames": [float("inf")]},
        {"encoder": 5},
        {"encoder": ["a"]},
        {"encoder": "nope"},
        {"recipe": ["head"]},
        {"recipe": "yolo"},
        {"typical_areas": []},
        {"typical_areas": [float("nan")]},
        {"metrics": 5},
        {"libraries": [1]},
        {"version": 5},
        {"tracks": [{"track": "", "object_class": "square", "shape": "mask"}]},
        {"video": 3},
        {"frame_classes": "d"},
    ],
    ids=str,
)
def test_manifests_of_wrong_types_are_refused(copy: Path, changes: dict[str, object]) -> None:
    """Valid JSON whose values are of another type or out of all bounds is a model error, nothing else."""
    edit(copy, **changes)
    with pytest.raises(ModelError):
        load_model(copy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int8], ids=str)
def test_weights_of_another_type_are_refused(copy: Path, dtype: torch.dtype) -> None:
    """Tensors of the right shape that are no float32 are a model error."""
    tensors = safetensors.torch.load_file(copy / WEIGHTS)
    name = "head.mixes.0.0.weight"
    tensors[name] = tensors[name].to(dtype)
    safetensors.torch.save_file(tensors, copy / WEIGHTS)
    with pytest.raises(ModelError):
        load_model(copy)


def test_the_package_of_onnxruntime_may_be_the_one_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training names the version of onnxruntime, whichever package brought it."""
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == "onnxruntime-gpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    model = train(video(), [seed(0)], QUICK, run=Run(device="cpu"))
    assert model.manifest.libraries["onnxruntime"]


def test_anchors_of_objects_pass_through_a_model_of_frame_classes() -> None:
    """A human label of a track that the model does not know comes back on its frame."""
    labels = [FrameLabel(0, "dark", False), FrameLabel(2, "dark", True)]
    model = train(video(), labels, QUICK, run=Run(device="cpu"))
    results = list(model.propagate(video(), [seed(1)], run=Run(device="cpu")))
    assert seed(1) in results[1].labels


def test_anchors_of_frame_classes_pass_through_a_model_of_objects(saved: Path) -> None:
    """A human label of a frame class that the model does not know comes back on its frame."""
    label = FrameLabel(1, "dark", True)
    results = list(load_model(saved).propagate(video(), [label], run=Run(device="cpu")))
    assert label in results[1].frame_labels


@pytest.mark.parametrize("frames", [range(2, 9), range(0, 4, 2), range(-2, 3), range(3, 1)], ids=str)
def test_ranges_that_the_video_does_not_have_are_refused(saved: Path, frames: range) -> None:
    """Frames past the end, before the start, with gaps or backwards: an error that names the field."""
    with pytest.raises(OutOfRange) as refused:
        list(load_model(saved).propagate(video(), [], frames=frames, run=Run(device="cpu")))
    assert refused.value.field == "frames"


def test_a_track_is_carried_past_the_anchors_of_others() -> None:
    """An anchor of track 1 alone does not let a look-alike of track 2 in, which its own anchor kept out."""
    pictures = scene(16, blue=True)
    look_alike = box_mask(Box(4, 4, 20, 20))
    for picture in pictures:
        picture[look_alike] = BLUE
    anchors = [anchor(0, box_mask(square(0)), box_mask(CORNER)), anchor(8, box_mask(square(8)), None)]
    posteriors = propagate(pictures, anchors, ColorHead(2, sharpness=5.0))
    assert [p.frame for p in posteriors if found(p, track=1)[half(look_alike)].any()] == []


def test_a_video_of_extreme_aspect_is_labeled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip whose work image is one cell high is followed like any other."""
    monkeypatch.setattr(encoded_video, "work_size", work_size)
    assert work_size(20, 2000) == (32, 864)
    strip: list[Rgb] = [
        np.ascontiguousarray(np.tile(picture[38:58], (1, 16, 1))[:, :2000]) for picture in scene(FRAMES)
    ]
    results = trained_and_labeled(MemoryVideo(strip), [seed(0, ShapeKind.BOX, box=Box(16, 0, 48, 20))])
    assert [len(r.labels) for r in results] == [1] * FRAMES


def test_an_object_below_a_pixel_of_the_work_image_is_labeled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that covers no pixel at the size of the features can be trained on."""
    monkeypatch.setattr(encoded_video, "work_size", lambda height_px, width_px: (HEIGHT, WIDTH))
    large = MemoryVideo([np.asarray(cv2.resize(picture, (10 * WIDTH, 10 * HEIGHT))) for picture in scene(FRAMES)])
    label = seed(0, ShapeKind.BOX, box=Box(100, 100, 104, 104))
    results = trained_and_labeled(large, [label])
    assert label in results[0].labels
    assert [len(r.labels) for r in results] == [1] * FRAMES


def test_a_box_on_the_edge_of_the_picture_can_be_a_seed() -> None:
    """A box of which nothing is to be seen, no farther outside than is allowed, trains a model without an error."""
    label = seed(0, ShapeKind.BOX, box=Box(WIDTH, 40, WIDTH + 1, 60))
    results = trained_and_labeled(video(), [label])
    assert label in results[0].labels


def test_boxes_and_masks_go_together() -> None:
    """Each track is labeled with the kind of shape that it was drawn with."""
    labels: list[AnyLabel] = [seed(0, ShapeKind.BOX), seed(0, ShapeKind.MASK, "2", CORNER)]
    results = trained_and_labeled(MemoryVideo(scene(FRAMES, blue=True)), labels)
    for result in results:
        one, other = result.labels
        assert one.shape is None or isinstance(one.shape, Box)
        assert other.shape is None or isinstance(other.shape, Mask)
