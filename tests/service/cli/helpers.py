"""A fast stand-in for training, and short ways to give a command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner, Result

from micromodels.errors import Cancelled, ModelError
from micromodels.recipes.base import TrainSettings
from micromodels.runtime.run import (
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
from micromodels.types import Box, FrameResult, Label, Provenance, ProvenanceKind, State
from micromodels.video import Video
from service.cli import app

FRAMES = 24
MODEL = Provenance(ProvenanceKind.MODEL, "stand-in")


class StandInManifest:
    """A manifest of next to nothing."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"recipe": "stand-in"}


class StandInModel:
    """Boxes that move as the square of `tiny_clip` does; anchors pass through."""

    manifest = StandInManifest()

    def save(self, folder: Path) -> None:
        """A folder with a manifest."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps(self.manifest.to_dict()))

    def propagate(
        self, video: Video, anchors: list[Any], *, frames: range | None = None, run: Run
    ) -> Iterator[FrameResult]:
        """A box a frame; asks whether to stop before each."""
        assert not run.cache_dir or run.cache_dir == StandIn.asked["cache"], "what was encoded is to be used again"
        by_frame = {anchor.frame: anchor for anchor in anchors}
        count = video.table.frame_count
        for index, _ in video.frames():
            StandIn.at_frame(index)
            if run.should_stop() is StopRequest.CANCEL:
                raise Cancelled("as asked")
            box = Box(16 + 2 * index, 32, 48 + 2 * index, 64)
            label = Label(index, "1", "square", State.VISIBLE, box, 0.9, MODEL)
            run.on_event(PropagationProgress(index + 1, count, float(count - index)))
            yield FrameResult(index, (by_frame.get(index, label),))


class StandIn:
    """Stands for training and loading in `micromodels.recipes.base`; tests change what it does."""

    asked: dict[str, Any]
    error: Exception | None = None

    @staticmethod
    def at_frame(index: int) -> None:
        """Called before each frame of propagation."""

    @staticmethod
    def at_step(step: int) -> None:
        """Called before each step of training."""

    @staticmethod
    def train(video: Video, seeds: list[Any], settings: TrainSettings, *, run: Run) -> StandInModel:
        """Ten steps with all events there are."""
        StandIn.asked = {"settings": settings, "seeds": seeds, "device": run.device, "cache": run.cache_dir}
        run.on_event(StageFinished(Stage.ENCODE, 0.5))
        run.on_event(Warned("a warning [not markup]"))
        for step in range(10):
            StandIn.at_step(step)
            run.on_event(TrainingProgress(0, settings.experiments, step + 1, 10, 1 / (step + 1), 9.0 - step))
            image = np.full((48, 64, 3), 20 * step, np.uint8)
            run.on_event(FlipBookPicture(0, step, 3, image))
            if run.should_stop() is StopRequest.CANCEL:
                raise Cancelled
            if run.should_stop() is StopRequest.FINISH_EARLY:
                break
        if StandIn.error:
            raise StandIn.error
        run.on_event(ExperimentFinished(0, {"views": "36"}, 0.912, True, 1.5))
        return StandInModel()

    @staticmethod
    def load_model(folder: Path) -> StandInModel:
        """Refuses what has no manifest."""
        if not (folder / "manifest.json").exists():
            raise ModelError(f"{folder} is not a model")
        return StandInModel()


def micromodels(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "TERM": "dumb"})


def label_clip(clip: Path, out: Path, *more: object) -> Result:
    """Label the tiny clip."""
    return micromodels("label", clip / "video.mp4", "--seeds", clip / "seeds.jsonl", "--out", out, *more)
