"""The adapters that an adapter was computed from.

Revision: 0013
Revises: 0012
Created: 2026-11-27
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None

TABLE = "adapter_source"


def foreign(column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], ["adapter.id"], name=op.f(f"fk_{TABLE}_{column}_adapter"))


def upgrade() -> None:
    # No row for what there is, so that no seal changes.
    op.create_table(
        TABLE,
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("adapter_id", "position", name=op.f(f"pk_{TABLE}")),
        foreign("adapter_id"),
        foreign("source_id"),
    )
    op.create_index(op.f(f"ix_{TABLE}_source_id"), TABLE, ["source_id"])


def downgrade() -> None:
    # The recipe with the digests of the sources stays in the adapter's configuration.
    op.drop_table(TABLE)
