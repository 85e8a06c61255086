"""The recipe ``finetune``: an encoder that has learned the seeds, saved with its micro-model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from micromodels.correction.session import LabelSession
from micromodels.encoding.encoders import load_encoder
from micromodels.errors import InvalidInput, ModelError
from micromodels.labels.geometry import mask_iou, to_mask
from micromodels.recipes.base import TrainSettings, load_model, train
from micromodels.recipes.head.model import DenseModel
from micromodels.types import Box, FrameLabel, Label, Mask, ShapeKind
from tests.micromodels.doubles import HEIGHT, WIDTH, MemoryVideo, Recorder, box_mask, scene, seed, square

FRAMES = 12
CPU = torch.device("cpu")
SETTINGS = TrainSettings(recipe="finetune", encoder="pixels+lite0", effort=0.15)


def video() -> MemoryVideo:
    return MemoryVideo(scene(FRAMES))


@pytest.fixture(scope="module", params=[ShapeKind.MASK, ShapeKind.BOX])
def model(request: pytest.FixtureRequest) -> DenseModel:
    """Trained on two frames of the red square."""
    trained = train(video(), [seed(2, request.param), seed(9, request.param)], SETTINGS, run=Recorder().run)
    assert isinstance(trained, DenseModel)
    return trained


@pytest.fixture
def saved(model: DenseModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def kind_of(model: DenseModel) -> ShapeKind:
    return model.manifest.tracks[0].shape


def test_the_encoder_has_learned(model: DenseModel) -> None:
    """Other features than ImageNet's, under another name, from which the square is found."""
    assert model.manifest.recipe == "finetune"
    frozen = load_encoder("pixels+lite0", CPU)
    tuned = model.encoder_for(CPU)
    assert model.manifest.encoder_weights == tuned.name != frozen.name
    image = np.ascontiguousarray(scene(1)[0])
    maps = list(zip(tuned.encode(image), frozen.encode(image), strict=True))
    assert np.array_equal(*maps[0])  # the pixels
    for mine, theirs in maps[1:]:
        change = np.abs(mine.astype(float) - theirs).mean() / np.abs(theirs.astype(float)).mean()
        assert 1e-3 < change < 1.5
    for result in model.propagate(video(), [], run=Recorder().run):
        (label,) = result.labels
        assert isinstance(label, Label)
        assert isinstance(label.shape, Mask | Box)
        mask = to_mask(label.shape, HEIGHT, WIDTH)
        assert mask_iou(mask, box_mask(square(result.frame))) > 0.6


def test_a_saved_model_brings_its_encoder(model: DenseModel, saved: Path) -> None:
    """The same labels after loading, whatever else is installed; nothing but weights is in the folder."""
    assert {path.name for path in saved.iterdir()} == {
        "manifest.json",
        "head.safetensors",
        "head.onnx",
        "encoder.safetensors",
    }
    seeds = [seed(2, kind_of(model))]
    loaded = load_model(saved)
    before, after = (list(one.propagate(video(), seeds, run=Recorder().run)) for one in (model, loaded))
    assert before == after


def test_a_damaged_encoder_is_refused(saved: Path, tmp_path: Path) -> None:
    """Missing, of another network, or of other weights than the manifest says."""
    path = saved / "encoder.safetensors"
    weights = safetensors.torch.load_file(str(path))
    name = next(name for name, tensor in weights.items() if tensor.dtype == torch.float32)
    for broken, words in (
        ({**weights, name: weights[name] + 1}, "made with encoder"),
        ({name: weights[name]}, "EfficientNet-Lite0"),
        (None, "encoder.safetensors cannot be read"),
    ):
        folder = Path(shutil.copytree(saved, tmp_path / words.replace(" ", "-")))
        if broken is None:
            (folder / path.name).unlink()
        else:
            safetensors.torch.save_file(broken, str(folder / path.name))
        with pytest.raises(ModelError, match=words):
            load_model(folder)


def test_it_learns_from_corrections(model: DenseModel, tmp_path: Path) -> None:
    """A session goes on with the tuned features, saves them, and retrains on them."""
    kind = kind_of(model)
    anchors = [seed(2, kind), seed(9, kind)]
    labels = [label for result in model.propagate(video(), anchors, run=Recorder().run) for label in result.all()]
    with LabelSession(video(), model, labels, run=Recorder().run) as session:
        for frame in (0, 5, 11):
            list(session.correct([seed(frame, kind)]))
        learned = session.model
        assert isinstance(learned, DenseModel)
        assert learned.manifest.version != model.manifest.version
        learned.save_weights(tmp_path / "learned")
        again = session.retrain(TrainSettings(effort=0.05)).model
    for other in (load_model(tmp_path / "learned"), again):
        assert other.manifest.encoder_weights == model.manifest.encoder_weights
        assert other.manifest.recipe == "finetune"


def test_there_must_be_something_to_tune() -> None:
    """An encoder without Lite0 is refused before any work."""
    clip = video()
    with pytest.raises(InvalidInput, match="lite0") as caught:
        train(clip, [seed(2)], TrainSettings(recipe="finetune", encoder="dinov2s"), run=Recorder().run)
    assert caught.value.field == "encoder"
    assert clip.given_out == 0


def test_a_seed_that_was_learned_cannot_be_left_out() -> None:
    """Several experiments cannot be compared: the settings say so when they are made."""
    with pytest.raises(InvalidInput, match="1 with recipe finetune") as caught:
        TrainSettings(recipe="finetune", experiments=2)
    assert caught.value.field == "experiments"


def test_frame_classes_alone_are_the_head_recipes() -> None:
    """With nothing to tune the micro-model brings no encoder, and is one of the recipe head."""
    said = [FrameLabel(2, "dark", False), FrameLabel(9, "dark", True)]
    assert train(video(), said, SETTINGS, run=Recorder().run).manifest.recipe == "head"
