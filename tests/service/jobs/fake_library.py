"""Stands in for the library in workers: a "video" is a JSON file that says how the work is to go.

Keys: ``frames``; ``seconds_per_frame``; ``steps`` and ``seconds_per_step`` of training; ``die``: a list of points
(``"train"``, ``"probe"`` or ``"frame N"``), at each of which the process is killed once; ``hang``: the same, but it
stops doing anything; ``fail``: name of an error that training raises; ``large``: an effort above which training runs
out of memory; ``eats``: MiB that training takes for each unit of effort, and ``room``: with more of them it takes no
end; ``no_room``: how many times training finds the disk full; ``lose_device``: training on any device but the CPU loses
it; ``deaf``: ignores orders; ``worse``: retraining gives a model that does worse.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import sys
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from micromodels import errors
from micromodels.labels.keys import LabelChange, LabelKey
from micromodels.recipes import base
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
from micromodels.types import AnyLabel, Box, FrameResult, Label, Provenance, ProvenanceKind, State


@dataclass
class FrameTable:
    data: dict[str, Any]

    @property
    def frame_count(self) -> int:
        return int(self.data["frame_count"])

    @property
    def width_px(self) -> int:
        return int(self.data["width_px"])

    @property
    def height_px(self) -> int:
        return int(self.data["height_px"])

    @property
    def container(self) -> str:
        return "avi"

    @property
    def content_hash(self) -> str:
        return str(self.data["content_hash"])

    @property
    def pts(self) -> Any:
        return np.arange(self.frame_count)

    @property
    def time_base(self) -> Fraction:
        return Fraction(1, 25)

    def to_dict(self) -> dict[str, Any]:
        return self.data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FrameTable:
        return cls(data)


@dataclass
class Video:
    path: Path
    script: dict[str, Any]
    table: FrameTable

    def once(self, point: str) -> None:
        """Die or hang here if the script says so and it has not happened before."""
        marker = Path(f"{self.path}.{point.replace(' ', '')}")
        if point in self.script.get("die", []) + self.script.get("hang", []) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL if point in self.script.get("die", []) else signal.SIGSTOP)
        if point in self.script.get("always_die", []):
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def open_video(path: str, *, table: FrameTable | None = None) -> Iterator[Video]:
    try:
        script = json.loads(Path(path).read_bytes())
    except ValueError:
        raise errors.VideoError("not a video") from None
    data = {"frame_count": script["frames"], "width_px": 100, "height_px": 80, "content_hash": "0" * 64}
    video = Video(Path(path), script, table or FrameTable(data))
    if table is None:
        video.once("probe")
    yield video


@dataclass
class Manifest:
    metrics: dict[str, float] = field(default_factory=lambda: {"score": 0.5})

    def to_dict(self) -> dict[str, Any]:
        return {"recipe": "head", "metrics": self.metrics}


def _stop(video: Video, run: Run) -> bool:
    order = StopRequest.NONE if video.script.get("deaf") else run.should_stop()
    if order is StopRequest.CANCEL:
        if run.checkpoint_dir is not None:
            run.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            (run.checkpoint_dir / "kept").touch()
        raise errors.Cancelled("stopped")
    return order is StopRequest.FINISH_EARLY


class MicroModel:
    manifest = Manifest()

    def save(self, folder: Path) -> None:
        (folder / "heads").mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        (folder / "heads" / "0.safetensors").write_bytes(b"weights")

    def propagate(
        self, video: Video, anchors: Sequence[AnyLabel], *, frames: range | None = None, run: Run
    ) -> Iterator[FrameResult]:
        rest = frames or range(video.table.frame_count)
        held = {anchor.frame: anchor for anchor in anchors}
        for frame in rest:
            _stop(video, run)
            video.once(f"frame {frame}")
            time.sleep(video.script.get("seconds_per_frame", 0.0))
            made = Label(
                frame,
                "1",
                "thing",
                State.VISIBLE,
                Box(frame, 0, frame + 5, 5),
                0.9,
                Provenance(ProvenanceKind.MODEL, "fake"),
            )
            run.on_event(PropagationProgress(frame + 1 - rest.start, len(rest), 0.0))
            run.on_event(StageFinished(Stage.PREDICT, 0.125))
            run.on_event(StageFinished(Stage.TEMPORAL, 0.25))
            seed = held.get(frame)
            yield FrameResult(frame, (seed if isinstance(seed, Label) else made,))


def train(
    video: Video, seeds: Sequence[AnyLabel], settings: TrainSettings, *, ontology: object, run: Run
) -> MicroModel:
    assert seeds
    assert run.cache_dir is not None
    print("a library that prints")
    if name := video.script.get("fail"):
        raise getattr(errors, name)("as the script says")
    if settings.effort > video.script.get("large", 100.0):
        raise errors.OutOfMemory("no memory for this much")
    eaten = np.ones(int(video.script.get("eats", 0) * settings.effort) << 17)  # written to, so that it is there
    while video.script.get("eats", 0) * settings.effort > video.script.get("room", 1 << 40):
        time.sleep(0.01)  # until it is noticed
    del eaten
    if (number := len(list(video.path.parent.glob("*.noroom*")))) < video.script.get("no_room", 0):
        Path(f"{video.path}.noroom{number}").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    if video.script.get("lose_device") and run.device != "cpu":
        raise RuntimeError("CUDA error: unspecified launch failure")
    run.on_event(Warned("this is a fake"))
    steps = video.script.get("steps", 3)
    for step in range(steps):
        if _stop(video, run):
            break
        time.sleep(video.script.get("seconds_per_step", 0.0))
        run.on_event(TrainingProgress(0, 1, step, steps, 1.0 / (step + 1), 0.0))
    video.once("train")
    run.on_event(FlipBookPicture(0, steps, 0, np.zeros((8, 8, 3), np.uint8)))
    run.on_event(StageFinished(Stage.TRAIN, 0.5))
    run.on_event(StageFinished(Stage.TRAIN, 0.25))
    run.on_event(ExperimentFinished(0, {"lr": "1"}, 0.5, True, 0.1))
    return MicroModel()


def load_model(folder: Path) -> MicroModel:
    assert (folder / "heads" / "0.safetensors").read_bytes() == b"weights"
    return MicroModel()


@dataclass
class Retrained:
    model: MicroModel
    better: bool
    held_out: tuple[int, ...] = ()
    old_score: float = 0.5
    new_score: float = 0.75


class LabelSession:
    """A session that only retrains: every label that no person has drawn or settled gets a confidence of 0.99.

    The frames of settled labels are those that it says it has compared on.
    """

    def __init__(
        self,
        video: Video,
        model: MicroModel,
        labels: Iterable[AnyLabel],
        *,
        settled: Iterable[LabelKey],
        ontology: object,
        run: Run,
        earlier: Sequence[MicroModel],
    ) -> None:
        self.video, self.model, self.run = video, model, run
        self.labels = {LabelKey.of(label): label for label in labels}
        self.settled = frozenset(settled)

    def __enter__(self) -> LabelSession:
        return self

    def __exit__(self, *unused: object) -> None:
        return None

    def retrain(self, settings: TrainSettings) -> Retrained:
        anchors = [label for label in self.labels.values() if label.is_anchor]
        model = train(self.video, anchors, settings, ontology=None, run=self.run)
        return Retrained(model, not self.video.script.get("worse"), tuple(sorted(key.frame for key in self.settled)))

    def replace_model(self, retrained: Retrained) -> Iterator[LabelChange]:
        self.model = retrained.model
        for key, label in sorted(self.labels.items()):
            if not label.is_anchor and key not in self.settled:
                yield LabelChange(key, label, replace(label, confidence=0.99))


def _install(name: str, **contents: object) -> None:
    """Put a module in the place of ``micromodels.NAME``."""
    module = types.ModuleType(f"micromodels.{name}")
    vars(module).update(contents)
    sys.modules[module.__name__] = module
    parent, _, last = module.__name__.rpartition(".")
    setattr(importlib.import_module(parent), last, module)


_install("video", open_video=open_video, FrameTable=FrameTable)
base.train, base.load_model = train, load_model  # type: ignore[assignment]
_install("correction.session", LabelSession=LabelSession)
