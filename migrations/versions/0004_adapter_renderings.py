"""The other forms of adapters, by their digests.

Revision: 0004
Revises: 0003
Created: 2026-11-25
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

TABLE = "adapter_rendering"


def foreign(column: str, target: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{TABLE}_{column}_{target.partition('.')[0]}")
    return sa.ForeignKeyConstraint([column], [target], name=name)


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("form", sa.String(8), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("adapter_id", "form", name=op.f(f"pk_{TABLE}")),
        foreign("adapter_id", "adapter.id"),
        foreign("manifest_id", "manifest.id"),
        sa.CheckConstraint("form IN ('mlx', 'peft')", name=op.f(f"ck_{TABLE}_form")),
    )
    for column in ("digest", "manifest_id"):
        op.create_index(op.f(f"ix_{TABLE}_{column}"), TABLE, [column])


def downgrade() -> None:
    # A rendering is computed from its adapter; only the digest that proves it is lost.
    op.drop_table(TABLE)
