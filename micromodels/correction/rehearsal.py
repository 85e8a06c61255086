"""A head goes on learning: a few steps that include a corrected frame, on top of the weights it has.

Half of every batch comes from views of the frames just corrected, half from views of older anchors and from frames as
the micro-model labels them now, so that what was learned before is not forgotten (rehearsal; Robins, *Connection
Science* 7, 1995). Without the latter one correction of a box moved all boxes of the video by as much.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from micromodels.encoding.encoded_video import EncodedVideo
from micromodels.encoding.encoders import GRID_PX
from micromodels.errors import Cancelled
from micromodels.labels.geometry import mask_iou
from micromodels.labels.targets import (
    IGNORE,
    SeedFrame,
)
from micromodels.propagation.regions import window_around_objects
from micromodels.runtime.parallel import mapped, narrow_operations
from micromodels.runtime.run import Run, StopRequest
from micromodels.training.augmentation import (
    ViewMaker,
)
from micromodels.training.frame_classifier import pooled
from micromodels.training.head import DenseHead, HeadSettings, predict
from micromodels.training.trainer import Clock, HeadTrainer, Sample, box_loss

__all__ = ["Rehearsal", "Replay", "check_stop", "grow_head", "warm_start"]

REPLAY_VIEWS = 72
"""Views held in memory at most; of the frames with most of them some go first."""
HELD_WEIGHT = 0.7
"""Of frames as the micro-model labels them: they may be wrong."""
MAX_JUDGES = 4
MAX_LOST = 0.02
"""A head may overlap this much less with what is known of the rest of the video, in the mean."""


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

    def fit_to(self, tracks: int) -> None:
        """Make room for so many tracks; nothing is known of more of them on the frames so far."""
        self._samples = {frame: [_padded(s, tracks) for s in samples] for frame, samples in self._samples.items()}

    def unchanged(self, target: SeedFrame) -> Sample:
        """A frame as the micro-model labels it now, to learn without keeping it.

        Pixels beside the edges of objects are not scored, unless they are thin: then they have little else.
        """
        labels = np.ascontiguousarray(target.label_map[:: self.stride, :: self.stride])
        if self.stride > 1:
            edge = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
            labels[edge] = IGNORE
        return Sample(self._video[target.frame].features, labels, target.boxes, target.known, HELD_WEIGHT)

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
    if more < 0:
        return Sample(sample.features, sample.label_map, sample.boxes[:tracks], sample.known[:tracks], sample.weight)
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


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a head learns from, and what it is not to forget.

    Attributes:
        new: views of the frames just corrected: half of each batch.
        drawn: views of other anchors.
        held: other frames as the micro-model labels them now.
        judges: what the head is judged on, a few of each: other anchors as they are, frames held. Empty: any is taken.
    """

    new: Sequence[Sample]
    drawn: Sequence[Sample]
    held: Sequence[Sample]
    judges: Sequence[Sequence[Sample]]

    @property
    def old(self) -> list[Sample]:
        """The other half of each batch: views of anchors and frames held as they are, by turns as far as they go."""
        times = max(1, len(self.drawn) // max(1, len(self.held)))
        return [*self.drawn, *(list(self.held) * times)]


def warm_start(
    head: DenseHead, lesson: Rehearsal, steps: int, rate_scale: float, seed: int, run: Run
) -> DenseHead | None:
    """A copy of a head after some more steps, if it does not know the rest of the video worse for it.

    Where it does, half of the way is tried: weights between the two heads are often better than either (Wortsman et
    al., *Robust fine-tuning of zero-shot models*, CVPR 2022).

    Args:
        head: what to start from; it stays as it is.
        lesson: what it learns from.
        steps: optimizer steps.
        rate_scale: factor on the learning rate of a first training.
        seed: of every random choice.
        run: events and stopping.

    Returns:
        The copy; None where even half of the way does harm.

    Raises:
        Diverged: the loss became NaN or infinite.
        Cancelled: the user cancelled.
    """
    copied = copy.deepcopy(head)
    trainer = HeadTrainer(copied, seed)
    judges = [sample for samples in lesson.judges for sample in _spread(samples)]
    with narrow_operations():  # other threads sweep meanwhile
        with ThreadPoolExecutor(1, thread_name_prefix="judge") as other:
            promised = other.submit(_overlap, head, judges)
            trainer.fit(lesson.new, steps, Clock(0, 1, steps), run, lesson.old, rate_scale, fixed_statistics=True)
            least = promised.result() - MAX_LOST
        copied.eval()
        if _overlap(copied, judges) >= least:
            return copied
        _go_back_half(copied, head)
        return copied if _overlap(copied, judges) >= least else None


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """At most ``MAX_JUDGES`` of some samples, evenly spread."""
    if len(samples) <= MAX_JUDGES:
        return list(samples)
    return [samples[round(i)] for i in np.linspace(0, len(samples) - 1, MAX_JUDGES)]


def _go_back_half(learned: DenseHead, before: DenseHead) -> None:
    """Put a head half-way between what it is and what it was."""
    with torch.no_grad():
        for now, then in zip(learned.parameters(), before.parameters(), strict=True):
            now.lerp_(then, 0.5)


def _overlap(head: DenseHead, samples: Sequence[Sample]) -> float:
    """Mean overlap of what a head sees with what is known of some frames, around their objects; 1 for no frames."""
    scores = [score for sample in samples for score in _overlaps(head, sample)]
    return float(np.mean(scores)) if scores else 1.0


@torch.inference_mode()
def _overlaps(head: DenseHead, sample: Sample) -> list[float]:
    """IoU of each track's pixels on one frame, and mean IoU of the boxes that they vote for."""
    levels, stride = head.settings.levels, head.settings.stride
    window = window_around_objects(sample.label_map, stride)
    device = next(head.parameters()).device
    features = zip(sample.features[-len(levels) :], levels, strict=True)
    output = predict(head, [maps[window.at(level.stride)] for maps, level in features])
    truth = torch.from_numpy(np.ascontiguousarray(sample.label_map[window.at(stride)[1:]])).long().to(device)
    found, scored = output.logits.argmax(dim=0), truth != IGNORE
    scores = []
    for value in (np.flatnonzero(sample.known) + 1).tolist():
        one, other = (found == value) & scored, truth == value
        if one.any() or other.any():
            scores.append(float(mask_iou(one, other)))
    if output.sides is not None and not np.isnan(sample.boxes).all():
        corner = np.array([window.left, window.top] * 2, np.float32) * GRID_PX
        boxes = torch.from_numpy(sample.boxes - corner)[None].to(device)
        scores.append(1.0 - float(box_loss(output.sides[None], truth[None], boxes)[0]))
    return scores


def check_stop(run: Run) -> None:
    """Between two pieces of work.

    Raises:
        Cancelled: the user cancelled.
    """
    if run.should_stop() is StopRequest.CANCEL:
        raise Cancelled("learning was cancelled")
