"""A calibration may be for one adapter, whose fused model's scales and biases were learned.

Revision: 0019
Revises: 0018
Created: 2026-11-28
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    # Null in all that is there, so that no seal changes.
    op.add_column("calibration", sa.Column("adapter", sa.String(64), nullable=True))


def downgrade() -> None:
    # Nothing that fuses was made with them is lost, but an earlier version takes the newest calibration for every adapter.
    op.execute(sa.text("DELETE FROM calibration WHERE adapter IS NOT NULL"))
    op.drop_column("calibration", "adapter")
