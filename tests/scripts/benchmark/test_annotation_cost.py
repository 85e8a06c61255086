"""Protocol F on a real label session, with an encoder that costs nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from micromodels.correction.session import LabelSession
from micromodels.encoding import encoded_video
from micromodels.recipes import base
from micromodels.types import Label
from micromodels.video import open_video
from scripts.benchmark.annotation_cost import Strategy, run_annotation_cost
from scripts.benchmark.baselines import BASELINES
from scripts.benchmark.datasets import load_clips
from scripts.benchmark.simulated_reviewers import FirstLabels, RetrainPolicy
from tests.micromodels.doubles import using_encoder


@pytest.mark.parametrize("strategy", [Strategy.SUGGESTED, Strategy.ORACLE])
def test_the_library_is_corrected_in_a_session(
    small_data: Path, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn is what the session was corrected with; what was looked at and right is settled; times are told."""
    monkeypatch.setattr(encoded_video, "work_size", lambda height_px, width_px: (64, 64))
    monkeypatch.setattr(base, "TrainSettings", partial(base.TrainSettings, effort=0.02))
    corrected: list[int] = []
    settled: list[int] = []
    correct, settle = LabelSession.correct, LabelSession.settle

    def watched_correct(self: LabelSession, corrections: list[Label]) -> object:
        corrected.append(corrections[0].frame)
        return correct(self, corrections)

    def watched_settle(self: LabelSession, keys: list[object]) -> None:
        settled.extend(key.frame for key in keys)  # type: ignore[attr-defined]
        settle(self, keys)  # type: ignore[arg-type]

    monkeypatch.setattr(LabelSession, "correct", watched_correct)
    monkeypatch.setattr(LabelSession, "settle", watched_settle)
    (clip,) = load_clips(small_data, ["davis2016"])
    with using_encoder(), open_video(clip.source) as video, FirstLabels() as first:
        row = run_annotation_cost(clip, video, BASELINES["default"], strategy, first).row
    assert list(row.seed_frames) == [0, *corrected]
    assert not set(settled) & set(corrected)
    assert row.scores["looks"] * row.frame_count == pytest.approx(len(corrected) + len(settled))
    assert row.curve[-1][1] == 1 or row.curve[-1][0] >= 0.5
    assert row.system == f"default+{strategy}"
    if corrected:
        assert row.scores["correction_seconds"] <= row.scores["slowest_correction_seconds"]


def test_a_reviewer_trains_again_as_often_as_a_server() -> None:
    """After so many corrections, if a quarter of what was drawn is unseen; one that lost is tried again later."""
    pace = RetrainPolicy(2)
    due = []
    for drawn in range(2, 20):
        if pace.is_due_after_correction():
            due.append(drawn)
            pace.tried(took_over=drawn != 5)
    assert due == [3, 5, 7, 10, 14, 19]
    never = RetrainPolicy(0)
    assert not any(never.is_due_after_correction() for _ in range(50))
