"""Errors and exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from micromodels.errors import Diverged
from service.cli.exit_codes import ExitCode
from tests.service.cli.helpers import StandIn, label_clip, micromodels


def test_errors_are_one_line_and_an_exit_code(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """What is wrong and where, without a traceback; the kind of error is the exit code."""
    seeds, video = clip / "seeds.jsonl", clip / "video.mp4"
    out = ["--out", tmp_path / "out"]
    seeds_of_line_four = clip / "four.jsonl"
    seeds_of_line_four.write_text(seeds.read_text() + '{"frame":24,"track":"1","class":"square","state":"absent"}\n')
    result = micromodels("label", video, "--seeds", seeds_of_line_four, *out)
    assert result.exit_code == ExitCode.INVALID
    assert result.stderr.endswith("error: line 4: frame: got 24; allowed: 0 to 23; the video has 24 frames\n")
    result = micromodels("label", clip / "none.mp4", "--seeds", seeds, *out)
    assert result.exit_code == ExitCode.INVALID
    result = micromodels("label", seeds, "--seeds", seeds, *out)
    assert result.exit_code == ExitCode.VIDEO, result.output
    stand_in.error = Diverged("the loss became NaN in step 7")
    result = micromodels("label", video, "--seeds", seeds, *out)
    assert result.exit_code == ExitCode.TRAINING
    assert "error: the loss became NaN in step 7" in result.stderr
    result = micromodels("batch", video, "--model", tmp_path, *out)
    assert result.exit_code == ExitCode.INVALID
    assert "is not a model" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_base_install_says_what_it_lacks() -> None:
    """The light client brings the command but not what it needs: one line, exit code 2, no traceback."""
    code = "import sys; sys.modules['typer'] = None; from service.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: the command line needs the server install: pip install 'micromodels-video[server]' (typer is missing)"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["label"],
        ["label", "x.mp4", "--out", "y"],
        ["label", "x.mp4", "--seeds", "s.jsonl", "--out", "y", "--device", "tpu"],
        ["label", "x.mp4", "--seeds", "s.jsonl", "--out", "y", "--experiments", "0"],
        ["batch", "--model", "m", "--out", "y"],
        ["export", "x", "--format", "voc", "--out", "y"],
        ["serve", "--data", "x", "--port", "70000"],
        ["nonsense"],
    ],
)
def test_wrong_usage_has_exit_code_2(arguments: list[str]) -> None:
    """As every command line does."""
    assert micromodels(*arguments).exit_code == ExitCode.INVALID


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(clip: Path) -> None:
    """Exit code 1 and the name, without a traceback."""
    result = label_clip(clip, clip / "video.mp4" / "out")
    assert result.exit_code == ExitCode.UNEXPECTED
    assert "Not a directory" in result.stderr
    assert "video.mp4" in result.stderr
