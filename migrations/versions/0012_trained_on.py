"""The base that an adapter was trained on, where it is registered for another: name and digest, as they were said.

Revision: 0012
Revises: 0011
Created: 2026-11-26
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    # Null in all that is there, so that no seal changes.  No reference to a row: the fact outlives the base, and comes to
    # registries that do not have it (decision 30).
    op.add_column("adapter", sa.Column("trained_on", sa.String(64), nullable=True))
    op.add_column("adapter", sa.Column("trained_on_name", sa.String(200), nullable=True))
    op.create_index(op.f("ix_adapter_trained_on"), "adapter", ["trained_on"])


def downgrade() -> None:
    # What was said stays in the log's entry of the registration.
    op.drop_index(op.f("ix_adapter_trained_on"), "adapter")
    op.drop_column("adapter", "trained_on_name")
    op.drop_column("adapter", "trained_on")
