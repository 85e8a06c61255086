"""What people's verdicts say of the labels of a video: computed from its history, without decoding anything."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from micromodels.types import AnyLabel, Label, State
from service.agreement import shape_iou
from service.history import Change, ChangeKind, LabelVersion
from service.records import ReviewState

if TYPE_CHECKING:
    from service.store import Store

__all__ = ["Group", "VideoDiagnostics", "diagnose", "draw"]

_FRAMES_AT_ONCE = 200
_HARDEST = 20
_NEWEST_CORRECTIONS = 100
_ROW_PX, _LEFT_PX, _WIDTH_PX = 18, 120, 1000


@dataclass(slots=True)
class Group:
    """Counts of a class or a track, summed up as its labels come."""

    labels: int = 0
    manual: int = 0
    accepted: int = 0
    overlaps: list[float] = field(default_factory=list)
    """Of the predictions that people replaced, with what they drew."""
    confidences: list[float] = field(default_factory=list)
    """Of the predictions that stand."""


@dataclass(slots=True)
class VideoDiagnostics:
    """The figures of a video."""

    frame_count: int
    manual_frames: set[int] = field(default_factory=set)
    total: Group = field(default_factory=Group)
    classes: defaultdict[str, Group] = field(default_factory=lambda: defaultdict(Group))
    tracks: defaultdict[str, Group] = field(default_factory=lambda: defaultdict(Group))
    confusions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How often by property, predicted and corrected."""
    frames: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Overlaps of corrections by frame."""
    corrections: list[tuple[Change, int]] = field(default_factory=list)
    """Corrections, oldest first, and how many other labels changed because of each."""
    strips: dict[str, dict[int, float | None]] = field(default_factory=dict)
    """By track and frame the confidence; None for a hand label."""

    @property
    def observed_quality(self) -> float | None:
        """Mean over all verdicts: the overlap of a corrected prediction, 1 for an accepted one."""
        verdicts = len(self.total.overlaps) + self.total.accepted
        return (sum(self.total.overlaps) + self.total.accepted) / verdicts if verdicts else None

    def hardest(self) -> list[tuple[int, list[float]]]:
        """Frames with corrections, the worst first."""
        worst = sorted(self.frames.items(), key=lambda item: (sum(item[1]) - len(item[1]), item[0]))
        return worst[:_HARDEST]


def diagnose(store: Store, project_id: str, video_id: str) -> VideoDiagnostics:
    """Go through the history of a video.

    Raises:
        NotFound: there is no such video.
    """
    video = store.videos.get(project_id, video_id)
    found = VideoDiagnostics(video.frame_count)
    size = (video.height_px, video.width_px)
    for start in range(0, video.frame_count, _FRAMES_AT_ONCE):
        frames = range(start, min(start + _FRAMES_AT_ONCE, video.frame_count))
        history = store.history.of_frames(project_id, video_id, frames)
        for _, versions in groupby(history, key=lambda version: version.record.key):
            _count(found, list(versions), size)
    page = store.history.changes(project_id, video_id, limit=_NEWEST_CORRECTIONS, kinds=[ChangeKind.CORRECT])
    for change in reversed(page.items):
        found.corrections.append((change, store.history.recomputed_counts(project_id, video_id, change.revision)[0]))
    return found


def _count(found: VideoDiagnostics, versions: list[LabelVersion], size: tuple[int, int]) -> None:
    newest = versions[-1].record
    groups = [found.total]
    shown = newest.label or next((v.record.label for v in reversed(versions) if v.record.label is not None), None)
    if shown is None:
        return
    groups.append(found.classes[shown.object_class if isinstance(shown, Label) else shown.frame_class])
    if isinstance(shown, Label):
        groups.append(found.tracks[shown.track])
    for predicted, drawn in _verdicts(versions):
        overlap = _overlap(predicted, drawn, size)
        found.frames[drawn.frame].append(overlap)
        for group in groups:
            group.overlaps.append(overlap)
        for name, one, other in _properties(predicted, drawn):
            found.confusions[name, one, other] += 1
    if newest.label is None:
        return
    by_hand = newest.label.is_anchor
    if by_hand:
        found.manual_frames.add(newest.key.frame)
    strip = found.strips.setdefault(newest.key.name, {})
    strip[newest.key.frame] = None if by_hand else newest.label.confidence or 0.0
    for group in groups:
        group.labels += 1
        group.manual += by_hand
        group.accepted += newest.review is ReviewState.ACCEPTED and not by_hand
        if not by_hand and newest.label.confidence is not None:
            group.confidences.append(newest.label.confidence)


def _verdicts(versions: Iterable[LabelVersion]) -> Iterator[tuple[AnyLabel, AnyLabel]]:
    """Predictions and the hand labels that people put in their place."""
    for old, new in pairwise(versions):
        before, after = old.record.label, new.record.label
        fresh = new.kind in (ChangeKind.WRITE, ChangeKind.CORRECT, ChangeKind.ADJUDICATE)
        if before is not None and after is not None and fresh and after.is_anchor and not before.is_anchor:
            yield before, after


def _overlap(predicted: AnyLabel, drawn: AnyLabel, size: tuple[int, int]) -> float:
    if isinstance(predicted, Label) and isinstance(drawn, Label):
        if drawn.shape is None and predicted.shape is None:
            return float(predicted.state is drawn.state)
        return shape_iou(predicted.shape, drawn.shape, *size)
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
    """A PNG: a row a track, a column some frames, from red (unsure) to green (sure), hand labels in blue.

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
            colour = (30, 60, 220) if confidence is None else (int(220 * (1 - sure)), int(190 * sure), 60)
            pen.rectangle((left, top + 2, right, top + _ROW_PX - 3), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
