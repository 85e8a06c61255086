"""History of a video's labels: versions of labels, changes, and undo."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition
from micromodels.labels.keys import LabelKey
from service.access.calls import audit_detail
from service.access.object_rules import ObjectAction, check_object
from service.domain.errors import RevisionConflict
from service.domain.history import (
    Act,
    Change,
    ChangeKind,
    LabelDifference,
    LabelVersion,
    ReviewAction,
    ReviewEvent,
)
from service.domain.labels import LabelRecord, WriteResult
from service.domain.videos import Page
from service.store import schema
from service.store.change_log import change_record, change_row, record_change
from service.store.database import Database, once, row_key
from service.store.labels import LabelWrite, current_rows, label_record, write_labels
from service.store.reviews import apply_reviews
from service.store.videos import video_row

__all__ = ["History"]

_LABELS = schema.labels
_CHANGES = schema.changes
_EVENTS = schema.review_events
_NOT_UNDONE = (ChangeKind.RECOMPUTE, ChangeKind.PROPAGATE)
_AT_ONCE = 500


class History:
    """History of a store's labels."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_label(self, project_id: str, video_id: str, key: LabelKey) -> list[LabelVersion]:
        """Every version of one label, oldest first, including deletions.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            query = sa.select(_LABELS).where(_LABELS.c.video == video.key, _LABELS.c.frame == key.frame)
            query = query.where(_LABELS.c.is_frame_class == key.is_frame_class, _LABELS.c.name == key.name)
            rows = connection.execute(query.order_by(_LABELS.c.revision)).all()
            return _versions(connection, video.key, rows)

    def of_frames(self, project_id: str, video_id: str, frames: range) -> list[LabelVersion]:
        """Every version of every label on some frames, in order of keys, then oldest first.

        Raises:
            NotFound: no such video.
        """
        order = (_LABELS.c.frame, _LABELS.c.is_frame_class, _LABELS.c.name, _LABELS.c.revision)
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            query = sa.select(_LABELS).where(_LABELS.c.video == video.key)
            query = query.where(_LABELS.c.frame >= frames.start, _LABELS.c.frame < frames.stop)
            return _versions(connection, video.key, connection.execute(query.order_by(*order)).all())

    def changes(
        self, project_id: str, video_id: str, *, before: int = 0, limit: int = 100, kinds: Collection[ChangeKind] = ()
    ) -> Page[Change]:
        """Changes of a video's labels, newest first.

        Args:
            project_id: the video's project.
            video_id: which video.
            before: only changes with a smaller revision; 0 for all.
            limit: maximum number of changes.
            kinds: only these; empty for all.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            query = sa.select(_CHANGES).where(_CHANGES.c.video == video.key)
            if before:
                query = query.where(_CHANGES.c.revision < before)
            if kinds:
                query = query.where(_CHANGES.c.kind.in_([kind.value for kind in kinds]))
            rows = connection.execute(query.order_by(_CHANGES.c.revision.desc()).limit(limit + 1)).all()
        items = tuple(map(change_record, rows[:limit]))
        return Page(items, str(items[-1].revision) if len(rows) > limit else "")

    def change(self, project_id: str, video_id: str, revision: int) -> Change:
        """The change that starts with a revision.

        Raises:
            NotFound: no such video or change.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            return change_record(change_row(connection, video.key, revision))

    def recomputed(
        self, project_id: str, video_id: str, parent: int, *, after: int = 0, limit: int = 2000
    ) -> list[LabelDifference]:
        """Labels recomputed after a correction, in order of revisions, whole revisions only.

        Args:
            project_id: the video's project.
            video_id: which video.
            parent: revision of the correction.
            after: only differences of later revisions.
            limit: approximate number of differences.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            query = sa.select(_CHANGES.c.revision, _CHANGES.c.last_revision).where(
                _CHANGES.c.video == video.key, _CHANGES.c.parent == parent, _CHANGES.c.last_revision > after
            )
            found: list[LabelDifference] = []
            for part in connection.execute(query.order_by(_CHANGES.c.revision)).all():
                for revision in range(max(part.revision, after + 1), part.last_revision + 1):
                    if len(found) >= limit:
                        return found
                    found += _differences(connection, video.key, revision)
        return found

    def recomputed_counts(self, project_id: str, video_id: str, parent: int) -> tuple[int, int]:
        """How many other labels, and on how many frames, a correction has changed.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            spans = sa.select(_CHANGES.c.revision, _CHANGES.c.last_revision)
            spans = spans.where(_CHANGES.c.video == video.key, _CHANGES.c.parent == parent)
            within = [_LABELS.c.revision.between(*span) for span in connection.execute(spans).all()]
            if not within:
                return 0, 0
            keys = sa.select(_LABELS.c.frame, _LABELS.c.is_frame_class, _LABELS.c.name)
            rows = connection.execute(keys.where(_LABELS.c.video == video.key, sa.or_(*within)).distinct()).all()
        return len(rows), len({row.frame for row in rows})

    def differences(self, project_id: str, video_id: str, revision: int) -> list[LabelDifference]:
        """The labels before and after a revision, by key.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            return _differences(connection, video.key, revision)

    def labels_since(
        self,
        project_id: str,
        video_id: str,
        since: int,
        *,
        but: Collection[int] = (),
        also: Collection[LabelKey] = (),
    ) -> tuple[list[LabelRecord], int]:
        """Labels written, deleted or reviewed after a revision, as they are now, and the current revision.

        Args:
            project_id: the video's project.
            video_id: which video.
            since: the revision; 0 for all labels, and only locked deletions.
            but: revisions to skip.
            also: keys to include in any case.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            mine = sa.select(_LABELS).where(_LABELS.c.video == video.key, schema.IS_CURRENT)
            judged = sa.select(_EVENTS.c.label).where(_EVENTS.c.video == video.key, _EVENTS.c.revision > since)
            written = sa.and_(_LABELS.c.revision > since, _LABELS.c.revision.not_in(but))
            query = mine.where(sa.or_(written, _LABELS.c.key.in_(judged))) if since else mine
            if not since:
                query = query.where(sa.or_(_LABELS.c.payload.is_not(None), _LABELS.c.locked))
            rows = {row.key: row for row in connection.execute(query)}
            for part in _parts({key.frame for key in also}):
                for row in connection.execute(mine.where(_LABELS.c.frame.in_(part))):
                    if row_key(row) in also:
                        rows[row.key] = row
            return [label_record(row) for row in rows.values()], int(video.label_revision)

    def settle(
        self, project_id: str, video_id: str, revision: int, *, seconds: float, model_version: str, learned: int = 0
    ) -> None:
        """Record that the recomputation after a correction is completely stored.

        Args:
            project_id: the video's project.
            video_id: which video.
            revision: of the correction.
            seconds: duration of the recomputation.
            model_version: version that computed it.
            learned: number of the resulting adapted model; 0 for none.

        Raises:
            NotFound: no such video.
        """
        values = {"settled": True, "seconds": seconds, "model_version": model_version, "learned": learned}
        with self._database.begin(write=True) as connection:
            video = video_row(connection, project_id, video_id)
            done = _CHANGES.update().where(_CHANGES.c.video == video.key, _CHANGES.c.revision == revision)
            connection.execute(done.values(**values))

    def undo(self, project_id: str, video_id: str, revision: int, *, author: str, request_id: str = "") -> WriteResult:
        """Undo a change and everything computed from it: the previous labels become a new revision.

        Predictions that were replaced or accepted since then stay.

        Args:
            project_id: the video's project.
            video_id: which video.
            revision: of the change.
            author: who undoes it.
            request_id: a repeat with the same body returns the same answer.

        Raises:
            AlreadyExists: the request id was used with another body.
            FailedPrecondition: the change is already undone, or is the work of a micro-model.
            NotFound: no such video or change.
            PermissionDenied: the change is another user's, or touches labels that are accepted or locked, and the
                caller's role does not allow that.
            RevisionConflict: people have changed some of these labels since then.
        """

        def act() -> dict[str, Any]:
            video = video_row(connection, project_id, video_id, lock=True)
            change = change_record(change_row(connection, video.key, revision))
            if change.author != author:
                check_object(ObjectAction.UNDO_CHANGE_OF_OTHERS, f"change {revision}")
            if change.undone_by:
                raise FailedPrecondition(f"change {revision} is already undone, by change {change.undone_by}")
            if change.kind in _NOT_UNDONE:
                hint = f"; undo change {change.parent} instead, which caused it" if change.parent else ""
                raise FailedPrecondition(f"change {revision} is the work of a micro-model ({change.kind.value}){hint}")
            made = Act(author, ChangeKind.UNDO, undoes=revision)
            audit_detail(undoes=revision, made_by_others=change.author != author)
            result = _undo_reviews(connection, video, change, made)
            if result is None:
                result = _undo_labels(connection, video, change, made)
            mark = _CHANGES.update().where(_CHANGES.c.video == video.key)
            connection.execute(mark.where(_CHANGES.c.revision == revision).values(undone_by=result.revision))
            if change.kind is ChangeKind.UNDO:
                connection.execute(mark.where(_CHANGES.c.revision == change.undoes).values(undone_by=0))
            return {"revision": result.revision, "written": result.written, "deleted": result.deleted}

        with self._database.begin(write=True) as connection:
            scope = f"history.undo/{project_id}/{video_id}"
            return WriteResult(**once(connection, scope, request_id, [revision, author], act))


def _versions(connection: sa.Connection, video: int, rows: Sequence[sa.Row[Any]]) -> list[LabelVersion]:
    kinds = _kinds(connection, video)
    origins = _by_key(connection, {row.origin for row in rows if row.origin is not None})
    events: dict[int, list[ReviewEvent]] = {}
    labels = {row.key: row for row in rows}
    for part in _parts(labels):
        query = sa.select(_EVENTS).where(_EVENTS.c.video == video, _EVENTS.c.label.in_(part))
        for event in connection.execute(query.order_by(_EVENTS.c.key)):
            row = labels[event.label]
            key = row_key(row)
            action = ReviewAction(event.action)
            made = ReviewEvent(key, row.revision, event.revision, action, event.author, event.written_at)
            events.setdefault(event.label, []).append(made)
    return [
        LabelVersion(
            label_record(row), _kind_of(kinds, row.revision), origins.get(row.origin), tuple(events.get(row.key, ()))
        )
        for row in rows
    ]


def _kinds(connection: sa.Connection, video: int) -> list[tuple[int, int, str]]:
    query = sa.select(_CHANGES.c.revision, _CHANGES.c.last_revision, _CHANGES.c.kind)
    rows = connection.execute(query.where(_CHANGES.c.video == video).order_by(_CHANGES.c.revision))
    return [(row.revision, row.last_revision, row.kind) for row in rows]


def _kind_of(kinds: Sequence[tuple[int, int, str]], revision: int) -> ChangeKind:
    position = bisect_right(kinds, revision, key=lambda kind: kind[0])
    return ChangeKind(kinds[position - 1][2]) if position else ChangeKind.WRITE  # older than the change log


def _by_key(connection: sa.Connection, keys: Collection[int]) -> dict[int, tuple[LabelKey, int]]:
    found: dict[int, tuple[LabelKey, int]] = {}
    for part in _parts(keys):
        for row in connection.execute(sa.select(_LABELS).where(_LABELS.c.key.in_(part))):
            found[row.key] = (row_key(row), row.revision)
    return found


def _parts(keys: Iterable[int]) -> Iterable[list[int]]:
    ordered = sorted(keys)
    return (ordered[start : start + _AT_ONCE] for start in range(0, len(ordered), _AT_ONCE))


def _differences(connection: sa.Connection, video: int, revision: int) -> list[LabelDifference]:
    query = sa.select(_LABELS).where(_LABELS.c.video == video, _LABELS.c.revision == revision)
    rows = connection.execute(query.order_by(_LABELS.c.frame, _LABELS.c.is_frame_class, _LABELS.c.name)).all()
    before = _predecessors(connection, video, rows)
    found = []
    for row in rows:
        after = label_record(row)
        old = before.get(row.key)
        old_record = label_record(old) if old is not None and old.payload is not None else None
        found.append(LabelDifference(after.key, revision, old_record, after if after.label is not None else None))
    return found


def _predecessors(connection: sa.Connection, video: int, rows: Sequence[sa.Row[Any]]) -> dict[int, sa.Row[Any]]:
    """The version before each of some rows, by the row's key; rows of one revision have distinct label keys."""
    new, old = _LABELS.alias("new"), _LABELS.alias("old")
    same = [old.c[name] == new.c[name] for name in ("video", "frame", "is_frame_class", "name")]
    newest = _LABELS.alias("newest")
    last = (
        sa.select(sa.func.max(newest.c.revision))
        .where(*(newest.c[name] == new.c[name] for name in ("video", "frame", "is_frame_class", "name")))
        .where(newest.c.revision < new.c.revision)
        .scalar_subquery()
    )
    found: dict[int, sa.Row[Any]] = {}
    for part in _parts(row.key for row in rows):
        query = sa.select(new.c.key.label("of"), *old.c).join(old, sa.and_(*same, old.c.revision == last))
        for row in connection.execute(query.select_from(new).where(new.c.video == video, new.c.key.in_(part))):
            found[row.of] = row
    return found


def _undo_labels(connection: sa.Connection, video: sa.Row[Any], change: Change, act: Act) -> WriteResult:
    """Write the labels from before a change and before its recomputation."""
    query = sa.select(_CHANGES).where(_CHANGES.c.video == video.key)
    mine = sa.or_(_CHANGES.c.revision == change.revision, _CHANGES.c.parent == change.revision)
    ranges = [(row.revision, row.last_revision) for row in connection.execute(query.where(mine))]
    within = sa.or_(*(_LABELS.c.revision.between(*span) for span in ranges))
    rows = connection.execute(
        sa.select(_LABELS).where(_LABELS.c.video == video.key, within).order_by(_LABELS.c.revision)
    ).all()
    first: dict[LabelKey, sa.Row[Any]] = {}
    last: dict[LabelKey, sa.Row[Any]] = {}
    for row in rows:
        key = row_key(row)
        first.setdefault(key, row)
        last[key] = row
    before = _predecessors(connection, video.key, list(first.values()))
    current = current_rows(connection, video.key, {key.frame for key in first})
    todo: list[LabelWrite] = []
    conflicts: list[LabelKey] = []
    for key, row in first.items():
        now = current[key]
        by_person, stands = row.revision == change.revision, _says_the_same(now, last[key])
        if not stands and by_person and (now.by_human or now.origin is not None or now.review):
            conflicts.append(key)
        elif by_person or (stands and not now.review):
            todo.append(_restored(key, before.get(row.key), row))
    if conflicts:
        raise RevisionConflict(tuple(sorted(conflicts)), int(video.label_revision))
    result = write_labels(connection, video, todo, act)
    if result.revision == video.label_revision:  # no label differs; the history still records the undo
        record_change(connection, video.key, result.revision + 1, act, 0)
        return WriteResult(result.revision + 1, 0)
    return result


def _says_the_same(now: sa.Row[Any], then: sa.Row[Any]) -> bool:
    """Whether a row is the other row, or a copy of it."""
    brought_back = now.payload is None or (now.origin is not None and now.origin in (then.key, then.origin))
    return bool(now.key == then.key or (now.payload == then.payload and brought_back))


def _restored(key: LabelKey, old: sa.Row[Any] | None, row: sa.Row[Any]) -> LabelWrite:
    if old is None or old.payload is None:
        return LabelWrite(key, row.class_name, True, None, review={"locked": old is not None and old.locked})
    review = {name: getattr(old, name) for name in ("review", "reviewed_by", "reviewed_at", "locked")}
    return LabelWrite(key, old.class_name, old.by_human, old.payload, old.origin or old.key, review)


def _undo_reviews(connection: sa.Connection, video: sa.Row[Any], change: Change, act: Act) -> WriteResult | None:
    """Restore the review states from before a review; None if the change was not a review."""
    mine = (_EVENTS.c.video == video.key, _EVENTS.c.revision == change.revision)
    events = connection.execute(sa.select(_EVENTS).where(*mine).order_by(_EVENTS.c.key)).all()
    if not events:
        return None
    check_object(ObjectAction.CHANGE_DECIDED_LABEL, f"what change {change.revision} reviewed")
    later = sa.select(_EVENTS.c.label).where(_EVENTS.c.video == video.key, _EVENTS.c.revision > change.revision)
    touched = set(connection.execute(later).scalars())
    rows = {}
    for part in _parts(event.label for event in events):
        for row in connection.execute(sa.select(_LABELS).where(_LABELS.c.key.in_(part))):
            rows[row.key] = row
    changed = [row for row in rows.values() if row.key in touched or not row.is_current]
    conflicts = [row_key(row) for row in changed]
    if conflicts:
        raise RevisionConflict(tuple(sorted(conflicts)), int(video.label_revision))
    names = ("review", "reviewed_by", "reviewed_at", "locked")
    todo = [(rows[event.label], {name: getattr(event, f"before_{name}") for name in names}) for event in events]
    revision = int(video.label_revision) + 1
    apply_reviews(connection, video.key, todo, ReviewAction.UNDO, revision, act.author)
    record_change(connection, video.key, revision, act, len(events))
    return WriteResult(revision, 0)
