"""Training leaves its state behind and goes on from it; what is damaged or of another training is passed over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from micromodels.errors import Cancelled
from micromodels.recipes.base import TrainSettings, train
from micromodels.runtime.run import Event, Run, StopRequest, TrainingProgress
from micromodels.training.checkpoints import Checkpoints
from micromodels.training.trainer import Clock, HeadTrainer
from tests.micromodels.doubles import MemoryVideo, Recorder, scene, seed
from tests.micromodels.training.test_trainer import new_head, samples

STEPS = 40


class Stopper:
    """Cancels at a step, as a kill would, and counts the steps."""

    def __init__(self, at: int = 1 << 30) -> None:
        self.at = at
        self.steps: list[int] = []
        self.run = Run(on_event=self._hear, should_stop=self._judge)

    def _hear(self, event: Event) -> None:
        if isinstance(event, TrainingProgress):
            self.steps.append(event.step)

    def _judge(self) -> StopRequest:
        return StopRequest.CANCEL if len(self.steps) >= self.at else StopRequest.NONE


def fit(folder: Path, run: Run, identity: str = "a") -> torch.nn.Module:
    """Two fits of one trainer, checkpoints at every step."""
    checkpoints = Checkpoints(folder, identity, every_seconds=0.0)
    trainer = HeadTrainer(new_head(), checkpoints=checkpoints, outside={"trials": [[0.5, 1.0]]})
    clock = Clock(0, 1, 2 * STEPS)
    trainer.fit(samples(), STEPS, clock, run)
    trainer.fit(samples(), STEPS, clock, run, rate_scale=0.5)
    return trainer.head


@pytest.mark.parametrize("interrupted", [10, STEPS + 10])
def test_f51_training_goes_on_from_its_checkpoint(tmp_path: Path, interrupted: int) -> None:
    """Interrupted in the first or the second fit, the next try does the steps that are missing, and no other."""
    first, second = Stopper(interrupted), Stopper()
    with pytest.raises(Cancelled):
        fit(tmp_path, first.run)
    kept = Checkpoints(tmp_path, "a").load()
    assert kept is not None
    assert kept.state["outside"] == {"trials": [[0.5, 1.0]]}
    head = fit(tmp_path, second.run)
    assert second.steps == list(range(interrupted, 2 * STEPS))
    plain = new_head().state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in head.state_dict().values())
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in head.state_dict().items())


def test_f61_a_training_that_is_stopped_keeps_its_last_step(tmp_path: Path) -> None:
    """However long ago the checkpoint before it was: a server that is told to end loses nothing of it."""
    trainer = HeadTrainer(new_head(), checkpoints=Checkpoints(tmp_path, "a", every_seconds=1e9))
    with pytest.raises(Cancelled):
        trainer.fit(samples(), STEPS, Clock(0, 1, STEPS), Stopper(10).run)
    kept = Checkpoints(tmp_path, "a").load()
    assert kept is not None
    assert kept.state["step"] == 10


def test_a_checkpoint_brings_back_every_number(tmp_path: Path) -> None:
    """Weights, the optimizer's moments and the rate are what they were."""
    with pytest.raises(Cancelled):
        fit(tmp_path, Stopper(12).run)
    saved = Checkpoints(tmp_path, "a").load()
    assert saved is not None
    trainer = HeadTrainer(new_head(seed=5), checkpoints=Checkpoints(tmp_path, "a"))
    optimizer = torch.optim.AdamW(trainer.head.parameters(), lr=8e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=STEPS + 1, pct_start=0.15)
    assert trainer._resume(0, STEPS, optimizer, schedule, Clock(0, 1, STEPS)) == 12
    for name, tensor in trainer.head.state_dict().items():
        assert torch.equal(tensor, saved.tensors[f"head.{name}"])
    for index, moments in optimizer.state_dict()["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, saved.tensors[f"moment.{index}.{name}"])
    other = torch.optim.AdamW(new_head().parameters(), lr=8e-3)
    expected = torch.optim.lr_scheduler.OneCycleLR(other, 8e-3, total_steps=STEPS + 1, pct_start=0.15)
    for _ in range(12):
        other.step()
        expected.step()
    assert schedule.get_last_lr() == pytest.approx(expected.get_last_lr())


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_f59_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    """The one before it is used; with none left, training begins again."""
    checkpoints = Checkpoints(tmp_path, "a")
    for number in range(3):
        checkpoints.save({"x": torch.full((4,), float(number))}, {"number": number})
    older, newer = sorted(tmp_path.iterdir())
    data = newer.read_bytes()
    spoilt = {"cut": data[: len(data) // 2], "flipped": data[:-3] + b"???", "empty": b""}[damage]
    newer.write_bytes(spoilt)
    kept = checkpoints.load()
    assert kept is not None
    assert (kept.state, kept.tensors["x"].tolist()) == ({"number": 1}, [1.0] * 4)
    older.write_bytes(b"nonsense")
    assert checkpoints.load() is None
    stopper = Stopper()
    fit(tmp_path, stopper.run)
    assert stopper.steps == list(range(2 * STEPS))


def test_another_training_does_not_use_it(tmp_path: Path) -> None:
    """Other seeds, settings or sizes: other weights."""
    with pytest.raises(Cancelled):
        fit(tmp_path, Stopper(10).run)
    stopper = Stopper()
    fit(tmp_path, stopper.run, identity="b")
    assert stopper.steps[0] == 0


def test_the_recipe_resumes(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that were done are not done again, and the model says what it would have said."""
    init = Checkpoints.__init__
    monkeypatch.setattr(Checkpoints, "__init__", lambda self, folder, identity: init(self, folder, identity, 0.0))
    video, seeds = MemoryVideo(scene(10)), [seed(1), seed(5), seed(8)]
    settings = TrainSettings(effort=0.1, experiments=2)
    whole = Stopper()
    train(video, seeds, settings, run=whole.run)
    stopper = Stopper(len(whole.steps) - 5)
    with pytest.raises(Cancelled):
        train(video, seeds, settings, run=replace(stopper.run, checkpoint_dir=tmp_path))
    rest = Stopper()
    model = train(video, seeds, settings, run=replace(rest.run, checkpoint_dir=tmp_path))
    assert len(rest.steps) <= 5
    assert "leave_one_seed_out" in model.manifest.metrics


def test_a_disk_that_is_full_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is not written, a warning says so, and the steps are done."""

    def full(self: Checkpoints, path: Path, body: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "_write", full)
    recorder = Recorder()
    trainer = HeadTrainer(new_head(), checkpoints=Checkpoints(tmp_path, "a", every_seconds=0.0))
    trainer.fit(samples(), 5, Clock(0, 1, 5), recorder.run)
    assert sum(isinstance(event, TrainingProgress) for event in recorder.events) == 5
    assert not list(tmp_path.iterdir())
