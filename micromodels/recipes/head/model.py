"""A trained micro-model with a dense head: labels videos, is saved and loaded."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from micromodels.encoding.encoded_video import EncodedVideo, FrameSource
from micromodels.encoding.encoders import Encoder, Weights, load_encoder, select_device, weights_digest
from micromodels.errors import InvalidInput, ModelError, OutOfRange
from micromodels.labels.targets import SeedSet, TrackSpec, boxed
from micromodels.propagation.base import TemporalInference, TemporalMethod
from micromodels.propagation.label_builder import Tracker
from micromodels.propagation.predictions import HeadPredictions
from micromodels.recipes.manifest import Manifest, seeds_digest
from micromodels.runtime.run import PropagationProgress, Run
from micromodels.training.frame_classifier import FrameClassifier, pooled_size
from micromodels.training.head import DenseHead, HeadSettings, head_levels
from micromodels.types import AnyLabel, FrameResult

__all__ = ["DenseModel", "head_tensors", "load_dense_model"]

WEIGHTS_FILE, GRAPH_FILE = "head.safetensors", "head.onnx"
ENCODER_FILE = "encoder.safetensors"
MAX_WEIGHTS_BYTES = 256 << 20
MAX_WIDTH = 1024


class DenseModel:
    """A trained micro-model of the recipe ``head``, or of one like it; a ``CorrectableModel``.

    Args:
        manifest: what it is.
        encoder: the frozen encoder.
        head: the dense head; None where there are frame classes only.
        classifier: of frames; None where there are no frame classes.
        temporal: how it follows objects from frame to frame.
        tuned: weights of the encoder's part ``lite0`` that it brings along; None for those that are installed.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoder: Encoder,
        head: DenseHead | None,
        classifier: FrameClassifier | None,
        temporal: TemporalMethod,
        tuned: Weights | None = None,
    ) -> None:
        self.manifest = manifest
        self._temporal = temporal
        self._tuned = tuned
        self._encoder = encoder
        self._head = head
        self._classifier = classifier

    @property
    def head(self) -> DenseHead | None:
        """The dense head; None where there are frame classes only."""
        return self._head

    @property
    def classifier(self) -> FrameClassifier | None:
        """The classifier of frames; None where there are no frame classes."""
        return self._classifier

    @property
    def tuned(self) -> Weights | None:
        """Weights of the encoder's part ``lite0``, where it has learned the seeds too."""
        return self._tuned

    def encoder_for(self, device: torch.device) -> Encoder:
        """The frozen encoder on a device; re-opened where the model was read for another one."""
        return load_encoder(self.manifest.encoder, device, self._tuned) if device.type == "cuda" else self._encoder

    def temporal(self, folder: Path | None = None, *, for_training: bool = False) -> TemporalInference:
        """How it follows objects from frame to frame; see ``micromodels.propagation.base.TemporalMethod``."""
        return self._temporal(folder, for_training=for_training)

    def learned(
        self,
        head: DenseHead | None,
        classifier: FrameClassifier | None,
        tracks: tuple[TrackSpec, ...],
        typical_areas: Sequence[float],
        seeds: SeedSet,
        frame_classes: tuple[str, ...] | None = None,
    ) -> DenseModel:
        """The version of this model that holds other weights, learned from ``seeds``; None keeps its frame classes."""
        manifest = replace(
            self.manifest,
            version=weights_digest(head_tensors(head, classifier))[:12],
            tracks=tracks,
            typical_areas=tuple(typical_areas),
            frame_classes=self.manifest.frame_classes if frame_classes is None else frame_classes,
            seeds_digest=seeds_digest(seeds),
            seed_frames=seeds.all_frames,
            metrics={},
        )
        return DenseModel(manifest, self._encoder, head, classifier, self._temporal, self._tuned)

    def propagate(
        self, video: FrameSource, anchors: Sequence[AnyLabel], *, frames: range | None = None, run: Run = Run()
    ) -> Iterator[FrameResult]:
        """See ``micromodels.recipes.base.MicroModel.propagate``."""
        table = video.table
        seeds = SeedSet(anchors, table.frame_count, table.height_px, table.width_px, tracks=self.manifest.tracks)
        wanted = range(table.frame_count) if frames is None else frames
        if wanted.step != 1 or not 0 <= wanted.start <= wanted.stop <= table.frame_count:
            raise OutOfRange("frames", wanted, f"a range with step 1 within 0 to {table.frame_count}")
        device = select_device(run.device)
        if self._head is not None:
            self._head.to(device)
        started = time.perf_counter()
        encoder = self.encoder_for(device)
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
            source = HeadPredictions(encoded, self._head, run)
            posteriors = self.temporal().posteriors(source, targets, wanted, run, boxed(self.manifest.tracks))
            for done, result in enumerate(tracker.results(posteriors), start=1):
                yield result
                pace = (time.perf_counter() - started) / done
                run.on_event(PropagationProgress(done, len(wanted), pace * (len(wanted) - done)))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """See ``micromodels.recipes.base.MicroModel.save``."""
        folder = Path(folder)
        self.save_weights(folder)
        if self._head is not None:
            _export(self._head, folder / GRAPH_FILE)

    def save_weights(self, folder: Path) -> None:
        """Save what ``load`` reads, without the graph for other programs, which takes long to write."""
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(head_tensors(self._head, self._classifier), str(folder / WEIGHTS_FILE))
        if self._tuned is not None:
            safetensors.torch.save_file(dict(self._tuned), str(folder / ENCODER_FILE))
        self.manifest.save(folder)


def head_tensors(head: DenseHead | None, classifier: FrameClassifier | None) -> dict[str, torch.Tensor]:
    """What ``head.safetensors`` holds: every tensor by name, on the CPU."""
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


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file from outside.

    Raises:
        ModelError: it is missing, damaged or too large, or holds what no network of ours does.
    """
    try:
        if path.stat().st_size > MAX_WEIGHTS_BYTES:
            raise ModelError(f"{path.name} is larger than {MAX_WEIGHTS_BYTES} bytes")
        tensors = safetensors.torch.load_file(str(path))
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error}") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise ModelError(f"{path.name} is not a safetensors file: {error}") from error
    if any(tensor.dtype not in (torch.float32, torch.int64) for tensor in tensors.values()):
        raise ModelError(f"{path.name} holds tensors that are neither float32 nor int64")
    return tensors


def load_dense_model(folder: Path, manifest: Manifest, temporal: TemporalMethod, *, brings_encoder: bool) -> DenseModel:
    """Load a saved model.

    Args:
        folder: where it is.
        manifest: what it is.
        temporal: how it follows objects from frame to frame.
        brings_encoder: whether weights of the encoder are with it.

    Raises:
        ModelError: weights missing, damaged, too large, or not those of the manifest.
    """
    tensors = _read(folder / WEIGHTS_FILE)
    tuned = _read(folder / ENCODER_FILE) if brings_encoder else None
    if weights_digest(tensors)[:12] != manifest.version:
        raise ModelError(f"{WEIGHTS_FILE} does not hold the weights of version {manifest.version}")
    try:
        encoder = load_encoder(manifest.encoder, torch.device("cpu"), tuned)
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
            boxes = any(spec.is_box for spec in manifest.tracks)
            width = int(manifest.settings["width"])
            if not 1 <= width <= MAX_WIDTH:
                raise ModelError(f"{width} channels; at most {MAX_WIDTH}")
            thin = bool(manifest.settings.get("thin", False))
            levels = head_levels(encoder.levels, thin=thin)
            head = DenseHead(HeadSettings(levels, len(manifest.tracks), boxes, width)).eval()
            head.load_state_dict(parts["head"])
            head.to(memory_format=torch.channels_last)
        classifier = None
        if manifest.frame_classes:
            inputs = pooled_size(encoder.levels)
            classifier = FrameClassifier(inputs, len(manifest.frame_classes)).eval()
            classifier.load_state_dict(parts["classifier"])
    except (RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{WEIGHTS_FILE} does not fit the manifest: {error}") from error
    return DenseModel(manifest, encoder, head, classifier, temporal, tuned)
