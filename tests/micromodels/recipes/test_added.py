"""Recipes, encoders and temporal inference of another package: seen, checked, trained, saved, corrected."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from micromodels.correction.session import LabelSession
from micromodels.encoding.encoders import check_encoder, encoders
from micromodels.errors import FailedPrecondition, InvalidInput, ModelError
from micromodels.labels.geometry import iou
from micromodels.recipes.base import TrainSettings, load_model, recipe_names, recipes, supports_corrections, train
from micromodels.types import FrameLabel, Label
from tests.added_package import added_package, write_added_package
from tests.micromodels.doubles import HEIGHT, WIDTH, MemoryVideo, Recorder, scene, seed, square

FRAMES = 8
BUILT_IN = recipe_names()


def video() -> MemoryVideo:
    return MemoryVideo(scene(FRAMES))


@pytest.fixture
def added(tmp_path: Path) -> Iterator[None]:
    """The package of docs/how-to/extending.md is installed."""
    with added_package(tmp_path / "site"):
        yield


def test_what_is_added_is_listed(added: None) -> None:
    """Behind what is built in, by name and with its title; before, nobody knew it."""
    assert recipe_names() == (*BUILT_IN, "alone", "nearest")
    assert {info.name: info.title for info in recipes()}["nearest"] == "Copies the nearest seed"
    assert [info.name for info in encoders()][-1] == "colors"
    check_encoder("pixels+colors")
    assert supports_corrections("alone")
    assert not supports_corrections("nearest")


def test_without_the_package_its_names_are_refused() -> None:
    """The error lists what there is."""
    with pytest.raises(InvalidInput, match=", ".join(("auto", *BUILT_IN))):
        TrainSettings(recipe="nearest")
    with pytest.raises(InvalidInput, match="dinov2s, dinov2s@WEIGHTS, "):
        TrainSettings(encoder="pixels+colors")


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"experiments": 2}, "experiments"), ({"encoder": "colors"}, "encoder")],
)
def test_a_recipe_is_asked_for_no_more_than_it_can_do(added: None, settings: dict[str, object], field: str) -> None:
    """What it does not say that it can do is refused in its name when settings are made."""
    with pytest.raises(InvalidInput, match="recipe nearest") as refused:
        TrainSettings(recipe="nearest", **settings)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_an_added_recipe_trains_saves_and_loads(added: None, tmp_path: Path) -> None:
    """By the same door as those built in; where the package is gone, its micro-models say so."""
    seeds = [seed(1), seed(6)]
    model = train(video(), seeds, TrainSettings(recipe="nearest"), run=Recorder().run)
    model.save(tmp_path / "model")
    labels = [r.labels[0] for r in load_model(tmp_path / "model").propagate(video(), seeds, run=Recorder().run)]
    assert [label.shape for label in labels] == [seeds[0].shape] * 4 + [seeds[1].shape] * 4
    assert [label.is_anchor for label in labels] == [frame in (1, 6) for frame in range(FRAMES)]
    with pytest.raises(FailedPrecondition, match="frame classes"):
        train(video(), [*seeds, FrameLabel(2, "dark", True)], TrainSettings(recipe="nearest"), run=Recorder().run)
    with pytest.raises(FailedPrecondition, match="'nearest' cannot learn from corrections"):
        LabelSession(video(), model, labels, run=Recorder().run)


def test_a_micro_model_of_a_package_that_is_gone(tmp_path: Path) -> None:
    """The error names the recipe; other micro-models are loaded as ever."""
    with added_package(tmp_path / "site"):
        train(video(), [seed(1)], TrainSettings(recipe="nearest"), run=Recorder().run).save(tmp_path / "model")
    with pytest.raises(ModelError, match="'nearest'"):
        load_model(tmp_path / "model")


def test_an_added_encoder_and_temporal_inference_go_the_whole_way(added: None, own_size: None, tmp_path: Path) -> None:
    """Trained on the one, labeled by the other, saved, loaded, corrected and retrained."""
    seeds = [seed(1), seed(6)]
    settings = TrainSettings(recipe="alone", encoder="colors", effort=0.2)
    train(video(), seeds, settings, run=Recorder().run).save(tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert (model.manifest.recipe, model.manifest.encoder_weights) == ("alone", "colors-1")
    labels = [label for result in model.propagate(video(), seeds, run=Recorder().run) for label in result.labels]
    assert all(iou(label.shape, square(label.frame), (HEIGHT, WIDTH)) > 0.7 for label in labels)
    with LabelSession(video(), model, labels, run=Recorder().run) as session:
        assert type(session._temporal).__name__ == "Alone"
        session.prepare()
        for frame in (3, 4):
            first, *_ = session.correct([seed(frame)])
            assert first.frame == frame
        retrained = session.retrain(TrainSettings(effort=0.02)).model
        assert isinstance(session.model.temporal(), type(session._temporal))
    assert (retrained.manifest.recipe, retrained.manifest.encoder) == ("alone", "colors")


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where the package in ``folder`` is installed."""
    code = "import sys; from service.main import main; sys.argv[0] = 'micromodels'; main()"
    repository = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), repository]), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_the_command_line_takes_what_is_added(tmp_path: Path, tiny_clip: Path) -> None:
    """In its help, in its checks, and at work; a file of code for each, and nothing else."""
    files = write_added_package(tmp_path / "site")
    assert [path.name for path in files] == ["table.py", "nearest.py", "colors.py", "alone.py"]
    shown = " ".join(command(tmp_path / "site", "label", "--help").stdout.replace("│", " ").split())
    assert "|".join(("auto", *BUILT_IN, "alone", "nearest")) in shown
    assert "nearest: Copies the nearest seed." in shown
    assert "torchvision:MODEL@WEIGHTS, colors." in shown
    arguments = [str(tiny_clip / "video.mp4"), "--seeds", str(tiny_clip / "seeds.jsonl"), "--recipe", "nearest"]
    refused = command(tmp_path / "site", "label", *arguments, "--out", str(tmp_path / "no"), "--experiments", "2")
    assert refused.returncode == 2
    assert "1 with recipe nearest" in refused.stderr
    done = command(tmp_path / "site", "label", *arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "labels.jsonl").read_text(encoding="utf-8").splitlines()) == 24


def test_labels_are_typed(added: None) -> None:
    """What an added micro-model gives are labels like all others."""
    model = train(video(), [seed(1)], TrainSettings(recipe="nearest"), run=Recorder().run)
    (result,) = model.propagate(video(), [seed(1)], frames=range(3, 4), run=Recorder().run)
    assert all(isinstance(label, Label) and label.confidence == 0.5 for label in result.labels)
