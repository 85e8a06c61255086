"""The protocols: run one system on one clip with k seeds, judge every frame that is no seed, and sum up.

=== ============== ================================ ==========================================================
     kind of clip   sets                             scores
=== ============== ================================ ==========================================================
A    masks          davis2016, cvc612                J, boundary F, 10th percentile of J
B    one box        otb, tld                         IoU, recall at .5, absent found, false absents
C    many boxes     mot                              HOTA, IDF1, id switches, recall at .5 with the right id
D    regions        vocalfolds                       mean IoU over (class, frame) where either is present
E    frame classes  vocalfolds, tld                  balanced accuracy, F1
F    masks, one box davis2016, cvc612, otb, tld       frames drawn until all are right (``economy.py``)
G    all but E      all                              calibration error, Brier score, area under risk-coverage
=== ============== ================================ ==========================================================

A reviewer *accepts* a label when it has the right state and, where the object is visible, an IoU of at least the clip's
threshold (masks .80, boxes .70, tld .50). Calibration compares the confidence of a label with that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from micromodels.evaluation.datasets import Clip, ClipKind, frame_class_seed_frames
from micromodels.evaluation.peers import System
from micromodels.evaluation.verdicts import (
    Verdict,
    calibration_scores,
    frame_class_scores,
    judge_frame,
    mean,
    mean_by_frame,
    object_scores,
    tracking_scores,
)
from micromodels.events import Event, Run, StageFinished, Warned
from micromodels.types import AnyLabel, FrameResult

if TYPE_CHECKING:
    from micromodels.video import Video

__all__ = [
    "PROTOCOL_SETS",
    "Outcome",
    "Protocol",
    "Row",
    "Summary",
    "Watch",
    "peak_memory_mib",
    "run_protocol",
    "summarise",
]


class Protocol(StrEnum):
    """The protocols of the benchmark."""

    MASKS = "A"
    BOXES = "B"
    MANY_OBJECTS = "C"
    REGIONS = "D"
    FRAME_CLASSES = "E"
    ECONOMY = "F"
    CALIBRATION = "G"


PROTOCOL_SETS: Mapping[Protocol, tuple[str, ...]] = {
    Protocol.MASKS: ("davis2016", "cvc612"),
    Protocol.BOXES: ("otb", "tld"),
    Protocol.MANY_OBJECTS: ("mot",),
    Protocol.REGIONS: ("vocalfolds",),
    Protocol.FRAME_CLASSES: ("vocalfolds", "tld"),
    Protocol.ECONOMY: ("davis2016", "cvc612", "otb", "tld"),
    Protocol.CALIBRATION: ("davis2016", "cvc612", "otb", "tld", "mot", "vocalfolds"),
}
"""Which sets each protocol runs on."""

MAIN_METRIC: Mapping[Protocol, str] = {
    Protocol.MASKS: "J",
    Protocol.BOXES: "iou",
    Protocol.MANY_OBJECTS: "hota",
    Protocol.REGIONS: "iou",
    Protocol.FRAME_CLASSES: "balanced_accuracy",
    Protocol.ECONOMY: "touched_97",
    Protocol.CALIBRATION: "ece",
}
"""The metric that the worst sequence is picked by."""
LOWER_IS_BETTER = frozenset({Protocol.ECONOMY, Protocol.CALIBRATION})


@dataclass(frozen=True)
class Row:
    """One run of one system on one clip.

    Attributes:
        protocol: letter of the protocol.
        scores: metric -> value; a metric that does not apply (no absent frames, say) is missing.
        seconds: ``total``, ``first_label``, and each stage that the run reported.
        peak_memory_mib: highest resident memory of this process during the run.
        frame_scores: frame -> mean IoU (share of right classes in E) over what is scored there.
        curve: F only: (share of frames drawn, share of the rest that would be accepted) after each update.
        notes: broken promises (a frame missing, a changed seed) and warnings of the run.
        error: why there is no result; empty if there is one.
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
    curve: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        out = asdict(self)
        for name in ("scores", "seconds", "frame_scores"):
            out[name] = {str(key): round(value, 5) for key, value in out[name].items()}
        return out


@dataclass(frozen=True)
class Outcome:
    """A row, and what it was computed from."""

    row: Row
    verdicts: tuple[Verdict, ...] = ()
    results: tuple[FrameResult, ...] = ()


class Watch:
    """Collects what a run reports, and reads the clock and the memory around it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        _reset_peak_memory()
        self._start = time.perf_counter()

    def on_event(self, event: Event) -> None:
        """Takes a run's event."""
        if isinstance(event, StageFinished):
            self.seconds[event.stage.value] = self.seconds.get(event.stage.value, 0.0) + event.seconds
        elif isinstance(event, Warned) and event.message not in self.notes:
            self.notes.append(event.message)

    def mark(self, name: str) -> None:
        """Notes the seconds since the start under a name."""
        self.seconds[name] = time.perf_counter() - self._start


def _reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not allowed: the peak is then that of the whole process so far


def peak_memory_mib() -> float:
    """Highest resident memory of this process since the last :class:`Watch` was made; NaN where it cannot be known."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def run_protocol(
    protocol: Protocol, clip: Clip, video: Video, system: System, k: int, cache_dir: Path, *, keep_results: bool = False
) -> Outcome:
    """Seeds a system, lets it label the whole clip, and scores every frame that is no seed and whose truth is known.

    Args:
        protocol: what to score.
        clip: the truth.
        video: the clip's source, open.
        system: what to run.
        k: how many frames are seeds.
        cache_dir: for the system's caches; the caller removes it.
        keep_results: also keep the labels, for pictures.

    Raises:
        MicromodelsError: whatever the system raises.
    """
    frame_classes = protocol is Protocol.FRAME_CLASSES
    frames = frame_class_seed_frames(clip, k) if frame_classes else clip.seed_frames(k)
    seeds: Sequence[AnyLabel] = clip.frame_class_seeds(frames) if frame_classes else clip.seeds(frames)
    watch = Watch()
    run = Run(cache_dir=cache_dir, on_event=watch.on_event)
    results: list[FrameResult] = []
    for result in system.propagate(clip, video, seeds, run):
        if not results:
            watch.mark("first_label")
        results.append(result)
    watch.mark("total")
    peak = peak_memory_mib()
    row = Row(
        protocol,
        clip.set_name,
        clip.name,
        system.name,
        k,
        tuple(frames),
        video.table.frame_count,
        seconds=watch.seconds,
        peak_memory_mib=round(peak, 1),
        notes=(*_broken_promises(results, seeds, video.table.frame_count), *watch.notes),
    )
    scored = {frame: truth for frame in clip.known_frames() if frame not in frames and (truth := clip.truth(frame))}
    by_frame = {result.frame: result for result in results if result.frame in scored}
    kept = tuple(results) if keep_results else ()
    if frame_classes:
        scores, frame_scores = frame_class_scores(clip, by_frame, scored)
        return Outcome(replace(row, scores=scores, frame_scores=frame_scores), (), kept)
    verdicts = tuple(
        verdict
        for frame, truth in scored.items()
        for verdict in judge_frame(
            clip, truth, by_frame.get(frame, FrameResult(frame)), boundary=protocol is Protocol.MASKS
        )
    )
    scores = object_scores(clip, verdicts)
    if clip.kind is ClipKind.MANY_BOXES and protocol is Protocol.MANY_OBJECTS:
        scores |= tracking_scores(scored, by_frame)
    row = replace(row, scores=scores | calibration_scores(verdicts), frame_scores=mean_by_frame(verdicts))
    return Outcome(row, verdicts, kept)


def _broken_promises(results: Sequence[FrameResult], seeds: Sequence[AnyLabel], frame_count: int) -> Iterator[str]:
    frames = [result.frame for result in results]
    if frames != list(range(frame_count)):
        yield f"broken promise: {len(frames)} results for {frame_count} frames, or out of order"
    given = {result.frame: set(result.all()) for result in results}
    changed = [seed.frame for seed in seeds if seed not in given.get(seed.frame, set())]
    if changed:
        yield f"broken promise: seeds on frames {sorted(set(changed))} were not passed through"


@dataclass(frozen=True)
class Summary:
    """Means over the sequences of a set (of all sets: ``"all"``, protocols F and G only).

    Attributes:
        scores: metric -> mean over the sequences that have it. Calibration (all labels) and economy (all frames, all
            seconds) are pooled instead.
        worst: the sequence with the worst main metric, and that metric.
        failed: sequences without a result; the means leave them out.
    """

    protocol: Protocol
    set_name: str
    system: str
    k: int
    sequences: int
    scores: Mapping[str, float]
    worst: tuple[str, float] | None
    failed: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        out = asdict(self)
        out["scores"] = {key: round(value, 5) for key, value in self.scores.items()}
        return out


def summarise(outcomes: Sequence[Outcome]) -> list[Summary]:
    """One summary per protocol, set, system and k, in order of appearance; F and G also over all sets."""
    groups: dict[tuple[Protocol, str, str, int], list[Outcome]] = {}
    for outcome in outcomes:
        row = outcome.row
        groups.setdefault((row.protocol, row.set_name, row.system, row.k), []).append(outcome)
        if row.protocol in LOWER_IS_BETTER:
            groups.setdefault((row.protocol, "all", row.system, row.k), []).append(outcome)
    return [_summarise(key, members) for key, members in groups.items()]


def _summarise(key: tuple[Protocol, str, str, int], members: Sequence[Outcome]) -> Summary:
    protocol, set_name, system, k = key
    done = [member for member in members if not member.row.error]
    names = dict.fromkeys(name for member in done for name in member.row.scores)
    scores = {name: mean(m.row.scores[name] for m in done if name in m.row.scores) for name in names}
    scores |= calibration_scores([verdict for member in done for verdict in member.verdicts])
    if done and protocol is Protocol.ECONOMY:
        scores |= _pooled_economy([member.row for member in done])
    if done:
        scores["seconds"] = mean(member.row.seconds["total"] for member in done)
    main = MAIN_METRIC[protocol]
    ranked = sorted((m.row.scores[main], m.row.sequence) for m in done if main in m.row.scores)
    worst = None
    if ranked:
        value, sequence = ranked[-1 if protocol in LOWER_IS_BETTER else 0]
        worst = (sequence, round(value, 5))
    failed = tuple(member.row.sequence for member in members if member.row.error)
    return Summary(protocol, set_name, system, k, len(done), scores, worst, failed)


def _pooled_economy(rows: Sequence[Row]) -> dict[str, float]:
    frames = sum(row.frame_count for row in rows)
    manual = sum(row.scores["seconds_manual"] for row in rows)
    return {
        "touched_97": sum(row.scores["touched_97"] * row.frame_count for row in rows) / frames,
        "touched_100": sum(row.scores["touched_100"] * row.frame_count for row in rows) / frames,
        "speed_up": manual / sum(row.scores["seconds_assisted"] for row in rows),
    }
