"""Assigned labels refer to a video, like all other rows about a video."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service.store.schema import Instant

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_SORTED_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table again; it was never written to."""
    op.drop_table("assigned_labels")
    op.create_table(
        "assigned_labels",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("video", _KEY, nullable=False),
        sa.Column("assignment", _KEY, nullable=False),
        sa.Column("annotator", sa.Text(), nullable=False),
        sa.Column("frame", sa.BigInteger(), nullable=False),
        sa.Column("is_frame_class", sa.Boolean(), nullable=False),
        sa.Column("name", _SORTED_TEXT, nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("written_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["video"], ["videos.key"], name="fk_assigned_labels_video", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["assignment"], ["assignments.key"], name="fk_assigned_labels_assignment", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name="pk_assigned_labels"),
        sa.UniqueConstraint(
            "assignment",
            "annotator",
            "frame",
            "is_frame_class",
            "name",
            name="uq_assigned_labels_of_annotator",
        ),
    )
