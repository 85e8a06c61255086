"""The recipe ``head``: a frozen encoder, a dense head overfitted on views of the seeds, offline temporal inference."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, replace
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from micromodels.encoding.encoded_video import EncodedVideo, FrameSelection, FrameSource, level_statistics
from micromodels.encoding.encoders import (
    Weights,
    default_encoder_name,
    load_encoder,
    select_device,
    weights_digest,
)
from micromodels.errors import Cancelled, OutOfMemory
from micromodels.labels.targets import (
    IGNORE,
    SeedSet,
    boxed,
    has_thin_objects,
)
from micromodels.propagation.sweeps import FramePosterior, PropagationSettings, propagate_windows
from micromodels.recipes.head_model import DenseModel, head_tensors, load
from micromodels.recipes.manifest import Manifest, seeds_digest
from micromodels.runtime.parallel import WorkLine, narrow_operations, worker_count
from micromodels.runtime.run import (
    ExperimentFinished,
    FlipBookPicture,
    Run,
    Stage,
    StageFinished,
    StopRequest,
)
from micromodels.training.augmentation import (
    ViewMaker,
)
from micromodels.training.checkpoints import Checkpoints
from micromodels.training.head import DenseHead, FrameClassifier, HeadSettings, head_levels, pooled
from micromodels.training.hyperparameter_search import (
    THIN,
    DenseSettings,
    Outcome,
    Trial,
    best_of,
    successive_halving,
)
from micromodels.training.trainer import Clock, HeadTrainer, Sample
from micromodels.types import AnyLabel, Ontology

if TYPE_CHECKING:
    from micromodels.recipes.base import TrainSettings

__all__ = ["DenseModel", "DenseSettings", "load", "train"]

SELF_TRAINING_FRAMES = 160
SELF_TRAINING_STRIDE = 2
"""Every second frame says nearly as much as all, and the others are encoded while the head trains on them."""
SELF_TRAINING_CERTAINTY = 0.85
ROUGH_FRAMES, ROUGH_ROUNDS = 1, 2
"""From one drawn frame the first labeling is rough: the head that has learned from its surer part labels the video
again, and learns from that. More drawn frames gain nothing by it."""
USUAL_FRAMES, SPARE_EFFORT = 80, 0.4
"""A video of a few frames only gets 1.4 times the views and steps: encoding the others would have taken as long."""
FEW_FRAMES, MAX_LESSONS = 3, 2.0
"""Each frame of masks after the third brings half as many steps more, up to twice as many in all: more frames take
longer to learn, and each of them took somebody a minute. Boxes do not: they are drawn in seconds."""
EARLY_VIEWS = 0.25
"""Training begins when this share of the views is there; the others come in over as large a share of its steps."""


def train(
    video: FrameSource,
    seeds: Sequence[AnyLabel],
    settings: TrainSettings,
    ontology: Ontology | None,
    run: Run,
    tuned: Weights | None = None,
) -> DenseModel:
    """Train this recipe; see ``micromodels.recipes.base.train``. ``tuned``: weights of the encoder, not ImageNet's."""
    table = video.table
    seed_set = SeedSet(seeds, table.frame_count, table.height_px, table.width_px, ontology)
    seed_set.require_trainable()
    device = select_device(run.device)
    encoder = load_encoder(default_encoder_name() if settings.encoder == "auto" else settings.encoder, device, tuned)
    try:
        with EncodedVideo(video, encoder, run) as encoded, narrow_operations():
            return _Training(encoded, seed_set, settings, device, run, tuned).finish()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"out of memory on {device}: {error}") from error


class _Training:
    """One run of ``train``: views, experiments, self-training, classifier.

    Views of the seeds and then the video's own frames are encoded in the background while a head trains.
    """

    def __init__(
        self,
        video: EncodedVideo,
        seeds: SeedSet,
        settings: TrainSettings,
        device: torch.device,
        run: Run,
        tuned: Weights | None,
    ) -> None:
        self._tuned = tuned
        self._video, self._seeds, self._settings, self._device, self._run = video, seeds, settings, device, run
        self._targets = {frame: seeds.seed_frame(frame, video.size) for frame in seeds.frames}
        thin = video.encoder.levels[0].stride == 1 and has_thin_objects(self._targets.values(), seeds.tracks)
        # Frames that a short video does not have leave time for steps.
        self._effort = settings.effort * (1 + SPARE_EFFORT * max(0.0, 1 - video.frame_count / USUAL_FRAMES))
        self._stride = 1 if thin else 2
        self._boxes = any(spec.is_box for spec in seeds.tracks)
        drawn = {label.frame for label in seeds.object_labels if label.shape is not None}
        self._rounds = ROUGH_ROUNDS if len(drawn) <= ROUGH_FRAMES else 1
        self._lessons = 1.0 if self._boxes else min(MAX_LESSONS, 1 + max(0, len(drawn) - FEW_FRAMES) / 2)
        base = replace(DenseSettings(), **(THIN if thin else {}))
        self._base = base.scaled(self._effort, self._lessons)
        self._seed_frames = sorted(set(seeds.frames) | {label.frame for label in seeds.frame_labels})
        per_frame = max(4, -(-self._base.views // len(self._seed_frames)))
        # View number n of every seed frame comes before view n + 1 of any.
        self._order = [(frame, number) for number in range(per_frame) for frame in self._seed_frames]
        self._views: list[Sample | None] = [None] * len(self._order)
        self._vectors: list[npt.NDArray[np.float32] | None] = [None] * len(self._order)
        spread = [round(share * (video.frame_count - 1)) for share in (0.1, 0.4, 0.65, 0.95)]
        self._flip_frames = sorted(set(spread))
        self._images = {frame: video.image(frame) for frame in {*self._seed_frames, *self._flip_frames}}
        self._stopped_early = False
        self._line: WorkLine
        self._checkpoints = None
        if run.checkpoint_dir is not None:
            depends_on = (seeds_digest(seeds), settings, self._base, video.encoder.name, video.size, video.frame_count)
            identity = hashlib.sha256(repr(depends_on).encode()).hexdigest()
            self._checkpoints = Checkpoints(run.checkpoint_dir, identity)

    def finish(self) -> DenseModel:
        """Train everything; returns the model."""
        with WorkLine(self._tasks(), worker_count() - 1) as self._line:
            self._await_views(1.0 if self._seeds.frame_classes or self._settings.experiments > 1 else EARLY_VIEWS)
            head, chosen = None, self._base
            metrics: dict[str, float] = {}
            if self._seeds.tracks:
                head, chosen, metrics = self._experiments()
            classifier = self._fit_classifier() if self._seeds.frame_classes else None
        self._video.tell_times()
        manifest = self._manifest(head, classifier, chosen, metrics)
        return DenseModel(manifest, self._video.encoder, head, classifier, self._tuned)

    def _check_stop(self) -> None:
        request = self._run.should_stop()
        if request is StopRequest.CANCEL:
            raise Cancelled("training was cancelled")
        self._stopped_early = self._stopped_early or request is StopRequest.FINISH_EARLY

    def _tasks(self) -> Iterator[Callable[[], None]]:
        """What is encoded, in this order: views of the seeds, frames for self-training, the others."""
        flip = all(c.flip for c in self._seeds.ontology.object_classes)
        makers: dict[int, ViewMaker] = {}
        for place, (frame, number) in enumerate(self._order):
            if frame not in makers:
                target = self._targets.get(frame) or self._seeds.seed_frame(frame, self._video.size)
                makers[frame] = ViewMaker(self._images[frame], target, (self._settings.seed, frame), flip)
            yield partial(self._encode_view, place, makers[frame], number)
        if self._seeds.tracks:
            near = self._near_seeds()
            first = set(near)
            others = (frame for frame in range(self._video.frame_count) if frame not in first)
            yield from self._video.encoding_tasks([*near, *others][: self._video.capacity_frames * 3 // 4])

    def _encode_view(self, place: int, maker: ViewMaker, number: int) -> None:
        started = time.perf_counter()
        frame = self._order[place][0]
        view = maker.view(number)
        # View 0 is the frame itself, whose features are needed anyway.
        if number == 0:
            features = self._video.with_image(frame, view.image).features
        else:
            features = self._video.encoder.encode(view.image)
        # Targets at the stride of the head; nearest keeps them labels.
        small = np.ascontiguousarray(view.label_map[:: self._stride, :: self._stride])
        known = self._targets[frame].known if frame in self._targets else np.zeros(len(self._seeds.tracks), bool)
        self._views[place] = Sample(features, small, view.boxes, known)
        self._vectors[place] = pooled(features) if self._seeds.frame_classes else None
        self._video.spent(Stage.VIEWS, started)

    def _await_views(self, share: float) -> None:
        """Wait, and help, until this share of the views is encoded."""
        wanted = self._available(share)
        for count in range(1, wanted + 1):
            self._line.require(count)
            self._video.tell_times()
            self._check_stop()

    def _available(self, share: float) -> int:
        return max(len(self._seed_frames), round(min(share, 1.0) * len(self._order)))

    def _of_frames(self, wanted: Callable[[int], bool], count: int | None = None) -> list[Sample]:
        """Encoded views of the seed frames that are wanted, among the first ``count``."""
        chosen = [
            view for (frame, _), view in zip(self._order[:count], self._views[:count], strict=True) if wanted(frame)
        ]
        return [view for view in chosen if view is not None]

    def _new_head(self, settings: DenseSettings, salt: int) -> DenseHead:
        torch.manual_seed(self._settings.seed * 1000 + salt)
        levels = head_levels(self._video.encoder.levels, thin=settings.thin)
        head = DenseHead(HeadSettings(levels, len(self._seeds.tracks), self._boxes, settings.width))
        # The first views are the seed frames themselves.
        plain = [view for view in self._views[: len(self._seed_frames)] if view is not None]
        head.set_statistics(level_statistics([view.features[-len(levels) :] for view in plain]))
        head.fit_box_scale([target.boxes for target in self._targets.values()])
        head.to(device=self._device)
        head.to(memory_format=torch.channels_last)
        return head

    def _experiments(self) -> tuple[DenseHead, DenseSettings, dict[str, float]]:
        """Try variants on all seeds but one, train the best on all of them."""
        count = self._settings.experiments
        variants = [self._base.variant(number, self._effort * self._lessons) for number in range(count)]
        clock = Clock(0, count, self._base.steps + self._base.self_steps)
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

    def _trials(self, variants: Sequence[DenseSettings], clock: Clock) -> list[Outcome]:
        """What came of each variant, trained on all seeds but one; the middle one, which the others surround."""
        if len(variants) == 1 or len(self._targets) < 2:
            return [Outcome(None)] * len(variants)
        drawn = sorted(self._targets)
        left_out = drawn[len(drawn) // 2]
        views = self._of_frames(lambda frame: frame in self._targets and frame != left_out)
        asked = self._of_frames(lambda frame: frame == left_out)[0]
        trials = [
            Trial(number, variant, self._new_head(variant, number), self._settings.seed, views, asked)
            for number, variant in enumerate(variants)
        ]
        at_once = worker_count() if self._device.type == "cpu" else 1
        outcomes = successive_halving(trials, at_once, clock, self._base.steps + self._base.self_steps, self._run)
        self._check_stop()
        return outcomes

    def _fit(
        self,
        trainer: HeadTrainer,
        views: Sequence[Sample],
        steps: int,
        clock: Clock,
        pseudo: Sequence[Sample] = (),
        rate_scale: float = 1.0,
        on_step: Callable[[int], None] | None = None,
        available: Callable[[int], int] | None = None,
    ) -> None:
        self._check_stop()
        if self._stopped_early or steps == 0:
            trainer.head.eval()
            return
        started = time.perf_counter()
        trainer.fit(views, steps, clock, self._run, pseudo, rate_scale, on_step, available)
        self._run.on_event(StageFinished(Stage.TRAIN, time.perf_counter() - started))
        self._check_stop()

    def _kept_trials(self) -> list[Outcome]:
        """Scores, times and steps of the trials of an earlier try that got as far as its last training."""
        saved = self._checkpoints.load() if self._checkpoints is not None else None
        return [] if saved is None else [Outcome(*result) for result in saved.state["outside"]["trials"]]

    def _train_fully(self, variant: DenseSettings, number: int, clock: Clock, trials: Sequence[Outcome]) -> DenseHead:
        head = self._new_head(variant, number)
        trainer = HeadTrainer(
            head,
            self._settings.seed + number,
            learning_rate=variant.learning_rate,
            checkpoints=self._checkpoints,
            outside={"trials": [astuple(trial) for trial in trials]},
        )
        first = clock.steps_done
        marks = {first + max(1, round(variant.steps * share)) for share in (0.05, 0.2, 0.5, 1.0)}

        def show(step: int) -> None:
            self._video.tell_times()
            if step in marks:
                self._show(head, number, step)

        # By the number of the step, not by what happens to be ready: a run is the same on any machine.
        views: list[Sample] = []

        def available(step: int) -> int:
            count = self._available(EARLY_VIEWS + step / variant.steps)
            self._line.require(count)
            views[:] = self._of_frames(lambda frame: frame in self._targets, count)
            return len(views)

        self._fit(trainer, views, variant.steps, clock, on_step=show, available=available)
        if variant.self_steps and not self._stopped_early:
            self._await_views(1.0)
            views[:] = self._of_frames(lambda frame: frame in self._targets)
            for part in range(self._rounds):
                steps = (variant.self_steps + part) // self._rounds
                pseudo = [] if self._stopped_early else self._confident_frames(head)
                if pseudo:
                    self._fit(trainer, views, steps, clock, pseudo, rate_scale=0.5)
                    self._show(head, number, clock.steps_done)
        return head.eval()

    def _confident_frames(self, head: DenseHead) -> list[Sample]:
        """The video's own frames as training samples, where the first labeling of them is sure."""
        head.eval()
        frames = self._near_seeds()
        self._line.require(len(self._order) + len(frames))
        self._video.tell_times()
        found: list[tuple[float, Sample]] = []
        drawn = boxed(self._seeds.tracks)
        # A video of these frames only, for which sweeps and paths are found as for any other.
        chosen = FrameSelection(self._video, frames)
        anchors = {place: self._targets[frame] for place, frame in enumerate(frames) if frame in self._targets}
        every = range(len(frames))
        # What is learned from is better kept in its place by a doubtful motion than by none.
        settings = PropagationSettings(check_motion=False)
        for posterior in propagate_windows(chosen, head, anchors, every, self._run, settings, drawn):
            if posterior.frame in anchors:
                continue
            label_map, certainty = _pseudo_labels(posterior)
            if certainty > 0:
                boxes = np.full((len(self._seeds.tracks), 4), np.nan, np.float32)
                known = np.ones(len(self._seeds.tracks), bool)
                sample = Sample(self._video[frames[posterior.frame]].features, label_map, boxes, known, 0.7)
                found.append((certainty, sample))
        found.sort(key=lambda item: -item[0])
        # Frames that only look sure are more among the last: keep the surer half and some.
        return [sample for _, sample in found[: max(4, int(0.6 * len(found)))]]

    def _near_seeds(self) -> list[int]:
        """Every second frame of a short video, or of the part of a long one around the middle seed, and the seeds."""
        count = self._video.frame_count
        start = 0
        if count > SELF_TRAINING_FRAMES:
            middle = sorted(self._targets)[len(self._targets) // 2]
            start = int(np.clip(middle - SELF_TRAINING_FRAMES // 2, 0, count - SELF_TRAINING_FRAMES))
        near = range(start, min(count, start + SELF_TRAINING_FRAMES))
        return sorted({*near[::SELF_TRAINING_STRIDE], *(frame for frame in self._targets if frame in near)})

    @torch.inference_mode()
    def _show(self, head: DenseHead, number: int, step: int) -> None:
        """Flip-book pictures: what the head sees on a few fixed frames."""
        head.eval()
        for frame in self._flip_frames:
            inputs = [torch.from_numpy(level)[None].to(self._device).float() for level in self._video[frame].features]
            with torch.autocast(self._device.type, torch.bfloat16):
                logits = head(inputs).logits[0].float()
            probability = logits.softmax(0)[1:].amax(0).cpu().numpy()
            image = self._images[frame]
            size = (320, max(1, round(320 * image.shape[0] / image.shape[1])))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            heat = cv2.resize(probability, size, interpolation=cv2.INTER_LINEAR)[..., None]
            tinted = small * (1 - 0.55 * heat) + np.array([255, 64, 32], np.float32) * 0.55 * heat
            self._run.on_event(FlipBookPicture(number, step, frame, tinted.clip(0, 255).astype(np.uint8)))
        head.train()

    def _fit_classifier(self) -> FrameClassifier:
        names = self._seeds.frame_classes
        said: dict[int, npt.NDArray[np.float32]] = {}
        for label in self._seeds.frame_labels:
            row = said.setdefault(label.frame, np.full(len(names), np.nan, np.float32))
            row[names.index(label.frame_class)] = float(label.present)
        self._await_views(1.0)
        pairs = [
            (v, said[f]) for (f, _), v in zip(self._order, self._vectors, strict=True) if f in said and v is not None
        ]
        vectors, targets = (np.stack(column) for column in zip(*pairs, strict=True))
        classifier = FrameClassifier(vectors.shape[1], len(names))
        classifier.fit(torch.from_numpy(vectors), torch.from_numpy(targets))
        return classifier.eval()

    def _manifest(
        self,
        head: DenseHead | None,
        classifier: FrameClassifier | None,
        chosen: DenseSettings,
        metrics: dict[str, float],
    ) -> Manifest:
        areas = []
        for index in range(len(self._seeds.tracks)):
            shares = [float((t.label_map == index + 1).mean()) for t in self._targets.values()]
            areas.append(float(np.median([share for share in shares if share > 0] or [0.01])))
        name = default_encoder_name() if self._settings.encoder == "auto" else self._settings.encoder
        return Manifest(
            version=weights_digest(head_tensors(head, classifier))[:12],
            recipe="head" if self._tuned is None else "finetune",
            encoder=name,
            encoder_weights=self._video.encoder.name,
            tracks=self._seeds.tracks,
            frame_classes=self._seeds.frame_classes,
            typical_areas=tuple(areas),
            settings=asdict(chosen),
            seeds_digest=seeds_digest(self._seeds),
            seed_frames=tuple(self._seed_frames),
            video=self._video.video.table.content_hash,
            metrics=metrics,
            libraries={module.__name__: str(module.__version__) for module in (torch, onnxruntime, cv2, np)},
        )


def _pseudo_labels(posterior: FramePosterior) -> tuple[npt.NDArray[np.uint8], float]:
    """A label map where only sure pixels are scored, and how sure its objects are (0 where there is none)."""
    probability = 1 / (1 + np.exp(-posterior.fine_log_odds().clip(-30, 30)))
    best = probability.argmax(axis=0)
    top = probability.max(axis=0)
    label_map = np.full(top.shape, IGNORE, np.uint8)
    label_map[top < 1 - SELF_TRAINING_CERTAINTY] = 0
    sure = top > SELF_TRAINING_CERTAINTY
    label_map[sure] = best[sure] + 1
    inside = top > 0.5
    return label_map, float(top[inside].mean()) if sure.any() else 0.0
