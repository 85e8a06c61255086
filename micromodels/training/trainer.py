"""Overfit a dense head to the views of the seeds.

Steps look at crops of cached features: a seventh of the image each, most of them around an object. Where the video has
already been labeled once, its own confident frames are views too (self-training; Voigtlaender & Leibe, *OnAVOS*,
BMVC 2017).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from micromodels.encoding.encoders import Features, Level
from micromodels.errors import Cancelled, Diverged
from micromodels.labels.targets import IGNORE
from micromodels.runtime.parallel import prefetched
from micromodels.runtime.run import Run, StopRequest, TrainingProgress
from micromodels.training.checkpoints import Checkpoints
from micromodels.training.head import DenseHead, bfloat16

__all__ = ["Clock", "HeadTrainer", "Sample", "SharedClock"]

CELL_PX = 32
BOX_STRIDE_PX = 4
"""Of the distances to box sides."""
CROP_CELLS = {1: (5, 8), 2: (6, 10)}
"""Rows and columns of a crop in units of 32 work pixels, by the stride of the head: steps take the same time."""
FOCUSED_CROPS = {"thin": 0.95, "masks": 0.9, "boxes": 0.65}
"""Share of crops around an object. Outlines are what masks are judged by, of thin objects most of all; boxes are found
by telling their object from all that is elsewhere."""
FOCUS_TRIES = 12


@dataclass(frozen=True, slots=True)
class Sample:
    """An encoded view with its targets.

    Attributes:
        features: the encoder's levels.
        label_map: uint8 at the stride of the head; 0 background, 1 to n tracks, 255 not scored.
        boxes: float32 ``(tracks, 4)`` in work pixels, NaN where there is none.
        known: bool ``(tracks,)``: False where the track may be anywhere in the background.
        weight: of its loss, 0 to 1.
    """

    features: Features = field(repr=False)
    label_map: npt.NDArray[np.uint8] = field(repr=False)
    boxes: npt.NDArray[np.float32] = field(repr=False)
    known: npt.NDArray[np.bool_] = field(repr=False)
    weight: float = 1.0


@dataclass
class Clock:
    """Where one experiment stands among all of a run's training, for honest progress.

    Attributes:
        experiment: its number.
        experiments: how many there are.
        steps_total: of all of them.
        steps_done: of all of them.
        seconds: that the steps took.
    """

    experiment: int
    experiments: int
    steps_total: int
    steps_done: int = 0
    seconds: float = 0.0

    def tick(self, seconds: float) -> float:
        """Count one step; returns the seconds left at the pace so far."""
        self.steps_done += 1
        self.seconds += seconds
        return max(0.0, (self.steps_total - self.steps_done) * self.seconds / self.steps_done)


class SharedClock(Clock):
    """One of several experiments at once: its steps count on the clock of all.

    Args:
        whole: the clock of all.
        experiment: number of this one.
        at_once: how many run at the same time.
        lock: that they share.
    """

    def __init__(self, whole: Clock, experiment: int, at_once: int, lock: threading.Lock) -> None:
        super().__init__(experiment, whole.experiments, whole.steps_total, whole.steps_done, whole.seconds)
        self._whole, self._at_once, self._lock = whole, at_once, lock

    def tick(self, seconds: float) -> float:
        """See ``Clock.tick``."""
        with self._lock:
            eta = self._whole.tick(seconds / self._at_once)
            self.steps_done, self.seconds = self._whole.steps_done, self._whole.seconds
            return eta


@dataclass(frozen=True, slots=True)
class _Batch:
    features: list[torch.Tensor]
    labels: torch.Tensor
    boxes: torch.Tensor
    known: torch.Tensor
    weight: torch.Tensor


class HeadTrainer:
    """Trains one head.

    Args:
        head: the head, already on its device.
        seed: of every random choice.
        batch: crops per step.
        learning_rate: peak of a one-cycle schedule.
        checkpoints: where its state is kept and looked for; None for nowhere.
        outside: JSON that is kept with the state, for the caller.
        slowly: factors on the learning rate, by the name of a part of the head; 1 for what is not named.
        levels: that samples end with, where the head is given others than it looks at.
    """

    def __init__(
        self,
        head: DenseHead,
        seed: int = 0,
        batch: int = 4,
        learning_rate: float = 8e-3,
        checkpoints: Checkpoints | None = None,
        outside: Mapping[str, Any] | None = None,
        slowly: Mapping[str, float] | None = None,
        levels: Sequence[Level] | None = None,
    ) -> None:
        self.head = head
        self._slowly = dict(slowly or {})
        self._levels = head.settings.levels if levels is None else tuple(levels)
        self._seed = seed
        self._checkpoints = checkpoints
        self._outside = dict(outside or {})
        self._resumed = checkpoints.load() if checkpoints is not None else None
        self._fits = 0
        self._rng = np.random.default_rng(seed)
        self._batch = batch
        self._rate = learning_rate
        self._device = next(head.parameters()).device

    def fit(
        self,
        views: Sequence[Sample],
        steps: int,
        clock: Clock,
        run: Run,
        pseudo: Sequence[Sample] = (),
        rate_scale: float = 1.0,
        on_step: Callable[[int], None] | None = None,
        available: Callable[[int], int] | None = None,
        fixed_statistics: bool = False,
    ) -> None:
        """Train for ``steps`` steps, or until the user says that it is good enough.

        Args:
            views: samples from seeds; the list may still grow.
            steps: optimizer steps.
            clock: counts the steps for progress events.
            run: events and stopping.
            pseudo: samples from the video's own confident frames: half of each batch, where there are any.
            rate_scale: factor on the learning rate.
            on_step: called after each step.
            available: how many of ``views`` a step may draw from; called in another thread; None for all.
            fixed_statistics: whether batch normalization keeps the statistics that it has: those of a few frames would
                spoil what the head knows of the others.

        Raises:
            Diverged: the loss became NaN or infinite.
            Cancelled: the user cancelled; a checkpoint of the last step has been kept, where they are.
        """
        head = self.head.train()
        for module in head.modules() if fixed_statistics else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        rate = self._rate * rate_scale
        groups = self._groups(rate)
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=1e-3, fused=True)
        rates = [group["lr"] for group in groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=0.15)
        number, self._fits = self._fits, self._fits + 1
        first = self._resume(number, steps, optimizer, schedule, clock)
        batches = prefetched(
            self._draw(views, pseudo, len(views) if available is None else available(step))
            for step in range(first, steps)
        )
        started = time.perf_counter()
        for step, batch in enumerate(batches, start=first):
            loss = self._loss(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise Diverged(f"the loss became {value} at step {step} of {steps}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(head.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            now = time.perf_counter()
            eta = clock.tick(now - started)
            started = now
            run.on_event(
                TrainingProgress(
                    clock.experiment, clock.experiments, clock.steps_done - 1, clock.steps_total, value, eta
                )
            )
            request = run.should_stop()
            if self._checkpoints is not None and (request is StopRequest.CANCEL or self._checkpoints.is_due):
                self._save(number, step + 1, optimizer, clock)
            if request is StopRequest.CANCEL:
                raise Cancelled("training was cancelled")
            if on_step is not None:
                on_step(clock.steps_done)
            if request is StopRequest.FINISH_EARLY:
                break
        batches.close()
        head.eval()

    def _groups(self, rate: float) -> list[dict[str, Any]]:
        """Parameters by learning rate."""
        groups: dict[float, list[nn.Parameter]] = {1.0: [], **{factor: [] for factor in self._slowly.values()}}
        for name, parameter in self.head.named_parameters():
            groups[self._slowly.get(name.partition(".")[0], 1.0)].append(parameter)
        return [{"params": parameters, "lr": rate * factor} for factor, parameters in groups.items() if parameters]

    def _save(self, number: int, step: int, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
        assert self._checkpoints is not None
        tensors = {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"moment.{index}.{name}": tensor for name, tensor in moments.items()}
        state = {"fit": number, "step": step, "steps_done": clock.steps_done, "seconds": clock.seconds}
        self._checkpoints.save(tensors, {**state, "outside": self._outside})

    def _resume(
        self,
        number: int,
        steps: int,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.OneCycleLR,
        clock: Clock,
    ) -> int:
        """Bring back what an earlier try had reached; returns the step to go on with, ``steps`` where it had ended.

        The random choices from there on are others than they would have been: the state is kept by the thread that
        trains, while another one draws batches ahead of it.
        """
        saved = self._resumed
        if saved is None or number > saved.state["fit"]:
            return 0
        weights = {name[5:]: tensor for name, tensor in saved.tensors.items() if name.startswith("head.")}
        self.head.load_state_dict(weights)
        if number < saved.state["fit"]:
            clock.steps_done += steps
            return steps
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in saved.tensors.items():
            if name.startswith("moment."):
                _, index, which = name.split(".")
                moments.setdefault(int(index), {})[which] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        step = int(saved.state["step"])
        # Its other fields follow from the number of steps; the counter is what its check of the order of calls reads.
        schedule.load_state_dict({"last_epoch": step - 1, "_step_count": step + 1})
        schedule.step()
        clock.steps_done, clock.seconds = int(saved.state["steps_done"]), float(saved.state["seconds"])
        self._rng = np.random.default_rng((self._seed, number, step))
        return step

    def _draw(self, views: Sequence[Sample], pseudo: Sequence[Sample], count: int) -> _Batch:
        from_video = self._batch // 2 if pseudo else 0
        levels, stride = self._levels, self.head.settings.stride
        crops_of = [self._crop(pseudo, len(pseudo)) for _ in range(from_video)]
        crops_of += [self._crop(views, count) for _ in range(self._batch - from_video)]
        samples, windows = [sample for sample, _ in crops_of], [window for _, window in crops_of]
        features = []
        for index, level in enumerate(levels):
            per_cell = CELL_PX // level.stride
            crops = [
                sample.features[index - len(levels)][
                    :, y * per_cell : (y + rows) * per_cell, x * per_cell : (x + columns) * per_cell
                ]
                for sample, (y, x, rows, columns) in zip(samples, windows, strict=True)
            ]
            stacked = torch.from_numpy(np.stack(crops)).to(self._device).float()
            features.append(stacked.contiguous(memory_format=torch.channels_last))
        half = CELL_PX // stride
        labels = np.stack(
            [
                sample.label_map[y * half : (y + rows) * half, x * half : (x + columns) * half]
                for sample, (y, x, rows, columns) in zip(samples, windows, strict=True)
            ]
        )
        offsets = np.array([(x * CELL_PX, y * CELL_PX) * 2 for y, x, _, _ in windows], np.float32)
        boxes = np.stack([sample.boxes for sample in samples]) - offsets[:, None, :]
        return _Batch(
            features,
            torch.from_numpy(labels).long().to(self._device),
            torch.from_numpy(boxes).to(self._device),
            torch.from_numpy(np.stack([sample.known for sample in samples])).to(self._device),
            torch.tensor([sample.weight for sample in samples], device=self._device),
        )

    def _crop(self, samples: Sequence[Sample], count: int) -> tuple[Sample, tuple[int, int, int, int]]:
        """A sample and top row, left column, rows, columns of a crop of it in cells.

        Most crops contain a pixel of a track that was drawn by lot, so that small and rare ones count as much
        as large ones that are everywhere.
        """
        sample = samples[int(self._rng.integers(count))]
        half = CELL_PX // self.head.settings.stride
        height, width = sample.label_map.shape[0] // half, sample.label_map.shape[1] // half
        # All crops of a batch have one size, and so have all work images of a video.
        high, wide = CROP_CELLS[self.head.settings.stride]
        rows, columns = min(high, height), min(wide, width)
        kind = "boxes" if self.head.settings.boxes else "thin" if self.head.settings.stride == 1 else "masks"
        if self._rng.random() < FOCUSED_CROPS[kind]:
            value = 1 + int(self._rng.integers(self.head.settings.tracks))
            for _ in range(FOCUS_TRIES):
                ys, xs = np.nonzero(sample.label_map == value)
                if len(ys):
                    pick = int(self._rng.integers(len(ys)))
                    top = int(np.clip(ys[pick] // half - self._rng.integers(0, rows), 0, height - rows))
                    left = int(np.clip(xs[pick] // half - self._rng.integers(0, columns), 0, width - columns))
                    return sample, (top, left, rows, columns)
                sample = samples[int(self._rng.integers(count))]
        top, left = int(self._rng.integers(0, height - rows + 1)), int(self._rng.integers(0, width - columns + 1))
        return sample, (top, left, rows, columns)

    def _loss(self, batch: _Batch) -> torch.Tensor:
        with bfloat16(self._device):
            output = self.head(batch.features)
        loss = segmentation_loss(output.logits.float(), batch.labels, batch.known)
        if output.sides is not None:
            loss = loss + box_loss(output.sides, batch.labels, batch.boxes)
        return (loss * batch.weight).sum() / batch.weight.sum()


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, the same balanced between object and background, and soft Dice; one value per image.

    Args:
        logits: float ``(batch, tracks + 1, h, w)``.
        labels: int64 ``(batch, h, w)``, 255 not scored.
        known: bool ``(batch, tracks)``; background pixels may belong to a track that is not known there.

    Returns:
        float ``(batch,)``.
    """
    scored = labels != IGNORE
    target = torch.where(scored, labels, 0)
    log_probability = F.log_softmax(logits, dim=1)
    entropy = -log_probability.gather(1, target[:, None])[:, 0]
    if not bool(known.all()):
        allowed = torch.cat([torch.ones_like(known[:, :1]), ~known], dim=1)[:, :, None, None]
        either = -torch.logsumexp(log_probability.masked_fill(~allowed, -1e4), dim=1)
        entropy = torch.where(target == 0, either, entropy)
    entropy = entropy * scored
    inside, outside = (target > 0) & scored, (target == 0) & scored

    def mean(mask: torch.Tensor) -> torch.Tensor:
        return (entropy * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)

    loss = mean(scored) + 0.125 * mean(inside) + 0.25 * mean(outside)
    probability = log_probability.exp() * scored[:, None]
    tracks = logits.shape[1] - 1
    truth = (labels[:, None] == torch.arange(1, tracks + 1, device=labels.device)[:, None, None]).float()
    overlap = (probability[:, 1:] * truth).flatten(2).sum(2)
    total = (probability[:, 1:] + truth).flatten(2).sum(2)
    there = truth.flatten(2).any(2).float()
    dice = ((1 - (2 * overlap + 1) / (total + 1)) * there).sum(1) / there.sum(1).clamp(min=1)
    return loss + 0.5 * dice


def box_loss(sides: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - IoU between predicted and true boxes over object pixels; one value per image.

    Args:
        sides: float ``(batch, 4, h, w)`` left, top, right, bottom distances in work pixels at stride 4.
        labels: int64 ``(batch, 2h, 2w)`` or ``(batch, 4h, 4w)``.
        boxes: float ``(batch, tracks, 4)`` relative to the crop.

    Returns:
        float ``(batch,)``.
    """
    step = labels.shape[1] // sides.shape[2]
    coarse = labels[:, ::step, ::step]
    inside = (coarse > 0) & (coarse != IGNORE)
    losses = []
    for index in range(len(labels)):
        ys, xs = torch.nonzero(inside[index], as_tuple=True)
        own = boxes[index][coarse[index, ys, xs] - 1]
        good = ~torch.isnan(own[:, 0])
        ys, xs, own = ys[good], xs[good], own[good]
        if not len(ys):
            losses.append(sides.sum() * 0.0)
            continue
        px, py = (xs + 0.5) * BOX_STRIDE_PX, (ys + 0.5) * BOX_STRIDE_PX
        true = torch.stack([px - own[:, 0], py - own[:, 1], own[:, 2] - px, own[:, 3] - py], dim=1).clamp(min=0.5)
        predicted = sides[index, :, ys, xs].T
        low = torch.minimum(true, predicted)
        overlap = (low[:, 0] + low[:, 2]) * (low[:, 1] + low[:, 3])
        area = (true[:, 0] + true[:, 2]) * (true[:, 1] + true[:, 3])
        area_predicted = (predicted[:, 0] + predicted[:, 2]) * (predicted[:, 1] + predicted[:, 3])
        losses.append((1 - overlap / (area + area_predicted - overlap)).mean())
    return torch.stack(losses)
