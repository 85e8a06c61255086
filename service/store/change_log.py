"""The change log: which change made which revision of a video's labels; written in the same transaction."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from service.access.calls import audit_detail
from service.domain.errors import NotFound
from service.domain.history import Act, Change, ChangeKind
from service.store import schema
from service.store.database import now

__all__ = ["change_record", "change_row", "human_revisions", "record_change"]

_TABLE = schema.changes
_MACHINE = [kind.value for kind in ChangeKind if kind.is_machine]


def record_change(connection: sa.Connection, video: int, revision: int, act: Act, label_count: int) -> None:
    """Record the change that makes a revision, and make the revision the video's newest.

    If a job or recomputation also wrote the previous revision, its change is extended.
    """
    audit_detail(revision=revision, change=act.kind.value, labels=label_count)
    videos = schema.videos
    connection.execute(videos.update().where(videos.c.key == video).values(label_revision=revision))
    if act.kind.is_machine:
        newest = _TABLE.c.video == video, _TABLE.c.last_revision == revision - 1, _TABLE.c.kind == act.kind.value
        same = _TABLE.update().where(*newest, _TABLE.c.job_id == act.job_id, _TABLE.c.parent == act.parent)
        values = {"last_revision": revision, "label_count": _TABLE.c.label_count + label_count}
        if connection.execute(same.values(**values)).rowcount:
            return
    values = {"video": video, "revision": revision, "last_revision": revision, "kind": act.kind.value}
    values |= {"author": act.author, "job_id": act.job_id, "model_version": act.model_version, "parent": act.parent}
    values |= {"undoes": act.undoes, "comment": act.comment, "label_count": label_count, "written_at": now()}
    connection.execute(_TABLE.insert().values(**values))


def human_revisions(connection: sa.Connection, video: int, after: int) -> frozenset[int]:
    """Revisions made by people after a given one; each change by a person has its own revision."""
    query = sa.select(_TABLE.c.revision).where(_TABLE.c.video == video, _TABLE.c.revision > after)
    return frozenset(connection.execute(query.where(_TABLE.c.kind.not_in(_MACHINE))).scalars())


def change_row(connection: sa.Connection, video: int, revision: int) -> sa.Row[Any]:
    """The change whose first revision this is.

    Raises:
        NotFound: no such change.
    """
    row = connection.execute(sa.select(_TABLE).where(_TABLE.c.video == video, _TABLE.c.revision == revision)).first()
    if row is None:
        raise NotFound("change", str(revision))
    return row


def change_record(row: sa.Row[Any]) -> Change:
    """A row of the table of changes."""
    return Change(
        revision=row.revision,
        last_revision=row.last_revision,
        kind=ChangeKind(row.kind),
        author=row.author,
        written_at=row.written_at,
        label_count=row.label_count,
        job_id=row.job_id,
        model_version=row.model_version,
        parent=row.parent,
        undoes=row.undoes,
        undone_by=row.undone_by,
        settled=row.settled,
        seconds=row.seconds,
        learned=row.learned,
        comment=row.comment,
    )
