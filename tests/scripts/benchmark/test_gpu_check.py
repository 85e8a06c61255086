"""``scripts/gpu_check``: runs without a GPU, and notices a device whose answers differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from micromodels.errors import TrainingError
from micromodels.recipes.base import TrainSettings
from scripts.benchmark import gpu_check
from scripts.benchmark.gpu_check import Clip, Measurement, disagreements, mean_iou, synthetic_clip

SMALL = ["--frames", "5", "--height", "32", "--width", "160", "--effort", "0.02", "--encoder", "lite0"]


@pytest.fixture
def cpu() -> Measurement:
    """What a CPU might have measured."""
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 20, 30), bool)
    masks[:, 5:15, 5:20] = True
    features = [rng.normal(size=(3, 8, 8)).astype(np.float16), rng.normal(size=(5, 4, 4)).astype(np.float16)]
    return Measurement("cpu", "2 threads", features, masks, masks, 0.9, 100.0, 50.0, 20.0)


@pytest.mark.parametrize("recipe", ["head", "finetune"])
def test_the_check_runs_without_a_gpu(monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    """It says that there is none, prints the numbers of the CPU, and that is no failure."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(gpu_check.app, [*SMALL, "--recipe", recipe], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert "no CUDA device" in result.output
    for row in ("encoding, ms per frame", "training, ms per step", "masks by the same weights"):
        assert row in result.output
    assert "cuda" not in result.output


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, cpu: Measurement, gpu: Measurement) -> tuple[int, str]:
    """The command with a GPU that measures what is given."""

    def measured(device: str, clip: Clip, settings: TrainSettings, reference: Path) -> Measurement:
        return {"cpu": cpu, "cuda": gpu}[device]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "_runs_onnx_on_cuda", lambda: True)
    monkeypatch.setattr(gpu_check, "measure", measured)
    result = CliRunner().invoke(gpu_check.app, SMALL, env={"COLUMNS": "160"})
    return result.exit_code, result.output


def test_devices_that_agree_pass(monkeypatch: pytest.MonkeyPatch, cpu: Measurement) -> None:
    """Features that differ by rounding and nearly equal masks are agreement; the speed is shown as a factor."""
    rounded = [maps * np.float16(1.004) for maps in cpu.features]
    masks = cpu.reference_masks.copy()
    masks[0, 5, 5] = False
    gpu = replace(cpu, device="cuda", name="a GPU", features=rounded, reference_masks=masks, encode_ms=5.0)
    code, output = on_a_gpu(monkeypatch, cpu, gpu)
    assert code == 0, output
    assert "agree" in output
    assert "cuda (a GPU)" in output
    assert "5.0 (20.0 x)" in output


@pytest.mark.parametrize("what", ["features", "no number", "masks", "training"])
def test_devices_that_differ_fail(monkeypatch: pytest.MonkeyPatch, cpu: Measurement, what: str) -> None:
    """Other features, other masks by the same weights, worse training: exit code 1 and a line that says which."""
    noise = [maps + np.float16(0.5) for maps in cpu.features]
    nans = [np.full_like(maps, np.nan) for maps in cpu.features]
    gpu = {
        "features": replace(cpu, device="cuda", features=noise),
        "no number": replace(cpu, device="cuda", features=nans),
        "masks": replace(cpu, device="cuda", reference_masks=np.roll(cpu.reference_masks, 3, axis=2)),
        "training": replace(cpu, device="cuda", own_iou=0.5),
    }[what]
    code, output = on_a_gpu(monkeypatch, cpu, gpu)
    assert code == 1
    assert output.count("failed: cuda") == 1
    assert ("features" if what == "no number" else what) in output.split("failed:")[1]


def test_a_fall_back_of_the_graph_runtime_fails(monkeypatch: pytest.MonkeyPatch, cpu: Measurement) -> None:
    """A GPU that ONNX Runtime silently leaves alone is not a pass."""
    monkeypatch.setattr(gpu_check, "_runs_onnx_on_cuda", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "measure", lambda device, *rest: replace(cpu, device=device))
    result = CliRunner().invoke(gpu_check.app, SMALL)
    assert result.exit_code == 1
    assert "ONNX Runtime" in result.output


def test_a_device_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the library ends the check with its message, not with a trace."""

    def broken(*arguments: object) -> Measurement:
        raise TrainingError("no such luck")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "measure", broken)
    result = CliRunner().invoke(gpu_check.app, SMALL)
    assert result.exit_code == 1
    assert "no such luck" in result.output


def test_a_device_agrees_with_itself(cpu: Measurement) -> None:
    """The measures of difference are zero and one where nothing differs."""
    assert gpu_check.feature_errors(cpu.features, cpu.features) == (0.0, 0.0)
    assert mean_iou(cpu.own_masks, cpu.own_masks) == 1.0
    assert disagreements(cpu, replace(cpu, device="cuda")) == []


def test_the_clip_shows_the_disc_where_its_masks_say() -> None:
    """Every frame has the disc inside, as large as on every other, and it crosses the picture."""
    clip = synthetic_clip(6, 48, 96)
    areas = [int(mask.sum()) for mask in clip.truth]
    assert max(areas) - min(areas) < 0.1 * max(areas)
    columns = [float(np.nonzero(mask)[1].mean()) for mask in clip.truth]
    assert columns == sorted(columns)
    assert columns[0] < 20
    assert columns[-1] > 76
    assert [index for index, _ in clip.frames(2, 5)] == [2, 3, 4]
    assert [seed.frame for seed in clip.seeds()] == [0, 2, 5]
