"""Protocol F, the economy of correction: how many frames a simulated reviewer draws until all are right.

The reviewer accepts a frame when every object on it has the right state and enough overlap (``Clip.accept_iou``), else
draws the truth on it. Frame 0 is drawn first. Then one frame at a time is looked at, as a strategy picks it: accepted,
or drawn, upon which the system updates its labels. It ends when every frame would be accepted, or half are drawn.

The library is corrected as people correct it: one ``LabelSession``, whose suggestions, acceptances and corrections are
the ones that the service offers. Other systems label the video anew from everything drawn so far.

``speed-up = n * draw / (touched * n * draw + n * look + wait)`` with ``touched`` the share of frames drawn when 97 % of
the rest would be accepted, and ``wait`` the seconds that the system took up to there, first training included. What
a session does while nobody waits (the reviewer looks at or draws the next frame) is counted apart, as ``background``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Protocol as Interface

import numpy as np

from micromodels.changes import by_frame
from micromodels.evaluation.datasets import Clip, ClipKind
from micromodels.evaluation.peers import System
from micromodels.evaluation.protocols import Outcome, Protocol, Row, Watch, peak_memory_mib
from micromodels.evaluation.verdicts import judge_frame, mean
from micromodels.events import Run
from micromodels.types import FrameResult

if TYPE_CHECKING:
    from micromodels.session import LabelSession
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
    """The one that the system suggests; as ``EVEN`` for systems that suggest nothing."""
    LEAST_CONFIDENT = "least_confident"
    """The one whose least sure object is least sure; as ``EVEN`` where the system does not say."""
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


class _Desk(Interface):
    """A system at work on one clip."""

    waits: list[float]
    """Seconds of each update, the first labelling included."""
    first_changes: list[float]
    """Seconds from each correction to the first label that changed by it, where one did."""
    background: float
    """Seconds spent while nobody waited."""

    def update(self, frame: int | None) -> list[FrameResult]:
        """Draw the truth on a frame (None: on none, at the start); returns the frames whose labels are others now."""
        ...

    def accept(self, frame: int) -> None:
        """The reviewer looked at a frame and found it right."""
        ...

    def suggest(self, skip: Iterable[int]) -> int | None:
        """The frame that the system wants looked at next; None where it has no wish."""
        ...

    def close(self) -> None:
        """Forget everything."""
        ...


class _RerunDesk:
    """Labels the video anew from everything drawn so far."""

    def __init__(self, clip: Clip, video: Video, system: System, run: Run) -> None:
        self._clip, self._video, self._system, self._run = clip, video, system, run
        self._drawn = [clip.known_frames()[0]]
        self.waits: list[float] = []
        self.first_changes: list[float] = []
        self.background = 0.0

    def update(self, frame: int | None) -> list[FrameResult]:
        """See ``_Desk``."""
        self._drawn += [] if frame is None else [frame]
        started = time.perf_counter()
        results = list(self._system.propagate(self._clip, self._video, self._clip.seeds(self._drawn), self._run))
        self.waits.append(time.perf_counter() - started)
        return results

    def accept(self, frame: int) -> None:
        """See ``_Desk``."""

    def suggest(self, skip: Iterable[int]) -> int | None:
        """See ``_Desk``."""
        del skip
        return None

    def close(self) -> None:
        """See ``_Desk``."""


class _SessionDesk:
    """Corrects one label session."""

    def __init__(self, clip: Clip, video: Video, recipe: str, run: Run) -> None:
        self._clip, self._video, self._recipe, self._run = clip, video, recipe, run
        self._session: LabelSession | None = None
        self.waits: list[float] = []
        self.first_changes: list[float] = []
        self.background = 0.0

    def update(self, frame: int | None) -> list[FrameResult]:
        """See ``_Desk``."""
        if self._session is None:
            return self._open()
        assert frame is not None
        started = time.perf_counter()
        first: float | None = None
        touched = set()
        for change in self._session.correct(self._clip.seeds([frame])):
            touched.add(change.frame)
            if first is None and change.frame != frame:
                first = time.perf_counter() - started
        self.waits.append(time.perf_counter() - started)
        self.first_changes += [] if first is None else [first]
        self._work_in_background(self._session.prepare)
        return self._results(touched)

    def _open(self) -> list[FrameResult]:
        from micromodels.labeling import TrainSettings, train
        from micromodels.session import LabelSession

        started = time.perf_counter()
        seeds = self._clip.seeds(self._clip.known_frames()[:1])
        model = train(self._video, seeds, TrainSettings(recipe=self._recipe), run=self._run)
        results = list(model.propagate(self._video, seeds, run=self._run))
        self.waits.append(time.perf_counter() - started)
        labels = [label for result in results for label in result.all()]
        self._session = LabelSession(self._video, model, labels, run=self._run)
        self._work_in_background(self._session.prepare)
        return results

    def _work_in_background(self, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        self.background += time.perf_counter() - started

    def _results(self, frames: set[int]) -> list[FrameResult]:
        labels = (label for label in self._opened.labels.values() if label.frame in frames)
        return [FrameResult(frame, tuple(objects), tuple(classes)) for frame, objects, classes in by_frame(labels)]

    @property
    def _opened(self) -> LabelSession:
        assert self._session is not None, "update(None) comes first"
        return self._session

    def accept(self, frame: int) -> None:
        """See ``_Desk``."""
        self._opened.settle([key for key in self._opened.labels if key.frame == frame])

    def suggest(self, skip: Iterable[int]) -> int | None:
        """See ``_Desk``."""
        found = self._opened.suggest(1, skip)
        return found[0].frame if found else None

    def close(self) -> None:
        """See ``_Desk``."""
        if self._session is not None:
            self._session.close()


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
    watch = Watch()
    run = Run(cache_dir=cache_dir, on_event=watch.on_event)
    desk: _Desk
    if system.session_recipe:
        desk = _SessionDesk(clip, video, system.session_recipe, run)
    else:
        desk = _RerunDesk(clip, video, system, run)
    opened: AbstractContextManager[_Desk] = closing(desk)
    with opened:
        game = _Game(clip, desk, strategy)
        game.play()
    known = clip.known_frames()
    row = Row(
        Protocol.ECONOMY,
        clip.set_name,
        clip.name,
        f"{system.name}+{strategy}",
        1,
        tuple(game.drawn),
        len(known),
        scores=_scores(game.curve, desk, len(known), DRAW_SECONDS[clip.kind], game.looks),
        seconds={**watch.seconds, "total": sum(desk.waits)},
        peak_memory_mib=round(peak_memory_mib(), 1),
        curve=tuple((round(a, 5), round(b, 5)) for a, b in game.curve),
        notes=tuple(watch.notes),
    )
    return Outcome(row)


class _Game:
    """The reviewer and the system, round by round."""

    def __init__(self, clip: Clip, desk: _Desk, strategy: Strategy) -> None:
        self._clip, self._desk, self._strategy = clip, desk, strategy
        self._known = clip.known_frames()
        self._frames: dict[int, _Frame] = {}
        self._accepted: set[int] = set()
        self.drawn = [self._known[0]]
        self.curve: list[tuple[float, float]] = []
        self.looks = 0

    def play(self) -> None:
        """Until all is right or half is drawn."""
        self._see(self._desk.update(None))
        while True:
            rest = [frame for index, frame in sorted(self._frames.items()) if index not in set(self.drawn)]
            right = mean(frame.accepted for frame in rest) if rest else 1.0
            self.curve.append((len(self.drawn) / len(self._known), right))
            if right == 1.0 or len(self.drawn) >= MOST_DRAWN * len(self._known):
                return
            frame = self._next_wrong(rest)
            self.drawn.append(frame)
            self._see(self._desk.update(frame))

    def _next_wrong(self, rest: Sequence[_Frame]) -> int:
        """Look at frames, accepting them, until one is wrong."""
        for index in self._order(rest):
            self.looks += 1
            if not self._frames[index].accepted:
                return index
            self._accepted.add(index)
            self._desk.accept(index)
        raise AssertionError("an order without the wrong frames")

    def _order(self, rest: Sequence[_Frame]) -> Iterator[int]:
        unseen = [frame for frame in rest if frame.index not in self._accepted or not frame.accepted]
        if self._strategy is not Strategy.SUGGESTED:
            yield from _ORDERS[self._strategy](unseen, [*self.drawn, *self._accepted])
            return
        unknown = set(range(self._clip.frame_count)) - {frame.index for frame in unseen}
        while (index := self._desk.suggest(unknown)) is not None:
            unknown.add(index)
            yield index
        yield from _evenly([frame for frame in unseen if frame.index not in unknown], self.drawn)

    def _see(self, results: Sequence[FrameResult]) -> None:
        """Judges every frame whose truth is known."""
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
    """The worst first; those that would be accepted last."""
    del drawn
    return [frame.index for frame in sorted(rest, key=lambda frame: (frame.accepted, frame.iou, frame.index))]


def _at_random(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    order = [frame.index for frame in rest]
    random.Random(len(drawn)).shuffle(order)
    return order


def _evenly(rest: Sequence[_Frame], drawn: Sequence[int]) -> list[int]:
    """The farthest from any frame looked at, and so on."""
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
    curve: Sequence[tuple[float, float]], desk: _Desk, frame_count: int, draw_seconds: float, looks: int
) -> dict[str, float]:
    """Where 97 % and 100 % were never reached, everything that is still wrong counts as drawn."""
    out: dict[str, float] = {}
    wait = 0.0
    for name, enough in (("97", ENOUGH), ("100", 1.0)):
        reached = [i for i, (_, accepted) in enumerate(curve) if accepted >= enough]
        out[f"reached_{name}"] = float(bool(reached))
        last = reached[0] if reached else len(curve) - 1
        share, accepted = curve[last]
        out[f"touched_{name}"] = share if reached else share + (1 - share) * (1 - accepted)
        if name == "97":
            wait = sum(desk.waits[: last + 1])
    manual = frame_count * draw_seconds
    assisted = out["touched_97"] * manual + frame_count * LOOK_SECONDS + wait
    out |= {"seconds_manual": manual, "seconds_assisted": assisted, "speed_up": manual / assisted, "wait": wait}
    out |= {"looks": looks / frame_count, "background": desk.background}
    if desk.waits[1:]:
        out["correction_seconds"] = float(np.median(desk.waits[1:]))
        out["slowest_correction_seconds"] = max(desk.waits[1:])
    if desk.first_changes:
        out["first_change_seconds"] = float(np.median(desk.first_changes))
    return out
