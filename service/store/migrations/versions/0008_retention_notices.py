"""Deletions by retention are announced a day of running time ahead."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("videos", sa.Column("expiry_announced", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("videos", sa.Column("notice_seconds", sa.BigInteger(), server_default="0", nullable=False))
