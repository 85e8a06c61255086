"""A head goes on learning: a few steps that include a corrected frame, on top of the weights it has.

Half of every batch comes from views of the frames just corrected, half from views of older anchors, so that what was
learned before is not forgotten (rehearsal; Robins, *Connection Science* 7, 1995).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from micromodels.events import Run
from micromodels.features import EncodedVideo
from micromodels.heads import DenseHead, HeadSettings, pooled
from micromodels.parallel import mapped, narrow_operations
from micromodels.seeds import SeedFrame, ViewMaker
from micromodels.training import Clock, HeadTrainer, Sample

__all__ = ["Replay", "grow_head", "warm_start"]

REPLAY_VIEWS = 72
"""Views held in memory at most; of the frames with most of them some go first."""


class Replay:
    """Encoded views of anchors, to train on again.

    Args:
        video: encoded frames.
        stride: of the head's logits.
        seed: of every random choice.
    """

    def __init__(self, video: EncodedVideo, stride: int, seed: int = 0) -> None:
        self._video, self.stride, self._seed = video, stride, seed
        self._samples: dict[int, list[Sample]] = {}

    @property
    def frames(self) -> list[int]:
        """Frames that there are views of, ascending."""
        return sorted(self._samples)

    def forget(self, frames: Iterable[int]) -> None:
        """Drop the views of frames whose labels are others now."""
        for frame in frames:
            self._samples.pop(frame, None)

    def grow(self, tracks: int) -> None:
        """Make room for more tracks, of which nothing is known on the frames so far."""
        self._samples = {frame: [_padded(s, tracks) for s in samples] for frame, samples in self._samples.items()}

    def add(self, target: SeedFrame, views: int, flip: bool, weight: float = 1.0) -> None:
        """See to it that there are ``views`` views of a frame; the first is the frame itself, which costs nothing."""
        held = self._samples.setdefault(target.frame, [])
        if not held:
            features = self._video[target.frame].features
            held.append(_sample(features, target.label_map, target.boxes, target.known, weight, self.stride))
        if len(held) < views:
            maker = ViewMaker(self._video.image(target.frame), target, (self._seed, target.frame), flip)

            def encoded(number: int) -> Sample:
                view = maker.view(number)
                features = self._video.encoder.encode(view.image)
                return _sample(features, view.label_map, view.boxes, target.known, weight, self.stride)

            with narrow_operations():
                held.extend(mapped(encoded, iter(range(len(held), views))))
        self._bound(target.frame)

    def _bound(self, newest: int) -> None:
        while sum(map(len, self._samples.values())) > REPLAY_VIEWS:
            others = [frame for frame in self._samples if frame != newest]
            if not others:
                return
            fullest = max(others, key=lambda frame: len(self._samples[frame]))
            self._samples[fullest].pop()
            if not self._samples[fullest]:
                del self._samples[fullest]

    def samples(self, frames: Iterable[int]) -> list[Sample]:
        """Views of some frames."""
        return [sample for frame in frames for sample in self._samples.get(frame, [])]

    def vectors(self, frame: int) -> list[npt.NDArray[np.float32]]:
        """Pooled features of a frame's views, at least of the frame itself."""
        held = self._samples.get(frame)
        return [pooled(s.features) for s in held] if held else [pooled(self._video[frame].features)]


def _sample(
    features: list[npt.NDArray[np.float16]],
    label_map: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.float32],
    known: npt.NDArray[np.bool_],
    weight: float,
    stride: int,
) -> Sample:
    # Targets at the stride of the head; nearest keeps them labels.
    return Sample(features, np.ascontiguousarray(label_map[::stride, ::stride]), boxes, known, weight)


def _padded(sample: Sample, tracks: int) -> Sample:
    more = tracks - len(sample.known)
    boxes = np.concatenate([sample.boxes, np.full((more, 4), np.nan, np.float32)])
    known = np.concatenate([sample.known, np.zeros(more, bool)])
    return Sample(sample.features, sample.label_map, boxes, known, sample.weight)


def grow_head(head: DenseHead, tracks: int, boxes: bool) -> DenseHead:
    """A copy of a head with more output channels, or with box sides that it had none of.

    A new track starts as unlikely everywhere; what is said of the others stays as it is.

    Args:
        head: the head to copy.
        tracks: number of tracks of the copy, at least those of the head.
        boxes: whether the copy predicts box sides.
    """
    old = head.settings
    settings = HeadSettings(old.levels, tracks, boxes or old.boxes, old.width, old.fine_width)
    grown = DenseHead(settings)
    state = {name: value for name, value in head.state_dict().items() if "_logits." not in name}
    grown.load_state_dict(state, strict=False)
    for name in ("coarse_logits", "fine_logits"):
        before, after = getattr(head, name), getattr(grown, name)
        assert isinstance(before, nn.Conv2d)
        assert isinstance(after, nn.Conv2d)
        assert before.bias is not None
        assert after.bias is not None
        with torch.no_grad():
            after.weight.mul_(0.1)
            after.bias.zero_()
            if name == "coarse_logits":
                after.bias.fill_(-4.0)
            after.weight[: len(before.weight)] = before.weight
            after.bias[: len(before.bias)] = before.bias
    grown.to(device=next(head.parameters()).device)
    grown.to(memory_format=torch.channels_last)
    return grown.eval()


def warm_start(
    head: DenseHead, new: Sequence[Sample], old: Sequence[Sample], steps: int, rate_scale: float, seed: int, run: Run
) -> DenseHead:
    """A copy of a head after some more steps.

    Args:
        head: what to start from; it stays as it is.
        new: views of the frames just corrected.
        old: views of other anchors; half of each batch, where there are any.
        steps: optimiser steps.
        rate_scale: factor on the learning rate of a first training.
        seed: of every random choice.
        run: events and stopping.

    Raises:
        Diverged: the loss became NaN or infinite.
        Cancelled: the user cancelled.
    """
    copied = copy.deepcopy(head)
    trainer = HeadTrainer(copied, seed)
    trainer.fit(new, steps, Clock(0, 1, steps), run, old, rate_scale, fixed_statistics=True)
    return copied.eval()
