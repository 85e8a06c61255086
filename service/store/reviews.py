"""Reviews of labels (accept, reject, lock) and comments on frames."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.labels.keys import LabelKey
from service.access.calls import current_caller
from service.access.object_rules import ObjectAction, check_object
from service.domain.errors import NotFound, RevisionConflict
from service.domain.history import Act, ChangeKind, Comment, ReviewAction, ReviewResult
from service.domain.labels import ReviewState
from service.domain.videos import Page
from service.store import schema
from service.store.change_log import record_change
from service.store.database import Database, check_text, new_id, now, once, page_start, row_key
from service.store.videos import video_row

__all__ = ["Reviews", "apply_reviews"]

_LABELS = schema.labels
_EVENTS = schema.review_events
_COMMENTS = schema.comments
_LONGEST_COMMENT = 4000
_COLUMNS = ("review", "reviewed_by", "reviewed_at", "locked")


class Reviews:
    """Reviews of a store's labels."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def review(
        self,
        project_id: str,
        video_id: str,
        action: ReviewAction,
        *,
        author: str,
        frames: range | None = None,
        names: Collection[str] = (),
        class_names: Collection[str] = (),
        anchors_only: bool = False,
        keys: Sequence[LabelKey] = (),
        min_confidence: float | None = None,
        comment: str = "",
        base_revision: int | None = None,
        request_id: str = "",
        validate_only: bool = False,
    ) -> ReviewResult:
        """Review or lock the selected labels; the labels themselves do not change.

        Args:
            project_id: the video's project.
            video_id: which video.
            action: what to do; any but ``UNDO``.
            author: the reviewer.
            frames: half-open range; None for all.
            names: only these tracks or frame classes; empty for all.
            class_names: only these classes; empty for all.
            anchors_only: only human labels.
            keys: exactly these labels, instead of the selection of the other arguments; missing ones are skipped.
            min_confidence: only unreviewed predictions with at least this confidence.
            comment: stored with the change.
            base_revision: the revision that the reviewer saw; None for no check.
            request_id: a repeat with the same body returns the same answer.
            validate_only: only return what would be done.

        Raises:
            AlreadyExists: the request id was used with another body.
            InvalidInput: the comment is too long.
            NotFound: no such video.
            RevisionConflict: some of the labels changed after ``base_revision``.
        """
        check_text("comment", comment, _LONGEST_COMMENT)
        query = sa.select(_LABELS).where(schema.IS_CURRENT, _LABELS.c.payload.is_not(None))
        if keys:
            query = query.where(_LABELS.c.frame.in_({key.frame for key in keys}))
        elif frames is not None:
            query = query.where(_LABELS.c.frame >= frames.start, _LABELS.c.frame < frames.stop)
        if names:
            query = query.where(_LABELS.c.name.in_(names))
        if class_names:
            query = query.where(_LABELS.c.class_name.in_(class_names))
        if anchors_only:
            query = query.where(_LABELS.c.by_human)

        def act() -> dict[str, Any]:
            video = video_row(connection, project_id, video_id, lock=not validate_only)
            rows = _picked(connection.execute(query.where(_LABELS.c.video == video.key)), keys, min_confidence)
            newer = [row_key(row) for row in rows if base_revision is not None and row.revision > base_revision]
            if newer:
                raise RevisionConflict(tuple(sorted(newer)), int(video.label_revision))
            todo = [(row, values) for row in rows if (values := _reviewed(row, action, author)) is not None]
            revision = int(video.label_revision)
            if todo and not validate_only:
                revision += 1
                made = Act(author, ChangeKind.REVIEW, comment=comment)
                apply_reviews(connection, video.key, todo, action, revision, author)
                record_change(connection, video.key, revision, made, len(todo))
            return {
                "revision": revision,
                "changed": len(todo),
                "selected": len(rows),
                "expected_wrong_share": _expected_wrong_share(row for row, _ in todo),
            }

        with self._database.begin(write=not validate_only) as connection:
            if validate_only:
                return ReviewResult(**act())
            body: list[Any] = [action.value, str(frames), sorted(names), sorted(class_names), anchors_only]
            body += [[str(key) for key in keys], min_confidence, comment, base_revision, author]
            scope = f"reviews.review/{project_id}/{video_id}"
            return ReviewResult(**once(connection, scope, request_id, body, act))

    def comment(
        self,
        project_id: str,
        video_id: str,
        text: str,
        *,
        frames: range,
        name: str = "",
        author: str,
        request_id: str = "",
    ) -> Comment:
        """Comment on some frames.

        Args:
            project_id: the video's project.
            video_id: video, which must be ready.
            text: 1 to 4000 characters; line breaks are fine.
            frames: half-open range.
            name: the track or frame class that the comment is about; empty for whole frames.
            author: who comments.
            request_id: a repeat with the same body returns the same comment.

        Raises:
            AlreadyExists: the request id was used with another body.
            FailedPrecondition: the video is not ready.
            InvalidInput: the text is empty or too long.
            NotFound: no such video.
            OutOfRange: a frame outside the video.
        """
        if not text.strip() or len(text) > _LONGEST_COMMENT or "\0" in text:
            raise InvalidInput("comment.text", text, f"1 to {_LONGEST_COMMENT} characters")
        check_text("comment.track", name)

        def act() -> dict[str, Any]:
            video = video_row(connection, project_id, video_id)
            if not video.frame_count:
                raise FailedPrecondition(f"video {video_id!r} is {video.state}; only a ready video can have comments")
            if not 0 <= frames.start < frames.stop <= video.frame_count:
                allowed = f"a half-open range within 0 to {video.frame_count}"
                raise OutOfRange("comment.start_frame", f"{frames.start} to {frames.stop}", allowed)
            values = {
                "video": video.key,
                "comment_id": new_id(),
                "start_frame": frames.start,
                "stop_frame": frames.stop,
            }
            values |= {"name": name, "text": text, "author": author, "created_at": now()}
            connection.execute(_COMMENTS.insert().values(**values))
            return {"comment_id": values["comment_id"]}

        with self._database.begin(write=True) as connection:
            body = [text, frames.start, frames.stop, name, author]
            answer = once(connection, f"reviews.comment/{project_id}/{video_id}", request_id, body, act)
            key = video_row(connection, project_id, video_id).key
            query = sa.select(_COMMENTS).where(_COMMENTS.c.video == key)
            row = connection.execute(query.where(_COMMENTS.c.comment_id == answer["comment_id"])).first()
        if row is None:
            raise NotFound("comment", answer["comment_id"])
        return _comment(project_id, video_id, row)

    def comments(self, project_id: str, video_id: str, *, after: str = "", limit: int = 100) -> Page[Comment]:
        """Comments on a video, oldest first.

        Raises:
            InvalidInput: ``after`` is not from an earlier page.
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            query = sa.select(_COMMENTS).where(_COMMENTS.c.video == video.key, _COMMENTS.c.key > page_start(after))
            rows = connection.execute(query.order_by(_COMMENTS.c.key).limit(limit + 1)).all()
        items = tuple(_comment(project_id, video_id, row) for row in rows[:limit])
        return Page(items, str(rows[limit - 1].key) if len(rows) > limit else "")

    def delete_comment(self, project_id: str, video_id: str, comment_id: str) -> None:
        """Delete a comment.

        Raises:
            NotFound: no such video or comment.
            PermissionDenied: another user wrote it, and the caller's role does not allow that.
        """
        with self._database.begin(write=True) as connection:
            video = video_row(connection, project_id, video_id)
            query = sa.select(_COMMENTS).where(_COMMENTS.c.video == video.key, _COMMENTS.c.comment_id == comment_id)
            row = connection.execute(query).first()
            if row is None:
                raise NotFound("comment", comment_id)
            if row.author != current_caller().name:
                check_object(ObjectAction.DELETE_COMMENT_OF_OTHERS, f"comment {comment_id!r}")
            connection.execute(_COMMENTS.delete().where(_COMMENTS.c.key == row.key))


def apply_reviews(
    connection: sa.Connection,
    video: int,
    todo: Sequence[tuple[sa.Row[Any], Mapping[str, Any]]],
    action: ReviewAction,
    revision: int,
    author: str,
) -> None:
    """Set the review states of label rows and record their previous ones.

    Args:
        connection: a writing transaction.
        video: key of the video's row.
        todo: current label rows, each with the new values of ``review``, ``reviewed_by``, ``reviewed_at`` and
            ``locked``.
        action: the review action.
        revision: revision of the change.
        author: the reviewer.
    """
    if not todo:
        return
    moment = now()
    stamp = {"video": video, "revision": revision, "action": action.value, "author": author, "written_at": moment}
    before = [{f"before_{name}": getattr(row, name) for name in _COLUMNS} for row, _ in todo]
    rows = [{"label": row.key, **stamp, **old} for (row, _), old in zip(todo, before, strict=True)]
    connection.execute(_EVENTS.insert(), rows)
    update = _LABELS.update().where(_LABELS.c.key == sa.bindparam("of"))
    update = update.values({name: sa.bindparam(f"new_{name}") for name in _COLUMNS})
    connection.execute(
        update, [{"of": row.key, **{f"new_{name}": value for name, value in values.items()}} for row, values in todo]
    )


def _picked(rows: Iterable[sa.Row[Any]], keys: Sequence[LabelKey], min_confidence: float | None) -> list[sa.Row[Any]]:
    found = list(rows)
    if keys:
        wanted = set(keys)
        found = [row for row in found if row_key(row) in wanted]
    if min_confidence is not None:
        found = [row for row in found if not row.by_human and row.review == "" and _sure(row, min_confidence)]
    return found


def _confidence(row: sa.Row[Any]) -> float | None:
    found = json.loads(row.payload).get("confidence")
    return None if found is None else float(found)


def _sure(row: sa.Row[Any], least: float) -> bool:
    confidence = _confidence(row)
    return confidence is not None and confidence >= least


def _expected_wrong_share(rows: Iterable[sa.Row[Any]]) -> float | None:
    wrong = [1.0 - confidence for row in rows if (confidence := _confidence(row)) is not None]
    return sum(wrong) / len(wrong) if wrong else None


_JUDGMENTS = {
    ReviewAction.ACCEPT: ReviewState.ACCEPTED,
    ReviewAction.REJECT: ReviewState.REJECTED,
    ReviewAction.RESET: ReviewState.NONE,
}


def _reviewed(row: sa.Row[Any], action: ReviewAction, author: str) -> dict[str, Any] | None:
    """The new review values of a label; None if they would not change."""
    values: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
    if action in _JUDGMENTS:
        if row.review == _JUDGMENTS[action].value:
            return None
        moment: datetime | None = now() if action is not ReviewAction.RESET else None
        by = author if moment else ""
        return values | {"review": _JUDGMENTS[action].value, "reviewed_by": by, "reviewed_at": moment}
    lock = action is ReviewAction.LOCK
    return None if row.locked == lock else values | {"locked": lock}


def _comment(project_id: str, video_id: str, row: sa.Row[Any]) -> Comment:
    fields = ("comment_id", "start_frame", "stop_frame", "name", "text", "author", "created_at")
    return Comment(project_id, video_id, **{name: getattr(row, name) for name in fields})
