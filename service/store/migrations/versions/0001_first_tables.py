"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service.store.schema import Instant

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "projects",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), server_default="", nullable=False),
        sa.Column("ontology", sa.JSON(), nullable=False),
        sa.Column("served", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("edits", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_projects"),
        sa.UniqueConstraint("project_id", name="uq_projects_project_id"),
    )
    op.create_table(
        "requests",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "request_id", name="pk_requests"),
    )
    op.create_index("ix_requests_created_at", "requests", ["created_at"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("project", _KEY, nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("video_id", sa.Text(), server_default="", nullable=False),
        sa.Column("author", sa.Text(), server_default="", nullable=False),
        sa.Column("tries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("beat", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), server_default="", nullable=False),
        sa.Column("finish_early", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("checkpoint", sa.JSON(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("error_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("error_class", sa.Text(), server_default="", nullable=False),
        sa.Column("error_message", sa.Text(), server_default="", nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("started_at", Instant(), nullable=True),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(["project"], ["projects.key"], name="fk_jobs_project", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name="pk_jobs"),
        sa.UniqueConstraint("job_id", name="uq_jobs_job_id"),
    )
    op.create_index("ix_jobs_project", "jobs", ["project"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state"], unique=False)
    op.create_table(
        "models",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("project", _KEY, nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("display_name", sa.Text(), server_default="", nullable=False),
        sa.Column("parent_version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("recipe", sa.Text(), server_default="", nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("label_revisions", sa.JSON(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.key"], name="fk_models_project", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name="pk_models"),
        sa.UniqueConstraint("project", "model_id", "version", name="uq_models_project_model_id_version"),
    )
    op.create_table(
        "uploads",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("project", _KEY, nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), server_default="", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sha256", sa.Text(), server_default="", nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("video_id", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.key"], name="fk_uploads_project", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name="pk_uploads"),
        sa.UniqueConstraint("project", "upload_id", name="uq_uploads_project_upload_id"),
    )
    op.create_table(
        "videos",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("project", _KEY, nullable=False),
        sa.Column("video_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("source_path", sa.Text(), server_default="", nullable=False),
        sa.Column("blob", sa.Text(), server_default="", nullable=False),
        sa.Column("content_hash", sa.Text(), server_default="", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("frame_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("width_px", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("height_px", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("frame_table", sa.JSON(), nullable=True),
        sa.Column("probe_job_id", sa.Text(), server_default="", nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("label_revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.key"], name="fk_videos_project", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name="pk_videos"),
        sa.UniqueConstraint("project", "video_id", name="uq_videos_project_video_id"),
    )
    op.create_table(
        "job_events",
        sa.Column("job", _KEY, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("picture", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.key"], name="fk_job_events_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", "sequence", name="pk_job_events"),
    )
    op.create_table(
        "labels",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("video", _KEY, nullable=False),
        sa.Column("frame", sa.BigInteger(), nullable=False),
        sa.Column("is_frame_class", sa.Boolean(), nullable=False),
        sa.Column("name", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("class_name", sa.Text(), server_default="", nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("by_human", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=True),
        sa.Column("author", sa.Text(), server_default="", nullable=False),
        sa.Column("job_id", sa.Text(), server_default="", nullable=False),
        sa.Column("written_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["video"], ["videos.key"], name="fk_labels_video", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name="pk_labels"),
        sa.UniqueConstraint(
            "video",
            "frame",
            "is_frame_class",
            "name",
            "revision",
            name="uq_labels_video_frame_is_frame_class_name_revision",
        ),
    )
    op.create_index(
        "ix_labels_anchors",
        "labels",
        ["video", "frame", "is_frame_class", "name"],
        unique=False,
        sqlite_where=sa.text("is_current IS TRUE AND by_human AND payload IS NOT NULL"),
        postgresql_where=sa.text("is_current IS TRUE AND by_human AND payload IS NOT NULL"),
    )
    op.create_index(
        "ix_labels_current",
        "labels",
        ["video", "frame", "is_frame_class", "name"],
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    )
