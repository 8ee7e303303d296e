"""Sketches of updates, by which similar adapters are found.  Adapters that are there have none: pulled into a new registry, they get one.

Revision: 0002
Revises: 0001
Created: 2026-12-01
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "adapter_sketch",
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("numbers", sa.String(512), nullable=False),
        sa.CheckConstraint("length(numbers) = 512", name=op.f("ck_adapter_sketch_numbers")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name="fk_adapter_sketch_adapter_id_adapter"),
        sa.PrimaryKeyConstraint("adapter_id", name="pk_adapter_sketch"),
    )
