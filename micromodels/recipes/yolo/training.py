"""How the recipe ``yolo`` trains and loads: views of the seeds, ultralytics' training loop, a classifier of frames."""

from __future__ import annotations

import importlib.metadata
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch

from micromodels.encoding.encoded_video import FrameSource, to_work_image
from micromodels.encoding.encoders import load_encoder, select_device, weights_digest, work_size
from micromodels.errors import Cancelled, ModelError
from micromodels.labels.geometry import box_iou
from micromodels.labels.targets import SeedSet, typical_areas
from micromodels.recipes.base import TrainInputs
from micromodels.recipes.manifest import Manifest, seeds_digest
from micromodels.recipes.yolo.dataset import Detector, ViewDataset, class_names, uses_masks, yolo_size
from micromodels.recipes.yolo.network import export, fit, threads_kept
from micromodels.recipes.yolo.tracking import CLASSIFIER_ENCODER, Labeling, pooled_frame
from micromodels.runtime.run import (
    ExperimentFinished,
    PropagationProgress,
    Run,
    Stage,
    StageFinished,
    StopRequest,
)
from micromodels.training.augmentation import (
    View,
    ViewMaker,
)
from micromodels.training.frame_classifier import FrameClassifier, fit_frame_classifier, pooled_size
from micromodels.training.trainer import Clock
from micromodels.types import AnyLabel, FrameResult

__all__ = ["YoloModel", "YoloSettings", "load", "train"]

WEIGHTS_FILE, GRAPH_FILE = "yolo.safetensors", "yolo.onnx"
MAX_WEIGHTS_BYTES = 256 << 20
CLASSIFIER_VIEWS = 6
MIN_START_SCORE, MAX_START_SCORE = 0.01, 0.25


@dataclass(frozen=True, slots=True)
class YoloSettings:
    """What an experiment may vary.

    Attributes:
        views: augmented views in all, shared out over the seed frames.
        epochs: how often each is seen.
        batch: views a step.
        learning_rate: peak, of AdamW.
        long_side_px: of the network's input.
    """

    views: int = 150
    epochs: int = 4
    batch: int = 2
    learning_rate: float = 3e-3
    long_side_px: int = 320

    def per_frame(self, frames: int) -> int:
        """Views of each of so many seed frames."""
        return max(2, math.ceil(self.views / frames))

    def steps(self, frames: int) -> int:
        """Training steps with so many seed frames."""
        return self.epochs * math.ceil(self.per_frame(frames) * frames / self.batch) if frames else 0

    def scaled(self, effort: float) -> YoloSettings:
        """The same with ``effort`` times the views."""
        return replace(self, views=max(4, round(self.views * effort)))


VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"long_side_px": 416},
    {"learning_rate": 5e-3},
    {"views": 200, "batch": 3},
    {"learning_rate": 1.5e-3},
)
"""Settings of experiment 0, 1, ... relative to the default; further experiments repeat them with other random views."""


class YoloModel:
    """A trained micro-model of the recipe ``yolo``."""

    def __init__(
        self, manifest: Manifest, state: Mapping[str, torch.Tensor], classifier: FrameClassifier | None
    ) -> None:
        self.manifest = manifest
        self._state = state
        self._classifier = classifier
        self._graph = export(state, manifest.tracks) if manifest.tracks else b""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """See ``micromodels.recipes.base.MicroModel.save``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(_tensors(self._state, self._classifier), str(folder / WEIGHTS_FILE))
        if self._graph:
            (folder / GRAPH_FILE).write_bytes(self._graph)
        self.manifest.save(folder)

    def propagate(
        self, video: FrameSource, anchors: Sequence[AnyLabel], *, frames: range | None = None, run: Run = Run()
    ) -> Iterator[FrameResult]:
        """See ``micromodels.recipes.base.MicroModel.propagate``.

        Labels come after all frames were looked at: which object is which is known only then.
        """
        table = video.table
        seeds = SeedSet(anchors, table.frame_count, table.height_px, table.width_px, tracks=self.manifest.tracks)
        wanted = range(table.frame_count) if frames is None else frames
        labeling = Labeling(self.manifest, seeds, wanted)
        device = select_device(run.device)
        detector = Detector(self._graph, len(class_names(self.manifest.tracks)), device) if self._graph else None
        labeling.look(video, detector, self._classifier, run)
        started = time.perf_counter()
        for done, result in enumerate(labeling.results(), start=1):
            if run.should_stop() is StopRequest.CANCEL:
                raise Cancelled("labeling was cancelled")
            yield result
            pace = (time.perf_counter() - started) / done
            run.on_event(PropagationProgress(done, len(wanted), pace * (len(wanted) - done)))


def _tensors(state: Mapping[str, torch.Tensor], classifier: FrameClassifier | None) -> dict[str, torch.Tensor]:
    parts = {f"network.{key}": value for key, value in state.items()}
    if classifier is not None:
        parts.update({f"classifier.{key}": value for key, value in classifier.state_dict().items()})
    return {key: value.detach().cpu().contiguous() for key, value in parts.items()}


def load(folder: Path, manifest: Manifest) -> YoloModel:
    """Load a saved model of this recipe: weights from safetensors, the network and its ONNX graph built again.

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
    if weights_digest(tensors)[:12] != manifest.version:
        raise ModelError(f"{WEIGHTS_FILE} does not hold the weights of version {manifest.version}")
    if manifest.frame_classes and manifest.encoder_weights != _encoder_weights():
        raise ModelError(f"made with encoder {manifest.encoder_weights}, but {_encoder_weights()} is installed")
    parts = {
        prefix: {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
        for prefix in ("network", "classifier")
    }
    try:
        if not (
            64 <= int(manifest.settings["long_side_px"]) <= 4096 and 0 < float(manifest.settings["start_score"]) <= 1
        ):
            raise ModelError(f"settings out of range: {dict(manifest.settings)}")
        classifier = None
        if manifest.frame_classes:
            classifier = _new_classifier(len(manifest.frame_classes))
            classifier.load_state_dict(parts["classifier"])
        return YoloModel(manifest, parts["network"], classifier)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{WEIGHTS_FILE} does not fit the manifest: {error}") from error


def _encoder_weights() -> str:
    return load_encoder(CLASSIFIER_ENCODER, torch.device("cpu")).name


def _new_classifier(classes: int) -> FrameClassifier:
    encoder = load_encoder(CLASSIFIER_ENCODER, torch.device("cpu"))
    return FrameClassifier(pooled_size(encoder.levels), classes).eval()


def train(inputs: TrainInputs) -> YoloModel:
    """See ``micromodels.recipes.base.Recipe.train``."""
    with threads_kept():
        return _Training(inputs).finish()


class _Training:
    """One run of ``train``: views, experiments, classifier."""

    def __init__(self, inputs: TrainInputs) -> None:
        self._video, self._seeds, self._settings = inputs.video, inputs.seeds, inputs.settings
        self._device, self._run = inputs.device, inputs.run
        self._tracks = self._seeds.tracks
        self._base = YoloSettings().scaled(self._settings.effort)
        self._images = {frame: self._image(frame) for frame in self._seeds.all_frames}

    def _image(self, frame: int) -> npt.NDArray[np.uint8]:
        started = time.perf_counter()
        image = self._video.frame(frame)
        self._run.on_event(StageFinished(Stage.DECODE, time.perf_counter() - started))
        return image

    def finish(self) -> YoloModel:
        """Train everything; returns the model."""
        state: dict[str, torch.Tensor] = {}
        chosen, metrics = self._base, dict[str, float]()
        if self._tracks:
            state, chosen, metrics = self._experiments()
        classifier = self._fit_classifier() if self._seeds.frame_classes else None
        return YoloModel(self._manifest(state, classifier, chosen, metrics), state, classifier)

    def _experiments(self) -> tuple[dict[str, torch.Tensor], YoloSettings, dict[str, float]]:
        """Try variants on all seeds but one, train the best on all of them."""
        count, frames = self._settings.experiments, self._seeds.frames
        variants = [replace(YoloSettings(), **VARIANTS[i % len(VARIANTS)]) for i in range(count)]
        variants = [variant.scaled(self._settings.effort) for variant in variants]
        # The middle seed is held out: it is the one that the others surround, as they surround unlabeled frames.
        rest = [frame for frame in frames if frame != frames[len(frames) // 2]]
        trials = count > 1 and len(rest) > 0
        clock = Clock(0, count, sum(v.steps(len(rest)) for v in variants if trials) + self._base.steps(len(frames)))
        scores, seconds = [0.0] * count, [0.0] * count
        for number, variant in enumerate(variants if trials else ()):
            clock.experiment = number
            started = time.perf_counter()
            state = self._fit(variant, number, rest, clock)
            scores[number] = self._score(state, variant, frames[len(frames) // 2])
            seconds[number] = time.perf_counter() - started
        best = int(np.argmax(scores))
        clock.experiment = best
        clock.steps_total += variants[best].steps(len(frames)) - self._base.steps(len(frames))
        started = time.perf_counter()
        state = self._fit(variants[best], best, frames, clock)
        seconds[best] += time.perf_counter() - started
        for number, variant in enumerate(variants):
            described = {key: str(value) for key, value in asdict(variant).items()}
            score = scores[number] if trials else None
            self._run.on_event(ExperimentFinished(number, described, score, number == best, seconds[number]))
        return state, variants[best], {"leave_one_seed_out": scores[best]} if trials else {}

    def _size(self, settings: YoloSettings) -> tuple[int, int]:
        return yolo_size(self._seeds.height_px, self._seeds.width_px, settings.long_side_px)

    def _fit(self, settings: YoloSettings, salt: int, frames: Sequence[int], clock: Clock) -> dict[str, torch.Tensor]:
        """Weights after training on views of these frames."""
        size = self._size(settings)
        views = [view for frame in frames for view in self._views(frame, size, settings.per_frame(len(frames)), salt)]
        started = time.perf_counter()
        samples = ViewDataset(views, self._tracks, class_names(self._tracks), uses_masks(self._tracks))
        options = {
            "epochs": settings.epochs,
            "batch": settings.batch,
            "imgsz": max(size),
            "lr0": settings.learning_rate,
            "seed": self._settings.seed * 1000 + salt,
        }
        state = fit(samples, self._tracks, options, self._device, clock, self._run)
        self._run.on_event(StageFinished(Stage.TRAIN, time.perf_counter() - started))
        return state

    def _views(self, frame: int, size: tuple[int, int], count: int, salt: int) -> Iterator[View]:
        """Views of one seed frame."""
        image, target = to_work_image(self._images[frame], size), self._seeds.seed_frame(frame, size)
        flip = all(c.flip for c in self._seeds.ontology.object_classes)
        maker = ViewMaker(image, target, (self._settings.seed, salt, frame), flip)
        for number in range(count):
            started = time.perf_counter()
            view = maker.view(number)
            self._run.on_event(StageFinished(Stage.VIEWS, time.perf_counter() - started))
            if self._run.should_stop() is StopRequest.CANCEL:
                raise Cancelled("training was cancelled")
            yield view

    def _found(
        self, state: Mapping[str, torch.Tensor], settings: YoloSettings, frames: Sequence[int]
    ) -> list[tuple[float, float]]:
        """For every box drawn on the frames: IoU and score of the best box of its class that is found there."""
        names, size = class_names(self._tracks), self._size(settings)
        detector = Detector(export(state, self._tracks), len(names), self._device)
        scale = np.array([self._seeds.width_px / size[1], self._seeds.height_px / size[0]] * 2)
        pairs = []
        for frame in frames:
            found = detector.detect(self._images[frame], size)
            for spec, corners in zip(self._tracks, self._seeds.seed_frame(frame, size).boxes * scale, strict=True):
                if np.isnan(corners[0]):
                    continue
                own = [d for d in found if names[d.class_index] == spec.object_class]
                pairs.append(max(((float(box_iou(corners, d.box)), d.score) for d in own), default=(0.0, 0.0)))
        return pairs

    def _score(self, state: Mapping[str, torch.Tensor], settings: YoloSettings, frame: int) -> float:
        """Leave-one-seed-out score: mean IoU on the seed frame held out."""
        return float(np.mean([iou for iou, _ in self._found(state, settings, [frame])] or [0.0]))

    def _start_score(self, state: Mapping[str, torch.Tensor], settings: YoloSettings) -> float:
        """Half the score that objects of the seeds get, at most ByteTrack's own threshold.

        After few steps a YOLO finds the right boxes and still gives them low scores.
        """
        scores = [score for iou, score in self._found(state, settings, self._seeds.frames) if iou > 0.4]
        return float(np.clip(0.5 * np.median(scores or [1.0]), MIN_START_SCORE, MAX_START_SCORE))

    def _fit_classifier(self) -> FrameClassifier:
        names = self._seeds.frame_classes
        size = work_size(self._seeds.height_px, self._seeds.width_px)
        views = (
            (frame, pooled_frame(view.image))
            for frame in dict.fromkeys(label.frame for label in self._seeds.frame_labels)
            for view in self._views(frame, size, CLASSIFIER_VIEWS, 0)
        )
        return fit_frame_classifier(names, self._seeds.frame_labels, views)

    def _manifest(
        self,
        state: Mapping[str, torch.Tensor],
        classifier: FrameClassifier | None,
        chosen: YoloSettings,
        metrics: dict[str, float],
    ) -> Manifest:
        start_score = self._start_score(state, chosen) if self._tracks else MAX_START_SCORE
        size = self._size(chosen)
        targets = [self._seeds.seed_frame(frame, size) for frame in self._seeds.frames]
        packages = ("ultralytics", "torch", "onnxruntime-gpu", "opencv-python", "numpy")
        return Manifest(
            version=weights_digest(_tensors(state, classifier))[:12],
            recipe="yolo",
            encoder=CLASSIFIER_ENCODER if classifier is not None else "",
            encoder_weights=_encoder_weights() if classifier is not None else "",
            tracks=self._tracks,
            frame_classes=self._seeds.frame_classes,
            typical_areas=typical_areas(targets, len(self._tracks)),
            settings={**asdict(chosen), "start_score": start_score},
            seeds_digest=seeds_digest(self._seeds),
            seed_frames=tuple(self._images),
            video=self._video.table.content_hash,
            metrics=metrics,
            libraries={name: importlib.metadata.version(name) for name in packages},
        )
