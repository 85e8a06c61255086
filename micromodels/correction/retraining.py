"""A retrained micro-model is taken only when it does better on human labels that neither model has seen.

It is of the same recipe, on the encoder that the old one has.

The newest human labels are held out. The model that the session had before they came has not seen them, and neither
has a new one trained from scratch on the others; both label the held-out frames from the other human labels, and the
mean IoU with what people drew decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from micromodels.correction.retrain_policy import HELD_OUT_SHARE
from micromodels.encoding.encoded_video import FrameSource
from micromodels.errors import FailedPrecondition
from micromodels.labels.geometry import iou
from micromodels.recipes.base import CorrectableModel, TrainSettings, correctable, train
from micromodels.runtime.run import Run
from micromodels.types import AnyLabel, Label, Ontology

__all__ = ["Retrained", "Snapshot", "retrain"]

MARGIN = 0.005
"""How much better a new model must be."""
AROUND_FRAMES = 120
"""How far from a held-out frame it is labeled from, where no human label is nearer."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A micro-model, and the frames whose human labels it has seen."""

    model: CorrectableModel
    frames: frozenset[int]

    @classmethod
    def of(cls, model: CorrectableModel, anchors: Sequence[AnyLabel]) -> Snapshot:
        """A micro-model by what its manifest says that it has seen, of the frames with human labels of objects."""
        frames = {label.frame for label in anchors if isinstance(label, Label)}
        return cls(model, frozenset(frames.intersection(model.manifest.seed_frames)))


@dataclass(frozen=True, slots=True)
class Retrained:
    """A new micro-model beside the old one.

    Attributes:
        model: trained from scratch on all human labels but the held-out ones.
        held_out: frames that neither has seen.
        old_score: mean IoU on them of the model that a session had before it saw them.
        new_score: mean IoU of the new one.
    """

    model: CorrectableModel
    held_out: tuple[int, ...]
    old_score: float
    new_score: float

    @property
    def better(self) -> bool:
        """Whether the new model should take over."""
        return self.new_score > self.old_score + MARGIN


def retrain(
    video: FrameSource,
    anchors: Sequence[AnyLabel],
    history: Sequence[Snapshot],
    settings: TrainSettings,
    ontology: Ontology | None,
    run: Run,
) -> Retrained:
    """Retrain and compare; see the module.

    Args:
        video: the open video.
        anchors: all human labels.
        history: the models that the session had, the oldest first, the one that it has last.
        settings: of the training; recipe and encoder are those of the old model.
        ontology: classes allowed; None for those of the labels.
        run: device, cache, events, stopping.

    Raises:
        FailedPrecondition: fewer than three frames with human labels of objects, or none that can be held out.
        TrainingError: training failed.
        Cancelled: the user cancelled.
    """
    frames = {label.frame for label in anchors if isinstance(label, Label)}
    if len(frames) < 3:
        raise FailedPrecondition(f"{len(frames)} frames with human labels of objects; at least 3 to retrain")
    old = _unseeing(history, frames)
    held_out = tuple(sorted(frames - old.frames))
    kept = [label for label in anchors if label.frame in old.frames]
    shown = {label.track for label in kept if isinstance(label, Label) and label.shape is not None}
    kept = [label for label in kept if not isinstance(label, Label) or label.track in shown]
    # The features that a session holds are those of its encoder.
    manifest = old.model.manifest
    settings = replace(settings, recipe=manifest.recipe, encoder=manifest.encoder)
    model = correctable(train(video, kept, settings, ontology=ontology, run=run, encoder_of=old.model))
    asked = [label for label in anchors if isinstance(label, Label) and label.frame in held_out]
    scores = [_score(video, one, kept, [x for x in asked if x.track in shown], run) for one in (old.model, model)]
    return Retrained(model, held_out, scores[0], scores[1])


def _unseeing(history: Sequence[Snapshot], frames: set[int]) -> Snapshot:
    """The newest model that has not seen a good share of the frames, and nothing but some of them."""
    wanted = max(1, round(HELD_OUT_SHARE * len(frames)))
    for snapshot in reversed(history):
        if snapshot.frames and snapshot.frames <= frames and len(frames - snapshot.frames) >= wanted:
            return snapshot
    raise FailedPrecondition("no human label that the micro-model has not learned from: correct some frames first")


def _score(
    video: FrameSource, model: CorrectableModel, kept: Sequence[AnyLabel], asked: Sequence[Label], run: Run
) -> float:
    """Mean IoU with what people drew on frames that a model labels from other human labels."""
    known = {spec.track for spec in model.manifest.tracks}
    anchors = [label for label in kept if isinstance(label, Label) and label.track in known]
    held = sorted({label.frame for label in asked})
    wanted = {(label.frame, label.track): label for label in asked}
    size = (video.table.height_px, video.table.width_px)
    scores = []
    for frames in _ranges(held, sorted({label.frame for label in anchors}), video.table.frame_count):
        near = [label for label in anchors if label.frame in frames]
        for result in model.propagate(video, near, frames=frames, run=replace(run, on_event=lambda event: None)):
            pairs = [(x.shape, wanted[x.frame, x.track].shape) for x in result.labels if (x.frame, x.track) in wanted]
            scores += [iou(found, drawn, size) for found, drawn in pairs]
    return sum(scores) / max(1, len(wanted))


def _ranges(held: Sequence[int], kept: Sequence[int], count: int) -> Iterator[range]:
    """From the last kept frame before each held-out frame to the first one behind it, joined where they meet."""
    current: range | None = None
    for frame in held:
        before = max((k for k in kept if k < frame), default=0)
        after = min((k for k in kept if k > frame), default=count - 1)
        here = range(max(before, frame - AROUND_FRAMES), min(after, frame + AROUND_FRAMES) + 1)
        if current is not None and here.start < current.stop:
            current = range(current.start, max(current.stop, here.stop))
            continue
        if current is not None:
            yield current
        current = here
    if current is not None:
        yield current
