"""Edits of track identities: people move labels between tracks unchanged; micro-models never do.

Keys that a split, merge or deletion empties are locked: micro-models do not label them again; people may.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.labels.keys import LabelKey
from service.domain.codec import decode_ontology, payload_of_class
from service.domain.errors import AlreadyExists, NotFound
from service.domain.history import Act, ChangeKind
from service.domain.labels import WriteResult
from service.domain.videos import VideoState
from service.store import schema
from service.store.database import Database, check_text, once
from service.store.instance_limits import is_present, within_limits
from service.store.labels import LabelWrite, write_labels
from service.store.projects import project_row
from service.store.videos import video_row

__all__ = ["Tracks"]

_LABELS = schema.labels
_REVIEW = ("review", "reviewed_by", "reviewed_at")
_SHOWN_FRAMES = 10

Rows = dict[int, sa.Row[Any]]
"""Current labels of a track by frame."""


class Tracks:
    """Tracks of a store's videos. Every method is safe to repeat with the same ``request_id`` and is undone as a whole.

    All raise ``AlreadyExists`` (the request id was used with another body), ``FailedPrecondition`` (the video is not
    ready, or a frame would have more objects of a class than the project allows), ``NotFound`` (no such video or
    track), ``OutOfRange`` (a frame past the end) and ``RevisionConflict`` (a label changed after ``base_revision``).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def swap(
        self,
        project_id: str,
        video_id: str,
        tracks: tuple[str, str],
        frames: range,
        *,
        author: str,
        base_revision: int | None = None,
        request_id: str = "",
    ) -> WriteResult:
        """Exchange two tracks on some frames; each keeps its class.

        Args:
            project_id: the video's project.
            video_id: which video.
            tracks: the two tracks.
            frames: half-open range; a stop of 0 means the end of the video.
            author: who makes the change.
            base_revision: the revision that the caller saw; None for no check.
            request_id: makes the call safe to repeat.
        """
        first, second = tracks
        if first == second:
            raise InvalidInput("track_b", second, "a track other than track_a")

        def change(rows: Mapping[str, Rows], classes: Mapping[str, str]) -> list[LabelWrite]:
            changes = []
            for frame in sorted({*rows[first], *rows[second]}):
                for to, source in ((first, rows[second]), (second, rows[first])):
                    key = LabelKey(frame=frame, name=to)
                    if frame in source:
                        changes.append(_moved(source[frame], key, classes[to]))
                    elif frame in rows[to]:
                        changes.append(LabelWrite(key, classes[to], True, None))
            return changes

        body = [first, second]
        return self._edit(
            (project_id, video_id), ChangeKind.SWAP, frames, body, change, author, base_revision, request_id
        )

    def split(
        self,
        project_id: str,
        video_id: str,
        track: str,
        frames: range,
        new_track: str,
        *,
        author: str,
        base_revision: int | None = None,
        request_id: str = "",
    ) -> WriteResult:
        """Move a track's labels on some frames to a new track; arguments as ``swap``.

        Raises:
            AlreadyExists: ``new_track`` already exists.
        """
        check_text("new_track", new_track)

        def change(rows: Mapping[str, Rows], classes: Mapping[str, str]) -> list[LabelWrite]:
            if new_track in classes:
                raise AlreadyExists("track", new_track)
            changes = []
            for frame, row in rows[track].items():
                changes.append(_moved(row, LabelKey(frame=frame, name=new_track), classes[track]))
                changes.append(_gone(LabelKey(frame=frame, name=track), classes[track]))
            return changes

        body = [track, new_track]
        return self._edit(
            (project_id, video_id),
            ChangeKind.SPLIT,
            frames,
            body,
            change,
            author,
            base_revision,
            request_id,
            new=new_track,
        )

    def merge(
        self,
        project_id: str,
        video_id: str,
        track: str,
        other: str,
        *,
        author: str,
        base_revision: int | None = None,
        request_id: str = "",
    ) -> WriteResult:
        """Merge two tracks under the name of the first; arguments as ``swap``.

        On frames that both have, a human label is preferred to a prediction, a present object to an absent one, then
        the greater confidence.

        Raises:
            FailedPrecondition: people drew both on one frame, or their classes differ.
        """
        if track == other:
            raise InvalidInput("other_track", other, "a track other than track")

        def change(rows: Mapping[str, Rows], classes: Mapping[str, str]) -> list[LabelWrite]:
            if classes[track] != classes[other]:
                has = f"track {track!r} is of class {classes[track]!r} and {other!r} of {classes[other]!r}"
                raise FailedPrecondition(f"{has}; change the class of one of them first")
            both = [frame for frame in rows[other] if frame in rows[track]]
            drawn = [frame for frame in both if all(_is_drawn(rows[name][frame]) for name in (track, other))]
            if drawn:
                shown = ", ".join(map(str, drawn[:_SHOWN_FRAMES])) + (", ..." if len(drawn) > _SHOWN_FRAMES else "")
                raise FailedPrecondition(
                    f"people drew both tracks on frames {shown}; delete one of the two there first"
                )
            changes = []
            for frame, row in rows[other].items():
                if frame not in rows[track] or _rank(row) > _rank(rows[track][frame]):
                    changes.append(_moved(row, LabelKey(frame=frame, name=track), classes[track]))
                changes.append(_gone(LabelKey(frame=frame, name=other), classes[other]))
            return changes

        body, frames = [track, other], range(0, 0)
        return self._edit(
            (project_id, video_id), ChangeKind.MERGE, frames, body, change, author, base_revision, request_id
        )

    def delete(
        self,
        project_id: str,
        video_id: str,
        track: str,
        frames: range,
        *,
        author: str,
        base_revision: int | None = None,
        request_id: str = "",
    ) -> WriteResult:
        """Delete a track on some frames, including human labels; arguments as ``swap``."""

        def change(rows: Mapping[str, Rows], classes: Mapping[str, str]) -> list[LabelWrite]:
            return [_gone(LabelKey(frame=frame, name=track), classes[track]) for frame in rows[track]]

        kind = ChangeKind.DELETE_TRACK
        return self._edit((project_id, video_id), kind, frames, [track], change, author, base_revision, request_id)

    def _edit(
        self,
        ids: tuple[str, str],
        kind: ChangeKind,
        frames: range,
        tracks: list[str],
        change: Callable[[Mapping[str, Rows], Mapping[str, str]], list[LabelWrite]],
        author: str,
        base_revision: int | None,
        request_id: str,
        new: str = "",
    ) -> WriteResult:
        def act() -> dict[str, Any]:
            video = video_row(connection, *ids, lock=True)
            if video.state != VideoState.READY.value:
                raise FailedPrecondition(f"video {ids[1]!r} is {video.state}, not ready, and has no tracks")
            span = range(frames.start, frames.stop or video.frame_count)
            if not 0 <= span.start < span.stop <= video.frame_count:
                raise OutOfRange("start_frame", f"{span.start} to {span.stop}", f"a range in 0 to {video.frame_count}")
            classes = {name: found for name in tracks if (found := _class_of(connection, video.key, name))}
            for name in tracks:
                if name not in classes and name != new:
                    raise NotFound("track", name)
            changes = change(_rows(connection, video.key, tracks, span), classes)
            touched = {item.key.frame for item in changes}
            ontology = decode_ontology(project_row(connection, ids[0]).ontology)
            with within_limits(connection, video.key, touched, ontology, by_hand=False):
                result = write_labels(connection, video, changes, Act(author, kind), base_revision=base_revision)
            return {"revision": result.revision, "written": result.written, "deleted": result.deleted}

        body = [frames.start, frames.stop, *tracks, base_revision, author]
        with self._database.begin(write=True) as connection:
            answer = once(connection, f"tracks.{kind.value}/{ids[0]}/{ids[1]}", request_id, body, act)
        return WriteResult(**answer)


def _class_of(connection: sa.Connection, video: int, track: str) -> str:
    """The class of a track; empty if the track does not exist."""
    query = sa.select(_LABELS.c.class_name).where(schema.IS_CURRENT, _LABELS.c.video == video, _LABELS.c.name == track)
    query = query.where(_LABELS.c.is_frame_class.is_(False), _LABELS.c.payload.is_not(None))
    return str(connection.execute(query.limit(1)).scalar() or "")


def _rows(connection: sa.Connection, video: int, tracks: list[str], frames: range) -> dict[str, Rows]:
    query = sa.select(_LABELS).where(schema.IS_CURRENT, _LABELS.c.video == video, _LABELS.c.payload.is_not(None))
    query = query.where(_LABELS.c.frame >= frames.start, _LABELS.c.frame < frames.stop, _LABELS.c.name.in_(tracks))
    found: dict[str, Rows] = {track: {} for track in tracks}
    for row in connection.execute(query.where(_LABELS.c.is_frame_class.is_(False)).order_by(_LABELS.c.frame)):
        found[row.name][row.frame] = row
    return found


def _moved(row: sa.Row[Any], key: LabelKey, class_name: str) -> LabelWrite:
    """A row's label under another key and class."""
    payload = row.payload
    if row.class_name != class_name:
        payload = payload_of_class(payload, class_name)
    review = {name: getattr(row, name) for name in _REVIEW}
    return LabelWrite(key, class_name, row.by_human, payload, row.origin or row.key, review)


def _gone(key: LabelKey, class_name: str) -> LabelWrite:
    """A locked deletion, which micro-models do not fill again."""
    return LabelWrite(key, class_name, True, None, review={"locked": True})


def _is_drawn(row: sa.Row[Any]) -> bool:
    return bool(row.by_human) and is_present(row.payload)


def _rank(row: sa.Row[Any]) -> tuple[bool, bool, float]:
    """Sort key: which of two labels of one object on one frame to prefer."""
    value = json.loads(row.payload)
    return bool(row.by_human), is_present(row.payload), value.get("confidence") or 0.0
