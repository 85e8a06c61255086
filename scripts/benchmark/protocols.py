"""The protocols: run one system on one clip with k seeds, score every frame that is not a seed, and summarize.

=== ============== ================================ ==========================================================
     kind of clip   sets                             scores
=== ============== ================================ ==========================================================
A    masks          davis2016, cvc612                J, boundary F, 10th percentile of J
B    one box        otb, tld                         IoU, recall at .5, absent found, false absents
C    many boxes     mot                              HOTA, IDF1, id switches, recall at .5 with the right id
D    regions        vocalfolds                       mean IoU over (class, frame) where either is present
E    frame classes  vocalfolds, tld                  balanced accuracy, F1
F    masks, one box davis2016, cvc612, otb, tld       frames drawn until all are right (``annotation_cost.py``)
G    all but E      all                              calibration error, Brier score, area under risk-coverage:
                                                     a summary of the runs of A to D, without runs of its own
=== ============== ================================ ==========================================================

A reviewer *accepts* a label if it has the right state and, for a visible object, an IoU of at least the clip's
threshold (masks .80, boxes .70, tld .50). Calibration compares the confidence of a label with that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micromodels.errors import InvalidInput
from micromodels.runtime.run import Event, Run, StageFinished, Warned
from micromodels.types import AnyLabel, FrameResult
from scripts.benchmark.baselines import System, train_recipe
from scripts.benchmark.datasets import Clip, ClipKind, FrameTruth, frame_class_seed_frames
from scripts.benchmark.scoring import (
    calibration_pairs,
    calibration_scores,
    frame_class_scores,
    judge_frame,
    mean_by_frame,
    object_scores,
    tracking_scores,
)

if TYPE_CHECKING:
    from micromodels.recipes.base import MicroModel
    from micromodels.video import Video

__all__ = [
    "LOWER_IS_BETTER",
    "MAIN_METRIC",
    "PROTOCOL_SETS",
    "SCORED_TOGETHER",
    "SETS_ON_REQUEST",
    "Outcome",
    "Protocol",
    "Row",
    "SharedModels",
    "Watch",
    "peak_memory_mib",
    "run_protocol",
]


class Protocol(StrEnum):
    """The protocols of the benchmark."""

    MASKS = "A"
    BOXES = "B"
    MANY_OBJECTS = "C"
    REGIONS = "D"
    FRAME_CLASSES = "E"
    ANNOTATION_COST = "F"
    CALIBRATION = "G"


PROTOCOL_SETS: Mapping[Protocol, tuple[str, ...]] = {
    Protocol.MASKS: ("davis2016", "cvc612"),
    Protocol.BOXES: ("otb", "tld"),
    Protocol.MANY_OBJECTS: ("mot",),
    Protocol.REGIONS: ("vocalfolds",),
    Protocol.FRAME_CLASSES: ("vocalfolds", "tld"),
    Protocol.ANNOTATION_COST: ("davis2016", "cvc612", "otb", "tld"),
    Protocol.CALIBRATION: ("davis2016", "cvc612", "otb", "tld", "mot", "vocalfolds"),
}
"""Sets that each protocol runs on."""

SETS_ON_REQUEST: Mapping[Protocol, tuple[str, ...]] = {Protocol.BOXES: ("davis2016-boxes", "cvc612-boxes")}
"""Further sets that it runs on if named: objects that change shape more than those of otb and tld."""

SCORED_TOGETHER = (Protocol.MASKS, Protocol.BOXES, Protocol.MANY_OBJECTS, Protocol.REGIONS)
"""Protocols that G summarizes."""

MAIN_METRIC: Mapping[Protocol, str] = {
    Protocol.MASKS: "J",
    Protocol.BOXES: "iou",
    Protocol.MANY_OBJECTS: "hota",
    Protocol.REGIONS: "iou",
    Protocol.FRAME_CLASSES: "balanced_accuracy",
    Protocol.ANNOTATION_COST: "touched_97",
    Protocol.CALIBRATION: "ece",
}
"""Metric that determines the worst sequence."""
LOWER_IS_BETTER = frozenset({Protocol.ANNOTATION_COST, Protocol.CALIBRATION})


@dataclass(frozen=True)
class Row:
    """One run of one system on one clip.

    Attributes:
        protocol: letter of the protocol.
        scores: metric -> value; metrics that do not apply (such as without absent frames) are missing.
        seconds: ``total``, ``first_label``, and each reported stage.
        peak_memory_mib: highest resident memory of this process during the run.
        frame_scores: frame -> mean IoU (share of right classes in E) of what is scored on it.
        pairs: (confidence, whether a reviewer would accept it) of every label; the confidence may be None. Empty if no
            label has a confidence.
        curve: F only: (share of frames drawn, share of the rest that would be accepted) after each update.
        notes: broken promises (a missing frame, a changed seed) and warnings of the run.
        error: why the run has no result; empty if it has one.
        commit: commit of the code, with ``+`` if it had uncommitted changes.
    """

    protocol: Protocol
    set_name: str
    sequence: str
    system: str
    k: int
    seed_frames: tuple[int, ...]
    frame_count: int
    scores: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0
    frame_scores: Mapping[int, float] = field(default_factory=dict)
    pairs: tuple[tuple[float | None, bool], ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    commit: str = ""

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """Identifies the run; unique within a benchmark."""
        return self.protocol.value, self.set_name, self.sequence, self.system, self.k

    def to_dict(self) -> dict[str, object]:
        """JSON-ready; :meth:`from_dict` reads it."""
        out = asdict(self)
        for name in ("scores", "seconds", "frame_scores"):
            out[name] = {str(key): round(value, 5) for key, value in out[name].items()}
        out["pairs"] = [[sure if sure is None else round(sure, 4), int(good)] for sure, good in self.pairs]
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Read the form of :meth:`to_dict`.

        Raises:
            InvalidInput: not a row.
        """
        try:
            values = {entry.name: data[entry.name] for entry in fields(cls)}
            values |= {
                "protocol": Protocol(data["protocol"]),
                "seed_frames": tuple(data["seed_frames"]),
                "frame_scores": {int(frame): score for frame, score in data["frame_scores"].items()},
                "pairs": tuple((sure, bool(good)) for sure, good in data["pairs"]),
                "curve": tuple((drawn, right) for drawn, right in data["curve"]),
                "notes": tuple(data["notes"]),
            }
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InvalidInput("row", repr(data)[:80], f"a row of scripts/bench ({error})") from error
        return cls(**values)


@dataclass(frozen=True)
class Outcome:
    """A row, and the labels it was computed from, if they were kept."""

    row: Row
    results: tuple[FrameResult, ...] = ()


class Watch:
    """Collects a run's events, and measures its time and memory."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        _reset_peak_memory()
        self._start = time.perf_counter()

    def on_event(self, event: Event) -> None:
        """Record an event."""
        if isinstance(event, StageFinished):
            self.seconds[event.stage.value] = self.seconds.get(event.stage.value, 0.0) + event.seconds
        elif isinstance(event, Warned) and event.message not in self.notes:
            self.notes.append(event.message)

    def mark(self, name: str) -> None:
        """Record the seconds since the start under a name."""
        self.seconds[name] = time.perf_counter() - self._start

    def credit(self, spent: Mapping[str, float]) -> None:
        """Count work done for another run as if it were done now: its stages, and ``total``."""
        self._start -= spent["total"]
        for name, seconds in spent.items():
            if name != "total":
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds


class SharedModels:
    """Micro-models by recipe for the seeds of one clip and k, so that systems that differ only in labeling share one.

    Each system's times count as if it had trained the micro-model itself.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[MicroModel, dict[str, float]]] = {}

    def train(self, recipe: str, video: Video, seeds: Sequence[AnyLabel], run: Run, watch: Watch) -> MicroModel:
        """The micro-model of a recipe; pass the same seeds every time."""
        if recipe in self._kept:
            model, spent = self._kept[recipe]
            watch.credit(spent)
            return model
        model = train_recipe(recipe, video, seeds, run)
        watch.mark("total")
        self._kept[recipe] = model, dict(watch.seconds)
        return model


def _reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not allowed: the peak is then that of the whole process so far


def peak_memory_mib() -> float:
    """Highest resident memory of this process since the last :class:`Watch` was created; NaN if unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def run_protocol(
    protocol: Protocol,
    clip: Clip,
    video: Video,
    system: System,
    k: int,
    cache_dir: Path,
    *,
    keep_results: bool = False,
    models: SharedModels | None = None,
) -> Outcome:
    """Seeds a system, lets it label the whole clip, and scores every frame with known truth that is not a seed.

    Args:
        protocol: protocol to run, A to E.
        clip: the truth.
        video: the clip's source, open.
        system: system to run.
        k: number of seed frames.
        cache_dir: for the system's caches; the caller deletes it.
        keep_results: also keep the labels, for pictures.
        models: shared models of the same protocol, clip and k; None to train a separate one.

    Raises:
        MicromodelsError: any error of the system.
    """
    frame_classes = protocol is Protocol.FRAME_CLASSES
    frames = frame_class_seed_frames(clip, k) if frame_classes else clip.seed_frames(k)
    seeds: Sequence[AnyLabel] = clip.frame_class_seeds(frames) if frame_classes else clip.seeds(frames)
    watch = Watch()
    run = Run(cache_dir=cache_dir, on_event=watch.on_event)
    results: list[FrameResult] = []
    for result in _labels(clip, video, system, seeds, run, models, watch):
        if not results:
            watch.mark("first_label")
        results.append(result)
    watch.mark("total")
    row = Row(
        protocol,
        clip.set_name,
        clip.name,
        system.name,
        k,
        tuple(frames),
        video.table.frame_count,
        seconds=watch.seconds,
        peak_memory_mib=round(peak_memory_mib(), 1),
        notes=(*_broken_promises(results, seeds, video.table.frame_count), *watch.notes),
    )
    scored = {frame: truth for frame in clip.known_frames() if frame not in frames and (truth := clip.truth(frame))}
    by_frame = {result.frame: result for result in results if result.frame in scored}
    return Outcome(_scored(row, clip, scored, by_frame), tuple(results) if keep_results else ())


def _labels(
    clip: Clip,
    video: Video,
    system: System,
    seeds: Sequence[AnyLabel],
    run: Run,
    models: SharedModels | None,
    watch: Watch,
) -> Iterator[FrameResult]:
    if models is None or system.label is None:
        return system.propagate(clip, video, seeds, run)
    return system.label(models.train(system.recipe, video, seeds, run, watch), video, seeds, run)


def _scored(row: Row, clip: Clip, scored: Mapping[int, FrameTruth], by_frame: Mapping[int, FrameResult]) -> Row:
    if row.protocol is Protocol.FRAME_CLASSES:
        scores, frame_scores = frame_class_scores(clip, by_frame, scored)
        return replace(row, scores=scores, frame_scores=frame_scores)
    boundary = row.protocol is Protocol.MASKS
    verdicts = [
        verdict
        for frame, truth in scored.items()
        for verdict in judge_frame(clip, truth, by_frame.get(frame, FrameResult(frame)), boundary=boundary)
    ]
    pairs = calibration_pairs(verdicts)
    scores = object_scores(clip, verdicts) | calibration_scores(pairs)
    if clip.kind is ClipKind.MANY_BOXES:
        scores |= tracking_scores(scored, by_frame)
    return replace(row, scores=scores, pairs=pairs, frame_scores=mean_by_frame(verdicts))


def _broken_promises(results: Sequence[FrameResult], seeds: Sequence[AnyLabel], frame_count: int) -> Iterator[str]:
    frames = [result.frame for result in results]
    if frames != list(range(frame_count)):
        yield f"broken promise: {len(frames)} results for {frame_count} frames, or out of order"
    given = {result.frame: set(result.all()) for result in results}
    changed = [seed.frame for seed in seeds if seed not in given.get(seed.frame, set())]
    if changed:
        yield f"broken promise: seeds on frames {sorted(set(changed))} were not passed through"
