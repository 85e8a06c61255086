"""Which object is which: swap, split, merge and delete, as pure functions from labels to changes.

What a human drew stays human: only the name of the track changes with it. What leaves a track for good (split, merge,
delete) should not be predicted there again: ``LabelSession.adopt`` the changes, then ``settle`` their keys that are
without a label. The service's calls of these names mean the same, on stored labels with their reviews and history.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from micromodels.errors import InvalidInput
from micromodels.labels.keys import LabelChange, LabelKey
from micromodels.types import AnyLabel, Label

__all__ = ["delete_track", "merge_tracks", "split_track", "swap_tracks"]


def swap_tracks(
    labels: Iterable[AnyLabel], one: str, other: str, start: int, stop: int | None = None
) -> list[LabelChange]:
    """Exchange two tracks on the frames from ``start`` up to ``stop`` (half-open; None: to the end).

    Each keeps its class.

    Raises:
        InvalidInput: the tracks are the same, or one has no label.
    """
    tracks = _by_track(labels)
    _require(tracks, one, "track")
    _require(tracks, other, "other_track")
    if one == other:
        raise InvalidInput("other_track", other, "another track than the first")
    classes = {name: _class_of(tracks[name]) for name in (one, other)}
    changes = []
    for frame in sorted({*tracks[one], *tracks[other]}):
        if frame < start or (stop is not None and frame >= stop):
            continue
        for name, origin in ((one, other), (other, one)):
            moved = tracks[origin].get(frame)
            after = replace(moved, object_class=classes[name]) if moved is not None else None
            changes += _changed(tracks[name].get(frame), after, frame, name)
    return changes


def split_track(labels: Iterable[AnyLabel], track: str, frame: int, new_track: str) -> list[LabelChange]:
    """Give the labels of a track from ``frame`` on to a new one.

    Raises:
        InvalidInput: the track has no label on one of the two sides, or the new one has labels already.
    """
    tracks = _by_track(labels)
    _require(tracks, track, "track")
    if new_track in tracks:
        raise InvalidInput("new_track", new_track, "a track that does not exist yet")
    behind = {f: label for f, label in tracks[track].items() if f >= frame}
    if not behind or len(behind) == len(tracks[track]):
        raise InvalidInput("frame", frame, f"a frame with labels of {track} before it and from it on")
    changes = []
    for number, label in sorted(behind.items()):
        changes += _changed(None, label, number, new_track)
        changes += _changed(label, None, number, track)
    return changes


def merge_tracks(labels: Iterable[AnyLabel], track: str, other: str) -> list[LabelChange]:
    """Make one track of two: ``track`` takes the labels of ``other``, which ends to be.

    Where both have a label, the human one is kept, then one with a shape, then the surer one.

    Raises:
        InvalidInput: the tracks are the same, of different classes, one has no label, or humans drew both on one frame.
    """
    tracks = _by_track(labels)
    _require(tracks, track, "track")
    _require(tracks, other, "other_track")
    if track == other:
        raise InvalidInput("other_track", other, "another track than the first")
    first, second = _class_of(tracks[track]), _class_of(tracks[other])
    if first != second:
        raise InvalidInput("other_track", other, f"a track of class {first}, not {second}")
    changes = []
    for frame, label in sorted(tracks[other].items()):
        held = tracks[track].get(frame)
        if held is not None and _drawn(held) and _drawn(label):
            raise InvalidInput("other_track", other, f"tracks that humans did not both draw on frame {frame}")
        if held is None or _rank(label) > _rank(held):
            changes += _changed(held, label, frame, track)
        changes += _changed(label, None, frame, other)
    return changes


def delete_track(labels: Iterable[AnyLabel], track: str, start: int, stop: int | None = None) -> list[LabelChange]:
    """Delete a track from ``start`` up to ``stop`` (half-open; None: to its last label), human labels too.

    That is for what is no object, or is another track's. Of an object that is out of sight say so: "absent here".

    Raises:
        InvalidInput: the track has no label there.
    """
    tracks = _by_track(labels)
    _require(tracks, track, "track")
    changes = []
    for frame, label in sorted(tracks[track].items()):
        if frame >= start and (stop is None or frame < stop):
            changes += _changed(label, None, frame, track)
    if not changes:
        raise InvalidInput("start", start, f"a frame up to the last label of {track}")
    return changes


def _by_track(labels: Iterable[AnyLabel]) -> dict[str, dict[int, Label]]:
    tracks: dict[str, dict[int, Label]] = {}
    for label in labels:
        if isinstance(label, Label):
            tracks.setdefault(label.track, {})[label.frame] = label
    return tracks


def _require(tracks: dict[str, dict[int, Label]], track: str, field: str) -> None:
    if track not in tracks:
        raise InvalidInput(field, track, f"one of {sorted(tracks)}")


def _class_of(labels: dict[int, Label]) -> str:
    return next(iter(labels.values())).object_class


def _drawn(label: Label) -> bool:
    return label.is_anchor and label.shape is not None


def _rank(label: Label) -> tuple[bool, bool, float]:
    return label.is_anchor, label.shape is not None, label.confidence or 0.0


def _changed(before: Label | None, after: Label | None, frame: int, track: str) -> list[LabelChange]:
    renamed = replace(after, track=track) if after is not None else None
    if before == renamed:
        return []
    change = LabelChange(LabelKey(frame=frame, name=track), before, renamed)
    assert before is None or LabelKey.of(before) == change.key
    return [change]
