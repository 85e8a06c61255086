"""`micromodels export` and `micromodels inspect`."""

from __future__ import annotations

import json
from pathlib import Path

from micromodels.labels.files import read_labels
from service.cli.exit_codes import ExitCode
from tests.service.cli.helpers import FRAMES, label_clip, micromodels


def test_export_writes_every_form(clip: Path, tmp_path: Path) -> None:
    """From a folder of results to COCO and masks, and from COCO back to the same lines."""
    out = tmp_path / "out"
    label_clip(clip, out)
    for format, name in (("coco", "x.json"), ("jsonl", "x.jsonl"), ("masks", "masks")):
        result = micromodels("export", out, "--format", format, "--out", tmp_path / "exports" / name)
        assert result.exit_code == ExitCode.OK, result.output
    exports = tmp_path / "exports"
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
    assert len(read_labels(exports / "z.json", frame_count=FRAMES)) == 3


def test_export_refuses_to_write_over_its_input(clip: Path) -> None:
    """And refuses a damaged frame table."""
    seeds = clip / "seeds.jsonl"
    before = seeds.read_text()
    assert micromodels("export", seeds, "--format", "jsonl", "--out", seeds).exit_code == ExitCode.INVALID
    assert seeds.read_text() == before
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
