"""Changes of labels, reviews, comments and assignments."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from service.store.schema import Instant

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_SORTED_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# One change for each existing revision, by jobs and by people.
_CHANGES_SO_FAR = """
INSERT INTO changes (video, revision, last_revision, kind, author, job_id, label_count, written_at)
SELECT video, revision, revision, CASE WHEN max(job_id) = '' THEN 'write' ELSE 'propagate' END,
       max(author), max(job_id), count(*), max(written_at)
FROM labels GROUP BY video, revision
"""


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), server_default="", nullable=False)


def _integer(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False)


def upgrade() -> None:
    """Add the columns and create the tables."""
    for column in (
        sa.Column("origin", _KEY, nullable=True),
        _text("review"),
        _text("reviewed_by"),
        sa.Column("reviewed_at", Instant(), nullable=True),
        _flag("locked"),
    ):
        op.add_column("labels", column)
    op.create_index("ix_labels_video_revision", "labels", ["video", "revision"], unique=False)
    _make_changes()
    _make_reviews()
    _make_assignments()
    op.execute(_CHANGES_SO_FAR)


def _video(table: str) -> list[Any]:
    return [
        sa.Column("video", _KEY, nullable=False),
        sa.ForeignKeyConstraint(["video"], ["videos.key"], name=f"fk_{table}_video", ondelete="CASCADE"),
        sa.Column("key", _KEY, nullable=False),
        sa.PrimaryKeyConstraint("key", name=f"pk_{table}"),
    ]


def _make_changes() -> None:
    op.create_table(
        "changes",
        *_video("changes"),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("last_revision", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        _text("author"),
        _text("job_id"),
        _text("model_version"),
        _integer("label_count"),
        _integer("parent"),
        _integer("undoes"),
        _integer("undone_by"),
        _flag("settled"),
        sa.Column("seconds", sa.Float(), server_default="0", nullable=False),
        _text("comment"),
        sa.Column("written_at", Instant(), nullable=False),
        sa.UniqueConstraint("video", "revision", name="uq_changes_video_revision"),
    )


def _make_reviews() -> None:
    op.create_table(
        "review_events",
        *_video("review_events"),
        sa.Column("label", _KEY, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        _text("author"),
        sa.Column("written_at", Instant(), nullable=False),
        _text("before_review"),
        _text("before_reviewed_by"),
        sa.Column("before_reviewed_at", Instant(), nullable=True),
        _flag("before_locked"),
        sa.ForeignKeyConstraint(["label"], ["labels.key"], name="fk_review_events_label", ondelete="CASCADE"),
    )
    op.create_index("ix_review_events_video_revision", "review_events", ["video", "revision"], unique=False)
    op.create_index("ix_review_events_label", "review_events", ["label"], unique=False)
    op.create_table(
        "comments",
        *_video("comments"),
        sa.Column("comment_id", sa.Text(), nullable=False),
        _integer("start_frame"),
        _integer("stop_frame"),
        _text("name"),
        _text("text"),
        _text("author"),
        sa.Column("created_at", Instant(), nullable=False),
        sa.UniqueConstraint("video", "comment_id", name="uq_comments_video_comment_id"),
    )


def _make_assignments() -> None:
    op.create_table(
        "assignments",
        *_video("assignments"),
        sa.Column("assignment_id", sa.Text(), nullable=False),
        sa.Column("frames", sa.JSON(), nullable=False),
        sa.Column("annotators", sa.JSON(), nullable=False),
        sa.Column("submitted", sa.JSON(), nullable=False),
        _text("author"),
        sa.Column("created_at", Instant(), nullable=False),
        _text("adjudicator"),
        sa.Column("adjudicated_at", Instant(), nullable=True),
        _integer("adjudicated_revision"),
        sa.UniqueConstraint("video", "assignment_id", name="uq_assignments_video_assignment_id"),
    )
    op.create_table(
        "assigned_labels",
        sa.Column("assignment", _KEY, nullable=False),
        sa.Column("annotator", sa.Text(), nullable=False),
        sa.Column("frame", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("is_frame_class", sa.Boolean(), nullable=False),
        sa.Column("name", _SORTED_TEXT, nullable=False),
        _text("class_name"),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("written_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment"], ["assignments.key"], name="fk_assigned_labels_assignment", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "assignment", "annotator", "frame", "is_frame_class", "name", name="pk_assigned_labels"
        ),
    )
