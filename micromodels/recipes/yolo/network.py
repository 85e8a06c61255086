"""ultralytics as a library: imported offline and quietly, its YOLO11n built, trained on samples in memory, exported.

ultralytics is AGPL-3.0, an optional dependency (``pip install micromodels-video[yolo]``).
"""

from __future__ import annotations

import atexit
import importlib
import io
import logging
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import torch

from micromodels.errors import Cancelled, Diverged
from micromodels.labels.targets import TrackSpec
from micromodels.recipes.yolo.dataset import ViewDataset, class_names, uses_masks
from micromodels.runtime.run import Run, StopRequest, TrainingProgress
from micromodels.training.trainer import Clock

__all__ = ["export", "fit", "new_network", "threads_kept", "ultralytics"]


@lru_cache(maxsize=1)
def ultralytics() -> ModuleType:
    """The package, imported so that it asks no network, installs nothing and leaves the process as it was."""
    folder = tempfile.mkdtemp(prefix="micromodels-ultralytics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    wanted = {
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": folder,
    }
    os.environ.update({key: value for key, value in wanted.items() if key not in os.environ})
    threads, cv2_threads, omp = torch.get_num_threads(), cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("ultralytics")
    module.settings.update({"sync": False})
    module.utils.LOGGER.setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv2_threads)
    if omp is None:
        # ultralytics sets it to 1 for good, and children of this process would inherit it.
        os.environ.pop("OMP_NUM_THREADS", None)
    return module


@contextmanager
def threads_kept() -> Iterator[None]:
    """ultralytics sets torch to all cores but one whenever it chooses a device."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def new_network(tracks: Sequence[TrackSpec]) -> torch.nn.Module:
    """An untrained YOLO11n for these tracks, from ultralytics' own description."""
    ultralytics()
    tasks = importlib.import_module("ultralytics.nn.tasks")
    kind, file = (
        (tasks.SegmentationModel, "yolo11n-seg.yaml") if uses_masks(tracks) else (tasks.DetectionModel, "yolo11n.yaml")
    )
    with threads_kept():
        network: torch.nn.Module = kind(file, nc=len(class_names(tracks)), verbose=False)
    return network


class _Graph(torch.nn.Module):
    """The network with tensors only: ``(1, 4 + classes + m, n)`` and, for masks, ``(1, m, h / 4, w / 4)``."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        output: torch.Tensor | tuple[torch.Tensor, ...] = self.network(image)
        return output


def export(state: Mapping[str, torch.Tensor], tracks: Sequence[TrackSpec]) -> bytes:
    """ONNX of the network with these weights; any input size that is a multiple of 32."""
    network = new_network(tracks)
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    with threads_kept():
        fused = network.fuse(verbose=False)  # type: ignore[operator]
    head = fused.model[-1]
    head.export, head.format, head.dynamic = True, "onnx", True
    outputs = ["predictions", "prototypes"] if uses_masks(tracks) else ["predictions"]
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(fused),
            (torch.zeros(1, 3, 224, 416),),
            buffer,  # type: ignore[arg-type]
            input_names=["image"],
            output_names=outputs,
            dynamic_axes={"image": {2: "h", 3: "w"}, "predictions": {2: "n"}, "prototypes": {2: "ph", 3: "pw"}},
            opset_version=17,
            dynamo=False,
        )
    return buffer.getvalue()


def fit(
    samples: ViewDataset,
    tracks: Sequence[TrackSpec],
    options: Mapping[str, float | int],
    device: torch.device,
    clock: Clock,
    run: Run,
) -> dict[str, torch.Tensor]:
    """Train a new network by ultralytics' training loop; returns its averaged (EMA) weights on the CPU.

    Args:
        samples: views.
        tracks: what they show.
        options: of ultralytics' training: ``epochs``, ``batch``, ``imgsz``, ``lr0``, ``seed``.
        device: where it trains.
        clock: progress over all experiments.
        run: events and stopping; ``FINISH_EARLY`` ends training with the weights it has.

    Raises:
        Cancelled: the user cancelled.
        Diverged: the loss stopped being a number.
    """
    ultralytics()
    threads = torch.get_num_threads()
    module = importlib.import_module("ultralytics.models.yolo")
    masks = uses_masks(tracks)
    base: Any = module.segment.SegmentationTrainer if masks else module.detect.DetectionTrainer

    # No "Trainer" in the name: ultralytics adds its platform's callbacks to classes called so.
    class SeedTraining(base):  # type: ignore[misc]  # ultralytics is imported when needed, so its types are unknown
        """Samples from memory, and neither validation nor checkpoints."""

        def get_dataset(self) -> dict[str, Any]:
            names = dict(enumerate(class_names(tracks)))
            return {"train": "", "val": "", "nc": len(names), "names": names, "channels": 3}

        def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> ViewDataset:
            return samples

        def validate(self) -> tuple[dict[str, float], float]:
            return {}, 0.0

        def save_model(self) -> bool:
            return False

        def save_metrics(self, metrics: Mapping[str, float]) -> None:
            pass

        def final_eval(self) -> None:
            pass

    with tempfile.TemporaryDirectory(prefix="micromodels-yolo-") as folder, threads_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training = SeedTraining(
            # One step a batch (nbs): the default adds gradients up over 64 images.
            overrides={**_fixed_options(Path(folder), masks, device), **options, "nbs": options["batch"]}
        )
        training.add_callback("on_train_start", lambda _: torch.set_num_threads(threads))
        progress = _Progress(clock, run)
        training.add_callback("on_train_batch_start", progress.start)
        training.add_callback("on_train_batch_end", progress.step)
        training.train()
        state = training.ema.ema.float().state_dict()
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def _fixed_options(folder: Path, masks: bool, device: torch.device) -> dict[str, Any]:
    return {
        "model": "yolo11n-seg.yaml" if masks else "yolo11n.yaml",
        "data": "memory",
        "project": str(folder),
        "name": "run",
        "device": "0" if device.type == "cuda" else "cpu",
        "workers": 0,
        "pretrained": False,
        # Its check of mixed precision would download a network.
        "amp": False,
        "plots": False,
        "val": False,
        "save": False,
        "verbose": False,
        "deterministic": False,
        "optimizer": "AdamW",
        "lrf": 0.05,
        "cos_lr": True,
        "warmup_epochs": 1.0,
        "warmup_bias_lr": 0.0,
        "mosaic": 0.0,
        "close_mosaic": 0,
    }


class _Progress:
    """Callbacks: events, stopping, and a loss that must stay a number."""

    def __init__(self, clock: Clock, run: Run) -> None:
        self._clock, self._run = clock, run
        self._started = 0.0

    def start(self, training: Any) -> None:
        self._started = time.perf_counter()

    def step(self, training: Any) -> None:
        loss = float(sum(float(value) for value in training.loss_items.values()))
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} in step {self._clock.steps_done}")
        eta = self._clock.tick(time.perf_counter() - self._started)
        clock = self._clock
        self._run.on_event(
            TrainingProgress(clock.experiment, clock.experiments, clock.steps_done, clock.steps_total, loss, eta)
        )
        request = self._run.should_stop()
        if request is StopRequest.CANCEL:
            raise Cancelled("training was cancelled")
        if request is StopRequest.FINISH_EARLY:
            training.stop = True
