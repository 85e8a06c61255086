"""Protocol F, annotation cost: how many frames a simulated reviewer draws until all are right.

The reviewer accepts a frame if every object on it has the right state and sufficient IoU (``Clip.accept_iou``), and
otherwise draws the truth. Frame 0 is drawn first. Then a strategy picks one frame at a time, which the reviewer accepts
or draws; after drawing, the system updates its labels. It ends when every frame would be accepted, or half are drawn.

The library is corrected as people correct it: with a ``LabelSession`` and the suggestions, acceptances and corrections
that the service offers. Other systems label the video again from everything drawn so far.

``speed-up = n * draw / (touched * n * draw + n * look + wait)`` with ``touched`` the share of frames drawn when 97 % of
the rest would be accepted, and ``wait`` the seconds that the system took until then, including the first training. Work
of a session while the next frame is drawn is counted separately, as ``background``; the part that exceeds the drawing
time counts as waiting.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from micromodels.correction.retrain_policy import RETRAIN_CORRECTIONS
from micromodels.runtime.run import Run
from micromodels.types import FrameResult
from scripts.benchmark.baselines import System
from scripts.benchmark.datasets import Clip, ClipKind
from scripts.benchmark.protocols import Outcome, Protocol, Row, Watch, peak_memory_mib
from scripts.benchmark.scoring import judge_frame, mean
from scripts.benchmark.simulated_reviewers import FirstLabels, RerunReviewer, SessionReviewer, SimulatedReviewer, Times

if TYPE_CHECKING:
    from micromodels.video import Video

__all__ = ["Strategy", "run_annotation_cost"]

LOOK_SECONDS = 1.0
DRAW_SECONDS: Mapping[ClipKind, float] = {ClipKind.MASK: 80.0, ClipKind.BOX: 7.0}
"""Seconds to draw one frame by hand."""
ENOUGH = 0.97
MAX_DRAWN = 0.5
"""The share of frames drawn at which the reviewer gives up."""


class Strategy(StrEnum):
    """Which frame the reviewer looks at next."""

    SUGGESTED = "suggested"
    """The frame that the system suggests; as ``EVEN`` for systems without suggestions."""
    LEAST_CONFIDENT = "least_confident"
    """The frame with the lowest confidence of any object; as ``EVEN`` for systems without confidences."""
    ORACLE = "oracle"
    """The frame with the worst labels in truth: an upper bound for suggestions."""
    RANDOM = "random"
    EVEN = "even"
    """The frame farthest from any drawn frame."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame with its current labels. ``confidence`` is the lowest of its objects."""

    index: int
    accepted: bool
    iou: float
    confidence: float | None


def run_annotation_cost(
    clip: Clip,
    video: Video,
    system: System,
    strategy: Strategy,
    first: FirstLabels,
    service: Callable[[Clip, int], SimulatedReviewer] | None = None,
) -> Outcome:
    """Runs the loop on one clip; the row's system is named ``SYSTEM+STRATEGY``.

    Args:
        clip: a clip of masks or single boxes.
        video: the clip's source, open.
        system: the system that labels.
        strategy: picks the next frame.
        first: the library's first labels from frame 0; shared between strategies.
        service: creates a reviewer on a server, instead of the library's own session.

    Raises:
        MicromodelsError: any error of the system.
    """
    watch = Watch()
    run = Run(cache_dir=first.cache_dir(clip), on_event=watch.on_event)
    reviewer: SimulatedReviewer
    if service is not None and system.session_recipe:
        reviewer = service(clip, RETRAIN_CORRECTIONS)
    elif system.session_recipe:
        reviewer = SessionReviewer(
            clip, video, first.of(clip, video, system.session_recipe, run), run, RETRAIN_CORRECTIONS
        )
    else:
        reviewer = RerunReviewer(clip, video, system, run)
    opened: AbstractContextManager[SimulatedReviewer] = closing(reviewer)
    with opened:
        game = _Game(clip, reviewer, strategy)
        game.play()
    known = clip.known_frames()
    row = Row(
        Protocol.ANNOTATION_COST,
        clip.set_name,
        clip.name,
        f"{system.name}+{strategy}",
        1,
        tuple(game.drawn),
        len(known),
        scores=_scores(game.curve, reviewer.times, len(known), DRAW_SECONDS[clip.kind], game.looks),
        seconds={**watch.seconds, "total": sum(reviewer.times.waits)},
        peak_memory_mib=round(peak_memory_mib(), 1),
        curve=tuple((round(a, 5), round(b, 5)) for a, b in game.curve),
        notes=tuple(watch.notes),
    )
    return Outcome(row)


class _Game:
    """The reviewer and the system, round by round."""

    def __init__(self, clip: Clip, reviewer: SimulatedReviewer, strategy: Strategy) -> None:
        self._clip, self._reviewer, self._strategy = clip, reviewer, strategy
        self._known = clip.known_frames()
        self._frames: dict[int, _Frame] = {}
        self._accepted: set[int] = set()
        self.drawn = [self._known[0]]
        self.curve: list[tuple[float, float]] = []
        self.looks = 0

    def play(self) -> None:
        """Run until all frames are right or half are drawn."""
        self._see(self._reviewer.update(None))
        while True:
            rest = [frame for index, frame in sorted(self._frames.items()) if index not in set(self.drawn)]
            right = mean(frame.accepted for frame in rest) if rest else 1.0
            self.curve.append((len(self.drawn) / len(self._known), right))
            if right == 1.0 or len(self.drawn) >= MAX_DRAWN * len(self._known):
                return
            frame = self._next_wrong(rest)
            self.drawn.append(frame)
            self._see(self._reviewer.update(frame))

    def _next_wrong(self, rest: Sequence[_Frame]) -> int:
        """Look at frames, accepting them, until one is wrong."""
        for index in self._order(rest):
            self.looks += 1
            if not self._frames[index].accepted:
                return index
            self._accepted.add(index)
            self._reviewer.accept(index)
        raise AssertionError("the order lacks the wrong frames")

    def _order(self, rest: Sequence[_Frame]) -> Iterator[int]:
        unseen = [frame for frame in rest if frame.index not in self._accepted or not frame.accepted]
        if self._strategy is not Strategy.SUGGESTED:
            yield from _ORDERS[self._strategy](unseen, [*self.drawn, *self._accepted])
            return
        unknown = set(range(self._clip.frame_count)) - {frame.index for frame in unseen}
        while (index := self._reviewer.suggest(unknown)) is not None:
            unknown.add(index)
            yield index
        yield from _evenly([frame for frame in unseen if frame.index not in unknown], self.drawn)

    def _see(self, results: Sequence[FrameResult]) -> None:
        """Scores every frame with known truth."""
        for result in results:
            truth = self._clip.truth(result.frame)
            if truth is None:
                continue
            verdicts = judge_frame(self._clip, truth, result)
            accepted, iou = all(v.accepted for v in verdicts), mean(v.iou for v in verdicts)
            self._frames[result.frame] = _Frame(result.frame, accepted, iou, _confidence(result))


def _confidence(result: FrameResult) -> float | None:
    sure = [label.confidence for label in result.labels if label.confidence is not None]
    return min(sure) if sure else None


def _by_confidence(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    unsure = [(frame.confidence, frame.index) for frame in rest if frame.confidence is not None]
    return [index for _, index in sorted(unsure)] if len(unsure) == len(rest) else _evenly(rest, drawn)


def _by_truth(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    """Worst first; frames that would be accepted last."""
    del drawn
    return [frame.index for frame in sorted(rest, key=lambda frame: (frame.accepted, frame.iou, frame.index))]


def _at_random(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    order = [frame.index for frame in rest]
    random.Random(len(drawn)).shuffle(order)
    return order


def _evenly(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    """The frame farthest from any checked frame, and so on."""
    left, seen, order = {frame.index for frame in rest}, list(drawn), []
    while left:
        order.append(max(left, key=lambda index: (min(abs(index - d) for d in seen), -index)))
        left.remove(order[-1])
        seen.append(order[-1])
    return order


_ORDERS: Mapping[Strategy, Callable[[Sequence[_Frame], Sequence[int]], list[int]]] = {
    Strategy.LEAST_CONFIDENT: _by_confidence,
    Strategy.ORACLE: _by_truth,
    Strategy.RANDOM: _at_random,
    Strategy.EVEN: _evenly,
}


def _scores(
    curve: Sequence[tuple[float, float]], times: Times, frame_count: int, draw_seconds: float, looks: int
) -> dict[str, float]:
    """If 97 % or 100 % was never reached, all remaining wrong frames count as drawn."""
    out: dict[str, float] = {}
    wait = 0.0
    for name, enough in (("97", ENOUGH), ("100", 1.0)):
        reached = [i for i, (_, accepted) in enumerate(curve) if accepted >= enough]
        out[f"reached_{name}"] = float(bool(reached))
        last = reached[0] if reached else len(curve) - 1
        share, accepted = curve[last]
        out[f"touched_{name}"] = share if reached else share + (1 - share) * (1 - accepted)
        if name == "97":
            # Background work that takes longer than drawing a frame makes the reviewer wait.
            late = [max(0.0, seconds - draw_seconds) for seconds in times.background[:last]]
            wait = sum(times.waits[: last + 1]) + sum(late)
    manual = frame_count * draw_seconds
    assisted = out["touched_97"] * manual + frame_count * LOOK_SECONDS + wait
    out |= {"seconds_manual": manual, "seconds_assisted": assisted, "speed_up": manual / assisted, "wait": wait}
    out |= {"looks": looks / frame_count, "background": sum(times.background)}
    if times.waits[1:]:
        out["correction_seconds"] = float(np.median(times.waits[1:]))
        out["slowest_correction_seconds"] = max(times.waits[1:])
    if times.first_changes:
        out["first_change_seconds"] = float(np.median(times.first_changes))
    return out
