"""``scripts/calibrate``: error models fitted to labels, judged on sequences that they have not seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from micromodels.errors import FailedPrecondition
from micromodels.propagation.confidence import BOXES, ErrorModel
from scripts.benchmark import calibrate
from scripts.benchmark.calibrate import SignedLabel, fitted, left_out

TRUE = ErrorModel(0.7, -1.5, {"strangeness": 0.5, "discord": 0.3, "change": 1.0, "one_sided": 0.2}, 0.25)


def labels(sequence: str, count: int, *, model: ErrorModel = TRUE, seed: int = 0) -> list[SignedLabel]:
    """Labels whose errors follow a model."""
    random = np.random.default_rng(seed)
    made = []
    for frame in range(count):
        signs = {name: float(random.uniform(-1, 1)) for name in model.weights}
        predicted = model.constant + sum(weight * signs[name] for name, weight in model.weights.items())
        iou = 1 - float(np.exp(predicted + random.normal(0, model.deviation)))
        made.append(SignedLabel("otb", sequence, 1, "box", frame, "1", signs, max(0.0, iou)))
    return made


def test_the_model_that_made_the_errors_is_found() -> None:
    """Its constant, weights and deviation, from a few hundred labels."""
    found = fitted(labels("one", 400), BOXES)
    assert found.constant == pytest.approx(TRUE.constant, abs=0.05)
    assert dict(found.weights) == pytest.approx(dict(TRUE.weights), abs=0.05)
    assert found.deviation == pytest.approx(TRUE.deviation, abs=0.03)
    assert found.accepted_iou == BOXES.accepted_iou


def test_long_clips_do_not_rule() -> None:
    """A run counts as the root of its labels: 400 of one and 4 x 100 of others are two to four."""
    worse = ErrorModel(0.7, -0.5, dict(TRUE.weights), 0.25)
    mixed = labels("long", 400, model=worse)
    for index in range(4):
        mixed += labels(f"short{index}", 100, seed=index + 1)
    assert fitted(mixed, BOXES).constant == pytest.approx((2 * -0.5 + 4 * -1.5) / 6, abs=0.08)


def test_a_sequence_is_judged_by_the_others() -> None:
    """One clip is far worse than its signs say; weights that have not seen it are surer of it than those that have."""
    worse = ErrorModel(0.7, -0.2, dict(TRUE.weights), 0.25)
    odd = labels("odd", 100, model=worse, seed=9)
    everything = [*labels("one", 100), *labels("two", 100, seed=1), *odd]
    unseen = left_out(everything, BOXES)[-100:]
    seen = np.array([fitted(everything, BOXES).probability(label.signs) for label in odd])
    assert unseen.mean() > seen.mean() + 0.05
    with pytest.raises(FailedPrecondition, match="one sequence only"):
        left_out(odd, BOXES)


def write(path: Path, made: Sequence[SignedLabel]) -> Path:
    path.write_text("".join(json.dumps(asdict(label)) + "\n" for label in made), encoding="utf-8")
    return path


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "otb").mkdir(parents=True)
    monkeypatch.setenv("MICROMODELS_REAL_DATA", str(tmp_path / "data"))


def test_a_file_is_summed_up_by_set(no_data: None, tmp_path: Path) -> None:
    """A line for each set and number of seeds, both ways of being sure, and the weights of all."""
    path = write(tmp_path / "signs.jsonl", [*labels("one", 60), *labels("two", 60, seed=1)])
    result = CliRunner().invoke(calibrate.app, [str(path), "--sets", "otb"], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("│ otb")]
    assert "120" in line
    assert "fitted to all: ErrorModel(accepted_iou=0.7, constant=-1.5" in result.output


def test_other_files_are_refused(no_data: None, tmp_path: Path) -> None:
    """It is said which."""
    path = tmp_path / "signs.jsonl"
    path.write_text('{"set": 1}\n', encoding="utf-8")
    result = CliRunner().invoke(calibrate.app, [str(path), "--sets", "otb"], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert "not a file of scripts/calibrate" in result.output
