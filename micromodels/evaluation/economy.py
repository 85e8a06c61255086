"""Protocol F, the economy of correction: how many frames a simulated reviewer draws until all are right.

The reviewer accepts a frame when every object on it has the right state and enough overlap (``Clip.accept_iou``), else
draws the truth on it. Frame 0 is drawn first. Then, in rounds: the system labels the video from everything drawn so
far; the reviewer goes through the frames in the order that a strategy gives and draws the first one that is not
acceptable. It ends when every frame would be accepted, or half of them are drawn.

``speed-up = n * draw / (touched * n * draw + n * look + wait)`` with ``touched`` the share of frames drawn when 97 % of
the rest would be accepted, and ``wait`` the seconds that the system took up to there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from micromodels.evaluation.datasets import Clip, ClipKind
from micromodels.evaluation.peers import System
from micromodels.evaluation.protocols import Outcome, Protocol, Row, Watch, peak_memory_mib
from micromodels.evaluation.verdicts import judge_frame, mean
from micromodels.events import Run
from micromodels.types import FrameResult

if TYPE_CHECKING:
    from micromodels.video import Video

__all__ = ["Strategy", "run_economy"]

LOOK_SECONDS = 1.0
DRAW_SECONDS: Mapping[ClipKind, float] = {ClipKind.MASK: 80.0, ClipKind.BOX: 7.0}
"""Seconds to draw one frame by hand."""
ENOUGH = 0.97
MOST_DRAWN = 0.5
"""The share of frames drawn at which the reviewer gives up."""


class Strategy(StrEnum):
    """Which frame the reviewer looks at next."""

    SUGGESTED = "suggested"
    """The one that the system is least sure of; as ``EVEN`` where it does not say."""
    ORACLE = "oracle"
    """The one that is worst in truth: what suggestions could reach at best."""
    RANDOM = "random"
    EVEN = "even"
    """The one farthest from any that is drawn."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame as the system labels it now. ``confidence`` is that of its least sure object."""

    index: int
    accepted: bool
    iou: float
    confidence: float | None


def run_economy(clip: Clip, video: Video, system: System, strategy: Strategy, cache_dir: Path) -> Outcome:
    """Plays the loop on one clip; the row's system is named ``SYSTEM+STRATEGY``.

    Args:
        clip: a clip of masks or single boxes.
        video: the clip's source, open.
        system: what labels.
        strategy: what picks the next frame.
        cache_dir: kept over the rounds; the caller removes it.

    Raises:
        MicromodelsError: whatever the system raises.
    """
    known = clip.known_frames()
    drawn = [known[0]]
    watch = Watch()
    run = Run(cache_dir=cache_dir, on_event=watch.on_event)
    curve: list[tuple[float, float]] = []
    waits: list[float] = []
    while True:
        start = time.perf_counter()
        results = list(system.propagate(clip, video, clip.seeds(drawn), run))
        waits.append(time.perf_counter() - start + sum(waits[-1:]))
        frames = _look(clip, results)
        rest = [frame for frame in frames if frame.index not in drawn]
        curve.append((len(drawn) / len(known), mean(frame.accepted for frame in rest) if rest else 1.0))
        wrong = [frame.index for frame in rest if not frame.accepted]
        if not wrong or len(drawn) >= MOST_DRAWN * len(known):
            break
        order = _ORDERS[strategy](rest, drawn)
        drawn.append(next(index for index in order if index in set(wrong)))
    row = Row(
        Protocol.ECONOMY,
        clip.set_name,
        clip.name,
        f"{system.name}+{strategy}",
        1,
        tuple(drawn),
        len(known),
        scores=_scores(curve, waits, len(known), DRAW_SECONDS[clip.kind]),
        seconds={**watch.seconds, "total": waits[-1]},
        peak_memory_mib=round(peak_memory_mib(), 1),
        curve=tuple((round(a, 5), round(b, 5)) for a, b in curve),
        notes=tuple(watch.notes),
    )
    return Outcome(row)


def _look(clip: Clip, results: Sequence[FrameResult]) -> list[_Frame]:
    """Judges every frame whose truth is known."""
    frames = []
    for result in results:
        truth = clip.truth(result.frame)
        if truth is None:
            continue
        verdicts = judge_frame(clip, truth, result)
        accepted, iou = all(v.accepted for v in verdicts), mean(v.iou for v in verdicts)
        frames.append(_Frame(result.frame, accepted, iou, _confidence(result)))
    return frames


def _confidence(result: FrameResult) -> float | None:
    sure = [label.confidence for label in result.labels if label.confidence is not None]
    return min(sure) if sure else None


def _by_confidence(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    unsure = [(frame.confidence, frame.index) for frame in rest if frame.confidence is not None]
    return [index for _, index in sorted(unsure)] if len(unsure) == len(rest) else _evenly(rest, drawn)


def _by_truth(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    del drawn
    return [frame.index for frame in sorted(rest, key=lambda frame: (frame.iou, frame.index))]


def _at_random(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    order = [frame.index for frame in rest]
    random.Random(len(drawn)).shuffle(order)
    return order


def _evenly(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    """By distance to the nearest drawn frame, the farthest first."""
    return sorted((f.index for f in rest), key=lambda index: (-min(abs(index - d) for d in drawn), index))


_ORDERS: Mapping[Strategy, Callable[[Sequence[_Frame], Sequence[int]], list[int]]] = {
    Strategy.SUGGESTED: _by_confidence,
    Strategy.ORACLE: _by_truth,
    Strategy.RANDOM: _at_random,
    Strategy.EVEN: _evenly,
}


def _scores(
    curve: Sequence[tuple[float, float]], waits: Sequence[float], frame_count: int, draw_seconds: float
) -> dict[str, float]:
    """Where 97 % and 100 % were never reached, everything that is still wrong counts as drawn."""
    out: dict[str, float] = {}
    for name, enough in (("97", ENOUGH), ("100", 1.0)):
        reached = [i for i, (_, accepted) in enumerate(curve) if accepted >= enough]
        out[f"reached_{name}"] = float(bool(reached))
        last = reached[0] if reached else len(curve) - 1
        share, accepted = curve[last]
        out[f"touched_{name}"] = share if reached else share + (1 - share) * (1 - accepted)
        if name == "97":
            wait = waits[last]
    manual = frame_count * draw_seconds
    assisted = out["touched_97"] * manual + frame_count * LOOK_SECONDS + wait
    return out | {"seconds_manual": manual, "seconds_assisted": assisted, "speed_up": manual / assisted, "wait": wait}
