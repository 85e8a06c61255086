"""The command: files, tables, exit codes, quick mode."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from micromodels.errors import TrainingError
from micromodels.runtime.run import Run
from micromodels.types import AnyLabel, FrameResult
from micromodels.video import Video
from scripts.benchmark import baselines, cli, regression_gate
from scripts.benchmark.annotation_cost import Strategy
from scripts.benchmark.benchmark import Benchmark, Job, Remaining, plan
from scripts.benchmark.datasets import Clip, load_clips
from scripts.benchmark.protocols import Protocol, Row


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


def add_system(monkeypatch: pytest.MonkeyPatch, name: str, propagate: baselines.Propagate) -> None:
    system = baselines.System(name, propagate, lambda clip, frame_classes: "")
    monkeypatch.setattr(baselines, "BASELINES", {**baselines.BASELINES, name: system})


@pytest.mark.slow
def test_every_protocol_prints_a_table_and_writes_a_file(command: CliRunner, tmp_path: Path) -> None:
    """Rows, means, what was skipped and why, commit, date, machine; pictures where asked for."""
    out, pictures = tmp_path / "out.json", tmp_path / "pictures"
    options = ["--protocol", "A,B,C,D,E,F,G", "--k", "3", "--baselines", "copy,linear,osvos"]
    options += ["--strategies", "suggested", "--markdown", str(tmp_path / "out.md")]
    options += ["--out", str(out), "--pictures", str(pictures)]
    done = command.invoke(cli.app, options)
    assert done.exit_code == 0, done.output
    for letter in "ABCDEF":  # no baseline gives a confidence, so G has nothing to say
        assert f"Protocol {letter}" in done.output
    written = json.loads(out.read_text())
    assert written["complete"]
    assert {"date", "commit", "machine", "arguments"} <= set(written)
    assert written["machine"]["cores"] >= 1
    # 2 systems times: A 2 sets, B 2, C, D, E 2, F 4 sets with one strategy. G runs nothing.
    assert len(written["rows"]) == 2 * (8 + 4)
    assert {s["system"] for s in written["skipped"]} == {"osvos"}
    (summary,) = [
        s
        for s in written["summary"]
        if (s["protocol"], s["set_name"], s["k"], s["system"]) == ("B", "otb", 3, "linear")
    ]
    assert summary["scores"]["iou"] > 0.8
    tables = (tmp_path / "out.md").read_text()
    assert "| linear interpolation |" in tables
    assert "osvos on A davis2016, A cvc612" in tables
    assert written["commit"][:12] in tables
    names = {path.name for path in pictures.iterdir()}
    assert {"B-otb-clip-k3-linear-worst.png", "A-davis2016-clip-k3-frames.png", "annotation-cost-tld.png"} <= names


def test_a_system_that_fails_does_not_stop_the_rest(
    command: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says why, the others are there, the exit code is 1."""
    add_system(monkeypatch, "failing", failing)
    out = tmp_path / "out.json"
    done = command.invoke(
        cli.app, ["--protocol", "B", "--k", "1", "--sets", "otb", "--baselines", "failing,copy", "--out", str(out)]
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
        cli.app, ["--protocol", "B", "--k", "1", "--sets", "otb", "--baselines", "copy,interrupted", "--out", str(out)]
    )
    assert done.exit_code == 130
    written = json.loads(out.read_text())
    assert [row["system"] for row in written["rows"]] == ["copy"]
    assert not written["complete"]


def test_an_interrupted_benchmark_goes_on(command: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the file is not run again, what failed is; a file of another commit is not touched."""
    runs: list[str] = []

    def watched(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        runs.append(clip.name)
        if len(runs) == 1:
            raise TrainingError("not yet")
        return baselines.BASELINES["copy"].propagate(clip, video, seeds, run)

    add_system(monkeypatch, "watched", watched)
    out = tmp_path / "out.json"
    options = ["--protocol", "B", "--k", "1", "--sets", "otb", "--baselines", "watched", "--out", str(out), "--resume"]
    assert command.invoke(cli.app, options).exit_code == 1
    assert command.invoke(cli.app, options).exit_code == 0
    assert command.invoke(cli.app, options).exit_code == 0
    assert len(runs) == 2
    before = out.read_text()
    out.write_text(before.replace(Benchmark({}).commit, "0123abc"))
    done = command.invoke(cli.app, options)
    assert done.exit_code == 2
    assert "0123abc" in done.output
    assert "0123abc" in out.read_text()


def test_parts_make_the_whole(command: CliRunner, tmp_path: Path) -> None:
    """Two processes share the work without overlap; merged, the rows are those of one, and so are the tables."""
    options = ["--protocol", "B", "--k", "1,3", "--sets", "otb", "--baselines", "copy,linear"]
    for part in ("1/2", "2/2"):
        out = str(tmp_path / f"{part[0]}.json")
        assert command.invoke(cli.app, [*options, "--part", part, "--out", out]).exit_code == 0
    halves = [Benchmark.read(tmp_path / f"{number}.json") for number in (1, 2)]
    assert [len(half.rows) for half in halves] == [2, 2]
    merged = ["--merge", str(tmp_path / "1.json"), str(tmp_path / "2.json"), "--out", str(tmp_path / "all.json")]
    assert command.invoke(cli.app, [*merged, "--markdown", str(tmp_path / "all.md")]).exit_code == 0
    both = Benchmark.read(tmp_path / "all.json")
    assert both.complete
    assert {row.key for row in both.rows} == {row.key for half in halves for row in half.rows}
    assert "| copy of the nearest seed |" in (tmp_path / "all.md").read_text()


def test_a_result_counts_before_a_failure(tmp_path: Path) -> None:
    """Merging a run that failed and one that did not keeps the one with a result, whichever is newer."""

    def row(error: str) -> Row:
        return Row(Protocol.BOXES, "otb", "clip", "copy", 1, (0,), 10, {"iou": 0.5}, {"total": 1.0}, error=error)

    older, newer = tmp_path / "a.json", tmp_path / "b.json"
    Benchmark({}, [row("")], start="2026-01-01T00:00:00+00:00").write(older)
    Benchmark({}, [row("no")], start="2026-01-02T00:00:00+00:00").write(newer)
    assert [merged.error for merged in Benchmark.merge([older, newer]).rows] == [""]


def test_the_rest_is_estimated_by_frames(small_data: Path) -> None:
    """Ten frames in five seconds: twelve frames take six, and a system that was never run is taken to be alike."""
    (clip,) = load_clips(small_data, ["otb"])
    remaining = Remaining([Row(Protocol.BOXES, "otb", "clip", "copy", 1, (0,), 10, {}, {"total": 5.0})])
    jobs = [Job(Protocol.BOXES, clip, baselines.BASELINES[name], 3) for name in ("copy", "linear")]
    assert remaining.seconds(jobs[:1]) == pytest.approx(6)
    assert remaining.seconds(jobs) == pytest.approx(12)
    assert Remaining().seconds(jobs) == 0


def test_calibration_is_a_summary_of_the_other_runs(small_data: Path) -> None:
    """G makes no rows of its own; asked for alone, it makes those that it sums up, but no others."""
    clips = load_clips(small_data, ["otb", "mot", "vocalfolds"])
    jobs = plan([Protocol.CALIBRATION], clips, [baselines.BASELINES["copy"]], [1])
    assert [job.protocol for job in jobs] == [Protocol.BOXES, Protocol.MANY_OBJECTS, Protocol.REGIONS]


def test_strategies_that_are_the_same_are_run_once(small_data: Path) -> None:
    """Interpolation suggests nothing: of suggested and even the first is run; the library plays all."""
    clips = load_clips(small_data, ["otb"])
    strategies = [Strategy.SUGGESTED, Strategy.RANDOM, Strategy.EVEN]
    jobs = plan(
        [Protocol.ANNOTATION_COST],
        clips,
        [baselines.BASELINES["linear"], baselines.BASELINES["default"]],
        [1],
        strategies,
    )
    assert sum(job.system.name == "linear" for job in jobs) == 2
    assert sum(job.system.name == "default" for job in jobs) == 3


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--protocol", "Z"], "'Z' is not a valid Protocol"),
        (["--sets", "imagenet"], "imagenet"),
        (["--sequences", "nobody"], "nobody"),
        (["--baselines", "sam2"], "sam2"),
        (["--k", "many"], "many"),
        (["--part", "3/2"], "3/2"),
        (["--resume"], "out"),
        (["--merge"], "files"),
        (["--merge", "nowhere.json"], "nowhere.json"),
        (["stray.json"], "files"),
    ],
)
def test_wrong_arguments_are_named(command: CliRunner, options: list[str], complaint: str) -> None:
    """Exit code 2 and the word that was wrong."""
    done = command.invoke(cli.app, options)
    assert done.exit_code == 2
    assert complaint in done.output


def test_quick_mode_compares_with_its_baseline(
    command: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes one, agrees with it, and fails once a score has fallen."""
    for name, value in {"SETS": ("otb",), "SEQUENCES": (), "SYSTEMS": ("copy",)}.items():
        monkeypatch.setattr(regression_gate, name, value)
    monkeypatch.setattr(regression_gate, "REGRESSION_BASELINE", tmp_path / "baseline.json")
    assert command.invoke(cli.app, ["--quick", "--update-baseline"]).exit_code == 0
    (key,) = regression_gate.read_baseline()
    assert command.invoke(cli.app, ["--quick"]).exit_code == 0
    regression_gate.write_baseline({key: 0.99})
    done = command.invoke(cli.app, ["--quick"])
    assert done.exit_code == 1
    assert "baseline 0.990" in done.output


def test_margins_of_the_comparison() -> None:
    """A trained system may fall by .03 and rise at will; a baseline may do neither; nothing may be missing."""
    assert regression_gate.compare({"a default": 0.78, "a copy": 0.4}, {"a default": 0.8, "a copy": 0.4}) == []
    assert regression_gate.compare({"a default": 0.99}, {"a default": 0.8}) == []
    assert len(regression_gate.compare({"a default": 0.76, "a copy": 0.41}, {"a default": 0.8, "a copy": 0.4})) == 2
    assert len(regression_gate.compare({"a copy": 0.4}, {"b copy": 0.4})) == 2


def test_the_committed_baseline_covers_the_quick_mode() -> None:
    """Every sequence and system of the quick mode has a score in it."""
    keys = regression_gate.read_baseline()
    for name in regression_gate.SEQUENCES:
        for system in ("copy", "linear"):
            assert any(f"/{name} " in key and key.endswith(f" {system}") for key in keys)
