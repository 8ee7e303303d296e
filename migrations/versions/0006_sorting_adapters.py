"""Indexes along which pages of adapters are read, and on PostgreSQL the order of bytes for the texts among them.

Revision: 0006
Revises: 0005
Created: 2026-11-25
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

SORTED = (
    "version",
    "date",
    "method",
    "rank",
    "alpha",
    "scale",
    "layers",
    "val_loss",
    "iterations",
    "examples",
    "trainable_parameters",
    "created_by",
)
TEXTS = ("name", "created_by")


def upgrade() -> None:
    _collate("C")
    op.drop_index("ix_adapter_val_loss", "adapter")
    for column in SORTED:
        op.create_index(f"ix_adapter_{column}_id", "adapter", [column, "id"])


def downgrade() -> None:
    for column in SORTED:
        op.drop_index(f"ix_adapter_{column}_id", "adapter")
    op.create_index("ix_adapter_val_loss", "adapter", ["val_loss"])
    _collate(None)


def _collate(collation: str | None) -> None:
    # SQLite compares bytes anyway.
    if op.get_bind().dialect.name == "postgresql":
        for column in TEXTS:
            op.alter_column("adapter", column, type_=sa.String(200, collation=collation))
