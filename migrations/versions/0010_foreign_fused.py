"""Fused artifacts of other registries, and keys whose signatures over such artifacts count.

Revision: 0010
Revises: 0009
Created: 2026-11-26
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    # Which of the artifacts that are there came from elsewhere only the log knows; `registry.upgrade` reads it, and seals
    # what it changes.  Null everywhere else, so that no seal of what is there changes.
    with op.batch_alter_table("fused") as table:
        table.add_column(sa.Column("origin", sa.String(36), nullable=True))
    with op.batch_alter_table("trusted_key") as table:
        table.add_column(sa.Column("fused", sa.Boolean(), nullable=True))


def downgrade() -> None:
    # What came from elsewhere stays on record under its own key, under which nobody looks for it.
    with op.batch_alter_table("trusted_key") as table:
        table.drop_column("fused")
    with op.batch_alter_table("fused") as table:
        table.drop_column("origin")
