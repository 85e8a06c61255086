"""Adapted models: what micro-models learn from corrections outlives the session process."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service.store.schema import Instant

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table, and a column for the adapted model that a correction led to."""
    op.create_table(
        "learned_states",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("video", _KEY, nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["video"], ["videos.key"], name="fk_learned_states_video", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name="pk_learned_states"),
        sa.UniqueConstraint("video", "model_version", "number", name="uq_learned_states_video_model_version_number"),
    )
    op.add_column("changes", sa.Column("learned", sa.BigInteger(), server_default="0", nullable=False))
