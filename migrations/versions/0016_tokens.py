"""Tokens of a server for teams, and approvals that were given with one.

Revision: 0016
Revises: 0015
Created: 2026-11-27
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "token",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.String(200), nullable=True),
        sa.CheckConstraint(
            "role IN ('reader', 'publisher', 'approver', 'admin')", name=op.f("ck_token_role")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_token_digest")),
    )
    op.create_index("ix_token_name", "token", ["name"])
    # Null in all that is there, so that no seal changes: nobody knows who gave it.
    op.add_column("approval", sa.Column("authenticated", sa.Boolean(), nullable=True))


def downgrade() -> None:
    # An approval stays, as one of whom a client said that they gave it: its seal is another one from then on.
    op.drop_column("approval", "authenticated")
    op.drop_table("token")
