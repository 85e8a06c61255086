"""How the recipe ``head`` trains: views of the seeds, experiments, self-training, classifier of frames."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from micromodels.encoding.encoded_video import EncodedVideo, FrameSelection, level_statistics
from micromodels.encoding.encoders import Weights, encoder_name, load_encoder, weights_digest
from micromodels.errors import Cancelled
from micromodels.labels.targets import SeedFrame, SeedSet, boxed, has_thin_objects, typical_areas
from micromodels.propagation.base import TemporalMethod
from micromodels.propagation.predictions import HeadPredictions
from micromodels.recipes.base import TrainInputs, TrainSettings
from micromodels.recipes.head.model import DenseModel, head_tensors
from micromodels.recipes.manifest import Manifest, seeds_digest
from micromodels.runtime.parallel import narrow_operations, worker_count
from micromodels.runtime.run import ExperimentFinished, Run, Stage, StageFinished, StopRequest
from micromodels.training.checkpoints import Checkpoints
from micromodels.training.flip_book import FlipBook, flip_book_frames
from micromodels.training.frame_classifier import FrameClassifier, fit_frame_classifier
from micromodels.training.head import DenseHead, HeadSettings, head_levels
from micromodels.training.hyperparameter_search import (
    THIN,
    DenseSettings,
    Outcome,
    Trial,
    best_of,
    successive_halving,
)
from micromodels.training.self_training import confident_samples, frames_to_label, rounds_after
from micromodels.training.trainer import Clock, HeadTrainer, Sample
from micromodels.training.view_pool import ViewPool

__all__ = ["train_head"]

USUAL_FRAMES, SPARE_EFFORT = 80, 0.4
"""A video of a few frames only gets 1.4 times the views and steps: encoding the others would have taken as long."""
FEW_FRAMES, MAX_LESSONS = 3, 2.0
"""Each frame of masks after the third brings half as many steps more, up to twice as many in all: more frames take
longer to learn, and each of them took somebody a minute. Boxes do not: they are drawn in seconds."""
EARLY_VIEWS = 0.25
"""Training begins when this share of the views is there; the others come in over as large a share of its steps."""
SELF_TRAINING_RATE = 0.5
"""Learning rate of self-training, as a share of that before it."""
SHOWN_AT = (0.05, 0.2, 0.5, 1.0)
"""When pictures of the flip book are made, as shares of the steps on seeds."""


def train_head(inputs: TrainInputs, recipe: str, temporal: TemporalMethod, tuned: Weights | None) -> DenseModel:
    """Train a dense head, a classifier of frames, or both.

    Args:
        inputs: video, seeds, settings.
        recipe: name of the recipe that the micro-model is of.
        temporal: how its micro-models follow objects from frame to frame.
        tuned: weights of the encoder's part ``lite0``; None for ImageNet's.

    Raises:
        InvalidInput: an encoder that is not there.
        TrainingError: training failed.
        Cancelled: the user cancelled.
    """
    encoder = load_encoder(encoder_name(inputs.settings.encoder), inputs.device, tuned)
    with EncodedVideo(inputs.video, encoder, inputs.run) as encoded, narrow_operations():
        training = _Training(encoded, inputs, temporal)
        head, classifier, chosen, metrics = training.finish()
    manifest = Manifest(
        version=weights_digest(head_tensors(head, classifier))[:12],
        recipe=recipe,
        encoder=encoder_name(inputs.settings.encoder),
        encoder_weights=encoder.name,
        tracks=inputs.seeds.tracks,
        frame_classes=inputs.seeds.frame_classes,
        typical_areas=typical_areas(training.targets, len(inputs.seeds.tracks)),
        settings=asdict(chosen),
        seeds_digest=seeds_digest(inputs.seeds),
        seed_frames=inputs.seeds.all_frames,
        video=inputs.video.table.content_hash,
        metrics=metrics,
        libraries={module.__name__: str(module.__version__) for module in (torch, onnxruntime, cv2, np)},
    )
    return DenseModel(manifest, encoder, head, classifier, temporal, tuned)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What follows from the seeds and the length of the video.

    Attributes:
        base: settings of experiment 0.
        factor: on the steps that other experiments name.
        stride: of the head's logits.
        boxes: whether any track is drawn as boxes.
        rounds: of self-training.
    """

    base: DenseSettings
    factor: float
    stride: int
    boxes: bool
    rounds: int

    @classmethod
    def of(cls, video: EncodedVideo, seeds: SeedSet, settings: TrainSettings) -> _Plan:
        """Make it."""
        targets = [seeds.seed_frame(frame, video.size) for frame in seeds.frames]
        thin = video.encoder.levels[0].stride == 1 and has_thin_objects(targets, seeds.tracks)
        # Frames that a short video does not have leave time for steps.
        effort = settings.effort * (1 + SPARE_EFFORT * max(0.0, 1 - video.frame_count / USUAL_FRAMES))
        boxes = any(boxed(seeds.tracks))
        drawn = {label.frame for label in seeds.object_labels if label.shape is not None}
        lessons = 1.0 if boxes else min(MAX_LESSONS, 1 + max(0, len(drawn) - FEW_FRAMES) / 2)
        base = replace(DenseSettings(), **(THIN if thin else {})).scaled(effort, lessons)
        return cls(base, effort * lessons, 1 if thin else 2, boxes, rounds_after(len(drawn)))


class _Stop:
    """Whether the user wants training to end."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.early = False
        """Somebody has said that it is good enough."""

    def check(self) -> None:
        """Ask.

        Raises:
            Cancelled: the user cancelled.
        """
        request = self._run.should_stop()
        if request is StopRequest.CANCEL:
            raise Cancelled("training was cancelled")
        self.early = self.early or request is StopRequest.FINISH_EARLY


class _Training:
    """One run of ``train_head``. Views and then frames are encoded in the background while a head trains."""

    def __init__(self, video: EncodedVideo, inputs: TrainInputs, temporal: TemporalMethod) -> None:
        self._video, self._temporal = video, temporal
        self._seeds, self._settings, self._device = inputs.seeds, inputs.settings, inputs.device
        self._run, self._stop = inputs.run, _Stop(inputs.run)
        self._plan = _Plan.of(video, self._seeds, self._settings)
        shown = flip_book_frames(video.frame_count)
        images = {frame: video.image(frame) for frame in {*self._seeds.all_frames, *shown}}
        self._flip_book = FlipBook(video, images, self._run)
        self._to_label = frames_to_label(video.frame_count, self._seeds.frames) if self._seeds.tracks else []
        self._pool = ViewPool(
            video,
            self._seeds,
            images,
            self._plan.base.views,
            self._plan.stride,
            self._settings.seed,
            self._to_label,
        )
        self._checkpoints = self._open_checkpoints()

    def _open_checkpoints(self) -> Checkpoints | None:
        if self._run.checkpoint_dir is None:
            return None
        video = self._video
        of_video = (video.encoder.name, video.size, video.frame_count)
        depends_on = (seeds_digest(self._seeds), self._settings, self._plan.base, *of_video)
        return Checkpoints(self._run.checkpoint_dir, hashlib.sha256(repr(depends_on).encode()).hexdigest())

    @property
    def targets(self) -> list[SeedFrame]:
        """Seeds of objects on the work image."""
        return list(self._pool.targets.values())

    def finish(self) -> tuple[DenseHead | None, FrameClassifier | None, DenseSettings, dict[str, float]]:
        """Train everything: head, classifier, settings of the best experiment, metrics."""
        with self._pool:
            needs_all = self._seeds.frame_classes or self._settings.experiments > 1
            self._pool.wait(1.0 if needs_all else EARLY_VIEWS, self._stop.check)
            head, chosen = None, self._plan.base
            metrics: dict[str, float] = {}
            if self._seeds.tracks:
                head, chosen, metrics = self._experiments()
            classifier = self._fit_classifier() if self._seeds.frame_classes else None
        self._video.tell_times()
        return head, classifier, chosen, metrics

    def _fit_classifier(self) -> FrameClassifier:
        self._pool.wait(1.0, self._stop.check)
        return fit_frame_classifier(self._seeds.frame_classes, self._seeds.frame_labels, self._pool.vectors)

    def _new_head(self, settings: DenseSettings, salt: int) -> DenseHead:
        torch.manual_seed(self._settings.seed * 1000 + salt)
        levels = head_levels(self._video.encoder.levels, thin=settings.thin)
        head = DenseHead(HeadSettings(levels, len(self._seeds.tracks), self._plan.boxes, settings.width))
        head.set_statistics(level_statistics([view.features[-len(levels) :] for view in self._pool.drawn]))
        head.fit_box_scale([target.boxes for target in self._pool.targets.values()])
        head.to(device=self._device)
        head.to(memory_format=torch.channels_last)
        return head

    # Experiments

    def _experiments(self) -> tuple[DenseHead, DenseSettings, dict[str, float]]:
        """Try variants on all seeds but one, train the best on all of them."""
        count, base = self._settings.experiments, self._plan.base
        variants = [base.variant(number, self._plan.factor) for number in range(count)]
        clock = Clock(0, count, base.steps + base.self_steps)
        results = self._kept_trials() or self._trials(variants, clock)
        best = best_of(results)
        spent_steps = sum(result.steps for result in results)
        clock.experiment, clock.steps_total = best, spent_steps + variants[best].steps + variants[best].self_steps
        started = time.perf_counter()
        head = self._train_fully(variants[best], best, clock, results)
        for number, result in enumerate(results):
            spent = result.seconds + (time.perf_counter() - started if number == best else 0.0)
            described = {key: str(value) for key, value in asdict(variants[number]).items()}
            if result.steps:
                described["trial_steps"] = str(result.steps)
            self._run.on_event(ExperimentFinished(number, described, result.score, number == best, spent))
        score = results[best].score
        metrics = {} if score is None else {"leave_one_seed_out": score}
        return head, variants[best], metrics

    def _kept_trials(self) -> list[Outcome]:
        """Scores, times and steps of the trials of an earlier try that got as far as its last training."""
        saved = self._checkpoints.load() if self._checkpoints is not None else None
        return [] if saved is None else [Outcome(*result) for result in saved.state["outside"]["trials"]]

    def _trials(self, variants: Sequence[DenseSettings], clock: Clock) -> list[Outcome]:
        """What came of each variant, trained on all seeds but one; the middle one, which the others surround."""
        drawn = sorted(self._pool.targets)
        if len(variants) == 1 or len(drawn) < 2:
            return [Outcome(None)] * len(variants)
        left_out = drawn[len(drawn) // 2]
        views = self._pool.samples(lambda frame: frame in self._pool.targets and frame != left_out)
        asked = self._pool.samples(lambda frame: frame == left_out)[0]
        trials = [
            Trial(number, variant, self._new_head(variant, number), self._settings.seed, views, asked)
            for number, variant in enumerate(variants)
        ]
        at_once = worker_count() if self._device.type == "cpu" else 1
        final_steps = self._plan.base.steps + self._plan.base.self_steps
        outcomes = successive_halving(trials, at_once, clock, final_steps, self._run)
        self._stop.check()
        return outcomes

    # The last training

    def _train_fully(self, variant: DenseSettings, number: int, clock: Clock, trials: Sequence[Outcome]) -> DenseHead:
        head = self._new_head(variant, number)
        trainer = HeadTrainer(
            head,
            self._settings.seed + number,
            learning_rate=variant.learning_rate,
            checkpoints=self._checkpoints,
            outside={"trials": [astuple(trial) for trial in trials]},
        )
        marks = {clock.steps_done + max(1, round(variant.steps * share)) for share in SHOWN_AT}

        def show(step: int) -> None:
            self._video.tell_times()
            if step in marks:
                self._flip_book.show(head, number, step)

        # By the number of the step, not by what happens to be ready: a run is the same on any machine.
        views: list[Sample] = []

        def available(step: int) -> int:
            count = self._pool.count(EARLY_VIEWS + step / variant.steps)
            self._pool.require(count)
            views[:] = self._pool.samples(lambda frame: frame in self._pool.targets, count)
            return len(views)

        self._fit(trainer, views, variant.steps, clock, on_step=show, available=available)
        if variant.self_steps and not self._stop.early:
            self._train_on_itself(trainer, variant, number, clock)
        return head.eval()

    def _train_on_itself(self, trainer: HeadTrainer, variant: DenseSettings, number: int, clock: Clock) -> None:
        """Continue with the video's own frames, where the head is sure of them."""
        self._pool.wait(1.0, self._stop.check)
        views = self._pool.samples(lambda frame: frame in self._pool.targets)
        for part in range(self._plan.rounds):
            steps = (variant.self_steps + part) // self._plan.rounds
            pseudo = [] if self._stop.early else self._confident_frames(trainer.head)
            if pseudo:
                self._fit(trainer, views, steps, clock, pseudo)
                self._flip_book.show(trainer.head, number, clock.steps_done)

    def _fit(
        self,
        trainer: HeadTrainer,
        views: Sequence[Sample],
        steps: int,
        clock: Clock,
        pseudo: Sequence[Sample] = (),
        on_step: Callable[[int], None] | None = None,
        available: Callable[[int], int] | None = None,
    ) -> None:
        """Train, unless nothing more is wanted; see ``HeadTrainer.fit``."""
        self._stop.check()
        if self._stop.early or steps == 0:
            trainer.head.eval()
            return
        started = time.perf_counter()
        rate_scale = SELF_TRAINING_RATE if pseudo else 1.0
        trainer.fit(views, steps, clock, self._run, pseudo, rate_scale, on_step, available)
        self._run.on_event(StageFinished(Stage.TRAIN, time.perf_counter() - started))
        self._stop.check()

    def _confident_frames(self, head: DenseHead) -> list[Sample]:
        """The video's own frames as training samples, where the first labeling of them is sure."""
        head.eval()
        frames = self._to_label
        self._pool.require_later(len(frames))
        # A video of these frames only, for which sweeps and paths are found as for any other.
        source = HeadPredictions(FrameSelection(self._video, frames), head, self._run)
        targets = self._pool.targets
        anchors = {place: targets[frame] for place, frame in enumerate(frames) if frame in targets}
        temporal = self._temporal(for_training=True)

        def labeled() -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
            tracks = boxed(self._seeds.tracks)
            for posterior in temporal.posteriors(source, anchors, range(len(frames)), self._run, tracks):
                if posterior.frame not in anchors:
                    yield frames[posterior.frame], posterior.fine_log_odds()

        return confident_samples(labeled(), lambda frame: self._video[frame].features)
