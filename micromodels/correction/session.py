"""A label session: one video, one micro-model, and the labels that people correct.

A human label is an anchor: nothing but a human changes it. A correction computes the spans between it and the
neighboring anchors of the same track again, and nothing else: labels of other tracks, accepted labels and other spans
stay the same objects. It is done twice: at once, by sweeping over the predictions that is there (changes marked
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

from micromodels.correction.consistency import Issue, SuspectedSwap, consistency_issues, suspected_swaps
from micromodels.correction.frame_suggestions import Suggestion
from micromodels.correction.online_learner import Learner, SessionSettings, Studying
from micromodels.correction.retraining import Retrained, Snapshot, retrain
from micromodels.correction.review_state import VideoReviewState
from micromodels.encoding.encoded_video import EncodedVideo, FrameSource
from micromodels.encoding.encoders import select_device
from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.labels.keys import LabelChange, LabelKey, same_but_for_provenance
from micromodels.labels.targets import MAX_TRACKS, SeedSet, boxed
from micromodels.labels.track_arrays import no_boxes, visible_boxes
from micromodels.labels.validation import check_fits_video
from micromodels.labels.video_info import VideoInfo
from micromodels.propagation.label_builder import Tracker
from micromodels.propagation.predictions import Boxes, StoredPredictions, TrackSelection
from micromodels.recipes.base import CorrectableModel, MicroModel, TrainSettings, correctable
from micromodels.runtime.run import Run
from micromodels.types import HUMAN, AnyLabel, FrameLabel, FrameResult, Label, Ontology, State

__all__ = ["LabelSession", "SessionSettings"]


@dataclass(frozen=True, slots=True)
class _Span:
    """Frames ``start`` to ``stop - 1`` of one track; the changes nearest to ``focus`` come first."""

    track: str
    start: int
    stop: int
    focus: int


class LabelSession:
    """Labels of one video that are corrected; a context manager.

    Everything large lies in files under ``run.cache_dir`` (features, predictions, optical flow), each bounded; the
    labels themselves are held in memory. Not to be used from two threads at once.

    Args:
        video: the open video.
        model: the micro-model that made the labels.
        labels: all labels of the video as they are now; the human ones among them are the anchors.
        settled: keys of labels that were accepted or locked: they are never changed, and spans end at them.
        ontology: classes allowed and their properties; None for those of the labels.
        run: device, cache, events, stopping.
        settings: how it learns.
        earlier: what ``model`` was before corrections that it learned from in an earlier session, the oldest first;
            ``retrain`` compares with the one that has not seen the newest of them.

    Raises:
        FailedPrecondition: a micro-model is of a recipe that cannot go on learning.
        InvalidInput: labels that do not fit the video; names the label as ``labels[INDEX]``.
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
        earlier: Sequence[MicroModel] = (),
    ) -> None:
        model = correctable(model)
        self._table, self._settings, self._run, self._ontology = video.table, settings, run, ontology
        self._labels: dict[LabelKey, AnyLabel] = {}
        for index, label in enumerate(labels):
            self._check_fits(label, f"labels[{index}]")
            self._labels[LabelKey.of(label)] = label
        self._settled = set(settled)
        self._prepared = False
        last = max((key.frame for key in self._settled), default=0)
        if last >= self._table.frame_count:
            raise OutOfRange("settled.frame", last, f"0 to {self._table.frame_count - 1}")
        self._temporary = Path(tempfile.mkdtemp(prefix="micromodels-")) if run.cache_dir is None else None
        cache = self._temporary or run.cache_dir
        assert cache is not None
        self._cache = cache
        device = select_device(run.device)
        self._encoded = EncodedVideo(video, model.encoder_for(device), replace(run, cache_dir=cache))
        # What other sessions left is of other heads: every session has its own folder.
        self._scratch = Path(tempfile.mkdtemp(prefix="session-", dir=cache))
        self._predictions = StoredPredictions(self._encoded, self._scratch / "predictions")
        self._temporal = model.temporal(self._scratch / "temporal")
        history = [Snapshot.of(correctable(before), self.anchors()) for before in earlier]
        self._learner = Learner(self._encoded, model, settings, device, ontology, run, history)
        self._use_head()
        self._review_state = VideoReviewState(self._table.frame_count)
        for key, label in self._labels.items():
            self._review_state.put(key, label, fixed=self._is_fixed(key))

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
    def model(self) -> CorrectableModel:
        """The micro-model as it is now: another version after every correction that it learned from."""
        return self._learner.model

    def anchors(self) -> list[AnyLabel]:
        """All human labels, by frame."""
        return sorted((label for label in self._labels.values() if label.is_anchor), key=LabelKey.of)

    def settle(self, keys: Iterable[LabelKey], *, looked_at: bool = True) -> None:
        """Accept or lock labels: they stay as they are, and spans end at them.

        Args:
            keys: of labels; where there is none, nothing is predicted any more.
            looked_at: whether a person looked at each of them; suggestions learn from that, not from bulk acceptance.
        """
        chosen = list(keys)
        if looked_at:
            self._review_state.judge(chosen, wrong=False)
        self._settled.update(chosen)
        for key in self._labels.keys() & chosen:
            self._review_state.put(key, self._labels[key], fixed=True)

    def unsettle(self, keys: Iterable[LabelKey]) -> None:
        """Take acceptance or a lock back."""
        for key in keys:
            self._settled.discard(key)
            self._review_state.put(key, self._labels.get(key), fixed=self._is_fixed(key))

    def prepare(self) -> None:
        """Make what corrections and suggestions need (predictions, optical flow, views of the anchors) ahead of them.

        It may be called when nobody waits, also between corrections; without it the first correction takes longer, and
        suggestions know of the labels only. The video is looked at once: corrections keep up what they change.

        Raises:
            Cancelled: the user cancelled; the next call begins again, and finds what was made.
        """
        self._learner.prepare(self.anchors())
        if self._prepared:
            return
        tracks = [spec.track for spec in self._learner.tracks]
        seeds = self._learner.seed_set(self._fixed_labels(range(self._table.frame_count), tracks), self._learner.tracks)
        targets = {frame: seeds.seed_frame(frame, self._encoded.size) for frame in seeds.frames}
        source = TrackSelection(self._predictions, range(len(tracks)), self._review_state.predictions_of(tracks))
        frames = range(self._table.frame_count)
        found = self._temporal.posteriors(source, targets, frames, self._run, boxed(self._learner.tracks))
        for _ in self._review_state.watch(tracks, found):
            pass
        self._temporal.prepare(self._predictions, frames, self._run)
        self._prepared = True

    # Corrections

    def correct(
        self, corrections: Sequence[AnyLabel], removals: Sequence[LabelKey] = (), *, learn: bool = True
    ) -> Iterator[LabelChange]:
        """Put human labels in, and recompute what depends on them; a stream of changes, nearest frames first.

        First come the human labels themselves, then drafts from the predictions that is there, then, unless ``learn``
        is False, what the head says after it has learned from the corrected frames. ``labels`` follows the stream: a
        stream that is left early leaves the labels that were given out. Nothing happens before the first is asked for.

        Args:
            corrections: human labels: a shape, a state, "absent here", a frame class. A class other than the track's
                gives the whole track that class. A track that is new gets an output of its own.
            removals: keys of human labels to remove; their frames are labeled by the micro-model again.
            learn: whether the head learns from it.

        Raises:
            InvalidInput: labels that are not human or do not fit the video or the ontology; removals of labels that no
                human made.
            FailedPrecondition: more tracks than one micro-model can have.
            Cancelled: the user cancelled.
        """
        self._check(corrections, removals)
        return self._correct(list(corrections), list(removals), learn)

    def _correct(self, corrections: list[AnyLabel], removals: list[LabelKey], learn: bool) -> Iterator[LabelChange]:
        known = {spec.track for spec in self._learner.tracks}
        self._review_state.judge([LabelKey.of(label) for label in corrections], wrong=True)
        for label in corrections:
            yield from self._change(LabelKey.of(label), label)
            if isinstance(label, Label):
                yield from self._reclassify(label)
        for key in removals:
            yield from self._change(key, None)
        touched = [LabelKey.of(label) for label in corrections] + removals
        self._learner.forget({key.frame for key in touched})
        spans = self._spans([key for key in touched if not key.is_frame_class])
        lesson = self._learner.begin(corrections, self.anchors(), self._kept(touched)) if learn else None
        with Studying(self._learner, lesson, self._run) as study:
            for span in spans:
                if span.track in known:
                    yield from self._sweep(span if lesson is None else self._near(span), draft=lesson is not None)
            learned = study.finish()
        if learned:
            self._use_head(self._around)
        known = {spec.track for spec in self._learner.tracks}
        for span in spans if lesson is not None else ():
            if span.track in known and (learned or self._near(span) != span):
                yield from self._sweep(span, fresh=learned)
        yield from self._frame_classes([key for key in touched if key.is_frame_class])

    def adopt(self, changes: Iterable[LabelChange]) -> None:
        """Take changes over as they are (identity tools, undo, edits from elsewhere); nothing is computed from them.

        Raises:
            InvalidInput: a label that does not fit the video; those before it are taken over.
        """
        for index, change in enumerate(changes):
            if change.after is not None:
                self._check_fits(change.after, f"changes[{index}]")
            for _ in self._change(change.key, change.after):
                pass
            self._learner.forget([change.frame])

    # Retraining

    def retrain(self, settings: TrainSettings = TrainSettings()) -> Retrained:
        """Train a new micro-model from the human labels, and compare it with the one there is on some that neither saw.

        Nothing changes by it: hand the result to ``replace_model`` if it is ``better``.

        Raises:
            FailedPrecondition: too few human labels, or none that the micro-model has not learned from.
            TrainingError: training failed.
            Cancelled: the user cancelled.
        """
        run, anchors = replace(self._run, cache_dir=self._cache), self.anchors()
        history = [*self._learner.history, Snapshot.of(self.model, anchors)]
        return retrain(self._encoded.video, anchors, history, settings, self._ontology, run)

    def replace_model(self, retrained: Retrained) -> Iterator[LabelChange]:
        """Go on with a retrained micro-model, and label by it everything that is not fixed; a stream of changes."""
        self._learner.take_over(retrained.model, retrained.held_out, self.anchors())
        self._use_head()
        tracks = self._learner.tracks
        names = [spec.track for spec in tracks]
        frames = range(self._table.frame_count)
        seeds = self._learner.seed_set(self._fixed_labels(frames, names), tracks)
        targets = {frame: seeds.seed_frame(frame, self._encoded.size) for frame in seeds.frames}
        version, typical = self.model.manifest.version, self._learner.typical
        tracker = Tracker(tracks, seeds, targets, self._encoded.size, version, None, (), typical)
        source = TrackSelection(
            self._predictions, range(len(tracks)), self._review_state.predictions_of(names), fresh=True
        )
        found = self._temporal.posteriors(source, targets, frames, self._run, boxed(tracks))
        for result in tracker.results(self._review_state.watch(names, found)):
            for label in result.labels:
                if not self._is_fixed(LabelKey.of(label)):
                    yield from self._change(LabelKey.of(label), label)

    def _check_fits(self, label: AnyLabel, path: str) -> None:
        table = self._table
        try:
            check_fits_video(label, VideoInfo(table.frame_count, table.width_px, table.height_px))
        except InvalidInput as error:
            raise type(error)(f"{path}.{error.field}", error.value, error.allowed) from None

    def _check(self, corrections: Sequence[AnyLabel], removals: Sequence[LabelKey]) -> None:
        table = self._table
        ontology = self._ontology or Ontology.from_labels([*self._labels.values(), *corrections])
        for key in removals:
            held = self._labels.get(key)
            if held is None or not held.is_anchor:
                raise InvalidInput("removals", key, "the key of a human label")
        if {LabelKey.of(label) for label in corrections} & set(removals):
            raise InvalidInput("removals", removals, "labels that are not corrected at the same time")
        for index, label in enumerate(corrections):
            self._check_fits(label, f"corrections[{index}]")
        SeedSet(corrections, table.frame_count, table.height_px, table.width_px, ontology, self._learner.tracks)
        classes: dict[str, str] = {}
        for label in corrections:
            if isinstance(label, Label) and classes.setdefault(label.track, label.object_class) != label.object_class:
                raise InvalidInput("corrections.class", label.object_class, f"one class for track {label.track}")
        names = {label.track for label in corrections if isinstance(label, Label)}
        names |= {spec.track for spec in self._learner.tracks}
        if len(names) > MAX_TRACKS:
            raise FailedPrecondition(f"{len(names)} tracks; at most {MAX_TRACKS} in one micro-model")

    def _change(self, key: LabelKey, after: AnyLabel | None, draft: bool = False) -> Iterator[LabelChange]:
        """Replace a label, if the new one says anything else."""
        before = self._labels.get(key)
        if same_but_for_provenance(before, after):
            return
        if after is None:
            del self._labels[key]
            self._settled.discard(key)
        else:
            self._labels[key] = after
            if after.is_anchor:
                self._settled.discard(key)
        self._review_state.put(key, after, fixed=self._is_fixed(key))
        yield LabelChange(key, before, after, draft)

    def _reclassify(self, correction: Label) -> Iterator[LabelChange]:
        """A class belongs to a track: all its labels take the class that a human gave one of them."""
        name, track = correction.object_class, correction.track
        others = [
            (key, label)
            for key, label in self._labels.items()
            if isinstance(label, Label) and label.track == track and label.object_class != name
        ]
        self._learner.reclassify(track, name)
        for key, label in others:
            self._labels[key] = after = replace(label, object_class=name)
            yield LabelChange(key, label, after)

    def _is_fixed(self, key: LabelKey) -> bool:
        label = self._labels.get(key)
        return key in self._settled or (label is not None and label.is_anchor)

    # Spans

    def _spans(self, touched: Sequence[LabelKey]) -> list[_Span]:
        """Spans between neighboring fixed frames that a change of these labels touches; the shorter ones first."""
        spans: dict[tuple[str, int, int], _Span] = {}
        horizon, count = self._settings.horizon_frames, self._table.frame_count
        for track in dict.fromkeys(key.name for key in touched):
            fixed = self._fixed_frames(track)
            for frame in (key.frame for key in touched if key.name == track):
                position, behind = bisect_left(fixed, frame), bisect_right(fixed, frame)
                before = fixed[position - 1] if position else 0
                after = fixed[behind] if behind < len(fixed) else count - 1
                before, after = max(before, frame - horizon), min(after, frame + horizon)
                parts = [(before, frame), (frame, after)] if behind > position else [(before, after)]
                for start, last in parts:
                    if last > start:
                        spans.setdefault((track, start, last), _Span(track, start, last + 1, frame))
        return sorted(spans.values(), key=lambda span: span.stop - span.start)

    def _near(self, span: _Span) -> _Span:
        """The part of a span that drafts are made of: what lies farther is soon computed from what was learned."""
        most = self._settings.draft_frames
        return replace(span, start=max(span.start, span.focus - most), stop=min(span.stop, span.focus + most + 1))

    def _fixed_frames(self, track: str) -> list[int]:
        """Frames on which a track's label is fixed and says where the object is, ascending."""
        series = self._review_state.tracks.get(track)
        frames = [] if series is None else np.flatnonzero(series.fixed).tolist()
        return [frame for frame in frames if self._is_certain(LabelKey(frame=frame, name=track))]

    def _is_certain(self, key: LabelKey) -> bool:
        label = self._labels[key]
        return not (isinstance(label, Label) and label.state is State.UNCERTAIN)

    def _sweep(self, span: _Span, *, draft: bool = False, fresh: bool = False) -> Iterator[LabelChange]:
        """Recompute one span and give out what changed."""
        found = [label for result in self._results(span, fresh) for label in result.labels if label.track == span.track]
        for label in sorted(found, key=lambda label: abs(label.frame - span.focus)):
            if not label.is_anchor and not self._is_fixed(LabelKey.of(label)):
                yield from self._change(LabelKey.of(label), label, draft)

    def _results(self, span: _Span, fresh: bool) -> Iterator[FrameResult]:
        """Labels of a span as a fresh propagation gives them."""
        tracks = self._learner.tracks
        own = next(i for i, spec in enumerate(tracks) if spec.track == span.track)
        boxes = tracks[own].is_box
        # Masks give way to each other where they meet; boxes do not.
        chosen = [own] if boxes else [i for i, spec in enumerate(tracks) if not spec.is_box]
        specs = tuple(tracks[i] for i in chosen)
        names = [spec.track for spec in specs]
        frames = range(span.start, span.stop)
        fixed = self._fixed_labels(frames, names)
        start = LabelKey(frame=span.start, name=span.track)
        held = self._labels.get(start)
        if span.start > 0 and isinstance(held, Label) and held.shape is not None and not self._is_fixed(start):
            # The horizon cuts the span: it starts from what is there.
            fixed.append(replace(held, provenance=HUMAN))
        seeds = self._learner.seed_set(fixed, specs)
        targets = {frame: seeds.seed_frame(frame, self._encoded.size) for frame in seeds.frames}
        others = visible_boxes(self._labels, [s.track for s in tracks if s.track != span.track]) if boxes else no_boxes
        typical = [self._learner.typical[i] for i in chosen]
        version = self.model.manifest.version
        tracker = Tracker(specs, seeds, targets, self._encoded.size, version, None, (), typical, others)
        source = TrackSelection(self._predictions, chosen, self._review_state.predictions_of(names), fresh=fresh)
        found = self._temporal.posteriors(source, targets, frames, self._run, boxed(specs))
        return tracker.results(self._review_state.watch(names, found))

    def _fixed_labels(self, frames: range, tracks: Sequence[str]) -> list[Label]:
        """The fixed labels of some tracks on some frames, as anchors."""
        fixed = []
        for track in tracks:
            for frame in self._fixed_frames(track):
                label = self._labels[LabelKey(frame=frame, name=track)]
                if frame in frames and isinstance(label, Label):
                    fixed.append(replace(label, provenance=HUMAN))
        return fixed

    def _kept(self, touched: Sequence[LabelKey]) -> list[Label]:
        """Labels, other than human ones, that a correction should leave what they are."""
        frames = self._review_state.surest(self._settings.held_frames, [key.frame for key in touched])
        tracks = [spec.track for spec in self._learner.tracks]
        labels = (self._labels.get(LabelKey(frame=frame, name=track)) for frame in frames for track in tracks)
        return [label for label in labels if isinstance(label, Label) and not label.is_anchor]

    def _use_head(self, around: Boxes | None = None) -> None:
        self._predictions.use_head(self.model.head, self._run, around)

    def _around(self, frame: int) -> Sequence[npt.NDArray[np.float32]]:
        """Boxes of the objects on a frame, in work pixels."""
        scale = np.array([*self._encoded.size[::-1]] * 2) / ([self._table.width_px, self._table.height_px] * 2)
        return [np.asarray(box * scale, np.float32) for box in self._review_state.boxes(frame)]

    # Frame classes

    def _frame_classes(self, touched: Sequence[LabelKey]) -> Iterator[LabelChange]:
        """Fit the classifier of frames again, and label the spans between neighboring fixed labels of the class."""
        names = self._learner.learn_frame_classes(self.anchors()) if touched else ()
        horizon, count = self._settings.horizon_frames, self._table.frame_count
        for key in touched if names else ():
            others = (k for k in self._labels if (k.is_frame_class, k.name) == (True, key.name) and k != key)
            fixed = sorted(k.frame for k in others if self._is_fixed(k))
            position = bisect_left(fixed, key.frame)
            first = fixed[position - 1] + 1 if position else 0
            stop = fixed[position] if position < len(fixed) else count
            frames = range(max(first, key.frame - horizon), min(stop, key.frame + horizon + 1))
            found = [label for label in self._classified(frames, names) if label.frame_class == key.name]
            for label in sorted(found, key=lambda label: abs(label.frame - key.frame)):
                if not self._is_fixed(LabelKey.of(label)):
                    yield from self._change(LabelKey.of(label), label)

    def _classified(self, frames: range, names: tuple[str, ...]) -> Iterator[FrameLabel]:
        """Frame labels of a range; the smoothing looks two frames further."""
        around = range(max(0, frames.start - 2), min(self._table.frame_count, frames.stop + 2))
        seeds = self._learner.seed_set([], ())
        version, classifier = self.model.manifest.version, self.model.classifier
        tracker = Tracker((), seeds, {}, self._encoded.size, version, classifier, names, [])
        source = TrackSelection(self._predictions, [], self._review_state.predictions_of([]))
        for result in tracker.results(self._temporal.posteriors(source, {}, around, self._run)):
            if result.frame in frames:
                yield from result.frame_labels

    # What to look at

    def suggest(self, count: int = 1, skip: Iterable[int] = ()) -> list[Suggestion]:
        """The frames most worth a look, the best first, each counting on those before it being drawn.

        Frames whose labels are all fixed are never among them. Without ``prepare`` they come from the labels alone.

        Args:
            count: how many at most, 1 to 1000; fewer come where nothing is to be gained.
            skip: frames not to suggest.

        Raises:
            InvalidInput: ``count`` out of range.
        """
        if not 1 <= count <= 1000:
            raise InvalidInput("count", count, "1 to 1000")
        return self._review_state.suggest(count, frozenset(skip))

    def suspected_swaps(self) -> list[SuspectedSwap]:
        """Where two tracks may have changed identities, the likeliest first."""
        return suspected_swaps(self._review_state.tracks)

    def issues(self) -> list[Issue]:
        """What looks wrong without knowing the truth: jumps, gaps, overlaps, too many objects, classes that
        exclude each other; the worst first."""
        return consistency_issues(self._review_state.tracks, self._ontology, self._review_state.frame_classes)

    def scene_cuts(self) -> list[int]:
        """Frames behind a scene cut, as far as ``prepare`` and corrections have seen the video."""
        return sorted(self._review_state.cuts)
