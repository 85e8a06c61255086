"""What a session learns: the head from corrected frames, the classifier of frames from their classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from queue import SimpleQueue
from types import TracebackType

import numpy as np
import torch

from micromodels.correction.rehearsal import Rehearsal, Replay, check_stop, grow_head, warm_start
from micromodels.correction.retraining import Snapshot
from micromodels.encoding.encoded_video import EncodedVideo
from micromodels.errors import FailedPrecondition
from micromodels.labels.geometry import bounds
from micromodels.labels.targets import SeedSet, TrackSpec
from micromodels.recipes.base import CorrectableModel
from micromodels.runtime.run import Event, Run, StopRequest
from micromodels.training.frame_classifier import fit_frame_classifier
from micromodels.training.head import DenseHead
from micromodels.types import HUMAN, AnyLabel, FrameLabel, Label, Ontology, State

__all__ = ["Learner", "Lesson", "SessionSettings", "Studying"]

MAX_HISTORY = 24
"""Earlier models kept for comparison, of about a megabyte each."""
MAX_SHOWN_FRAMES, MAX_EMPTY_FRAMES, MAX_CLASS_FRAMES = 48, 16, 64
"""Frames to learn from where there are very many: with objects, without, and for frame classes."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a session learns; values from docs/explanation/experiments.md.

    Attributes:
        steps: training steps after a correction.
        rate_scale: their learning rate, as a share of that of a first training.
        replay_views: views of all anchors that a session starts with.
        held_frames: frames that are learned as they are labeled, lest a correction make others of them.
        horizon_frames: how far from a correction labels are recomputed where no anchor is nearer.
        draft_frames: how far from it drafts go.
        new_track_steps: training steps after a correction that brings a new track.
        seed: of every random choice.
    """

    steps: int = 12
    rate_scale: float = 0.25
    replay_views: int = 12
    held_frames: int = 6
    horizon_frames: int = 240
    draft_frames: int = 24
    new_track_steps: int = 60
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be learned.

    Attributes:
        frames: the corrected frames.
        anchors: all human labels.
        kept: labels of other frames that should not become others by it.
        tracks: those of the head afterwards.
        typical: their typical areas.
        steps: training steps.
        rate_scale: of the learning rate.
    """

    frames: tuple[int, ...]
    anchors: tuple[AnyLabel, ...]
    kept: tuple[Label, ...]
    tracks: tuple[TrackSpec, ...]
    typical: tuple[float, ...]
    steps: int
    rate_scale: float


class Learner:
    """The micro-model of a session as it learns.

    Args:
        video: encoded frames.
        model: the micro-model to start from.
        settings: how it learns.
        device: where the head is.
        ontology: for whether mirrored objects are still such; None: they are.
        run: events and stopping.
        history: what it was before, the oldest first.
    """

    def __init__(
        self,
        video: EncodedVideo,
        model: CorrectableModel,
        settings: SessionSettings,
        device: torch.device,
        ontology: Ontology | None,
        run: Run,
        history: Sequence[Snapshot] = (),
    ) -> None:
        self._video, self._settings, self._device, self._run = video, settings, device, run
        self._flip = ontology is None or all(c.flip for c in ontology.object_classes)
        self._replay = Replay(video, _stride(model), settings.seed)
        self._corrections = len(history)
        self.history: list[Snapshot] = list(history[-MAX_HISTORY:])
        self.model = model
        self.tracks = model.manifest.tracks
        self.typical = list(model.manifest.typical_areas)
        self.use(model)

    def use(self, model: CorrectableModel) -> None:
        """Go on from another version of the micro-model."""
        self.model = model
        if model.manifest.tracks != self.tracks or _stride(model) != self._replay.stride:
            # Views are painted in the order of the tracks, as fine as the head speaks.
            self.forget(self._replay.frames)
            self._replay.stride = _stride(model)
            self.tracks, self.typical = model.manifest.tracks, list(model.manifest.typical_areas)
        if model.head is not None:
            model.head.to(self._device)

    def seed_set(self, labels: Sequence[AnyLabel], tracks: tuple[TrackSpec, ...]) -> SeedSet:
        """Labels as seeds of some tracks."""
        table = self._video.video.table
        return SeedSet(labels, table.frame_count, table.height_px, table.width_px, None, tracks)

    def reclassify(self, track: str, object_class: str) -> None:
        """A track is of another class."""
        self.tracks = tuple(replace(s, object_class=object_class) if s.track == track else s for s in self.tracks)

    def forget(self, frames: Iterable[int]) -> None:
        """Labels of these frames are others now."""
        self._replay.forget(frames)

    def prepare(self, anchors: Sequence[AnyLabel]) -> None:
        """Views of anchors that there are none of yet, so that learning a new one does not unlearn them."""
        if self.tracks:
            self._add_views(anchors, self.seed_set(anchors, self.tracks), self._run)

    def _add_views(self, anchors: Sequence[AnyLabel], seeds: SeedSet, run: Run) -> None:
        frames = _frames_to_learn(anchors)
        for frame in frames:
            if frame not in self._replay.frames:
                check_stop(run)
                views = max(1, self._settings.replay_views // len(frames))
                self._replay.add(seeds.seed_frame(frame, self._video.size), views, self._flip)

    def begin(
        self,
        corrections: Sequence[AnyLabel],
        anchors: Sequence[AnyLabel],
        kept: Sequence[Label] = (),
        thoroughness: int = 1,
    ) -> Lesson | None:
        """What is to be learned from corrected frames; None where there is nothing. Nothing changes by it.

        Args:
            corrections: the human labels just given.
            anchors: all human labels, those among them.
            kept: labels of other frames, as they are now, that should not become others by it.
            thoroughness: factor on the training steps.
        """
        shown = [label for label in corrections if isinstance(label, Label) and label.state is not State.UNCERTAIN]
        tracks, typical = self._with_new_tracks(shown, anchors)
        known = {spec.track for spec in tracks}
        frames = _thinned(sorted({label.frame for label in shown if label.track in known}), 8)
        if not frames:
            return None
        new = len(tracks) > len(self.tracks)
        steps = thoroughness * (self._settings.new_track_steps if new else self._settings.steps)
        rate = 1.0 if new else self._settings.rate_scale
        return Lesson(tuple(frames), tuple(anchors), tuple(kept), tracks, tuple(typical), steps, rate)

    def study(self, lesson: Lesson, run: Run) -> DenseHead | None:
        """The head after a lesson; None where it would know the rest of the video worse. In any thread, one at a time.

        Raises:
            Diverged: the loss became NaN or infinite.
            Cancelled: the user cancelled.
        """
        try:
            return self._study(lesson, run)
        except BaseException:
            # Views of these frames may be of tracks that the micro-model does not come to know.
            self._replay.forget(lesson.frames)
            raise

    def _study(self, lesson: Lesson, run: Run) -> DenseHead | None:
        size, count = self._video.size, len(lesson.tracks)
        seeds = self.seed_set(lesson.anchors, lesson.tracks)
        older = [label for label in lesson.anchors if label.frame not in lesson.frames]
        self._replay.fit_to(count)
        self._add_views(older, self.seed_set(older, lesson.tracks), run)
        for frame in lesson.frames:
            check_stop(run)
            # As it is: distorted views of it take as long as all steps, and nothing was gained by them.
            self._replay.add(seeds.seed_frame(frame, size), 1, self._flip)
        drawn = self._replay.samples(frame for frame in self._replay.frames if frame not in lesson.frames)
        plain = [self._replay.samples([frame])[0] for frame in self._replay.frames if frame not in lesson.frames]
        own = self.seed_set([replace(label, provenance=HUMAN) for label in lesson.kept], lesson.tracks)
        held = [self._replay.unchanged(own.seed_frame(frame, size)) for frame in own.frames]
        seed = self._settings.seed + self._corrections + 1
        return warm_start(
            self._grown_head(lesson.tracks),
            # A new track is taken up at any price.
            Rehearsal(
                self._replay.samples(lesson.frames), drawn, held, [] if count > len(self.tracks) else [plain, held]
            ),
            lesson.steps,
            lesson.rate_scale,
            seed,
            run,
        )

    def finish(self, lesson: Lesson, head: DenseHead | None) -> bool:
        """Go on with what was learned; returns whether the head is another one now."""
        self._corrections += 1
        seen = frozenset(x.frame for x in lesson.anchors if isinstance(x, Label)) - set(lesson.frames)
        self.history = [*self.history[1 - MAX_HISTORY :], Snapshot(self.model, seen)]
        if head is None:
            return False
        self.tracks, self.typical = lesson.tracks, list(lesson.typical)
        seeds = self.seed_set(lesson.anchors, self.tracks)
        self.use(self.model.learned(head, self.model.classifier, self.tracks, self.typical, seeds))
        return True

    def take_over(self, model: CorrectableModel, unseen: Sequence[int], anchors: Sequence[AnyLabel]) -> None:
        """Continue from a model that was retrained, after it has learned from the anchors that it has not seen."""
        self.use(model)
        self.history = []
        shown = [label for label in anchors if isinstance(label, Label) and label.frame in unseen]
        lesson = self.begin(shown, anchors, thoroughness=4)
        if lesson is not None:
            self.finish(lesson, self.study(lesson, self._run))

    def _with_new_tracks(
        self, shown: Sequence[Label], anchors: Sequence[AnyLabel]
    ) -> tuple[tuple[TrackSpec, ...], list[float]]:
        """Tracks and their typical areas, with those that the head does not know."""
        known = {spec.track for spec in self.tracks}
        new: dict[str, TrackSpec] = {}
        for label in shown:
            if label.track not in known and label.shape is not None:
                new[label.track] = TrackSpec(label.track, label.object_class, label.shape.kind)
        areas = [self._area(track, anchors) for track in new]
        return (*self.tracks, *new.values()), [*self.typical, *areas]

    def _area(self, track: str, anchors: Sequence[AnyLabel]) -> float:
        """Median share of the image that the boxes around a track's shapes cover."""
        table = self._video.video.table
        boxes = [
            bounds(label.shape)
            for label in anchors
            if isinstance(label, Label) and label.track == track and label.shape is not None
        ]
        total = float(table.width_px * table.height_px)
        areas = [box.width_px * box.height_px / total for box in boxes if box is not None]
        return float(np.median(areas)) if areas else 0.01

    def _grown_head(self, tracks: tuple[TrackSpec, ...]) -> DenseHead:
        head = self.model.head
        boxes = any(spec.is_box for spec in tracks)
        if head is None:
            raise FailedPrecondition("a micro-model of frame classes only cannot learn objects: train one with both")
        if head.settings.tracks == len(tracks) and (head.settings.boxes or not boxes):
            return head
        return grow_head(head, len(tracks), boxes)

    def learn_frame_classes(self, anchors: Sequence[AnyLabel]) -> tuple[str, ...]:
        """Fit the classifier of frames to all human frame labels; returns its classes."""
        said = [label for label in anchors if isinstance(label, FrameLabel)]
        names = tuple(dict.fromkeys([*self.model.manifest.frame_classes, *(label.frame_class for label in said)]))
        if not said:
            return ()
        frames = _thinned(sorted({label.frame for label in said}), MAX_CLASS_FRAMES)
        views = ((frame, vector) for frame in frames for vector in self._replay.vectors(frame))
        classifier = fit_frame_classifier(names, said, views)
        seeds = self.seed_set(anchors, self.tracks)
        self.use(self.model.learned(self.model.head, classifier, self.tracks, self.typical, seeds, names))
        return names


class Studying:
    """A lesson that is learned in another thread while this one goes on; a context manager that ends it.

    Events go out in the thread that works for the user only, when it asks for the head.

    Args:
        learner: what learns.
        lesson: what it learns; None for nothing.
        run: events and stopping.
    """

    def __init__(self, learner: Learner, lesson: Lesson | None, run: Run) -> None:
        self._learner, self._lesson, self._run = learner, lesson, run
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._request = StopRequest.NONE
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="study")
        self._promised: Future[DenseHead | None] | None = None

    def __enter__(self) -> Studying:
        if self._lesson is not None:
            run = replace(self._run, on_event=self._events.put, should_stop=lambda: self._request)
            self._promised = self._pool.submit(self._learner.study, self._lesson, run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lesson up if it is not over, and wait for the thread."""
        self._request = StopRequest.CANCEL
        self._pool.shutdown()

    def finish(self) -> bool:
        """Wait for the lesson and go on with what was learned; returns whether the head is another one now.

        Raises:
            Diverged: the loss became NaN or infinite.
            Cancelled: the user cancelled.
        """
        if self._lesson is None or self._promised is None:
            return False
        while not wait([self._promised], timeout=0.02).done:
            self._tell()
            if self._request is StopRequest.NONE:
                self._request = self._run.should_stop()
        self._tell()
        return self._learner.finish(self._lesson, self._promised.result())

    def _tell(self) -> None:
        while not self._events.empty():
            self._run.on_event(self._events.get())


def _frames_to_learn(anchors: Sequence[AnyLabel]) -> list[int]:
    """Frames with a shape and some without, evenly thinned out where there are very many."""
    objects = [label for label in anchors if isinstance(label, Label)]
    shown = {label.frame for label in objects if label.shape is not None}
    empty = {label.frame for label in objects} - shown
    return sorted([*_thinned(sorted(shown), MAX_SHOWN_FRAMES), *_thinned(sorted(empty), MAX_EMPTY_FRAMES)])


def _thinned(frames: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of the frames, evenly spread; the first and the last stay."""
    if len(frames) <= most:
        return list(frames)
    return [frames[round(i)] for i in np.linspace(0, len(frames) - 1, most)]


def _stride(model: CorrectableModel) -> int:
    return model.head.settings.stride if model.head is not None else 2
