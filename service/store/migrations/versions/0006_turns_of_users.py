"""Turns of users, so that the queue is fair between users as well."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, and the index to find a user's last turn."""
    op.add_column("jobs", sa.Column("turn", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("ix_jobs_author_turn", "jobs", ["author", "turn"], unique=False)
