"""The tables. Migrations (``migrations/versions``) create them; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

__all__ = [
    "IS_ANCHOR",
    "IS_CURRENT",
    "Instant",
    "assigned_labels",
    "assignments",
    "audit",
    "audit_head",
    "changes",
    "comments",
    "erasures",
    "job_events",
    "jobs",
    "labels",
    "learned_states",
    "members",
    "metadata",
    "models",
    "projects",
    "requests",
    "review_events",
    "tokens",
    "uploads",
    "users",
    "videos",
]

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite auto-increments only INTEGER keys
_SortedText = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # sorts by code point, as Python does


class Instant(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime, stored as microseconds since 1970: equal in every database, and sortable."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        """To microseconds."""
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        """From microseconds."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


def _project_column() -> sa.Column[int]:
    return sa.Column("project", _Key, sa.ForeignKey("projects.key", ondelete="CASCADE"), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _integer(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def _video_column() -> sa.Column[int]:
    return sa.Column("video", _Key, sa.ForeignKey("videos.key", ondelete="CASCADE"), nullable=False)


projects = sa.Table(
    "projects",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False, unique=True),
    _text("display_name"),
    sa.Column("ontology", sa.JSON, nullable=False),
    _integer("served"),  # turn in which a job of it last got a worker, for a fair queue
    _integer("edits"),
    _integer("retention_days"),  # videos older than this are deleted; 0 keeps them
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
)

videos = sa.Table(
    "videos",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _project_column(),
    sa.Column("video_id", sa.Text, nullable=False),
    _text("display_name"),
    _flag("expiry_announced"),  # whether its deletion by retention is announced
    _integer("notice_seconds"),  # running time of the server since then
    sa.Column("state", sa.Text, nullable=False),
    _text("source_path"),
    _text("blob"),
    _text("content_hash"),
    _integer("size_bytes"),
    _integer("frame_count"),
    _integer("width_px"),
    _integer("height_px"),
    sa.Column("frame_table", sa.JSON),
    _text("probe_job_id"),
    _text("error"),
    _integer("label_revision"),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("project", "video_id"),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _project_column(),
    sa.Column("upload_id", sa.Text, nullable=False),
    _text("display_name"),
    _integer("size_bytes"),
    _text("sha256"),
    _integer("offset_bytes"),
    sa.Column("state", sa.Text, nullable=False),
    _text("video_id"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.UniqueConstraint("project", "upload_id"),
)

# Every write of a label adds a row. The newest row of a key has `is_current` set; a partial unique index ensures one
# per key, and also serves the streams.
labels = sa.Table(
    "labels",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("video", _Key, sa.ForeignKey("videos.key", ondelete="CASCADE"), nullable=False),
    sa.Column("frame", sa.BigInteger, nullable=False),
    sa.Column("is_frame_class", sa.Boolean, nullable=False),
    sa.Column("name", _SortedText, nullable=False),
    _text("class_name"),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("is_current", sa.Boolean, nullable=False),
    sa.Column("by_human", sa.Boolean, nullable=False),
    sa.Column("payload", sa.Text),  # NULL: deleted
    _text("author"),
    _text("job_id"),
    sa.Column("written_at", Instant, nullable=False),
    sa.Column("origin", _Key),  # the row that this one copies (moved to another track, or restored); NULL: none
    _text("review"),  # review state of this version: '', 'accepted' or 'rejected'
    _text("reviewed_by"),
    sa.Column("reviewed_at", Instant),
    _flag("locked"),  # belongs to the key rather than the version: copied to the next version
    sa.UniqueConstraint("video", "frame", "is_frame_class", "name", "revision"),
    sa.Index(None, "video", "revision"),
    sa.Index(
        "ix_labels_current",
        "video",
        "frame",
        "is_frame_class",
        "name",
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    ),
    sa.Index(
        "ix_labels_anchors",
        "video",
        "frame",
        "is_frame_class",
        "name",
        sqlite_where=sa.text("is_current IS TRUE AND by_human AND payload IS NOT NULL"),
        postgresql_where=sa.text("is_current IS TRUE AND by_human AND payload IS NOT NULL"),
    ),
)

# SQLite uses a partial index only if the query contains its condition literally; the second condition is worded
# differently ("IS TRUE") so that SQLite does not prefer the first, larger index.
IS_CURRENT = sa.text("labels.is_current")
IS_ANCHOR = sa.text("labels.is_current IS TRUE AND labels.by_human AND labels.payload IS NOT NULL")

# The changes that made the revisions of a video's labels. Consecutive revisions of one job, or of one recomputation
# after a correction, belong to one change.
changes = sa.Table(
    "changes",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _video_column(),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("last_revision", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    _text("author"),
    _text("job_id"),
    _text("model_version"),
    _integer("label_count"),
    _integer("parent"),  # of a recomputation: the revision of its correction
    _integer("undoes"),
    _integer("undone_by"),
    _flag("settled"),  # of a correction: its recomputation has ended
    sa.Column("seconds", sa.Float, nullable=False, server_default="0"),
    _integer("learned"),  # of a correction: number of the adapted model that it led to
    _text("comment"),
    sa.Column("written_at", Instant, nullable=False),
    sa.UniqueConstraint("video", "revision"),
)

# Every review of a label, with the previous state; rows are never changed.
review_events = sa.Table(
    "review_events",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _video_column(),
    sa.Column("label", _Key, sa.ForeignKey("labels.key", ondelete="CASCADE"), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    _text("author"),
    sa.Column("written_at", Instant, nullable=False),
    _text("before_review"),
    _text("before_reviewed_by"),
    sa.Column("before_reviewed_at", Instant),
    _flag("before_locked"),
    sa.Index(None, "video", "revision"),
    sa.Index(None, "label"),
)

comments = sa.Table(
    "comments",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _video_column(),
    sa.Column("comment_id", sa.Text, nullable=False),
    _integer("start_frame"),
    _integer("stop_frame"),
    _text("name"),
    _text("text"),
    _text("author"),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("video", "comment_id"),
)

# The same frames, labeled by two people who do not see each other's labels.
assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _video_column(),
    sa.Column("assignment_id", sa.Text, nullable=False),
    sa.Column("frames", sa.JSON, nullable=False),
    sa.Column("annotators", sa.JSON, nullable=False),
    sa.Column("submitted", sa.JSON, nullable=False),
    _text("author"),
    sa.Column("created_at", Instant, nullable=False),
    _text("adjudicator"),
    sa.Column("adjudicated_at", Instant),
    _integer("adjudicated_revision"),
    sa.UniqueConstraint("video", "assignment_id"),
)

assigned_labels = sa.Table(
    "assigned_labels",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _video_column(),
    sa.Column("assignment", _Key, sa.ForeignKey("assignments.key", ondelete="CASCADE"), nullable=False),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("frame", sa.BigInteger, nullable=False),
    sa.Column("is_frame_class", sa.Boolean, nullable=False),
    sa.Column("name", _SortedText, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("written_at", Instant, nullable=False),
    sa.UniqueConstraint(
        "assignment",
        "annotator",
        "frame",
        "is_frame_class",
        "name",
        name="uq_assigned_labels_of_annotator",
    ),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _project_column(),
    sa.Column("job_id", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    _text("video_id"),
    _text("author"),
    _integer("tries"),
    _integer("turn"),  # turn in which it last got a worker, counted as `projects.served`; 0 before
    _integer("fence"),
    _integer("beat"),  # heartbeat: grows while the lease is held; observers check it with their own clock
    _text("worker"),
    _text("traceparent"),  # of the call that created it
    sa.Column("finish_early", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("checkpoint", sa.JSON, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("result", sa.JSON, nullable=False),
    _text("error_reason"),
    _text("error_class"),
    _text("error_message"),
    _integer("last_sequence"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("started_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Index(None, "state"),
    sa.Index(None, "project"),
    sa.Index(None, "author", "turn"),
)

job_events = sa.Table(
    "job_events",
    metadata,
    sa.Column("job", _Key, sa.ForeignKey("jobs.key", ondelete="CASCADE"), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    _text("picture"),
    sa.Column("created_at", Instant, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _project_column(),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    _text("display_name"),
    _integer("parent_version"),
    _text("recipe"),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("manifest", sa.JSON, nullable=False),
    sa.Column("label_revisions", sa.JSON, nullable=False),
    sa.Column("files", sa.JSON, nullable=False),
    _text("job_id"),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("project", "model_id", "version"),
)

# Adapted models: micro-model versions after learning from corrections of a video; older states are for comparison.
learned_states = sa.Table(
    "learned_states",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _video_column(),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    _integer("revision"),
    sa.Column("files", sa.JSON, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("video", "model_version", "number"),
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("body_sha256", sa.Text, nullable=False),
    sa.Column("answer", sa.JSON, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index(None, "created_at"),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", Instant, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("user", _Key, sa.ForeignKey("users.key", ondelete="CASCADE"), nullable=False),
    sa.Column("token_id", sa.Text, nullable=False, unique=True),
    sa.Column("sha256", sa.Text, nullable=False),  # of the secret, which is not stored
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("revoked_at", Instant),
)

members = sa.Table(
    "members",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    _project_column(),
    sa.Column("user", _Key, sa.ForeignKey("users.key", ondelete="CASCADE"), nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.UniqueConstraint("project", "user"),
)

# No foreign keys: rows outlive the resources they name. Triggers prevent changes and deletions.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", Instant, nullable=False),
    _text("actor"),
    _text("token_id"),
    _text("method"),
    _text("project_id"),
    _text("resource"),
    _integer("revision"),
    _text("outcome"),
    _text("detail"),  # JSON, exactly as hashed
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index(None, "project_id", "sequence"),
)

# One row: the end of the chain. Appending to the chain locks it.
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("one", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

# Videos whose rows are deleted and whose files are not yet; finished after a crash.
erasures = sa.Table(
    "erasures",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("video_id", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("todo", sa.JSON, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
)
