"""`micromodels train` and `micromodels batch`."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micromodels.errors import InvalidInput
from micromodels.labels.files import read_labels
from service.cli.batch import find_sources, kinds, model_digest
from service.cli.exit_codes import ExitCode
from tests.service.cli.helpers import FRAMES, StandIn, micromodels


@pytest.fixture
def model(clip: Path, tmp_path: Path) -> Path:
    """A trained model."""
    folder = tmp_path / "model"
    result = micromodels("train", clip / "video.mp4", "--seeds", clip / "seeds.jsonl", "--out", folder)
    assert result.exit_code == ExitCode.OK, result.output
    assert "model saved" in result.stderr
    return folder


@pytest.fixture
def archive(clip: Path, tmp_path: Path) -> Path:
    """A clip under two names, a broken one, a folder of frames and a text file."""
    folder = tmp_path / "archive"
    (folder / "b").mkdir(parents=True)
    shutil.copy(clip / "video.mp4", folder / "a.mp4")
    shutil.copy(clip / "video.mp4", folder / "b" / "again.mp4")
    (folder / "b" / "broken.mp4").write_bytes((clip / "video.mp4").read_bytes()[:500])
    (folder / "notes.txt").write_text("x")
    frames = folder / "frames"
    frames.mkdir()
    from PIL import Image

    for index in range(4):
        Image.fromarray(np.full((96, 128, 3), 40 * index, np.uint8)).save(frames / f"{index}.png")
    return folder


def test_batch_labels_an_archive_and_goes_on_past_failures(archive: Path, model: Path, tmp_path: Path) -> None:
    """Files, folders and frames; the broken file is reported; the exit code says so."""
    out = tmp_path / "out"
    result = micromodels("batch", archive, "--model", model, "--out", out)
    assert result.exit_code == ExitCode.PARTIAL, result.output
    assert "3 done, 0 skipped, 1 failed" in result.stderr
    files = {Path(f["source"]).name: f for f in json.loads((out / "batch.json").read_text())["files"]}
    assert {name: f["state"] for name, f in files.items()} == {
        "a.mp4": "done",
        "again.mp4": "done",
        "broken.mp4": "failed",
        "frames": "done",
        "notes.txt": "left_out",
    }
    assert "files left out: 1 .txt" in result.stderr
    assert "the suffix '.txt' is not a video's" in files["notes.txt"]["error"]
    folder = out / files["a.mp4"]["folder"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "coco.json",
        "done.json",
        "labels.jsonl",
        "report.json",
        "video.json",
    ]
    assert len(read_labels(folder / "labels.jsonl")) == FRAMES
    assert files["broken.mp4"]["error"]


def test_batch_run_again_does_only_what_is_left(
    archive: Path, model: Path, tmp_path: Path, stand_in: type[StandIn]
) -> None:
    """Done files are skipped, a stop keeps them, another model labels again, and drawings are made on request."""
    out = tmp_path / "out"
    (archive / "b" / "broken.mp4").unlink()
    (archive / "b" / "again.mp4").unlink()
    arguments = ["batch", archive / "*.mp4", archive / "frames", "--model", model, "--out", out]
    started: list[int] = []

    def stop_in_second(index: int) -> None:
        started.append(index)
        if len(started) == FRAMES + 2:
            os.kill(os.getpid(), signal.SIGINT)

    stand_in.at_frame = staticmethod(stop_in_second)  # type: ignore[method-assign]
    result = micromodels(*arguments)
    assert result.exit_code == ExitCode.STOPPED, result.output
    assert "1 done, 0 skipped, 0 failed" in result.stderr
    assert "run the same command again to continue" in result.stderr
    assert len(list(out.glob("*/done.json"))) == 1
    assert len(list(out.glob("*/labels.jsonl"))) == 1, "the file in work is not kept"
    stand_in.at_frame = staticmethod(lambda index: None)  # type: ignore[method-assign]
    result = micromodels(*arguments)
    assert result.exit_code == ExitCode.OK, result.output
    assert "1 done, 1 skipped, 0 failed" in result.stderr
    (model / "weights.bin").write_bytes(b"new")
    next(out.glob("*/done.json")).write_text("{damaged")
    result = micromodels(*arguments, "--overlay")
    assert "2 done, 0 skipped, 0 failed" in result.stderr
    assert len(list(out.glob("*/overlay.mp4"))) == 2


def test_an_unexpected_error_ends_one_file_only(archive: Path, model: Path, tmp_path: Path, stand_in: Any) -> None:
    """A fault of ours in one file is reported with its kind."""

    def fail(index: int) -> None:
        raise ZeroDivisionError("no")

    stand_in.at_frame = staticmethod(fail)
    result = micromodels("batch", archive / "a.mp4", archive / "frames", "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == ExitCode.PARTIAL
    assert "unexpected ZeroDivisionError: no" in result.stderr
    assert "0 done, 0 skipped, 2 failed" in result.stderr


def test_sources_are_found_below_folders_and_by_patterns(archive: Path, tmp_path: Path) -> None:
    """Each once and in order; nothing hidden, nothing of the output folder; what stands for nothing is refused."""
    (archive / ".hidden.mp4").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "overlay.mp4").touch()
    with pytest.raises(InvalidInput, match="outside the input"):
        find_sources([str(archive)], archive / "out")
    found = find_sources([str(archive), str(archive / "a.mp4")], tmp_path / "out")
    names = [str(p.relative_to(archive)) for p in found.videos]
    assert names == ["a.mp4", "b/again.mp4", "b/broken.mp4", "frames"]
    assert len(find_sources([str(tmp_path / "**" / "*.mp4")], tmp_path / "out").videos) == 4
    assert find_sources([str(archive / "frames")], tmp_path / "out").videos == [archive / "frames"]
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "none.mp4", tmp_path / "*.avi", tmp_path / "empty"):
        result = micromodels("batch", nothing, "--model", tmp_path, "--out", tmp_path / "o")
        assert result.exit_code == ExitCode.INVALID
        assert nothing.name in result.stderr


def test_every_file_of_a_folder_is_taken_or_left_out_with_a_reason(tmp_path: Path) -> None:
    """Videos of all endings, stacks; sidecars, hidden files and pictures beside videos are named."""
    import tifffile

    folder = tmp_path / "archive"
    folder.mkdir()
    videos = ("a.mp4", "b.wmv", "c.MTS", "e.vob", "f.ts", "g.flv", "h.ogv", "i.mxf")
    for name in (*videos, "j.dcm", "poster.png", ".DS_Store", "noending"):
        (folder / name).write_bytes(b"x")
    tifffile.imwrite(folder / "stack.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    tifffile.imwrite(folder / "big.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack", bigtiff=True)
    found = find_sources([str(folder)], tmp_path / "out")
    assert sorted(p.name for p in found.videos) == sorted((*videos, "stack.tif", "big.tif"))
    reasons = {Path(one.source).name: one.error for one in found.left_out}
    assert set(reasons) == {"j.dcm", "poster.png", ".DS_Store", "noending"}
    assert "beside videos" in reasons["poster.png"]
    assert kinds(found.left_out) == "2 without suffix, 1 .dcm, 1 .png"


def test_a_models_digest_follows_names_and_bytes(tmp_path: Path) -> None:
    """A changed, added or renamed file is another model."""
    (tmp_path / "a").write_bytes(b"1")
    first = model_digest(tmp_path)
    assert model_digest(tmp_path) == first
    (tmp_path / "a").write_bytes(b"2")
    second = model_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, model_digest(tmp_path)}) == 3
