"""Experiments: variants of the recipe ``head``, compared on a seed frame that none of them has seen.

Successive halving (Jamieson & Talwalkar, *Non-stochastic Best Arm Identification and Hyperparameter Optimization*,
AISTATS 2016): all variants train for a short while, the better half goes on for as long again, and so on. The last two
have had half the steps of a whole training.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from micromodels.labels.geometry import box_iou, mask_iou
from micromodels.labels.targets import IGNORE
from micromodels.runtime.run import Event, Run, Stage, StageFinished, StopRequest
from micromodels.training.head import DenseHead, predict
from micromodels.training.trainer import BOX_STRIDE_PX, Clock, HeadTrainer, Sample, SharedClock

__all__ = ["THIN", "DenseSettings", "Outcome", "Trial", "best_of", "successive_halving"]


@dataclass(frozen=True, slots=True)
class DenseSettings:
    """What an experiment may vary.

    Attributes:
        views: augmented views in all, shared out over the seed frames.
        steps: training steps on views of seeds.
        self_steps: further steps with the video's own confident frames.
        learning_rate: peak.
        width: channels of the head.
        thin: whether the head speaks of every pixel, not of every second one; follows from the seeds.
    """

    views: int = 48
    steps: int = 440
    self_steps: int = 130
    learning_rate: float = 8e-3
    width: int = 48
    thin: bool = False

    def scaled(self, effort: float, lessons: float) -> DenseSettings:
        """The same with ``effort`` times the views, and ``effort`` times ``lessons`` times the steps."""
        return replace(
            self,
            views=max(4, round(self.views * effort)),
            steps=max(4, round(self.steps * effort * lessons)),
            self_steps=round(self.self_steps * effort * lessons),
        )

    def variant(self, number: int, factor: float) -> DenseSettings:
        """Of experiment ``number``, with ``factor`` times the steps of the table below; 0 is the default itself."""
        changes = dict(VARIANTS[number % len(VARIANTS)])
        for key in ("steps", "self_steps"):
            if changes.get(key):
                changes[key] = max(4, round(changes[key] * factor))
        return replace(self, **changes)


THIN: Mapping[str, Any] = {"thin": True, "views": 20, "steps": 540, "self_steps": 130}
"""Thin objects are a matter of pixels: they gain more by steps than by other surroundings."""
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"learning_rate": 4e-3},
    {"width": 64},
    {"steps": 720},
    {"learning_rate": 1.2e-2},
    {"self_steps": 0},
    {"width": 32},
    {"steps": 340, "self_steps": 260},
)
"""Settings of experiment 0, 1, ... relative to the default; further experiments repeat them with other random views."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a variant.

    Attributes:
        score: mean IoU over the tracks of the seed frame that was left out, when it was looked at last; None where
            none was left out.
        seconds: that its trial took.
        steps: of its trial.
        rounds: that it lasted. Scores after unlike numbers of rounds cannot be compared.
    """

    score: float | None
    seconds: float = 0.0
    steps: int = 0
    rounds: int = 0


def best_of(outcomes: Sequence[Outcome]) -> int:
    """Which variant to keep: the best of those that were tried the longest, the first of equals."""
    rounds = max(outcome.rounds for outcome in outcomes)
    last_round = [number for number, outcome in enumerate(outcomes) if outcome.rounds == rounds]
    return max(last_round, key=lambda number: (outcomes[number].score or 0.0, -number))


class Trial:
    """One variant in training on all seeds but one.

    Args:
        number: of the experiment.
        variant: its settings.
        head: new, on its device.
        seed: of every random choice of the run.
        views: of the other seed frames.
        asked: the frame that is left out.
    """

    def __init__(
        self, number: int, variant: DenseSettings, head: DenseHead, seed: int, views: Sequence[Sample], asked: Sample
    ) -> None:
        self.number, self.score, self.seconds, self.steps = number, 0.0, 0.0, 0
        self._variant, self._views, self._asked = variant, views, asked
        self._trainer = HeadTrainer(head, seed + number, learning_rate=variant.learning_rate)

    def steps_until(self, share: float) -> int:
        """Steps that it lacks until it has had this share of a whole training's."""
        return max(2, round(self._variant.steps * share) - self.steps)

    def advance(self, share: float, clock: Clock, run: Run) -> None:
        """Train up to this share of a whole training's steps, and score."""
        started = time.perf_counter()
        steps = self.steps_until(share)
        if run.should_stop() is StopRequest.NONE:
            self._trainer.fit(self._views, steps, clock, run)
            self.steps += steps
            run.on_event(StageFinished(Stage.TRAIN, time.perf_counter() - started))
        self.score = _overlap(self._trainer.head.eval(), self._asked)
        self.seconds += time.perf_counter() - started


def successive_halving(
    trials: Sequence[Trial], at_once: int, clock: Clock, final_steps: int, run: Run
) -> list[Outcome]:
    """See the module.

    Args:
        trials: at least two, in the order of their numbers.
        at_once: how many may run at the same time.
        clock: counts their steps.
        final_steps: that come after them, for the clock.
        run: events and stopping.

    Returns:
        What came of each, in their order.
    """
    rounds = math.ceil(math.log2(len(trials)))
    events: SimpleQueue[Event] = SimpleQueue()
    request = StopRequest.NONE
    # Events go out, and the user is asked, in this thread only.
    inner = replace(run, on_event=events.put, should_stop=lambda: request)
    lock = threading.Lock()
    staying, reached = list(trials), [0] * len(trials)
    for number in range(rounds):
        share = 0.5 ** (rounds - number)
        steps = sum(trial.steps_until(share) for trial in staying)
        later = (rounds - 1 - number) * (steps if number else steps // 2)
        clock.steps_total = clock.steps_done + steps + later + final_steps
        with ThreadPoolExecutor(at_once, thread_name_prefix="experiment") as pool:
            waiting = {
                pool.submit(trial.advance, share, SharedClock(clock, trial.number, at_once, lock), inner)
                for trial in staying
            }
            while waiting:
                done, waiting = wait(waiting, timeout=0.05)
                while not events.empty():
                    run.on_event(events.get())
                if request is StopRequest.NONE:
                    request = run.should_stop()
                for trial_done in done:
                    trial_done.result()
        for trial in staying:
            reached[trial.number] = number + 1
        staying = sorted(staying, key=lambda trial: (-trial.score, trial.number))[: (len(staying) + 1) // 2]
    return [Outcome(trial.score, trial.seconds, trial.steps, reached[trial.number]) for trial in trials]


def _overlap(head: DenseHead, sample: Sample) -> float:
    """Mean IoU over the tracks of which something is known on a frame: of boxes where it says boxes, else of pixels."""
    output = predict(head, sample.features)
    labels = output.logits.argmax(0).cpu().numpy()
    sides = None if output.sides is None else output.sides.cpu().numpy()
    scores = []
    for track in np.nonzero(sample.known)[0] + 1:
        true_box = sample.boxes[track - 1]
        if sides is not None and not np.isnan(true_box[0]):
            scores.append(_box_overlap(labels == track, sides, true_box))
            continue
        scored = sample.label_map != IGNORE
        truth, found = (sample.label_map == track) & scored, (labels == track) & scored
        if truth.any() or found.any():
            scores.append(float(mask_iou(truth, found)))
    return float(np.mean(scores)) if scores else 0.0


def _box_overlap(
    found: npt.NDArray[np.bool_], sides: npt.NDArray[np.float32], true_box: npt.NDArray[np.float32]
) -> float:
    """IoU of a box with the median of the boxes that an object's pixels speak of; 0 where there are none.

    Args:
        found: bool, the pixels of the object, at 2 or 4 times the resolution of ``sides``.
        sides: float32 ``(4, h, w)`` distances to left, top, right and bottom at stride ``BOX_STRIDE_PX``.
        true_box: float32 ``(4,)``.
    """
    step = found.shape[0] // sides.shape[1]
    rows, columns = np.nonzero(found[::step, ::step])
    if not len(rows):
        return 0.0
    x, y = (columns + 0.5) * BOX_STRIDE_PX, (rows + 0.5) * BOX_STRIDE_PX
    left, top, right, bottom = sides[:, rows, columns]
    corners = [np.median(side) for side in (x - left, y - top, x + right, y + bottom)]
    return float(box_iou(corners, true_box))
