"""Stands in for training and label sessions in job children: quick, and obedient to what the seeds say.

The track of the first seed is a script: words ``slow`` (pauses at every step and frame), ``diverges`` and ``crashes``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import micromodels.correction
import micromodels.recipes
from micromodels.correction.consistency import Issue, IssueKind, SuspectedSwap
from micromodels.correction.frame_suggestions import ReasonKind, Suggestion
from micromodels.errors import Cancelled, Diverged, FailedPrecondition, InvalidInput
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
from micromodels.types import AnyLabel, FrameResult, Label, Provenance, ProvenanceKind

STEPS = 5
PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Manifest:
    version: str = "0"
    metrics: Any = None

    def to_dict(self) -> dict[str, Any]:
        return {"recipe": "head", "metrics": {"leave_one_seed_out": 0.5}, "scores": [float("nan"), 1]}


def _stopped(run: Run) -> bool:
    order = run.should_stop()
    if order is StopRequest.CANCEL:
        raise Cancelled("stopped")
    return order is StopRequest.FINISH_EARLY


class MicroModel:
    """Knows the frames that it has learned from since it was trained."""

    def __init__(self, learned: Sequence[int] = ()) -> None:
        self.learned = tuple(learned)
        self.manifest = Manifest(str(len(self.learned)), {})

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(self.learned))
        (folder / "head.safetensors").write_bytes(bytes(range(256)) * 8192)

    save_weights = save

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
    return MicroModel(json.loads((folder / "manifest.json").read_text()))


@dataclass(frozen=True)
class Retrained:
    model: MicroModel
    held_out: tuple[int, ...]
    old_score: float
    new_score: float

    @property
    def better(self) -> bool:
        return self.new_score > self.old_score


class LabelSession:
    """Frames between two anchors of a track look like the nearer one, surer with every correction learned from. Tracks
    are scripts here too: ``slow`` pauses before each change, ``crashes`` kills the process, ``refuses`` raises,
    ``worse`` trains to no avail, ``long`` trains until it is told to stop."""

    def __init__(
        self,
        video: Any,
        model: MicroModel,
        labels: Iterable[AnyLabel],
        *,
        settled: Any,
        ontology: Any,
        run: Run,
        earlier: Sequence[MicroModel],
    ) -> None:
        self.model, self.earlier, self.run = model, earlier, run
        self.frames = range(video.table.frame_count)
        self.labels = {LabelKey.of(label): label for label in labels}
        self.settled = set(settled)

    def __enter__(self) -> LabelSession:
        return self

    def __exit__(self, *unused: object) -> None:
        return None

    def prepare(self) -> None:
        return None

    def settle(self, keys: Iterable[LabelKey], *, looked_at: bool) -> None:
        self.settled |= set(keys)

    def unsettle(self, keys: Iterable[LabelKey]) -> None:
        self.settled -= set(keys)

    def adopt(self, changes: Iterable[LabelChange]) -> None:
        for change in changes:
            self._put(change.key, change.after)

    def correct(self, labels: Sequence[AnyLabel], removals: Sequence[LabelKey]) -> Iterator[LabelChange]:
        for label in labels:
            if label.is_anchor and "refuses" in LabelKey.of(label).name:
                raise InvalidInput("corrections", "refuses", "another track")
            yield self._put(LabelKey.of(label), label)
        for key in removals:
            yield self._put(key, None)
        if labels:
            self.model = MicroModel((*self.model.learned, *(label.frame for label in labels)))
        for key in [*map(LabelKey.of, labels), *removals]:
            yield from self._mend(key)

    def retrain(self, settings: TrainSettings) -> Retrained:
        anchors = {key.frame: key.name for key, label in self.labels.items() if label.is_anchor}
        if len(anchors) < 3:
            raise FailedPrecondition(f"{len(anchors)} frames; at least 3")
        script = " ".join(anchors.values())
        for step in range(10_000 if "long" in script else STEPS):
            if _stopped(self.run):
                break
            if "long" in script:
                time.sleep(PAUSE_SECONDS)
            self.run.on_event(TrainingProgress(0, 1, step, STEPS, 1.0 / (step + 1), 0.5))
        unseen = tuple(sorted(set(self.model.learned)))[-2:]
        return Retrained(MicroModel(), unseen, 0.5, 0.25 if "worse" in script else 0.75)

    def replace_model(self, retrained: Retrained) -> Iterator[LabelChange]:
        self.model = retrained.model
        made_by = Provenance(ProvenanceKind.MODEL, "fake@2")
        for key, label in sorted(self.labels.items()):
            if not label.is_anchor and key not in self.settled:
                yield self._put(key, replace(label, confidence=0.99, provenance=made_by))

    def _mend(self, key: LabelKey) -> Iterator[LabelChange]:
        fixed = [k.frame for k, x in self.labels.items() if k.name == key.name and (x.is_anchor or k in self.settled)]
        if not fixed:
            return
        first = max((f for f in fixed if f < key.frame), default=-1) + 1
        stop = min((f for f in fixed if f > key.frame), default=self.frames.stop)
        for frame in range(first, stop):
            if frame in fixed:
                continue
            if "slow" in key.name:
                time.sleep(PAUSE_SECONDS)
            if "crashes" in key.name and frame > key.frame:
                os.kill(os.getpid(), signal.SIGKILL)
            nearest = self.labels[replace(key, frame=min(fixed, key=lambda f: abs(f - frame)))]
            made_by = Provenance(ProvenanceKind.MODEL, "fake@1")
            confidence = 0.8 + 0.01 * len(self.model.learned)
            yield self._put(
                replace(key, frame=frame), replace(nearest, frame=frame, confidence=confidence, provenance=made_by)
            )

    def _put(self, key: LabelKey, label: AnyLabel | None) -> LabelChange:
        before = self.labels.pop(key, None)
        if label is not None:
            self.labels[key] = label
        return LabelChange(key, before, label)

    def suggest(self, count: int, skip: Iterable[int]) -> list[Suggestion]:
        free = [k.frame for k, x in sorted(self.labels.items()) if not x.is_anchor and k not in self.settled]
        frames = [frame for frame in dict.fromkeys(free) if frame not in set(skip)]
        return [Suggestion(f, ("1",), 3.0, 0.5, ReasonKind.FAR_FROM_LABELED, "far from any label") for f in frames][
            :count
        ]

    def suspected_swaps(self) -> list[SuspectedSwap]:
        return [SuspectedSwap(3, 4, ("1", "2"), 0.75, "they met"), SuspectedSwap(7, 8, ("1", "2"), 0.25, "they met")]

    def scene_cuts(self) -> list[int]:
        return [5, 11]

    def issues(self) -> list[Issue]:
        return [Issue(IssueKind.GAP, 6, ("1",), 1.0, "gone for one frame")]


base.train, base.load_model = train, load_model  # type: ignore[assignment]

_session = types.ModuleType("micromodels.correction.session")
vars(_session).update(LabelSession=LabelSession)
sys.modules["micromodels.correction.session"] = _session
micromodels.correction.session = _session  # type: ignore[attr-defined]
