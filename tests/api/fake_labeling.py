"""Stands in for ``micromodels.labeling`` in job children: quick, and obedient to what the seeds say.

The track of the first seed is a script: words ``slow`` (pauses at every step and frame), ``diverges`` and ``crashes``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import micromodels
from micromodels.errors import Cancelled, Diverged
from micromodels.events import (
    ExperimentFinished,
    FlipBookPicture,
    PropagationProgress,
    Run,
    Stage,
    StageFinished,
    StopRequest,
    TrainingProgress,
    Warned,
)
from micromodels.types import AnyLabel, FrameResult, Label, Provenance, ProvenanceKind

STEPS = 5
PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class TrainSettings:
    recipe: str = "auto"
    experiments: int = 1
    seed: int = 0
    effort: float = 1.0


class Manifest:
    def to_dict(self) -> dict[str, Any]:
        return {"recipe": "head", "metrics": {"leave_one_seed_out": 0.5}, "scores": [float("nan"), 1]}


def _stopped(run: Run) -> bool:
    order = run.should_stop()
    if order is StopRequest.CANCEL:
        raise Cancelled("stopped")
    return order is StopRequest.FINISH_EARLY


class MicroModel:
    manifest = Manifest()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        (folder / "head.safetensors").write_bytes(bytes(range(256)) * 8192)

    def propagate(
        self, video: Any, anchors: Sequence[AnyLabel], *, frames: range | None = None, run: Run
    ) -> Iterator[FrameResult]:
        frames = frames or range(video.table.frame_count)
        held = {anchor.frame: anchor for anchor in anchors if isinstance(anchor, Label)}
        pattern = next(iter(held.values()))
        made_by = Provenance(ProvenanceKind.MODEL, "fake@1")
        for frame in frames:
            _stopped(run)
            if "slow" in pattern.track:
                time.sleep(PAUSE_SECONDS)
            made = replace(pattern, frame=frame, confidence=0.9, provenance=made_by)
            run.on_event(PropagationProgress(frame + 1 - frames.start, len(frames), 0.0))
            yield FrameResult(frame, (held.get(frame, made),))


def train(video: Any, seeds: Sequence[AnyLabel], settings: TrainSettings, *, ontology: object, run: Run) -> MicroModel:
    first = next(seed for seed in seeds if isinstance(seed, Label))
    if "diverges" in first.track:
        raise Diverged("the loss became NaN at step 3")
    if "crashes" in first.track:
        os.kill(os.getpid(), signal.SIGKILL)
    run.on_event(Warned("this is a fake"))
    steps = 1000 if "slow" in first.track else STEPS
    for step in range(steps):
        if _stopped(run):
            break
        if "slow" in first.track:
            time.sleep(PAUSE_SECONDS)
        run.on_event(TrainingProgress(0, settings.experiments, step, steps, 1.0 / (step + 1), 0.5))
        run.on_event(FlipBookPicture(0, step, first.frame, np.full((24, 32, 3), 40 * (step % 6), np.uint8)))
    run.on_event(StageFinished(Stage.TRAIN, 0.25))
    run.on_event(ExperimentFinished(0, {"rate": "0.1"}, 0.5, True, 0.1))
    return MicroModel()


def load_model(folder: Path) -> MicroModel:
    assert (folder / "head.safetensors").stat().st_size == 256 * 8192
    return MicroModel()


_module = types.ModuleType("micromodels.labeling")
vars(_module).update(TrainSettings=TrainSettings, train=train, load_model=load_model, MicroModel=MicroModel)
sys.modules["micromodels.labeling"] = _module
micromodels.labeling = _module  # type: ignore[attr-defined]
