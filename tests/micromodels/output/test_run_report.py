"""The report of a run."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import micromodels
from micromodels.output.run_report import RunReport, peak_memory_bytes, versions
from micromodels.runtime.run import ExperimentFinished, Stage, StageFinished, TrainingProgress, Warned
from micromodels.types import Box, FrameLabel, FrameResult, Label, Provenance, ProvenanceKind, State

MODEL = Provenance(ProvenanceKind.MODEL, "m")
BOX = Box(0, 0, 1, 1)
TABLE: Any = SimpleNamespace(
    frame_count=80,
    width_px=854,
    height_px=480,
    content_hash="ab",
    codec="h264",
    container="mp4",
    decoder="av 18",
    warnings=("times are uneven",),
    pts_seconds=lambda index: Fraction(index, 25),
)


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        """The seconds."""
        return self.now


def test_a_report_says_what_the_run_took_and_gave(tmp_path: Path) -> None:
    """Sums of stages, first and last label, experiments, hand-drawn share, counts, warnings and versions."""
    clock = Clock()
    report = RunReport(clock)
    report.describe_video("clip.mp4", TABLE)
    seeds = [Label(f, "1", "dog", State.VISIBLE, BOX) for f in (8, 24, 40, 56)] + [FrameLabel(8, "dog_in_view", True)]
    report.describe_seeds(seeds, TABLE.frame_count)
    report.describe_model({"recipe": "head"})
    report.describe_device("cpu")
    for event in [
        StageFinished(Stage.DECODE, 1.0),
        StageFinished(Stage.TRAIN, 4.0),
        StageFinished(Stage.DECODE, 0.5),
        TrainingProgress(0, 1, 1, 2, 0.5, 1.0),
        ExperimentFinished(0, {"views": "36"}, 0.91, True, 4.0),
        Warned("slow disk"),
        Warned("slow disk"),
    ]:
        report.on_event(event)

    def results() -> Any:
        clock.now = 110.0
        yield FrameResult(0, (Label(0, "1", "dog", State.VISIBLE, BOX, 0.9, MODEL),))
        clock.now = 130.0
        yield FrameResult(8, (seeds[0],), (seeds[-1],))  # type: ignore[arg-type]

    assert [result.frame for result in report.watch(results())] == [0, 8]
    clock.now = 131.0
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["seconds"]["total"] == 31.0
    assert (written["seconds"]["first_label"], written["seconds"]["last_label"]) == (10.0, 30.0)
    assert written["seconds"]["stages"] == dict.fromkeys(Stage, 0.0) | {"decode": 1.5, "train": 4.0}
    assert written["experiments"] == [
        {"experiment": 0, "settings": {"views": "36"}, "score": 0.91, "kept": True, "seconds": 4.0}
    ]
    assert written["seeds"] == {
        "labels": 5,
        "tracks": 1,
        "frames": [8, 24, 40, 56],
        "share_of_frames_drawn_by_hand": 0.05,
    }
    assert written["frames"] == {"total": 80, "labeled": 2}
    assert written["labels"] == {"by_state": {"visible": 2}, "by_provenance": {"model": 1, "human": 2}}
    assert written["warnings"] == ["video: times are uneven", "slow disk"]
    assert written["video"]["seconds"] == pytest.approx(79 / 25)
    assert written["device"]["used"] == "cpu"
    assert written["model"] == {"recipe": "head"}
    assert written["stopped_by_user"] is False
    assert written["memory"]["peak_rss_bytes"] > 10 << 20


def test_a_run_without_labels_reports_none() -> None:
    """A run stopped at once has no first label, and says that it was stopped."""
    report = RunReport()
    report.stopped()
    report.describe_seeds([], 0)
    written = report.to_dict()
    assert written["seconds"]["first_label"] is None
    assert written["stopped_by_user"] is True
    assert written["frames"] == {"total": 0, "labeled": 0}


def test_versions_and_memory_are_those_of_this_process() -> None:
    """Versions come without importing anything; memory is in bytes."""
    assert versions()["micromodels"] == micromodels.__version__
    assert "numpy" in versions()
    own, child = peak_memory_bytes()
    assert own > 10 << 20
    assert child >= 0
