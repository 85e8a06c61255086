"""Quality of a video's labels, measured by what people accepted and corrected. Computed from the history alone."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from micromodels.labels.geometry import iou
from micromodels.types import AnyLabel, Label, State
from service.domain.history import Change, ChangeKind, LabelVersion, ReviewAction
from service.domain.labels import ReviewState

if TYPE_CHECKING:
    from service.store import Store

__all__ = [
    "ChangeIndex",
    "Effect",
    "Group",
    "Verdict",
    "VerdictTally",
    "VideoDiagnostics",
    "all_changes",
    "diagnose",
    "draw",
    "verdicts_on",
]

_FRAMES_AT_ONCE = 200
_HARDEST = 20
_NEWEST_CORRECTIONS = 100
_PAUSE_SECONDS = 120.0
"""A longer gap between two changes by one person does not count as work in full."""
_ROW_PX, _LEFT_PX, _WIDTH_PX = 18, 120, 1000


class ChangeIndex:
    """Changes of a video, indexed by revision.

    Args:
        changes: all of them, newest first.
    """

    def __init__(self, changes: Sequence[Change]) -> None:
        self.all = list(reversed(changes))
        """Oldest first."""
        self._starts = [change.revision for change in self.all]
        self._learned: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for change in self.all:
            if change.learned:
                self._learned[change.model_version].append((change.revision, change.learned))

    def of(self, revision: int) -> Change | None:
        """The change that made a revision; None for revisions older than the change log."""
        position = bisect_right(self._starts, revision)
        return self.all[position - 1] if position else None

    def learned_before(self, model_version: str, revision: int) -> int:
        """How many corrections a micro-model version had learned from by a revision."""
        known = self._learned[model_version]
        position = bisect_right(known, (revision, 0))
        return known[position - 1][1] if position else 0

    def work_seconds(self) -> float:
        """How long people worked, estimated from the times of their changes."""
        times: defaultdict[str, list[float]] = defaultdict(list)
        for change in self.all:
            if not change.kind.is_machine:
                times[change.author].append(change.written_at.timestamp())
        return sum(min(max(0.0, b - a), _PAUSE_SECONDS) for each in times.values() for a, b in pairwise(each))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A person's decision on a prediction: accepted, or corrected."""

    revision: int
    """Revision of the decision."""
    predicted: AnyLabel
    drawn: AnyLabel | None
    """The correction; None if the prediction was accepted."""
    overlap: float
    """IoU of prediction and correction, 0 to 1; 1 if accepted."""


@dataclass(slots=True)
class VerdictTally:
    """Verdicts of one change on predictions of one micro-model version."""

    accepted: int = 0
    overlaps: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Effect:
    """Effect of a correction on other labels."""

    change: Change
    changed: int = 0
    confidences: list[tuple[float, float]] = field(default_factory=list)
    """Confidence of changed labels, before and after the correction."""
    agreements: list[tuple[float, float]] = field(default_factory=list)
    """IoU of changed labels, before and after the correction, with what a person drew there later."""


@dataclass(slots=True)
class Group:
    """Running counts of a class, a track or a micro-model version."""

    labels: int = 0
    manual: int = 0
    accepted: int = 0
    overlaps: list[float] = field(default_factory=list)
    """IoU of corrected predictions with their corrections."""
    confidences: list[float] = field(default_factory=list)
    """Confidence of current predictions."""
    by_act: defaultdict[tuple[int, str], VerdictTally] = field(default_factory=lambda: defaultdict(VerdictTally))
    """Verdicts by revision of the change and micro-model version."""

    @property
    def quality(self) -> float | None:
        """Mean over all verdicts: the IoU of a corrected prediction, 1 for an accepted one; None without verdicts."""
        verdicts = len(self.overlaps) + self.accepted
        return (sum(self.overlaps) + self.accepted) / verdicts if verdicts else None

    def take(self, verdict: Verdict) -> None:
        """Count a verdict."""
        tally = self.by_act[verdict.revision, verdict.predicted.provenance.version]
        if verdict.drawn is None:
            self.accepted += 1
            tally.accepted += 1
        else:
            self.overlaps.append(verdict.overlap)
            tally.overlaps.append(verdict.overlap)


@dataclass(slots=True)
class VideoDiagnostics:
    """The figures of a video."""

    frame_count: int
    acts: ChangeIndex
    manual_frames: set[int] = field(default_factory=set)
    total: Group = field(default_factory=Group)
    classes: defaultdict[str, Group] = field(default_factory=lambda: defaultdict(Group))
    tracks: defaultdict[str, Group] = field(default_factory=lambda: defaultdict(Group))
    versions: defaultdict[str, Group] = field(default_factory=lambda: defaultdict(Group))
    """By micro-model version, as labels name it."""
    confusions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Count by (property, predicted value, corrected value)."""
    frames: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """IoU of corrections by frame."""
    effects: dict[int, Effect] = field(default_factory=dict)
    """Effects of the newest corrections by revision, oldest first."""
    strips: dict[str, dict[int, float | None]] = field(default_factory=dict)
    """Confidence by track and frame; None for a hand label."""

    def hardest(self) -> list[tuple[int, list[float]]]:
        """Frames with corrections, worst first."""
        worst = sorted(self.frames.items(), key=lambda item: (sum(item[1]) - len(item[1]), item[0]))
        return worst[:_HARDEST]


def diagnose(store: Store, project_id: str, video_id: str) -> VideoDiagnostics:
    """Compute the figures from the history of a video.

    Raises:
        NotFound: no such video.
    """
    video = store.videos.get(project_id, video_id)
    found = VideoDiagnostics(video.frame_count, ChangeIndex(all_changes(store, project_id, video_id)))
    corrections = [change for change in found.acts.all if change.kind is ChangeKind.CORRECT]
    found.effects = {change.revision: Effect(change) for change in corrections[-_NEWEST_CORRECTIONS:]}
    size = (video.height_px, video.width_px)
    for start in range(0, video.frame_count, _FRAMES_AT_ONCE):
        frames = range(start, min(start + _FRAMES_AT_ONCE, video.frame_count))
        history = store.history.of_frames(project_id, video_id, frames)
        for _, versions in groupby(history, key=lambda version: version.record.key):
            _count(found, list(versions), size)
    return found


def all_changes(store: Store, project_id: str, video_id: str) -> list[Change]:
    """Every change of a video's labels, newest first, read page by page.

    Raises:
        NotFound: no such video.
    """
    found: list[Change] = []
    before = 0
    while True:
        page = store.history.changes(project_id, video_id, before=before, limit=1000)
        found += page.items
        if not page.next_after:
            return found
        before = int(page.next_after)


def _count(found: VideoDiagnostics, versions: list[LabelVersion], size: tuple[int, int]) -> None:
    newest = versions[-1].record
    groups = [found.total]
    shown = newest.label or next((v.record.label for v in reversed(versions) if v.record.label is not None), None)
    if shown is None:
        return
    groups.append(found.classes[shown.object_class if isinstance(shown, Label) else shown.frame_class])
    if isinstance(shown, Label):
        groups.append(found.tracks[shown.track])
    verdicts = list(verdicts_on(versions, found.acts, size))
    for verdict in verdicts:
        for group in (*groups, found.versions[verdict.predicted.provenance.version]):
            group.take(verdict)
        if verdict.drawn is not None:
            found.frames[verdict.drawn.frame].append(verdict.overlap)
            for name, one, other in _properties(verdict.predicted, verdict.drawn):
                found.confusions[name, one, other] += 1
    _count_effects(found, versions, verdicts, size)
    if newest.label is None:
        return
    by_hand = newest.label.is_anchor
    if by_hand:
        found.manual_frames.add(newest.key.frame)
    else:
        groups.append(found.versions[newest.label.provenance.version])
    strip = found.strips.setdefault(newest.key.name, {})
    strip[newest.key.frame] = None if by_hand else newest.label.confidence or 0.0
    for group in groups:
        group.labels += 1
        group.manual += by_hand
        if not by_hand and newest.label.confidence is not None:
            group.confidences.append(newest.label.confidence)


def verdicts_on(versions: Sequence[LabelVersion], acts: ChangeIndex, size: tuple[int, int]) -> Iterator[Verdict]:
    """Verdicts on the predictions of one key, oldest first, without undone ones.

    Args:
        versions: of the key, oldest first.
        acts: of the video.
        size: its height and width.
    """
    for old, new in pairwise(versions):
        before, after = old.record.label, new.record.label
        fresh = new.kind in (ChangeKind.WRITE, ChangeKind.CORRECT, ChangeKind.ADJUDICATE)
        if before is not None and after is not None and fresh and after.is_anchor and not before.is_anchor:
            act = acts.of(new.record.revision)
            if act is None or not act.undone_by:
                yield Verdict(new.record.revision, before, after, _overlap(before, after, size))
    newest = versions[-1]
    label = newest.record.label
    if label is not None and not label.is_anchor and newest.record.review is ReviewState.ACCEPTED:
        accepted = [event.revision for event in newest.reviews if event.action is ReviewAction.ACCEPT]
        # A label that was moved keeps the review of its origin.
        yield Verdict(accepted[-1] if accepted else newest.record.revision, label, None, 1.0)


def _count_effects(
    found: VideoDiagnostics, versions: Sequence[LabelVersion], verdicts: Sequence[Verdict], size: tuple[int, int]
) -> None:
    """Count the effects of corrections on one key."""
    touched: dict[int, tuple[AnyLabel | None, AnyLabel | None]] = {}
    before: AnyLabel | None = None
    for version in versions:
        label = version.record.label
        act = found.acts.of(version.record.revision) if version.kind is ChangeKind.RECOMPUTE else None
        if act is not None and act.parent in found.effects:
            touched[act.parent] = (touched.get(act.parent, (before,))[0], label)
        before = label
    drawn = [(verdict.revision, verdict.drawn) for verdict in verdicts if verdict.drawn is not None]
    for revision, (old, new) in touched.items():
        effect = found.effects[revision]
        effect.changed += 1
        if old is not None and new is not None and old.confidence is not None and new.confidence is not None:
            effect.confidences.append((old.confidence, new.confidence))
        truth = next((label for at, label in drawn if at > revision), None)
        if truth is not None:
            was, became = (0.0 if label is None else _overlap(label, truth, size) for label in (old, new))
            effect.agreements.append((was, became))


def _overlap(predicted: AnyLabel, drawn: AnyLabel, size: tuple[int, int]) -> float:
    if isinstance(predicted, Label) and isinstance(drawn, Label):
        if drawn.shape is None and predicted.shape is None:
            return float(predicted.state is drawn.state)
        return iou(predicted.shape, drawn.shape, size)
    same = not isinstance(predicted, Label) and not isinstance(drawn, Label) and predicted.present == drawn.present
    return float(same)


def _properties(predicted: AnyLabel, drawn: AnyLabel) -> Iterator[tuple[str, str, str]]:
    if isinstance(predicted, Label) and isinstance(drawn, Label):
        yield "state", predicted.state.value, drawn.state.value
        yield "class", predicted.object_class, drawn.object_class
    elif not isinstance(predicted, Label) and not isinstance(drawn, Label):
        words = {True: "present", False: State.ABSENT.value}
        yield "state", words[predicted.present], words[drawn.present]


def draw(strips: Mapping[str, Mapping[int, float | None]], frame_count: int) -> bytes:
    """A PNG with one row per track and time to the right: red (unsure) to green (sure), hand labels in blue.

    Args:
        strips: as in ``VideoDiagnostics``.
        frame_count: of the video.
    """
    from PIL import Image, ImageDraw

    names = sorted(strips)[:200]
    image = Image.new("RGB", (_LEFT_PX + _WIDTH_PX, max(1, len(names)) * _ROW_PX), "white")
    pen = ImageDraw.Draw(image)
    for row, name in enumerate(names):
        top = row * _ROW_PX
        pen.text((4, top + 3), name[:18], fill="black")
        for frame, confidence in sorted(strips[name].items(), key=lambda item: item[1] is None):
            left = _LEFT_PX + frame * _WIDTH_PX // frame_count
            right = max(left, _LEFT_PX + (frame + 1) * _WIDTH_PX // frame_count - 1)
            sure = 0.0 if confidence is None else confidence
            color = (30, 60, 220) if confidence is None else (int(220 * (1 - sure)), int(190 * sure), 60)
            pen.rectangle((left, top + 2, right, top + _ROW_PX - 3), fill=color)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
