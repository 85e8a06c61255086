"""The recipe ``head``: a frozen encoder, a dense head overfitted on views of the seeds, offline temporal inference."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import safetensors
import safetensors.torch
import torch

from micromodels.encoder import Encoder, default_encoder_name, load_encoder, select_device
from micromodels.errors import Cancelled, InvalidInput, ModelError, OutOfMemory, OutOfRange
from micromodels.events import (
    ExperimentFinished,
    FlipBookPicture,
    PropagationProgress,
    Run,
    Stage,
    StageFinished,
    StopRequest,
)
from micromodels.features import EncodedVideo, FrameSource, level_statistics
from micromodels.heads import DenseHead, FrameClassifier, HeadSettings, pooled
from micromodels.manifest import Manifest, seeds_digest, weights_digest
from micromodels.prefetch import prefetched
from micromodels.propagation import FramePosterior, PropagationSettings, propagate_windows
from micromodels.seeds import IGNORE, SeedSet, make_views
from micromodels.tracking import Tracker
from micromodels.training import Clock, HeadTrainer, Sample
from micromodels.types import AnyLabel, FrameResult, Ontology, ShapeKind

if TYPE_CHECKING:
    from micromodels.labeling import TrainSettings

__all__ = ["DenseModel", "DenseSettings", "load", "train"]

WEIGHTS_FILE, GRAPH_FILE = "head.safetensors", "head.onnx"
MAX_WEIGHTS_BYTES = 256 << 20
MAX_WIDTH = 1024
SELF_TRAINING_FRAMES = 160
SELF_TRAINING_CERTAINTY = 0.85


@dataclass(frozen=True, slots=True)
class DenseSettings:
    """What an experiment may vary.

    Attributes:
        views: augmented views in all, shared out over the seed frames.
        steps: training steps on views of seeds.
        self_steps: further steps with the video's own confident frames.
        learning_rate: peak.
        width: channels of the head.
    """

    views: int = 60
    steps: int = 320
    self_steps: int = 100
    learning_rate: float = 8e-3
    width: int = 48

    def scaled(self, effort: float) -> DenseSettings:
        """The same with ``effort`` times the views and steps."""
        return replace(
            self,
            views=max(4, round(self.views * effort)),
            steps=max(4, round(self.steps * effort)),
            self_steps=round(self.self_steps * effort),
        )


VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"learning_rate": 4e-3},
    {"width": 64},
    {"steps": 500},
    {"learning_rate": 1.2e-2},
    {"self_steps": 0},
    {"width": 32},
    {"steps": 220, "self_steps": 200},
)
"""Settings of experiment 0, 1, ... relative to the default; further experiments repeat them with other random views."""


class DenseModel:
    """A trained micro-model of the recipe ``head``."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: Encoder,
        head: DenseHead | None,
        classifier: FrameClassifier | None,
    ) -> None:
        self.manifest = manifest
        self._encoder = encoder
        self._head = head
        self._classifier = classifier

    def propagate(
        self, video: FrameSource, anchors: Sequence[AnyLabel], *, frames: range | None = None, run: Run = Run()
    ) -> Iterator[FrameResult]:
        """See ``micromodels.labeling.MicroModel.propagate``."""
        table = video.table
        seeds = SeedSet(anchors, table.frame_count, table.height_px, table.width_px, tracks=self.manifest.tracks)
        wanted = range(table.frame_count) if frames is None else frames
        if wanted.step != 1 or not 0 <= wanted.start <= wanted.stop <= table.frame_count:
            raise OutOfRange("frames", wanted, f"a range with step 1 within 0 to {table.frame_count}")
        device = select_device(run.device)
        if self._head is not None:
            self._head.to(device)
        started = time.perf_counter()
        # Reading a model for another device than it was trained on re-opens the encoder there.
        encoder = load_encoder(self.manifest.encoder, device) if device.type == "cuda" else self._encoder
        with EncodedVideo(video, encoder, run) as encoded:
            anchored = seeds.frames if self.manifest.tracks else []
            targets = {frame: seeds.seed_frame(frame, encoded.size) for frame in anchored}
            tracker = Tracker(
                self.manifest.tracks,
                seeds,
                targets,
                encoded.size,
                self.manifest.version,
                self._classifier.cpu() if self._classifier is not None else None,
                self.manifest.frame_classes,
                self.manifest.typical_areas,
            )
            posteriors = propagate_windows(encoded, self._head, targets, wanted, run, PropagationSettings())
            for done, result in enumerate(tracker.results(posteriors), start=1):
                yield result
                pace = (time.perf_counter() - started) / done
                run.on_event(PropagationProgress(done, len(wanted), pace * (len(wanted) - done)))

    def save(self, folder: Path) -> None:
        """See ``micromodels.labeling.MicroModel.save``."""
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(_tensors(self._head, self._classifier), str(folder / WEIGHTS_FILE))
        if self._head is not None:
            _export(self._head, folder / GRAPH_FILE)
        self.manifest.save(folder)


def _tensors(head: DenseHead | None, classifier: FrameClassifier | None) -> dict[str, torch.Tensor]:
    tensors = {}
    for prefix, module in (("head", head), ("classifier", classifier)):
        if module is not None:
            state = module.state_dict()
            tensors.update({f"{prefix}.{key}": value.detach().cpu().contiguous() for key, value in state.items()})
    return tensors


class _Graph(torch.nn.Module):
    """The head as a graph with plain tensors in and out."""

    def __init__(self, head: DenseHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.head(features)
        return (output.logits,) if output.sides is None else (output.logits, output.sides)


def _export(head: DenseHead, path: Path) -> None:
    """Write the head as ONNX: one input per level, outputs ``logits`` and, for boxes, ``sides``."""
    device = next(head.parameters()).device
    levels = head.settings.levels
    names = [f"level{i}" for i in range(len(levels))]
    inputs = tuple(torch.zeros(1, level.channels, 128 // level.stride, 192 // level.stride) for level in levels)
    outputs = ["logits", "sides"] if head.settings.boxes else ["logits"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(head.cpu()).eval(),
            inputs,
            str(path),
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "n", 2: f"{name}_h", 3: f"{name}_w"} for name in names},
            opset_version=17,
            dynamo=False,
        )
    head.to(device)


def load(folder: Path, manifest: Manifest) -> DenseModel:
    """Load a saved model of this recipe.

    Raises:
        ModelError: weights missing, damaged, too large, or not those of the manifest.
    """
    path = folder / WEIGHTS_FILE
    try:
        if path.stat().st_size > MAX_WEIGHTS_BYTES:
            raise ModelError(f"{path.name} is larger than {MAX_WEIGHTS_BYTES} bytes")
        tensors = safetensors.torch.load_file(str(path))
    except OSError as error:
        raise ModelError(f"{WEIGHTS_FILE} cannot be read: {error}") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise ModelError(f"{WEIGHTS_FILE} is not a safetensors file: {error}") from error
    if any(tensor.dtype not in (torch.float32, torch.int64) for tensor in tensors.values()):
        raise ModelError(f"{WEIGHTS_FILE} holds tensors that are neither float32 nor int64")
    if weights_digest(tensors)[:12] != manifest.version:
        raise ModelError(f"{WEIGHTS_FILE} does not hold the weights of version {manifest.version}")
    try:
        encoder = load_encoder(manifest.encoder, torch.device("cpu"))
    except InvalidInput as error:
        raise ModelError(f"the encoder of this model is not here: {error}") from error
    if encoder.name != manifest.encoder_weights:
        raise ModelError(f"made with encoder {manifest.encoder_weights}, but {encoder.name} is installed")
    parts = {
        prefix: {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
        for prefix in ("head", "classifier")
    }
    try:
        head = None
        if manifest.tracks:
            boxes = any(spec.shape is ShapeKind.BOX for spec in manifest.tracks)
            width = int(manifest.settings["width"])
            if not 1 <= width <= MAX_WIDTH:
                raise ModelError(f"{width} channels; at most {MAX_WIDTH}")
            head = DenseHead(HeadSettings(encoder.levels, len(manifest.tracks), boxes, width)).eval()
            head.load_state_dict(parts["head"])
            head.to(memory_format=torch.channels_last)
        classifier = None
        if manifest.frame_classes:
            inputs = 2 * sum(level.channels for level in encoder.levels)
            classifier = FrameClassifier(inputs, len(manifest.frame_classes)).eval()
            classifier.load_state_dict(parts["classifier"])
    except (RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{WEIGHTS_FILE} does not fit the manifest: {error}") from error
    return DenseModel(manifest, encoder, head, classifier)


def train(
    video: FrameSource, seeds: Sequence[AnyLabel], settings: TrainSettings, ontology: Ontology | None, run: Run
) -> DenseModel:
    """Train this recipe; see ``micromodels.labeling.train``."""
    table = video.table
    seed_set = SeedSet(seeds, table.frame_count, table.height_px, table.width_px, ontology)
    seed_set.require_trainable()
    device = select_device(run.device)
    encoder = load_encoder(default_encoder_name() if settings.encoder == "auto" else settings.encoder, device)
    try:
        with EncodedVideo(video, encoder, run) as encoded:
            return _Training(encoded, seed_set, settings, device, run).finish()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"out of memory on {device}: {error}") from error


class _Training:
    """One run of ``train``: views, experiments, self-training, classifier."""

    def __init__(
        self, video: EncodedVideo, seeds: SeedSet, settings: TrainSettings, device: torch.device, run: Run
    ) -> None:
        self._video, self._seeds, self._settings, self._device, self._run = video, seeds, settings, device, run
        self._base = DenseSettings().scaled(settings.effort)
        self._targets = {frame: seeds.seed_frame(frame, video.size) for frame in seeds.frames}
        self._boxes = any(spec.shape is ShapeKind.BOX for spec in seeds.tracks)
        self._samples: dict[int, list[Sample]] = {}
        self._vectors: dict[int, list[npt.NDArray[np.float32]]] = {}
        count = video.frame_count
        spread = [round(share * (count - 1)) for share in (0.1, 0.4, 0.65, 0.95)]
        self._flip_frames = sorted(set(spread))
        self._stopped_early = False

    def finish(self) -> DenseModel:
        """Train everything; returns the model."""
        self._make_views()
        head, chosen = None, self._base
        metrics: dict[str, float] = {}
        if self._seeds.tracks:
            head, chosen, metrics = self._experiments()
        classifier = self._fit_classifier() if self._seeds.frame_classes else None
        manifest = self._manifest(head, classifier, chosen, metrics)
        return DenseModel(manifest, self._video.encoder, head, classifier)

    def _check_stop(self) -> None:
        request = self._run.should_stop()
        if request is StopRequest.CANCEL:
            raise Cancelled("training was cancelled")
        self._stopped_early = self._stopped_early or request is StopRequest.FINISH_EARLY

    def _make_views(self) -> None:
        """Encode augmented views of every seed frame."""
        frames = sorted(set(self._seeds.frames) | {label.frame for label in self._seeds.frame_labels})
        per_frame = max(4, math.ceil(self._base.views / len(frames)))
        flip = all(c.flip for c in self._seeds.ontology.object_classes)
        empty = self._seeds.seed_frame
        for frame in frames:
            rng = np.random.default_rng((self._settings.seed, frame))
            target = self._targets.get(frame) or empty(frame, self._video.size)
            image = self._video.image(frame)
            samples, vectors = [], []
            started = time.perf_counter()
            for view in prefetched(make_views(image, target, per_frame, rng, flip)):
                features = self._video.encoder.encode(view.image)
                # Targets at stride 2; nearest keeps them labels.
                small = np.ascontiguousarray(view.label_map[::2, ::2])
                samples.append(Sample(features, small, view.boxes, target.known))
                vectors.append(pooled(features))
                now = time.perf_counter()
                self._run.on_event(StageFinished(Stage.VIEWS, now - started))
                started = now
                self._check_stop()
            if frame in self._targets:
                self._samples[frame] = samples
            self._vectors[frame] = vectors

    def _new_head(self, settings: DenseSettings, salt: int) -> DenseHead:
        torch.manual_seed(self._settings.seed * 1000 + salt)
        levels = self._video.encoder.levels
        head = DenseHead(HeadSettings(levels, len(self._seeds.tracks), self._boxes, settings.width))
        plain = [samples[0].features for samples in self._samples.values()]
        head.set_statistics(level_statistics(plain))
        if self._boxes:
            boxes = np.concatenate([target.boxes for target in self._targets.values()])
            boxes = boxes[~np.isnan(boxes[:, 0])]
            half = np.median(boxes[:, 2:] - boxes[:, :2], axis=0) / 2
            head.get_buffer("box_scale").copy_(torch.tensor([*half, *half])[None, :, None, None])
        head.to(device=self._device)
        head.to(memory_format=torch.channels_last)
        return head

    def _experiments(self) -> tuple[DenseHead, DenseSettings, dict[str, float]]:
        """Try variants on all seeds but one, train the best on all of them."""
        count = self._settings.experiments
        frames = sorted(self._samples)
        variants = [replace(self._base, **_scaled_variant(i, self._settings.effort)) for i in range(count)]
        trial_steps = [max(4, v.steps // 2) for v in variants] if count > 1 and len(frames) > 1 else [0] * count
        final = self._base.steps + self._base.self_steps
        clock = Clock(0, count, sum(trial_steps) + final)
        results: list[tuple[float | None, float]] = []
        for number, variant in enumerate(variants):
            clock.experiment = number
            started = time.perf_counter()
            score = self._trial(variant, number, trial_steps[number], clock) if trial_steps[number] else None
            results.append((score, time.perf_counter() - started))
        scores = [-1.0 if score is None else score for score, _ in results]
        best = int(np.argmax(scores))
        clock.experiment, clock.steps_total = best, sum(trial_steps) + variants[best].steps + variants[best].self_steps
        started = time.perf_counter()
        head = self._train_fully(variants[best], best, clock)
        for number, (score, seconds) in enumerate(results):
            spent = seconds + (time.perf_counter() - started if number == best else 0.0)
            described = {key: str(value) for key, value in asdict(variants[number]).items()}
            self._run.on_event(ExperimentFinished(number, described, score, number == best, spent))
        metrics = {} if scores[best] < 0 else {"leave_one_seed_out": scores[best]}
        return head, variants[best], metrics

    def _trial(self, variant: DenseSettings, number: int, steps: int, clock: Clock) -> float:
        """Leave-one-seed-out score of a variant: mean IoU over the tracks of the held-out seed frame."""
        frames = sorted(self._samples)
        # The middle seed is held out: it is the one that the others surround, as they surround unlabelled frames.
        held_out = frames[len(frames) // 2]
        views = [sample for frame in frames if frame != held_out for sample in self._samples[frame]]
        head = self._new_head(variant, number)
        self._fit(
            HeadTrainer(head, self._settings.seed + number, learning_rate=variant.learning_rate), views, steps, clock
        )
        with torch.inference_mode():
            scores = self._iou(head, self._samples[held_out][0])
        return float(np.mean(scores)) if scores else 0.0

    def _iou(self, head: DenseHead, sample: Sample) -> list[float]:
        inputs = [torch.from_numpy(level)[None].to(self._device).float() for level in sample.features]
        predicted = head(inputs).logits[0].argmax(0).cpu().numpy()
        scored = sample.label_map != IGNORE
        scores = []
        for track in np.nonzero(sample.known)[0] + 1:
            truth, found = (sample.label_map == track) & scored, (predicted == track) & scored
            union = (truth | found).sum()
            if union:
                scores.append(float((truth & found).sum() / union))
        return scores

    def _fit(
        self,
        trainer: HeadTrainer,
        views: Sequence[Sample],
        steps: int,
        clock: Clock,
        pseudo: Sequence[Sample] = (),
        rate_scale: float = 1.0,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self._check_stop()
        if self._stopped_early or steps == 0:
            trainer.head.eval()
            return
        started = time.perf_counter()
        trainer.fit(views, steps, clock, self._run, pseudo, rate_scale, on_step)
        self._run.on_event(StageFinished(Stage.TRAIN, time.perf_counter() - started))
        self._check_stop()

    def _train_fully(self, variant: DenseSettings, number: int, clock: Clock) -> DenseHead:
        views = [sample for samples in self._samples.values() for sample in samples]
        head = self._new_head(variant, number)
        trainer = HeadTrainer(head, self._settings.seed + number, learning_rate=variant.learning_rate)
        first = clock.steps_done
        marks = {first + max(1, round(variant.steps * share)) for share in (0.05, 0.2, 0.5, 1.0)}

        def show(step: int) -> None:
            if step in marks:
                self._show(head, number, step)

        self._fit(trainer, views, variant.steps, clock, on_step=show)
        if variant.self_steps and not self._stopped_early:
            pseudo = self._confident_frames(head)
            if pseudo:
                self._fit(trainer, views, variant.self_steps, clock, pseudo, rate_scale=0.5)
                self._show(head, number, clock.steps_done)
        return head.eval()

    def _confident_frames(self, head: DenseHead) -> list[Sample]:
        """The video's own frames as training samples, where the first labelling of them is sure."""
        head.eval()
        frames = self._near_seeds()
        found: list[tuple[float, Sample]] = []
        for posterior in propagate_windows(self._video, head, self._targets, frames, self._run, PropagationSettings()):
            if posterior.frame in self._targets:
                continue
            label_map, certainty = _pseudo_labels(posterior)
            if certainty > 0:
                boxes = np.full((len(self._seeds.tracks), 4), np.nan, np.float32)
                known = np.ones(len(self._seeds.tracks), bool)
                sample = Sample(self._video[posterior.frame].features, label_map, boxes, known, 0.7)
                found.append((certainty, sample))
        found.sort(key=lambda item: -item[0])
        # Frames that only look sure are more among the last: keep the surer half and some.
        return [sample for _, sample in found[: max(4, int(0.6 * len(found)))]]

    def _near_seeds(self) -> range:
        """All frames of a short video; of a long one those around the middle seed."""
        count = self._video.frame_count
        if count <= SELF_TRAINING_FRAMES:
            return range(count)
        middle = sorted(self._targets)[len(self._targets) // 2]
        start = int(np.clip(middle - SELF_TRAINING_FRAMES // 2, 0, count - SELF_TRAINING_FRAMES))
        return range(start, start + SELF_TRAINING_FRAMES)

    @torch.inference_mode()
    def _show(self, head: DenseHead, number: int, step: int) -> None:
        """Flip-book pictures: what the head sees on a few fixed frames."""
        head.eval()
        for frame in self._flip_frames:
            inputs = [torch.from_numpy(level)[None].to(self._device).float() for level in self._video[frame].features]
            probability = head(inputs).logits[0].softmax(0)[1:].amax(0).cpu().numpy()
            image = self._video.image(frame)
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
        vectors = np.stack([vector for frame in said for vector in self._vectors[frame]])
        targets = np.stack([row for frame, row in said.items() for _ in self._vectors[frame]])
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
            version=weights_digest(_tensors(head, classifier))[:12],
            recipe="head",
            encoder=name,
            encoder_weights=self._video.encoder.name,
            tracks=self._seeds.tracks,
            frame_classes=self._seeds.frame_classes,
            typical_areas=tuple(areas),
            settings=asdict(chosen),
            seeds_digest=seeds_digest(self._seeds),
            seed_frames=tuple(sorted(self._vectors)),
            video=self._video.video.table.content_hash,
            metrics=metrics,
            libraries={module.__name__: str(module.__version__) for module in (torch, onnxruntime, cv2, np)},
        )


def _scaled_variant(number: int, effort: float) -> dict[str, Any]:
    variant = dict(VARIANTS[number % len(VARIANTS)])
    for key in ("steps", "self_steps"):
        if key in variant:
            variant[key] = max(4, round(variant[key] * effort)) if variant[key] else 0
    return variant


def _pseudo_labels(posterior: FramePosterior) -> tuple[npt.NDArray[np.uint8], float]:
    """A label map where only sure pixels are scored, and how sure its objects are (0 where there is none)."""
    probability = 1 / (1 + np.exp(-posterior.log_odds.clip(-30, 30)))
    best = probability.argmax(axis=0)
    top = probability.max(axis=0)
    label_map = np.full(top.shape, IGNORE, np.uint8)
    label_map[top < 1 - SELF_TRAINING_CERTAINTY] = 0
    sure = top > SELF_TRAINING_CERTAINTY
    label_map[sure] = best[sure] + 1
    inside = top > 0.5
    return label_map, float(top[inside].mean()) if sure.any() else 0.0
