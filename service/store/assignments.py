"""Blind assignments: two people label the same frames without seeing each other's labels; a third one adjudicates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel, Label, Provenance, ProvenanceKind
from service.domain.codec import decode_label, decode_ontology
from service.domain.errors import NotFound
from service.domain.history import Act, Assignment, ChangeKind
from service.domain.videos import Page, VideoState
from service.store import schema
from service.store.database import Database, check_text, new_id, now, once, page_start, row_key
from service.store.instance_limits import within_limits
from service.store.labels import label_writes, write_labels
from service.store.projects import project_row
from service.store.videos import video_row

__all__ = ["Assignments"]

_TABLE = schema.assignments
_LABELS = schema.assigned_labels
_MAX_FRAMES = 10_000


class Assignments:
    """Assignments of a store's videos."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        project_id: str,
        video_id: str,
        frames: Sequence[int],
        annotators: Sequence[str],
        *,
        author: str,
        request_id: str = "",
    ) -> Assignment:
        """Assign frames to two people.

        Args:
            project_id: the video's project.
            video_id: video, which must be ready.
            frames: 1 to 10000 frames, each once.
            annotators: two different names.
            author: who assigns.
            request_id: a repeat with the same body returns the same assignment.

        Raises:
            AlreadyExists: the request id was used with another body.
            FailedPrecondition: the video is not ready.
            InvalidInput: no frames, too many, or one twice; or not two annotators.
            NotFound: no such video.
            OutOfRange: a frame outside the video.
        """
        if not 1 <= len(frames) <= _MAX_FRAMES or len(set(frames)) != len(frames):
            allowed = f"1 to {_MAX_FRAMES} different frames"
            raise InvalidInput("assignment.frame_indices", f"{len(frames)} frames", allowed)
        if len(annotators) != 2 or len(set(annotators)) != 2 or not all(annotators):
            raise InvalidInput("assignment.annotators", list(annotators), "two different names")
        for name in annotators:
            check_text("assignment.annotators", name)

        def act() -> dict[str, Any]:
            video = video_row(connection, project_id, video_id)
            if video.state != VideoState.READY.value:
                raise FailedPrecondition(f"video {video_id!r} is {video.state}; only a ready video can be assigned")
            for frame in frames:
                if not 0 <= frame < video.frame_count:
                    raise OutOfRange("assignment.frame_indices", frame, f"0 to {video.frame_count - 1}")
            values = {"video": video.key, "assignment_id": new_id(), "frames": sorted(frames), "submitted": []}
            values |= {"annotators": list(annotators), "author": author, "created_at": now()}
            connection.execute(_TABLE.insert().values(**values))
            return {"assignment_id": values["assignment_id"]}

        with self._database.begin(write=True) as connection:
            body = [sorted(frames), list(annotators), author]
            answer = once(connection, f"assignments.create/{project_id}/{video_id}", request_id, body, act)
            ids = (project_id, video_id, str(answer["assignment_id"]))
            return _assignment(ids, _row(connection, *ids))

    def get(self, project_id: str, video_id: str, assignment_id: str) -> Assignment:
        """One assignment.

        Raises:
            NotFound: no such assignment.
        """
        ids = (project_id, video_id, assignment_id)
        with self._database.begin() as connection:
            return _assignment(ids, _row(connection, *ids))

    def list(self, project_id: str, video_id: str, *, after: str = "", limit: int = 100) -> Page[Assignment]:
        """Assignments of a video, oldest first.

        Raises:
            InvalidInput: ``after`` is not from an earlier page.
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            query = sa.select(_TABLE).where(_TABLE.c.video == video.key, _TABLE.c.key > page_start(after))
            rows = connection.execute(query.order_by(_TABLE.c.key).limit(limit + 1)).all()
        items = tuple(_assignment((project_id, video_id, row.assignment_id), row) for row in rows[:limit])
        return Page(items, str(rows[limit - 1].key) if len(rows) > limit else "")

    def write(
        self,
        ids: tuple[str, str, str],
        labels: Sequence[AnyLabel],
        deletes: Sequence[LabelKey],
        *,
        annotator: str,
        submit: bool = False,
        request_id: str = "",
    ) -> Assignment:
        """Write labels of an annotator.

        Args:
            ids: project, video and assignment.
            labels: human labels on assigned frames, already checked.
            deletes: keys of the annotator's labels to delete.
            annotator: whose they are.
            submit: whether the annotator is done: nothing can be written afterwards.
            request_id: a repeat with the same body writes only once.

        Raises:
            AlreadyExists: the request id was used with another body.
            FailedPrecondition: ``annotator`` does not belong to the assignment, or has submitted.
            InvalidInput: a key twice, a frame that is not assigned, or a second class for a track.
            NotFound: no such assignment.
        """
        changes = label_writes(labels, deletes)

        def act() -> dict[str, Any]:
            row = _row(connection, *ids, lock=True)
            if annotator not in row.annotators:
                raise FailedPrecondition(f"{annotator!r} is not an annotator of this assignment")
            if annotator in row.submitted:
                raise FailedPrecondition(f"{annotator!r} has submitted; labels can no longer be changed")
            frames, moment = set(row.frames), now()
            _check_one_class(labels, _read(connection, row, annotator), {change.key for change in changes})
            for index, change in enumerate(changes):
                key = change.key
                if key.frame not in frames:
                    raise InvalidInput(f"labels[{index}].frame_index", key.frame, "an assigned frame")
                mine = _LABELS.delete().where(_LABELS.c.assignment == row.key, _LABELS.c.annotator == annotator)
                mine = mine.where(_LABELS.c.frame == key.frame, _LABELS.c.is_frame_class == key.is_frame_class)
                connection.execute(mine.where(_LABELS.c.name == key.name))
                if change.payload is not None:
                    values = {"video": row.video, "assignment": row.key, "annotator": annotator, "frame": key.frame}
                    values |= {"is_frame_class": key.is_frame_class, "name": key.name, "payload": change.payload}
                    connection.execute(_LABELS.insert().values(**values, written_at=moment))
            if submit:
                done = [*row.submitted, annotator]
                connection.execute(_TABLE.update().where(_TABLE.c.key == row.key).values(submitted=done))
            return {}

        with self._database.begin(write=True) as connection:
            body = [[(str(c.key), c.payload) for c in changes], submit, annotator]
            once(connection, f"assignments.write/{'/'.join(ids)}", request_id, body, act)
            return _assignment(ids, _row(connection, *ids))

    def labels(self, ids: tuple[str, str, str], annotator: str, *, reader: str) -> Sequence[AnyLabel]:
        """Labels of an annotator in order of frames.

        Args:
            ids: project, video and assignment.
            annotator: whose.
            reader: name of the caller; may read others' labels after both have submitted.

        Raises:
            FailedPrecondition: the labels are still hidden from the reader.
            InvalidInput: ``annotator`` does not belong to the assignment.
            NotFound: no such assignment.
        """
        with self._database.begin() as connection:
            row = _row(connection, *ids)
            if annotator not in row.annotators:
                raise InvalidInput("annotator", annotator, " or ".join(row.annotators))
            if annotator != reader and _assignment(ids, row).is_open:
                raise FailedPrecondition("labels of others are hidden until both annotators have submitted")
            return _read(connection, row, annotator)

    def adjudicate(
        self,
        ids: tuple[str, str, str],
        annotator: str,
        choices: Mapping[int, str],
        *,
        author: str,
        request_id: str = "",
    ) -> Assignment:
        """Make the chosen labels human labels of the video, each with its annotator as author.

        Args:
            ids: project, video and assignment.
            annotator: whose labels to take on frames that ``choices`` does not name.
            choices: chosen annotator by frame.
            author: the adjudicator.
            request_id: a repeat with the same body takes effect only once.

        Raises:
            AlreadyExists: the request id was used with another body.
            FailedPrecondition: an annotator has not submitted, the assignment is already adjudicated, or a frame would
                have more hand labels of a class than the project allows.
            InvalidInput: a name that is not an annotator, or a frame that is not assigned.
            NotFound: no such assignment.
        """

        def act() -> dict[str, Any]:
            row = _row(connection, *ids, lock=True)
            if _assignment(ids, row).is_open:
                raise FailedPrecondition("both annotators must submit first")
            if row.adjudicated_revision:
                raise FailedPrecondition(f"already adjudicated by {row.adjudicator!r}; undo that first")
            for frame, name in ((None, annotator), *choices.items()):
                if name not in row.annotators:
                    raise InvalidInput("annotator" if frame is None else "choices", name, " or ".join(row.annotators))
                if frame is not None and frame not in row.frames:
                    raise InvalidInput("choices", frame, "an assigned frame")
            chosen: list[AnyLabel] = []
            for name in row.annotators:
                by = Provenance(ProvenanceKind.HUMAN, name)
                mine = _read(connection, row, name)
                chosen += [replace(x, provenance=by) for x in mine if choices.get(x.frame, annotator) == name]
            video = video_row(connection, ids[0], ids[1], lock=True)
            ontology = decode_ontology(project_row(connection, ids[0]).ontology)
            with within_limits(connection, video.key, {label.frame for label in chosen}, ontology, by_hand=True):
                result = write_labels(connection, video, label_writes(chosen), Act(author, ChangeKind.ADJUDICATE))
            done = {"adjudicator": author, "adjudicated_at": now(), "adjudicated_revision": result.revision}
            connection.execute(_TABLE.update().where(_TABLE.c.key == row.key).values(**done))
            return {}

        with self._database.begin(write=True) as connection:
            body = [annotator, sorted(choices.items()), author]
            once(connection, f"assignments.adjudicate/{'/'.join(ids)}", request_id, body, act)
            return _assignment(ids, _row(connection, *ids))


def _check_one_class(labels: Sequence[AnyLabel], others: Sequence[AnyLabel], given: Collection[LabelKey]) -> None:
    """Raise if a track would have two classes in an annotator's labels, of which ``given`` are replaced."""
    stay = [x for x in others if isinstance(x, Label) and LabelKey.of(x) not in given]
    classes = {label.track: (label.object_class, label.frame) for label in stay}
    for index, label in enumerate(labels):
        if isinstance(label, Label):
            known, frame = classes.setdefault(label.track, (label.object_class, label.frame))
            if known != label.object_class:
                allowed = f"{known!r}, the class of track {label.track!r} on frame {frame}: a track has one class"
                raise InvalidInput(f"labels[{index}].class", label.object_class, allowed)


def _row(
    connection: sa.Connection, project_id: str, video_id: str, assignment_id: str, lock: bool = False
) -> sa.Row[Any]:
    video = video_row(connection, project_id, video_id)
    query = sa.select(_TABLE).where(_TABLE.c.video == video.key, _TABLE.c.assignment_id == assignment_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound("assignment", assignment_id)
    return row


def _read(connection: sa.Connection, row: sa.Row[Any], annotator: str) -> list[AnyLabel]:
    query = sa.select(_LABELS).where(_LABELS.c.assignment == row.key, _LABELS.c.annotator == annotator)
    rows = connection.execute(query.order_by(_LABELS.c.frame, _LABELS.c.is_frame_class, _LABELS.c.name))
    return [decode_label(row_key(r), r.payload) for r in rows]


def _assignment(ids: tuple[str, str, str], row: sa.Row[Any]) -> Assignment:
    return Assignment(
        *ids,
        frames=tuple(row.frames),
        annotators=(row.annotators[0], row.annotators[1]),
        submitted=tuple(row.submitted),
        author=row.author,
        created_at=row.created_at,
        adjudicator=row.adjudicator,
        adjudicated_at=row.adjudicated_at,
        adjudicated_revision=row.adjudicated_revision,
    )
