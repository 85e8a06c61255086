"""`micromodels export` and `micromodels inspect`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from micromodels.labels.files import read_labels
from micromodels.labels.formats import label_formats
from service.cli.exit_codes import ExitCode
from tests.added_package import REPOSITORY, write_added_package
from tests.service.cli.helpers import FRAMES, label_clip, micromodels


def test_export_writes_every_form(clip: Path, tmp_path: Path) -> None:
    """From a folder of results to COCO and masks, and from COCO back to the same lines."""
    out = tmp_path / "out"
    label_clip(clip, out)
    for format, name in (("coco", "x.json"), ("jsonl", "x.jsonl"), ("masks", "masks")):
        result = micromodels("export", out, "--format", format, "--out", tmp_path / "exports" / name)
        assert result.exit_code == ExitCode.OK, result.output
    exports = tmp_path / "exports"
    assert "Keeps pixels, tracks and classes alone" in " ".join(result.stderr.split())
    assert (exports / "x.jsonl").read_text() == (out / "labels.jsonl").read_text()
    assert (exports / "x.json").read_text() == (out / "coco.json").read_text()
    assert len(list((exports / "masks").glob("*.png"))) == FRAMES
    result = micromodels("export", exports / "x.json", "--format", "jsonl", "--out", exports / "y.jsonl")
    assert result.exit_code == ExitCode.OK, result.output
    assert (exports / "y.jsonl").read_text() == (out / "labels.jsonl").read_text()
    seeds = clip / "seeds.jsonl"
    result = micromodels("export", seeds, "--format", "coco", "--out", exports / "z.json")
    assert result.exit_code == ExitCode.INVALID
    assert "--source" in result.stderr
    result = micromodels(
        "export", seeds, "--format", "coco", "--out", exports / "z.json", "--source", clip / "video.mp4"
    )
    assert result.exit_code == ExitCode.OK, result.output
    assert len(read_labels(exports / "z.json")) == 3


def test_export_refuses_formats_that_are_not_there(clip: Path, tmp_path: Path) -> None:
    """To write or to read; what is asked for by name is not guessed."""
    seeds = clip / "seeds.jsonl"
    for arguments, words in (
        (["--format", "pickle", "--out", tmp_path / "x"], "got 'pickle'; allowed: coco,"),
        (["--format", "jsonl", "--from", "coco", "--out", tmp_path / "x.jsonl"], "one JSON document (COCO)"),
        (["--format", "jsonl", "--from", "masks", "--out", tmp_path / "x.jsonl"], "a format that can be read"),
    ):
        result = micromodels("export", seeds, *arguments)
        assert result.exit_code == ExitCode.INVALID
        assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "x.jsonl").exists()
    other = seeds.rename(tmp_path / "seeds.txt")
    result = micromodels("export", other, "--from", "jsonl", "--format", "jsonl", "--out", tmp_path / "y.jsonl")
    assert result.exit_code == ExitCode.OK, result.output
    assert len(read_labels(tmp_path / "y.jsonl")) == 3


def test_the_help_lists_the_formats() -> None:
    """All with what they lose where labels are written; those that can be read where they are read."""
    for command in ("label", "train"):
        shown = " ".join(micromodels(command, "--help").output.split())
        for one in label_formats():
            assert (str(one) in shown) == one.can_read
    shown = " ".join(micromodels("export", "--help").output.split())
    for one in label_formats():
        assert f"{one}: {one.loses or 'nothing is lost.'}" in shown


def test_a_format_of_another_package_is_there(clip: Path, tmp_path: Path) -> None:
    """In the help and at work, in a process of its own, once the package is on the path."""
    write_added_package(tmp_path / "site")
    command = [sys.executable, "-c", "from service.main import main; main()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)])}

    def run(*arguments: object) -> str:
        words = [*command, *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
        return " ".join((done.stdout + done.stderr).split())

    shown = run("export", "--help")
    assert "table (Boxes as a table, .boxes): Keeps visible boxes, their tracks and classes alone." in shown
    out = clip / "labels.boxes"
    assert "3 labels" in run("export", clip / "seeds.jsonl", "--format", "table", "--out", out)
    assert out.read_text().splitlines()[0] == "0,1,square,16,32,48,64"
    run("export", out, "--format", "jsonl", "--out", clip / "again.jsonl")
    assert len(read_labels(clip / "again.jsonl")) == 3


def test_export_refuses_to_write_over_its_input(clip: Path) -> None:
    """And refuses a damaged frame table."""
    seeds = clip / "seeds.jsonl"
    before = seeds.read_text()
    for more in ([], ["--overwrite"]):
        assert micromodels("export", seeds, "--format", "jsonl", "--out", seeds, *more).exit_code == ExitCode.INVALID
    assert seeds.read_text() == before
    (clip / "there.jsonl").write_text("mine")
    export = ["export", seeds, "--format", "jsonl", "--out", clip / "there.jsonl"]
    assert "--overwrite" in micromodels(*export).stderr
    assert (clip / "there.jsonl").read_text() == "mine"
    assert micromodels(*export, "--overwrite").exit_code == ExitCode.OK
    assert len(read_labels(clip / "there.jsonl")) == 3
    (clip / "video.json").write_text("[1]")
    result = micromodels("export", seeds, "--format", "coco", "--out", clip / "z.json")
    assert result.exit_code == ExitCode.INVALID


def test_inspect_shows_the_frame_table(clip: Path) -> None:
    """For people, with a line a frame on request, and as JSON that gives the table back."""
    from micromodels.video import FrameTable

    result = micromodels("inspect", clip / "video.mp4")
    assert result.exit_code == ExitCode.OK, result.output
    for words in ("frames", "24", "128 x 96", "h264", "12.000 frames a second, even", "rotation", "time base"):
        assert words in result.stdout
    result = micromodels("inspect", clip / "video.mp4", "--frames")
    assert result.stdout.rstrip().splitlines()[-1].startswith("23\t")
    result = micromodels("inspect", clip / "video.mp4", "--json")
    table = FrameTable.from_dict(json.loads(result.stdout))
    assert table.frame_count == FRAMES


def test_inspect_shows_warnings_and_refuses_what_is_no_video(clip: Path) -> None:
    """A damaged file says so."""
    result = micromodels("inspect", clip / "seeds.jsonl")
    assert result.exit_code == ExitCode.VIDEO
    assert result.stdout == ""
