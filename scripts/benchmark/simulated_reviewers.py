"""Simulated reviewers (protocol F) that correct by running a system again, in a label session, or on a server.

A reviewer corrects one clip with one system. The micro-model of frame 0 and its labels are the same for every strategy:
they are computed once per clip and recipe (``FirstLabels``), and their time counts in full each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

from micromodels.correction.retrain_policy import retraining_is_due
from micromodels.labels.keys import by_frame
from micromodels.runtime.run import Run
from micromodels.types import FrameResult
from scripts.benchmark.baselines import System, train_recipe
from scripts.benchmark.datasets import Clip

if TYPE_CHECKING:
    from micromodels.correction.session import LabelSession
    from micromodels.recipes.base import MicroModel
    from micromodels.video import Video

T = TypeVar("T")

__all__ = ["FirstLabels", "RerunReviewer", "RetrainPolicy", "SessionReviewer", "SimulatedReviewer", "Times"]


@dataclass
class Times:
    """Times of a reviewer, in seconds.

    Attributes:
        waits: waiting time of each update, including the first labeling.
        first_changes: from each correction to the first label that it changed, if any.
        background: background work after each update, during which the reviewer did not wait.
    """

    waits: list[float] = field(default_factory=list)
    first_changes: list[float] = field(default_factory=list)
    background: list[float] = field(default_factory=list)


class RetrainPolicy:
    """When to retrain: like a server whose annotator pauses after every correction.

    Args:
        corrections: number of corrections since the last training; 0 for never.
    """

    def __init__(self, corrections: int) -> None:
        self._corrections = corrections
        self._drawn, self._seen, self._tried = 1, 1, 1

    def is_due_after_correction(self) -> bool:
        """Count one correction; returns whether to retrain now."""
        self._drawn += 1
        return retraining_is_due(self._drawn, self._drawn - self._seen, self._drawn - self._tried, self._corrections)

    def tried(self, took_over: bool) -> None:
        """Record that a training has ended."""
        self._tried = self._drawn
        self._seen = self._drawn if took_over else self._seen


class SimulatedReviewer(Protocol):
    """A reviewer of one clip with one system."""

    times: Times

    def update(self, frame: int | None) -> list[FrameResult]:
        """Draw the truth on a frame (None: on none, at the start); returns the frames with changed labels."""
        ...

    def accept(self, frame: int) -> None:
        """Accept a frame."""
        ...

    def suggest(self, skip: Iterable[int]) -> int | None:
        """The frame that the system suggests next; None without suggestion."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class RerunReviewer:
    """Labels the video again from everything drawn so far."""

    def __init__(self, clip: Clip, video: Video, system: System, run: Run) -> None:
        self._clip, self._video, self._system, self._run = clip, video, system, run
        self._drawn = [clip.known_frames()[0]]
        self.times = Times()

    def update(self, frame: int | None) -> list[FrameResult]:
        """See ``SimulatedReviewer``."""
        self._drawn += [] if frame is None else [frame]
        started = time.perf_counter()
        results = list(self._system.propagate(self._clip, self._video, self._clip.seeds(self._drawn), self._run))
        self.times.waits.append(time.perf_counter() - started)
        return results

    def accept(self, frame: int) -> None:
        """See ``SimulatedReviewer``."""

    def suggest(self, skip: Iterable[int]) -> int | None:
        """See ``SimulatedReviewer``."""
        del skip
        return None

    def close(self) -> None:
        """See ``SimulatedReviewer``."""


@dataclass(frozen=True, slots=True)
class _First:
    model: MicroModel
    results: list[FrameResult]
    seconds: float


class FirstLabels:
    """First labels by recipe, from frame 0 of the current clip; a context manager.

    The features of that clip are kept too, in a folder that is deleted with the next clip.
    """

    def __init__(self) -> None:
        self._clip: Clip | None = None
        self._folder: TemporaryDirectory[str] | None = None
        self._made: dict[str, _First] = {}

    def __enter__(self) -> FirstLabels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder."""
        self._made.clear()
        self._clip = None
        if self._folder is not None:
            self._folder.cleanup()

    def cache_dir(self, clip: Clip) -> Path:
        """The cache folder of a clip; deletes that of another clip."""
        if self._folder is None or self._clip != clip:
            self.__exit__(None, None, None)
            self._clip, self._folder = clip, TemporaryDirectory(prefix="micromodels-bench-")
        return Path(self._folder.name)

    def of(self, clip: Clip, video: Video, recipe: str, run: Run) -> _First:
        """The micro-model of frame 0, its labels, and the seconds that both took.

        Args:
            clip: the truth.
            video: the clip's source, open.
            recipe: of the micro-model.
            run: its ``cache_dir`` is that of the clip.
        """
        self.cache_dir(clip)
        if recipe not in self._made:
            started = time.perf_counter()
            seeds = clip.seeds(clip.known_frames()[:1])
            model = train_recipe(recipe, video, seeds, run)
            results = list(model.propagate(video, seeds, run=run))
            self._made[recipe] = _First(model, results, time.perf_counter() - started)
        return self._made[recipe]


class SessionReviewer:
    """Corrects in a label session of the library, and retrains in the background like a server.

    Args:
        clip: the truth.
        video: the clip's source, open.
        first: the first labels, from frame 0.
        run: device, cache, events.
        retrain_corrections: number of corrections after a training that trigger the next one; 0 for never.
    """

    def __init__(self, clip: Clip, video: Video, first: _First, run: Run, retrain_corrections: int) -> None:
        from micromodels.correction.session import LabelSession

        self._clip, self._first, self._policy = clip, first, RetrainPolicy(retrain_corrections)
        labels = [label for result in first.results for label in result.all()]
        self._session: LabelSession = LabelSession(video, first.model, labels, run=run)
        self.times = Times()

    def update(self, frame: int | None) -> list[FrameResult]:
        """See ``SimulatedReviewer``."""
        if frame is None:
            self.times.waits.append(self._first.seconds)
            self._work_in_background(self._session.prepare)
            return self._first.results
        started = time.perf_counter()
        first: float | None = None
        touched = set()
        for change in self._session.correct(self._clip.seeds([frame])):
            touched.add(change.frame)
            if first is None and change.frame != frame:
                first = time.perf_counter() - started
        self.times.waits.append(time.perf_counter() - started)
        self.times.first_changes += [] if first is None else [first]
        touched |= set(self._work_in_background(self._trained_again))
        labels = (label for label in self._session.labels.values() if label.frame in touched)
        return [FrameResult(index, tuple(objects), tuple(classes)) for index, objects, classes in by_frame(labels)]

    def _trained_again(self) -> list[int]:
        """Retrain, like a server while its annotator draws the next frame; returns the frames with changed labels."""
        changed = []
        if self._policy.is_due_after_correction():
            retrained = self._session.retrain()
            self._policy.tried(retrained.better)
            if retrained.better:
                changed = [change.frame for change in self._session.replace_model(retrained)]
        self._session.prepare()
        return changed

    def _work_in_background(self, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        done = work()
        self.times.background.append(time.perf_counter() - started)
        return done

    def accept(self, frame: int) -> None:
        """See ``SimulatedReviewer``."""
        self._session.settle([key for key in self._session.labels if key.frame == frame])

    def suggest(self, skip: Iterable[int]) -> int | None:
        """See ``SimulatedReviewer``."""
        found = self._session.suggest(1, skip)
        return found[0].frame if found else None

    def close(self) -> None:
        """See ``SimulatedReviewer``."""
        self._session.close()
