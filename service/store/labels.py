"""Labels: the current version of every key, and all earlier versions.

Two rules hold for every write:

- A micro-model's label never replaces a human label, an accepted label or a locked one.
- A write with a base revision never overwrites a label written after that revision. A human write conflicts only with
  newer human writes (it always replaces a model's label); a model's write conflicts with any newer write.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel, Label, Ontology
from service.access.calls import audit_detail
from service.access.object_rules import ObjectAction, check_object
from service.domain.codec import (
    decode_label,
    decode_ontology,
    encode_label,
    key_from_json,
    key_to_json,
    payload_of_class,
)
from service.domain.errors import RevisionConflict
from service.domain.history import Act, ChangeKind
from service.domain.labels import (
    LabelRecord,
    ReviewState,
    WriteResult,
)
from service.domain.videos import (
    VideoState,
)
from service.store import schema
from service.store.change_log import human_revisions, record_change
from service.store.database import Database, now, once, row_key
from service.store.instance_limits import frames_over_limit, within_limits
from service.store.projects import project_row
from service.store.videos import video_row

__all__ = ["LabelWrite", "Labels", "current_rows", "label_record", "label_writes", "write_labels"]

_PAGE_ROWS = 500
_FRAMES_AT_ONCE = 500
_TABLE = schema.labels
_KEY_COLUMNS = (_TABLE.c.frame, _TABLE.c.is_frame_class, _TABLE.c.name)
_HEAD_COLUMNS: list[sa.Column[Any]] = [_TABLE.c.key, *_KEY_COLUMNS, _TABLE.c.class_name]
_HEAD_COLUMNS += [_TABLE.c.revision, _TABLE.c.by_human, _TABLE.c.payload, _TABLE.c.review, _TABLE.c.locked]
_HEAD_COLUMNS += [_TABLE.c.origin]


@dataclass(frozen=True, slots=True)
class LabelWrite:
    """New payload of one key; None deletes the label."""

    key: LabelKey
    class_name: str
    by_human: bool
    payload: str | None
    origin: int | None = None
    """The row that this one copies; None for a new label."""
    review: Mapping[str, Any] = field(default_factory=dict)
    """Review and lock columns to set; empty for no review and an unchanged lock."""


class Labels:
    """Labels of a store's videos."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(
        self,
        project_id: str,
        video_id: str,
        labels: Sequence[AnyLabel],
        *,
        author: str,
        deletes: Sequence[LabelKey] = (),
        base_revision: int | None = None,
        request_id: str = "",
        kind: ChangeKind = ChangeKind.WRITE,
    ) -> WriteResult:
        """Write a batch completely or, on an error, not at all. Only people delete.

        A track has one class. A correction with another class gives it to every label of the track; any other write
        with another class is refused.

        Args:
            project_id: the video's project.
            video_id: a video that is ready.
            labels: new labels; each key at most once in the batch.
            author: who writes; stored in the history.
            deletes: keys to delete; keys without a label are skipped.
            base_revision: the revision that the caller saw; None for no check.
            request_id: a repeat with the same body returns the same answer and writes nothing.
            kind: ``WRITE`` or ``CORRECT``.

        Raises:
            AlreadyExists: the request id was used with another body.
            FailedPrecondition: the video is not ready, or a frame would have more hand labels of a class than the
                project allows.
            InvalidInput: a key twice, a class or shape that the ontology does not have, or a second class for a track;
                names ``labels[i].FIELD``.
            NotFound: no such video.
            OutOfRange: a frame past the end of the video.
            RevisionConflict: keys changed after ``base_revision``.
        """
        writes = label_writes(labels, deletes)

        def act() -> dict[str, Any]:
            video = video_row(connection, project_id, video_id, lock=True)
            if video.state != VideoState.READY.value:
                raise FailedPrecondition(f"video {video_id!r} is {video.state}; only a ready video can be labeled")
            ontology = decode_ontology(project_row(connection, project_id).ontology)
            _check(labels, writes, video, ontology)
            changes = writes + (_reclassified(connection, video.key, writes) if kind is ChangeKind.CORRECT else [])
            with within_limits(connection, video.key, {change.key.frame for change in changes}, ontology, by_hand=True):
                result = write_labels(connection, video, changes, Act(author, kind), base_revision=base_revision)
            kept = [key_to_json(key) for key in result.kept_anchors]
            return {"revision": result.revision, "written": result.written, "deleted": result.deleted, "kept": kept}

        body = [[(str(c.key), c.payload) for c in writes], base_revision, author]
        with self._database.begin(write=True) as connection:
            answer = once(connection, f"labels.{kind.value}/{project_id}/{video_id}", request_id, body, act)
        kept = tuple(key_from_json(key) for key in answer["kept"])
        return WriteResult(answer["revision"], answer["written"], answer["deleted"], kept)

    def recompute(
        self, project_id: str, video_id: str, labels: Sequence[AnyLabel], gone: Sequence[LabelKey], act: Act
    ) -> WriteResult:
        """Store the labels that a micro-model recomputed after a correction.

        Anchors, accepted and locked labels, and people's changes after ``act.parent``, stay as they are. Unchanged
        labels are not written again.

        Args:
            project_id: the video's project.
            video_id: which video.
            labels: predictions; human labels among them (passed-through anchors) are skipped.
            gone: keys that no longer have a label.
            act: of kind ``RECOMPUTE``.

        Raises:
            NotFound: no such video.
        """
        changes = label_writes(labels)
        changes += [LabelWrite(key, "", False, None) for key in gone]
        with self._database.begin(write=True) as connection:
            return write_labels(connection, video_row(connection, project_id, video_id, lock=True), changes, act)

    def revision(self, project_id: str, video_id: str) -> int:
        """The newest revision of a video's labels; 0 before the first write.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            return int(video_row(connection, project_id, video_id).label_revision)

    def stream(
        self,
        project_id: str,
        video_id: str,
        *,
        frames: range | None = None,
        after: LabelKey | None = None,
        changed_since: int = 0,
        names: Collection[str] = (),
        class_names: Collection[str] = (),
        anchors_only: bool = False,
        with_deleted: bool = False,
    ) -> Iterator[LabelRecord]:
        """Yield the current labels in order of (frame, object tracks before frame classes, name).

        Reads page by page: memory does not grow with the length of the video, and a slow reader holds no lock. Each
        page shows the labels at the time it was read.

        Args:
            project_id: the video's project.
            video_id: which video.
            frames: half-open range of frames, step 1; None for all.
            after: to resume an interrupted stream: the key of the last received label.
            changed_since: only labels of a newer revision than this.
            names: only these tracks or frame classes; empty for all.
            class_names: only these object or frame classes; empty for all (a deletion keeps its label's class).
            anchors_only: only human labels.
            with_deleted: deletions too (``label`` is None).

        Raises:
            NotFound: no such video (raised before the first label).
        """
        which = schema.IS_ANCHOR if anchors_only else schema.IS_CURRENT
        query = sa.select(_TABLE).where(which, _TABLE.c.revision > changed_since)
        if frames is not None:
            query = query.where(_TABLE.c.frame >= frames.start, _TABLE.c.frame < frames.stop)
        if names:
            query = query.where(_TABLE.c.name.in_(names))
        if class_names:
            query = query.where(_TABLE.c.class_name.in_(class_names))
        if not with_deleted:
            query = query.where(_TABLE.c.payload.is_not(None))
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id).key
        return self._pages(query.where(_TABLE.c.video == video).order_by(*_KEY_COLUMNS).limit(_PAGE_ROWS), after)

    def _pages(self, query: sa.Select[Any], after: LabelKey | None) -> Iterator[LabelRecord]:
        while True:
            page = query
            if after is not None:
                page = query.where(sa.tuple_(*_KEY_COLUMNS) > (after.frame, after.is_frame_class, after.name))
            with self._database.begin() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                record = label_record(row)
                yield record
                after = record.key
            if len(rows) < _PAGE_ROWS:
                return

    def anchor_frames(self, project_id: str, video_id: str, since: int = 0) -> int:
        """Number of frames on which people labeled objects after a revision.

        Raises:
            NotFound: no such video.
        """
        query = sa.select(sa.func.count(sa.distinct(_TABLE.c.frame))).where(schema.IS_ANCHOR)
        query = query.where(_TABLE.c.is_frame_class.is_(False), _TABLE.c.revision > since)
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            return int(connection.execute(query.where(_TABLE.c.video == video.key)).scalar_one())

    def frames_over_limit(self, project_id: str, video_id: str) -> Mapping[str, int]:
        """By class, the number of frames with more objects than the project allows; only classes with such frames.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            ontology = decode_ontology(project_row(connection, project_id).ontology)
            return frames_over_limit(connection, video.key, video.frame_count, ontology)

    def anchors(self, project_id: str, video_id: str) -> tuple[list[AnyLabel], int]:
        """All human labels of a video in order of frames, and the revision at which they were read.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            query = sa.select(_TABLE).where(schema.IS_ANCHOR, _TABLE.c.video == video.key).order_by(*_KEY_COLUMNS)
            records = [label_record(row) for row in connection.execute(query)]
        return [record.label for record in records if record.label is not None], int(video.label_revision)


def label_record(row: sa.Row[Any]) -> LabelRecord:
    """A row of the table of labels."""
    key = row_key(row)
    return LabelRecord(
        key=key,
        label=None if row.payload is None else decode_label(key, row.payload),
        revision=row.revision,
        author=row.author,
        written_at=row.written_at,
        job_id=row.job_id,
        review=ReviewState(row.review),
        reviewed_by=row.reviewed_by,
        reviewed_at=row.reviewed_at,
        locked=row.locked,
    )


def label_writes(labels: Iterable[AnyLabel], deletes: Iterable[LabelKey] = ()) -> list[LabelWrite]:
    """Convert a batch for ``write_labels``.

    Raises:
        InvalidInput: a key twice.
    """
    changes: dict[LabelKey, LabelWrite] = {}
    for index, label in enumerate(labels):
        key = LabelKey.of(label)
        if key in changes:
            field = f"labels[{index}].{'class' if key.is_frame_class else 'track'}"
            raise InvalidInput(field, str(key), "each frame and track, or frame and frame class, once per batch")
        name = label.object_class if isinstance(label, Label) else label.frame_class
        changes[key] = LabelWrite(key, name, label.is_anchor, encode_label(label))
    for key in deletes:
        if key in changes:
            raise InvalidInput("deletes", str(key), "each key once per batch")
        changes[key] = LabelWrite(key, "", True, None)
    return list(changes.values())


def _check(labels: Sequence[AnyLabel], changes: Sequence[LabelWrite], video: sa.Row[Any], ontology: Ontology) -> None:
    for change in changes:
        if change.key.frame >= video.frame_count:
            raise OutOfRange("frame", change.key.frame, f"0 to {video.frame_count - 1}")
    objects = {c.name: c for c in ontology.object_classes}
    frame_classes = {c.name for c in ontology.frame_classes}
    for index, label in enumerate(labels):
        if not isinstance(label, Label):
            if label.frame_class not in frame_classes:
                allowed = "a frame class of the project: " + ", ".join(sorted(frame_classes))
                raise InvalidInput(f"labels[{index}].class", label.frame_class, allowed)
        elif label.object_class not in objects:
            allowed = "an object class of the project: " + ", ".join(sorted(objects))
            raise InvalidInput(f"labels[{index}].class", label.object_class, allowed)
        elif label.shape is not None and label.shape.kind not in objects[label.object_class].shapes:
            allowed = ", ".join(sorted(objects[label.object_class].shapes))
            raise InvalidInput(f"labels[{index}].shape", label.shape.kind.value, allowed)


def write_labels(
    connection: sa.Connection,
    video: sa.Row[Any],
    changes: Sequence[LabelWrite],
    act: Act,
    *,
    base_revision: int | None = None,
) -> WriteResult:
    """Write labels in the caller's transaction; see ``Labels.write``. A machine's unchanged labels are not written.

    Args:
        connection: a writing transaction.
        video: the locked row of the video.
        changes: from ``label_writes``; human labels of a machine (passed-through anchors) are skipped.
        act: who writes and why.
        base_revision: None for no check.

    Raises:
        FailedPrecondition: an undo or an adjudication would give a track a second class.
        InvalidInput: any other change by a person would; names ``labels[i].class``.
        PermissionDenied: the caller may not change a label that is accepted or locked, or write as a model.
        RevisionConflict: keys changed after ``base_revision``.
    """
    machine = act.kind.is_machine
    if machine:
        changes = [change for change in changes if not change.by_human]
        changes = _with_class_of_track(connection, video.key, changes)
    if base_revision is not None and base_revision > video.label_revision:  # a restore removed newer revisions
        raise RevisionConflict((), int(video.label_revision))
    current = current_rows(connection, video.key, {change.key.frame for change in changes})
    since = human_revisions(connection, video.key, act.parent) if act.parent else frozenset()
    todo: list[LabelWrite] = []
    kept: list[LabelKey] = []
    conflicts: list[LabelKey] = []
    for change in changes:
        old = current.get(change.key)
        if old is None:
            if change.payload is not None:
                todo.append(change)
        elif base_revision is not None and old.revision > base_revision and _buries(change, old, act):
            conflicts.append(change.key)
        elif (
            old.revision in since
            or (act.base and old.revision > act.base)
            or (not change.by_human and change.origin is None and not act.kind.moves_labels and _is_held(old))
        ):
            kept.append(change.key)
        elif not (change.payload == old.payload and (machine or change.payload is None)):
            todo.append(change)
    if conflicts:
        raise RevisionConflict(tuple(sorted(conflicts)), int(video.label_revision))
    if not machine:
        _check_may(todo, current)
        _check_one_class(connection, video.key, changes, {change.key for change in todo}, act)
    revision = int(video.label_revision)
    if todo:
        revision += 1
        stamp = {"revision": revision, "author": act.author, "job_id": act.job_id}
        _append(connection, video.key, todo, current, stamp)
        record_change(connection, video.key, revision, act, len(todo))
    deleted = sum(change.payload is None for change in todo)
    audit_detail(revision=revision, labels_written=len(todo) - deleted, labels_deleted=deleted)
    return WriteResult(revision, len(todo) - deleted, deleted, tuple(sorted(kept)))


def _track_classes(
    connection: sa.Connection, video: int, tracks: Collection[str], without: Collection[LabelKey] = ()
) -> dict[str, tuple[str, int]]:
    """The class of each track that has labels other than ``without``, and the frame of one of these."""
    found: dict[str, tuple[str, int]] = {}
    for which in (schema.IS_ANCHOR, schema.IS_CURRENT):  # hand labels first: they are few
        missing = sorted(set(tracks) - set(found))
        for start in range(0, len(missing), _FRAMES_AT_ONCE):
            part = missing[start : start + _FRAMES_AT_ONCE]
            columns: list[sa.Column[Any]] = [*_KEY_COLUMNS, _TABLE.c.class_name]
            query = sa.select(*columns).where(which, _TABLE.c.video == video)
            query = query.where(_TABLE.c.is_frame_class.is_(False), _TABLE.c.payload.is_not(None))
            with connection.execute(query.where(_TABLE.c.name.in_(part))) as rows:
                left = set(part)
                for row in rows:
                    if row.name in left and row_key(row) not in without:
                        found[row.name] = (row.class_name, row.frame)
                        left.remove(row.name)
                    if not left:
                        break
    return found


def _tracks_of(changes: Iterable[LabelWrite]) -> set[str]:
    return {change.key.name for change in changes if not change.key.is_frame_class and change.payload is not None}


def _with_class_of_track(connection: sa.Connection, video: int, changes: Sequence[LabelWrite]) -> list[LabelWrite]:
    """Predictions with the class that their track has now: people may have changed it since the work began."""
    classes = _track_classes(connection, video, _tracks_of(changes))
    made = []
    for change in changes:
        name, _ = classes.get(change.key.name, (change.class_name, 0))
        if change.payload is not None and not change.key.is_frame_class and name != change.class_name:
            change = replace(change, class_name=name, payload=payload_of_class(change.payload, name))
        made.append(change)
    return made


def _reclassified(connection: sa.Connection, video: int, changes: Sequence[LabelWrite]) -> list[LabelWrite]:
    """All other labels of the tracks to which these changes give another class, with that class."""
    given = {change.key for change in changes}
    wanted = {c.key.name: c.class_name for c in changes if not c.key.is_frame_class and c.payload is not None}
    found = _track_classes(connection, video, wanted, given)
    tracks = [track for track, (name, _) in found.items() if name != wanted[track]]
    made = []
    for start in range(0, len(tracks), _FRAMES_AT_ONCE):
        query = sa.select(_TABLE).where(schema.IS_CURRENT, _TABLE.c.video == video, _TABLE.c.payload.is_not(None))
        query = query.where(_TABLE.c.is_frame_class.is_(False))
        query = query.where(_TABLE.c.name.in_(tracks[start : start + _FRAMES_AT_ONCE]))
        for row in connection.execute(query):
            key, name = row_key(row), wanted[row.name]
            if key not in given:
                review = {column: getattr(row, column) for column in ("review", "reviewed_by", "reviewed_at")}
                payload = payload_of_class(row.payload, name)
                made.append(LabelWrite(key, name, row.by_human, payload, row.origin or row.key, review))
    return made


def _check_one_class(
    connection: sa.Connection, video: int, changes: Sequence[LabelWrite], written: Collection[LabelKey], act: Act
) -> None:
    """Raise if the changes of the keys ``written`` would leave a track with two classes."""
    classes = _track_classes(connection, video, _tracks_of(changes), written)
    for index, change in enumerate(changes):
        if change.key not in written or change.payload is None or change.key.is_frame_class:
            continue
        track, frame = change.key.name, change.key.frame
        known, at = classes.setdefault(track, (change.class_name, frame))
        if known == change.class_name:
            continue
        if act.kind in (ChangeKind.WRITE, ChangeKind.CORRECT):
            allowed = f"{known!r}, the class of track {track!r} on frame {at}: a track has one class. Use another track"
            allowed += ", or give the whole track the other class with CorrectLabels"
            raise InvalidInput(f"labels[{index}].class", change.class_name, allowed)
        has = f"track {track!r} would be {known!r} on frame {at} and {change.class_name!r} on frame {frame}"
        raise FailedPrecondition(f"{has}, but a track has one class; correct the class of the track first")


def _check_may(changes: Iterable[LabelWrite], current: Mapping[LabelKey, sa.Row[Any]]) -> None:
    """Raise if the caller may not make one of a person's changes."""
    for change in changes:
        old = current.get(change.key)
        if old is not None and old.payload is not None and (old.locked or old.review == ReviewState.ACCEPTED):
            check_object(ObjectAction.CHANGE_DECIDED_LABEL, f"the label of {change.key}")
        if not change.by_human and change.origin is None:
            check_object(ObjectAction.WRITE_AS_MODEL, f"the label of {change.key}")


def _buries(change: LabelWrite, old: sa.Row[Any], act: Act) -> bool:
    """Whether a change would overwrite a newer label that its writer has not seen."""
    return bool(old.by_human) or not change.by_human or act.kind.moves_labels


def _stays_locked(change: LabelWrite, old: sa.Row[Any] | None) -> bool:
    """Whether the lock moves to the new version. It ends with a deletion, or when a person draws a deleted key."""
    return bool(old is not None and old.locked and old.payload is not None and change.payload is not None)


def _is_held(old: sa.Row[Any]) -> bool:
    """Whether a person drew, accepted or locked the current version."""
    decided = old.by_human or old.review == ReviewState.ACCEPTED
    return bool(old.locked or (decided and old.payload is not None))


def current_rows(connection: sa.Connection, video: int, frames: set[int]) -> dict[LabelKey, sa.Row[Any]]:
    """Current rows on some frames, including deletions, without author and time."""
    ordered = sorted(frames)
    found: dict[LabelKey, sa.Row[Any]] = {}
    for start in range(0, len(ordered), _FRAMES_AT_ONCE):
        part = ordered[start : start + _FRAMES_AT_ONCE]
        query = sa.select(*_HEAD_COLUMNS).where(_TABLE.c.video == video, schema.IS_CURRENT, _TABLE.c.frame.in_(part))
        for row in connection.execute(query):
            found[row_key(row)] = row
    return found


def _append(
    connection: sa.Connection,
    video: int,
    changes: Sequence[LabelWrite],
    current: dict[LabelKey, sa.Row[Any]],
    stamp: dict[str, Any],
) -> None:
    """Add the new versions and unset ``is_current`` on those they replace."""
    replaced = [{"old": current[change.key].key} for change in changes if change.key in current]
    if replaced:
        demote = _TABLE.update().where(_TABLE.c.key == sa.bindparam("old")).values(is_current=sa.false())
        connection.execute(demote, replaced)
    moment = now()
    rows = [
        {
            "video": video,
            "frame": change.key.frame,
            "is_frame_class": change.key.is_frame_class,
            "name": change.key.name,
            "class_name": change.class_name or current[change.key].class_name,
            "is_current": True,
            "by_human": change.by_human,
            "payload": change.payload,
            "origin": change.origin,
            "locked": _stays_locked(change, current.get(change.key)),
            **{"review": "", "reviewed_by": "", "reviewed_at": None, **change.review},
            "written_at": moment,
            **stamp,
        }
        for change in changes
    ]
    connection.execute(_TABLE.insert(), rows)
