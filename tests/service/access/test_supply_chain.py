"""Models and archives that somebody hands in: checked before use, never executed."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest

from micromodels.errors import MicromodelsError, ModelError
from micromodels.recipes.base import load_model
from tests.micromodels.video.files import zip_that_leads_out


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.target,))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """A micro-model as it is saved."""
    from micromodels.labels.files import read_labels
    from micromodels.recipes.base import TrainSettings, train
    from micromodels.video import open_video

    folder = tmp_path_factory.mktemp("model")
    with open_video(tiny_clip / "video.mp4") as video:
        seeds = read_labels(tiny_clip / "seeds.jsonl", video=video)
        train(video, seeds, TrainSettings(recipe="head", effort=0.01)).save(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def weights(model: Path) -> Path:
    (found,) = model.rglob("*.safetensors")
    return found


def test_a_good_model_is_loaded(model: Path) -> None:
    """What follows spoils this one."""
    assert load_model(model)


@pytest.mark.parametrize("where", ["weights", "manifest", "onnx", "beside"])
def test_a_pickle_is_not_executed(model: Path, tmp_path: Path, where: str) -> None:
    """Fault 48: in place of any file of a model it is refused, or not even looked at; either way nothing runs."""
    target = tmp_path / "executed"
    data = pickle.dumps(Bomb(target))
    pickle.loads(data)
    assert target.exists()  # it is a bomb
    target.unlink()
    files = {
        "weights": [weights(model)],
        "manifest": list(model.glob("*.json")),
        "onnx": list(model.rglob("*.onnx")),
        "beside": [model / "pytorch_model.bin", model / "model.pkl"],
    }[where]
    assert files
    for path in files:
        path.write_bytes(data)
    if where in ("beside", "onnx"):  # the service reads neither; ONNX is for other programs
        assert load_model(model)
    else:
        with pytest.raises(MicromodelsError):
            load_model(model)
    assert not target.exists()


HEADERS = {
    "longer than the file": struct.pack("<Q", 1 << 62) + b"{}",
    "as long as memory": struct.pack("<Q", 90 << 20) + b"{" + b" " * 1000,
    "not JSON": struct.pack("<Q", 4) + b"oops",
    "offsets past the end": None,
    "offsets that overlap": None,
    "another type": None,
}


@pytest.mark.parametrize("how", HEADERS)
def test_a_lying_header_is_refused(model: Path, how: str) -> None:
    """Fault 49: lengths, offsets and types that are not those of the file; without reading past anything."""
    path = weights(model)
    data = HEADERS[how]
    if data is None:
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        name = next(key for key in header if key != "__metadata__")
        start, stop = header[name]["data_offsets"]
        if how == "offsets past the end":
            header[name]["data_offsets"] = [start, stop + (1 << 40)]
        elif how == "offsets that overlap":
            header[name]["data_offsets"] = [start + 1, stop + 1]
        else:
            header[name]["dtype"] = "F64"
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + raw[8 + length :]
    path.write_bytes(data)
    with pytest.raises(ModelError):
        load_model(model)


def test_no_archive_is_ever_unpacked(repository: Path) -> None:
    """Fault 50: nothing here reads zip or tar from outside, so there is no path in one that could lead out."""
    words = ("tarfile", "extractall(", "unpack_archive", "zipimport")
    readers = [
        f"{path.relative_to(repository)}: {word}"
        for folder in ("micromodels", "service", "scripts")
        for path in (repository / folder).rglob("*")
        if path.is_file() and path.suffix in ("", ".py") and "node_modules" not in path.parts
        for word in words
        if word in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert readers == []


def test_a_zip_is_not_a_video(tmp_path: Path) -> None:
    """Fault 50: an archive with a path that leads out, handed in as a video, is refused and leaves nothing outside."""
    from micromodels.errors import VideoError
    from micromodels.video import open_video

    path = tmp_path / "in" / "video.mp4"
    path.parent.mkdir()
    zip_that_leads_out(path)
    with pytest.raises(VideoError):
        open_video(path)
    assert [found.name for found in tmp_path.rglob("*")] == ["in", "video.mp4"]


def test_every_locked_package_says_its_license(repository: Path) -> None:
    """`scripts/licenses` finds one for each that is installed here, and copyleft only where README says so."""
    loader = SourceFileLoader("licenses", str(repository / "scripts" / "licenses"))
    script = ModuleType("licenses")
    script.__file__ = loader.path
    loader.exec_module(script)
    lines = (repository / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {_plain(line.partition("==")[0]) for line in lines if "==" in line}
    installed = {_plain(package.metadata["Name"]): package for package in distributions()}
    found = {name: script.license(installed[name]) for name in locked & installed.keys()}
    assert len(found) > 60
    assert {name for name, text in found.items() if text == "not stated"} <= UNSTATED
    agpl = {name for name, text in found.items() if "AGPL" in text or "Affero" in text}
    assert agpl <= {"ultralytics", "ultralytics-thop", "ultralytics-platform"}


UNSTATED = {"cuda-toolkit"}
"""A list of other packages, without a license of its own."""


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
