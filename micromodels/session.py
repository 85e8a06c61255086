"""A label session: one video, one micro-model, and the labels that people correct.

A human label is an anchor: nothing but a human changes it. A correction computes the spans between it and the
neighbouring anchors of the same track anew, and nothing else: labels of other tracks, accepted labels and other spans
stay the same objects. It is done twice: at once, by sweeping over the evidence that is there (changes marked
``draft``), and again after the head has learned from the corrected frame.
"""

from __future__ import annotations

import shutil
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch

from micromodels.changes import LabelChange, LabelKey, key_of, same_but_for_provenance
from micromodels.dense_model import DenseModel
from micromodels.encoder import select_device
from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.events import Run
from micromodels.evidence import StoredEvidence, StoredFlows, TrackSelection
from micromodels.features import EncodedVideo, FrameSource
from micromodels.heads import DenseHead, FrameClassifier
from micromodels.labeling import MicroModel
from micromodels.propagation import PropagationSettings, posteriors
from micromodels.seeds import MAX_TRACKS, SeedSet, TrackSpec
from micromodels.tracking import Tracker
from micromodels.types import (
    HUMAN,
    AnyLabel,
    FrameLabel,
    FrameResult,
    Label,
    Ontology,
    ShapeKind,
    State,
    shape_box,
    shape_kind,
)
from micromodels.warm_start import Replay, grow_head, warm_start

__all__ = ["LabelSession", "SessionSettings"]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a session learns; values from docs/experiments.md.

    Attributes:
        steps: training steps after a correction.
        rate_scale: their learning rate, as a share of that of a first training.
        fresh_views: views of a corrected frame, itself among them.
        replay_views: views of all anchors that a session starts with.
        horizon_frames: how far from a correction labels are computed anew where no anchor is nearer.
        new_track_steps: training steps after a correction that brings a new track.
        seed: of every random choice.
    """

    steps: int = 12
    rate_scale: float = 0.25
    fresh_views: int = 3
    replay_views: int = 12
    horizon_frames: int = 240
    new_track_steps: int = 60
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Span:
    """Frames ``start`` to ``stop - 1`` of one track (or frame class); the changes nearest to ``focus`` come first."""

    name: str
    start: int
    stop: int
    focus: int


class LabelSession:
    """Labels of one video that are corrected; a context manager.

    Everything large lies in files under ``run.cache_dir`` (features, evidence, optical flow), each bounded; the labels
    themselves are held in memory. Not to be used from two threads at once.

    Args:
        video: the open video.
        model: the micro-model that made the labels.
        labels: all labels of the video as they are now; the human ones among them are the anchors.
        settled: keys of labels that were accepted or locked: they are never changed, and spans end at them.
        ontology: classes allowed and their properties; None for those of the labels.
        run: device, cache, events, stopping.
        settings: how it learns.

    Raises:
        FailedPrecondition: the micro-model is of a recipe that cannot go on learning.
        InvalidInput: labels that do not fit the video.
    """

    def __init__(
        self,
        video: FrameSource,
        model: MicroModel,
        labels: Iterable[AnyLabel],
        *,
        settled: Iterable[LabelKey] = (),
        ontology: Ontology | None = None,
        run: Run = Run(),
        settings: SessionSettings = SessionSettings(),
    ) -> None:
        if not isinstance(model, DenseModel):
            raise FailedPrecondition(f"micro-models of recipe {model.manifest.recipe!r} cannot learn from corrections")
        self.settings, self._run, self._ontology = settings, run, ontology
        self._temporary = Path(tempfile.mkdtemp(prefix="micromodels-")) if run.cache_dir is None else None
        cache = self._temporary or run.cache_dir
        assert cache is not None
        self._table = video.table
        self._device = select_device(run.device)
        self._encoded = EncodedVideo(video, model.encoder_for(self._device), replace(run, cache_dir=cache))
        # What other sessions left is of other heads: every session has its own folder.
        self._scratch = Path(tempfile.mkdtemp(prefix="session-", dir=cache))
        self._evidence = StoredEvidence(self._encoded, self._scratch / "evidence")
        self._flows = StoredFlows(self._scratch / "flow")
        self._replay = Replay(self._encoded, settings.seed)
        self._labels: dict[LabelKey, AnyLabel] = {key_of(label): label for label in labels}
        self._settled = set(settled)
        self._tracks: tuple[TrackSpec, ...] = ()
        self._typical: list[float] = []
        self._model = model
        self._use(model)
        self._corrected = 0

    def __enter__(self) -> LabelSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything and remove the session's files."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._encoded.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    # What there is

    @property
    def labels(self) -> Mapping[LabelKey, AnyLabel]:
        """The labels as they are now."""
        return self._labels

    @property
    def settled(self) -> frozenset[LabelKey]:
        """Keys of the labels that were accepted or locked."""
        return frozenset(self._settled)

    @property
    def model(self) -> DenseModel:
        """The micro-model as it is now: another version after every correction that it learned from."""
        return self._model

    def anchors(self) -> list[AnyLabel]:
        """All human labels, by frame."""
        return sorted((label for label in self._labels.values() if label.is_anchor), key=key_of)

    def settle(self, keys: Iterable[LabelKey]) -> None:
        """Accept or lock labels: they stay as they are, and spans end at them.

        Raises:
            InvalidInput: a key without a label.
        """
        for key in keys:
            if key not in self._labels:
                raise InvalidInput("key", key, "the key of a label that exists")
            self._settled.add(key)

    def unsettle(self, keys: Iterable[LabelKey]) -> None:
        """Take acceptance or a lock back."""
        self._settled.difference_update(keys)

    def prepare(self) -> None:
        """Make what corrections need (evidence, optical flow, views of the anchors) before the first one comes.

        It may be called when nobody waits, also between corrections; without it the first correction takes longer.
        """
        self._make_replay()
        frames = range(self._table.frame_count)
        for _ in posteriors(self._evidence, {}, frames, self._run, PropagationSettings(), self._flows):
            pass

    # Corrections

    def correct(
        self, corrections: Sequence[AnyLabel], removals: Sequence[LabelKey] = (), *, learn: bool = True
    ) -> Iterator[LabelChange]:
        """Put human labels in, and compute anew what depends on them; a stream of changes, nearest frames first.

        First come the human labels themselves, then drafts from the evidence that is there, then, unless ``learn`` is
        False, what the head says after it has learned from the corrected frames. ``labels`` follows the stream: a
        stream that is left early leaves the labels that were given out.

        Args:
            corrections: human labels: a shape, a state, "absent here", a frame class. A class other than the track's
                gives the whole track that class. A track that is new gets an output of its own.
            removals: keys of human labels that are taken back; their frames are labelled by the micro-model again.
            learn: whether the head learns from it.

        Raises:
            InvalidInput: labels that are not human or do not fit the video or the ontology; removals of labels that no
                human made.
            Cancelled: the user cancelled.
        """
        self._check(corrections, removals)
        return self._correct(list(corrections), list(removals), learn)

    def _correct(self, corrections: list[AnyLabel], removals: list[LabelKey], learn: bool) -> Iterator[LabelChange]:
        known = {spec.track for spec in self._tracks}
        for label in corrections:
            yield from self._change(key_of(label), label)
            if isinstance(label, Label):
                yield from self._reclassify(label)
        for key in removals:
            yield from self._change(key, None)
        touched = [key_of(label) for label in corrections] + removals
        self._replay.forget({key.frame for key in touched})
        spans = self._spans([key for key in touched if not key.frame_class])
        for span in spans:
            if span.name in known:
                yield from self._sweep(span, draft=learn)
        if learn:
            changed = self._learn(corrections)
            for span in spans if changed else ():
                yield from self._sweep(span, fresh=True)
        yield from self._frame_classes([key for key in touched if key.frame_class])
        self._corrected += 1

    def _check(self, corrections: Sequence[AnyLabel], removals: Sequence[LabelKey]) -> None:
        table = self._table
        ontology = self._ontology or Ontology.from_labels([*self._labels.values(), *corrections])
        for key in removals:
            held = self._labels.get(key)
            if held is None or not held.is_anchor:
                raise InvalidInput("removals", key, "the key of a human label")
        if {key_of(label) for label in corrections} & set(removals):
            raise InvalidInput("removals", removals, "labels that are not corrected at the same time")
        SeedSet(corrections, table.frame_count, table.height_px, table.width_px, ontology, self._tracks)
        classes: dict[str, str] = {}
        for label in corrections:
            if isinstance(label, Label) and classes.setdefault(label.track, label.object_class) != label.object_class:
                raise InvalidInput("corrections.class", label.object_class, f"one class for track {label.track}")
        names = {label.track for label in corrections if isinstance(label, Label)} | {s.track for s in self._tracks}
        if len(names) > MAX_TRACKS:
            raise FailedPrecondition(f"{len(names)} tracks; at most {MAX_TRACKS} in one micro-model")

    def _change(self, key: LabelKey, after: AnyLabel | None, draft: bool = False) -> Iterator[LabelChange]:
        """Replace a label, if the new one says anything else."""
        before = self._labels.get(key)
        if same_but_for_provenance(before, after):
            return
        if after is None:
            del self._labels[key]
        else:
            self._labels[key] = after
            if after.is_anchor:
                self._settled.discard(key)
        yield LabelChange(key, before, after, draft)

    def _reclassify(self, correction: Label) -> Iterator[LabelChange]:
        """A class belongs to a track: all its labels take the class that a human gave one of them."""
        name, track = correction.object_class, correction.track
        specs = {spec.track: spec for spec in self._tracks}
        if track in specs and specs[track].object_class != name:
            self._tracks = tuple(replace(s, object_class=name) if s.track == track else s for s in self._tracks)
        for key, label in list(self._labels.items()):
            if isinstance(label, Label) and label.track == track and label.object_class != name:
                after = replace(label, object_class=name)
                self._labels[key] = after
                yield LabelChange(key, label, after)

    # Spans

    def _fixed_frames(self, track: str) -> list[int]:
        """Frames on which a track's label is human, accepted or locked, and says where the object is; ascending."""
        return sorted(
            key.frame
            for key, label in self._labels.items()
            if isinstance(label, Label)
            and label.track == track
            and (label.is_anchor or key in self._settled)
            and label.state is not State.UNCERTAIN
        )

    def _spans(self, touched: Sequence[LabelKey]) -> list[_Span]:
        """Spans between neighbouring fixed frames that a change of these labels touches; the shorter ones first."""
        spans: dict[tuple[str, int, int], _Span] = {}
        horizon, count = self.settings.horizon_frames, self._table.frame_count
        for name in dict.fromkeys(key.name for key in touched):
            fixed = self._fixed_frames(name)
            for frame in (key.frame for key in touched if key.name == name):
                before = fixed[bisect_left(fixed, frame) - 1] if bisect_left(fixed, frame) else 0
                position = bisect_right(fixed, frame)
                after = fixed[position] if position < len(fixed) else count - 1
                before, after = max(before, frame - horizon), min(after, frame + horizon)
                parts = [(before, frame), (frame, after)] if frame in fixed else [(before, after)]
                for start, last in parts:
                    if last > start:
                        spans.setdefault((name, start, last), _Span(name, start, last + 1, frame))
        return sorted(spans.values(), key=lambda span: span.stop - span.start)

    def _sweep(self, span: _Span, *, draft: bool = False, fresh: bool = False) -> Iterator[LabelChange]:
        """Compute one span anew and give out what changed."""
        found = [
            label
            for result in self._results(span, fresh)
            for label in result.labels
            if label.track == span.name and not label.is_anchor
        ]
        for label in sorted(found, key=lambda label: abs(label.frame - span.focus)):
            key = key_of(label)
            held = self._labels.get(key)
            if key in self._settled or (held is not None and held.is_anchor):
                continue
            yield from self._change(key, label, draft)

    def _results(self, span: _Span, fresh: bool) -> Iterator[FrameResult]:
        """Labels of a span as a fresh propagation gives them."""
        own = next(i for i, spec in enumerate(self._tracks) if spec.track == span.name)
        boxes = self._tracks[own].shape is ShapeKind.BOX
        # Masks give way to each other where they meet; boxes do not.
        chosen = [own] if boxes else [i for i, s in enumerate(self._tracks) if s.shape is not ShapeKind.BOX]
        specs = tuple(self._tracks[i] for i in chosen)
        seeds = self._seed_set(self._fixed_labels(span, {spec.track for spec in specs}), specs)
        targets = {frame: seeds.seed_frame(frame, self._encoded.size) for frame in seeds.frames}
        tracker = Tracker(
            specs,
            seeds,
            targets,
            self._encoded.size,
            self._model.manifest.version,
            None,
            (),
            [self._typical[i] for i in chosen],
            others=self._visible_boxes(span.name) if boxes else lambda frame: (),
        )
        stream = self._evidence.stream_fresh if fresh else self._evidence.stream
        source = TrackSelection(self._evidence, chosen, stream)
        frames = range(span.start, span.stop)
        return tracker.results(posteriors(source, targets, frames, self._run, PropagationSettings(), self._flows))

    def _fixed_labels(self, span: _Span, tracks: set[str]) -> list[Label]:
        """Labels that a span is computed from: those that are fixed, and what is there where the horizon cuts it."""
        fixed = []
        for frame in range(span.start, span.stop):
            for track in tracks:
                key = LabelKey(frame, track)
                label = self._labels.get(key)
                if not isinstance(label, Label):
                    continue
                cut = track == span.name and 0 < frame == span.start and label.shape is not None
                if label.is_anchor or key in self._settled or cut:
                    fixed.append(replace(label, provenance=HUMAN))
        return fixed

    def _visible_boxes(self, track: str) -> _Boxes:
        return _Boxes(self._labels, [spec.track for spec in self._tracks if spec.track != track])

    def _seed_set(self, labels: Sequence[AnyLabel], tracks: tuple[TrackSpec, ...]) -> SeedSet:
        table = self._table
        return SeedSet(labels, table.frame_count, table.height_px, table.width_px, None, tracks)

    # Learning

    def _use(self, model: DenseModel) -> None:
        self._model = model
        self._tracks = model.manifest.tracks
        self._typical = list(model.manifest.typical_areas)
        if model.head is not None:
            model.head.to(self._device)
        self._evidence.use_head(model.head, PropagationSettings().temperature, self._run)

    def _make_replay(self) -> None:
        """Views of the anchors that a session finds, so that learning a new one does not unlearn them."""
        frames = self._anchor_frames()
        if not self._tracks or not frames:
            return
        views = max(1, self.settings.replay_views // len(frames))
        seeds = self._seed_set(self.anchors(), self._tracks)
        for frame in frames:
            if frame not in self._replay.frames:
                self._replay.add(seeds.seed_frame(frame, self._encoded.size), views, self._may_flip())

    def _anchor_frames(self) -> list[int]:
        """Frames to learn from: those with a shape, evenly thinned out where there are very many, and some without."""
        shown = {
            k.frame for k, x in self._labels.items() if isinstance(x, Label) and x.is_anchor and x.shape is not None
        }
        empty = {k.frame for k, x in self._labels.items() if isinstance(x, Label) and x.is_anchor} - shown
        return sorted([*_thinned(sorted(shown), 48), *_thinned(sorted(empty), 16)])

    def _may_flip(self) -> bool:
        return self._ontology is None or all(c.flip for c in self._ontology.object_classes)

    def _learn(self, corrections: Sequence[AnyLabel]) -> bool:
        """Let the head learn from corrected frames; returns whether it did."""
        shown = [label for label in corrections if isinstance(label, Label) and label.state is not State.UNCERTAIN]
        new = self._new_tracks(shown)
        frames = sorted({label.frame for label in shown if label.track in {s.track for s in (*self._tracks, *new)}})
        if not frames:
            return False
        self._make_replay_for(new)
        seeds = self._seed_set(self.anchors(), self._tracks)
        for frame in frames[: self.settings.replay_views]:
            self._replay.add(seeds.seed_frame(frame, self._encoded.size), self.settings.fresh_views, self._may_flip())
        head = self._grown_head()
        older = self._replay.samples(frame for frame in self._replay.frames if frame not in frames)
        steps = self.settings.new_track_steps if new else self.settings.steps
        seed = self.settings.seed + 1 + self._corrected
        rate = 1.0 if new else self.settings.rate_scale
        head = warm_start(head, self._replay.samples(frames), older, steps, rate, seed, self._run)
        self._use(self._model.learned(head, self._model.classifier, self._tracks, self._typical, seeds))
        return True

    def _new_tracks(self, shown: Sequence[Label]) -> list[TrackSpec]:
        known = {spec.track for spec in self._tracks}
        new: dict[str, TrackSpec] = {}
        for label in shown:
            if label.track not in known and label.shape is not None:
                new[label.track] = TrackSpec(label.track, label.object_class, shape_kind(label.shape))
        return list(new.values())

    def _make_replay_for(self, new: Sequence[TrackSpec]) -> None:
        if new:
            self._tracks = (*self._tracks, *new)
            self._replay.grow(len(self._tracks))
            for spec in new:
                self._typical.append(self._area(spec.track))
        self._make_replay()

    def _area(self, track: str) -> float:
        """Median share of the image that a track's human labels cover."""
        total = float(self._table.width_px * self._table.height_px)
        boxes = [
            shape_box(label.shape)
            for label in self._labels.values()
            if isinstance(label, Label) and label.track == track and label.is_anchor and label.shape is not None
        ]
        areas = [box.width_px * box.height_px / total for box in boxes if box is not None]
        return float(np.median(areas)) if areas else 0.01

    def _grown_head(self) -> DenseHead:
        head = self._model.head
        boxes = any(spec.shape is ShapeKind.BOX for spec in self._tracks)
        if head is None:
            raise FailedPrecondition("a micro-model of frame classes only cannot learn objects: train one with both")
        if head.settings.tracks == len(self._tracks) and (head.settings.boxes or not boxes):
            return head
        return grow_head(head, len(self._tracks), boxes)

    # Frame classes

    def _frame_classes(self, touched: Sequence[LabelKey]) -> Iterator[LabelChange]:
        """Fit the frame classifier again, and label the spans between neighbouring human labels of the class."""
        if not touched:
            return
        said = [label for label in self.anchors() if isinstance(label, FrameLabel)]
        names = tuple(dict.fromkeys([*self._model.manifest.frame_classes, *(label.frame_class for label in said)]))
        classifier = self._fit_classifier(said, names)
        manifest = self._model.manifest
        self._model = self._model.learned(
            self._model.head,
            classifier,
            manifest.tracks,
            list(manifest.typical_areas),
            self._seed_set(self.anchors(), manifest.tracks),
            names,
        )
        for key in touched:
            fixed = sorted(label.frame for label in said if label.frame_class == key.name and label.frame != key.frame)
            position = bisect_left(fixed, key.frame)
            first = fixed[position - 1] + 1 if position else 0
            stop = fixed[position] if position < len(fixed) else self._table.frame_count
            horizon = self.settings.horizon_frames
            first, stop = max(first, key.frame - horizon), min(stop, key.frame + horizon + 1)
            yield from self._classify(key, range(first, stop), classifier, names)

    def _fit_classifier(self, said: Sequence[FrameLabel], names: tuple[str, ...]) -> FrameClassifier:
        rows: dict[int, npt.NDArray[np.float32]] = {}
        for label in said:
            row = rows.setdefault(label.frame, np.full(len(names), np.nan, np.float32))
            row[names.index(label.frame_class)] = float(label.present)
        vectors = {frame: self._replay.vectors(frame) for frame in _thinned(sorted(rows), 64)}
        inputs = np.stack([vector for views in vectors.values() for vector in views])
        targets = np.stack([rows[frame] for frame, views in vectors.items() for _ in views])
        classifier = FrameClassifier(inputs.shape[1], len(names))
        classifier.fit(torch.from_numpy(inputs), torch.from_numpy(targets))
        return classifier.eval()

    def _classify(
        self, key: LabelKey, frames: range, classifier: FrameClassifier, names: tuple[str, ...]
    ) -> Iterator[LabelChange]:
        around = range(max(0, frames.start - 2), min(self._table.frame_count, frames.stop + 2))
        seeds = self._seed_set([], ())
        tracker = Tracker((), seeds, {}, self._encoded.size, self._model.manifest.version, classifier, names, [])
        source = TrackSelection(self._evidence, [])
        results = tracker.results(posteriors(source, {}, around, self._run, PropagationSettings()))
        found = [
            label for r in results if r.frame in frames for label in r.frame_labels if label.frame_class == key.name
        ]
        for label in sorted(found, key=lambda label: abs(label.frame - key.frame)):
            held = self._labels.get(key_of(label))
            if key_of(label) not in self._settled and not (held is not None and held.is_anchor):
                yield from self._change(key_of(label), label)


class _Boxes:
    """Boxes of visible tracks by frame, from labels."""

    def __init__(self, labels: Mapping[LabelKey, AnyLabel], tracks: Sequence[str]) -> None:
        self._labels, self._tracks = labels, tracks

    def __call__(self, frame: int) -> list[npt.NDArray[np.float32]]:
        boxes = []
        for track in self._tracks:
            label = self._labels.get(LabelKey(frame, track))
            if isinstance(label, Label) and label.state is State.VISIBLE and label.shape is not None:
                box = shape_box(label.shape)
                if box is not None:
                    boxes.append(np.array(box.as_list(), np.float32))
        return boxes


def _thinned(frames: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of the frames, evenly spread; the newest stay."""
    if len(frames) <= most:
        return list(frames)
    return [frames[round(i)] for i in np.linspace(0, len(frames) - 1, most)]
