"""The command: files, tables, exit codes, quick mode."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from micromodels.errors import TrainingError
from micromodels.evaluation import bench, peers, quick
from micromodels.evaluation.datasets import Clip
from micromodels.events import Run
from micromodels.types import AnyLabel, FrameResult
from micromodels.video import Video


@pytest.fixture
def command(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Runs ``scripts/bench`` on the small data, with wide tables."""
    monkeypatch.setenv("MICROMODELS_REAL_DATA", str(small_data))
    monkeypatch.setenv("COLUMNS", "200")
    return CliRunner()


def failing(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    raise TrainingError("no such luck")
    yield


def interrupted(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    raise KeyboardInterrupt
    yield


def add_system(monkeypatch: pytest.MonkeyPatch, name: str, propagate: peers.Propagate) -> None:
    system = peers.System(name, propagate, lambda clip, frame_classes: "")
    monkeypatch.setattr(peers, "PEERS", {**peers.PEERS, name: system})


@pytest.mark.slow
def test_every_protocol_prints_a_table_and_writes_a_file(command: CliRunner, tmp_path: Path) -> None:
    """Rows, means, what was skipped and why, commit, date, machine; pictures where asked for."""
    out, pictures = tmp_path / "out.json", tmp_path / "pictures"
    options = ["--protocol", "A,B,C,D,E,F,G", "--k", "3", "--peers", "copy,linear,osvos"]
    options += ["--out", str(out), "--pictures", str(pictures)]
    done = command.invoke(bench.app, options)
    assert done.exit_code == 0, done.output
    for letter in "ABCDEFG":
        assert f"Protocol {letter}" in done.output
    written = json.loads(out.read_text())
    assert written["complete"]
    assert {"date", "commit", "machine", "arguments"} <= set(written)
    assert written["machine"]["cores"] >= 1
    # 2 systems times: A 2 sets, B 2, C, D, E 2, G 6, F 4 sets with one strategy.
    assert len(written["rows"]) == 2 * (14 + 4)
    assert {s["system"] for s in written["skipped"]} == {"osvos"}
    (summary,) = [
        s
        for s in written["summary"]
        if (s["protocol"], s["set_name"], s["k"], s["system"]) == ("B", "otb", 3, "linear")
    ]
    assert summary["scores"]["iou"] > 0.8
    names = {path.name for path in pictures.iterdir()}
    assert {"B-otb-clip-k3-linear-worst.png", "A-davis2016-clip-k3-copy-frames.png", "economy-tld.png"} <= names


def test_a_system_that_fails_does_not_stop_the_rest(
    command: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says why, the others are there, the exit code is 1."""
    add_system(monkeypatch, "failing", failing)
    out = tmp_path / "out.json"
    done = command.invoke(
        bench.app, ["--protocol", "B", "--k", "1", "--sets", "otb", "--peers", "failing,copy", "--out", str(out)]
    )
    assert done.exit_code == 1
    assert "TrainingError: no such luck" in done.output
    errors = {row["system"]: row["error"] for row in json.loads(out.read_text())["rows"]}
    assert errors == {"failing": "TrainingError: no such luck", "copy": ""}


def test_an_interrupted_benchmark_leaves_what_it_has(
    command: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second run: one row in the file, exit code 130."""
    add_system(monkeypatch, "interrupted", interrupted)
    out = tmp_path / "out.json"
    done = command.invoke(
        bench.app, ["--protocol", "B", "--k", "1", "--sets", "otb", "--peers", "copy,interrupted", "--out", str(out)]
    )
    assert done.exit_code == 130
    written = json.loads(out.read_text())
    assert [row["system"] for row in written["rows"]] == ["copy"]
    assert not written["complete"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--protocol", "Z"], "'Z' is not a valid Protocol"),
        (["--sets", "imagenet"], "imagenet"),
        (["--sequences", "nobody"], "nobody"),
        (["--peers", "sam2"], "sam2"),
        (["--k", "many"], "many"),
    ],
)
def test_wrong_arguments_are_named(command: CliRunner, options: list[str], complaint: str) -> None:
    """Exit code 2 and the word that was wrong."""
    done = command.invoke(bench.app, options)
    assert done.exit_code == 2
    assert complaint in done.output


def test_quick_mode_compares_with_its_baseline(
    command: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes one, agrees with it, and fails once a score has fallen."""
    for name, value in {"SETS": ("otb",), "SEQUENCES": (), "SYSTEMS": ("copy",)}.items():
        monkeypatch.setattr(quick, name, value)
    monkeypatch.setattr(quick, "BASELINE", tmp_path / "baseline.json")
    assert command.invoke(bench.app, ["--quick", "--update-baseline"]).exit_code == 0
    (key,) = quick.read_baseline()
    assert command.invoke(bench.app, ["--quick"]).exit_code == 0
    quick.write_baseline({key: 0.99})
    done = command.invoke(bench.app, ["--quick"])
    assert done.exit_code == 1
    assert "baseline 0.990" in done.output


def test_margins_of_the_comparison() -> None:
    """A trained system may fall by .03 and rise at will; a peer may do neither; nothing may be missing."""
    assert quick.compare({"a default": 0.78, "a copy": 0.4}, {"a default": 0.8, "a copy": 0.4}) == []
    assert quick.compare({"a default": 0.99}, {"a default": 0.8}) == []
    assert len(quick.compare({"a default": 0.76, "a copy": 0.41}, {"a default": 0.8, "a copy": 0.4})) == 2
    assert len(quick.compare({"a copy": 0.4}, {"b copy": 0.4})) == 2


def test_the_committed_baseline_covers_the_quick_mode() -> None:
    """Every sequence and system of the quick mode has a score in it."""
    keys = quick.read_baseline()
    for name in quick.SEQUENCES:
        for system in ("copy", "linear"):
            assert any(f"/{name} " in key and key.endswith(f" {system}") for key in keys)
