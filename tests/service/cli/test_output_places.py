"""No command writes over its input, over earlier results unasked, or learns after the work that it cannot write."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from micromodels.errors import InvalidInput
from service.cli.exit_codes import ExitCode
from service.cli.output_places import check_output_file, check_output_folder
from service.cli.report import _cell
from tests.service.cli.helpers import StandIn, micromodels


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def frames(clip: Path) -> Path:
    """The clip as a folder of pictures, beside it."""
    from PIL import Image

    from micromodels.video import open_video

    folder = clip / "frames"
    folder.mkdir()
    with open_video(clip / "video.mp4") as video:
        for index, image in video.frames():
            Image.fromarray(image).save(folder / f"{index:06d}.png")
    return folder


@pytest.mark.parametrize("out", ["frames", "frames/out", ".", "link", "frames/../frames"])
@pytest.mark.parametrize("command", ["label", "train", "batch"])
def test_an_output_that_is_holds_or_lies_in_an_input_is_refused(
    clip: Path, frames: Path, tmp_path: Path, command: str, out: str, stand_in: type[StandIn]
) -> None:
    """Also by another way of writing it, or through a link; nothing is decoded and nothing changes."""
    (clip / "link").symlink_to(frames, target_is_directory=True)
    model = tmp_path / "model"
    if command == "batch":
        trained = micromodels("train", clip / "video.mp4", "--seeds", clip / "seeds.jsonl", "--out", model)
        assert trained.exit_code == ExitCode.OK, trained.output
    before = digests(clip)
    options = ["--model", model] if command == "batch" else ["--seeds", clip / "seeds.jsonl"]
    result = micromodels(
        command, frames, *options, "--out", clip / out, *([] if command == "batch" else ["--overwrite"])
    )
    assert result.exit_code == ExitCode.INVALID, result.output
    assert "--out" in result.stderr
    assert "input" in result.stderr
    assert digests(clip) == before


def test_earlier_results_are_kept_unless_said_otherwise(clip: Path, tmp_path: Path) -> None:
    """The second run is refused before it starts, and runs with --overwrite."""
    arguments = ["label", clip / "video.mp4", "--seeds", clip / "seeds.jsonl", "--out", tmp_path / "out"]
    assert micromodels(*arguments).exit_code == ExitCode.OK
    before = digests(tmp_path / "out")
    refused = micromodels(*arguments)
    assert refused.exit_code == ExitCode.INVALID
    assert "--overwrite" in refused.stderr
    assert digests(tmp_path / "out") == before
    assert micromodels(*arguments, "--overwrite").exit_code == ExitCode.OK


def test_a_place_that_cannot_be_written_is_found_before_decoding(
    clip: Path, tmp_path: Path, stand_in: type[StandIn]
) -> None:
    """A file in the way, and a folder that takes no files: refused at once, and nothing is left behind."""
    (tmp_path / "file").write_text("x")
    for command in ("label", "train"):
        out = tmp_path / "file" / "out"
        result = micromodels(command, clip / "video.mp4", "--seeds", clip / "seeds.jsonl", "--out", out)
        assert result.exit_code == ExitCode.UNEXPECTED
        assert "--out must name a writable folder" in result.stderr.replace("\n", " ")
        assert "frames" not in result.stderr, "nothing was decoded"
    assert (tmp_path / "file").read_text() == "x"


def test_a_model_that_cannot_be_saved_is_kept_elsewhere(
    clip: Path, tmp_path: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills while training: the error names the folder that holds the model."""
    target = tmp_path / "model"
    module = sys.modules["service.cli.app"]
    real = module._train  # type: ignore[attr-defined]

    def train(*arguments: Any) -> Any:
        model = real(*arguments)
        save = model.save

        def full(folder: Path) -> None:
            if folder == target:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            save(folder)

        model.save = full
        return model

    monkeypatch.setattr(module, "_train", train)
    result = micromodels("train", clip / "video.mp4", "--seeds", clip / "seeds.jsonl", "--out", target)
    assert result.exit_code == ExitCode.UNEXPECTED
    found = re.search(r"the trained model is kept in (\S+micromodels-model-\S+)", result.stderr.replace("\n", ""))
    assert found, result.stderr
    kept = Path(found.group(1).rstrip("()"))
    assert (kept / "manifest.json").is_file()


def test_folders_and_files_are_checked(tmp_path: Path) -> None:
    """What the commands share: made, tried, and left as they were where they are refused."""
    check_output_folder("--out", tmp_path / "a" / "b", (tmp_path / "nothing",), ("x",), overwrite=False)
    assert not (tmp_path / "a").exists()
    (tmp_path / "a" / "b" / "x").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="without x; add --overwrite"):
        check_output_folder("--out", tmp_path / "a" / "b", (), ("x",), overwrite=False)
    check_output_file("--out", tmp_path / "c" / "d.json", (), overwrite=False)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.json").write_text("{}")
    with pytest.raises(InvalidInput, match="does not exist yet"):
        check_output_file("--out", tmp_path / "c" / "d.json", (), overwrite=False)
    with pytest.raises(InvalidInput, match="not a folder"):
        check_output_file("--out", tmp_path / "c", (), overwrite=True)
    (tmp_path / "hard.json").hardlink_to(tmp_path / "c" / "d.json")
    with pytest.raises(InvalidInput, match="would be overwritten"):
        check_output_file("--out", tmp_path / "hard.json", (tmp_path / "c" / "d.json",), overwrite=True)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+49", "'+49"),
        ("-x", "'-x"),
        ("\tx", "'\tx"),
        ("polyp", "polyp"),
        (-1, -1),
    ],
)
def test_f79_no_cell_of_a_report_is_a_formula(value: object, written: object) -> None:
    """Class names and comments are what people typed."""
    assert _cell(value) == written
