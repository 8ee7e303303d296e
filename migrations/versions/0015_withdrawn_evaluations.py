"""Evaluations that were recorded wrongly are withdrawn: since when, by whom and why.

Revision: 0015
Revises: 0014
Created: 2026-11-27
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    # Null in all that is there, so that no seal changes.
    op.add_column("evaluation", sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("evaluation", sa.Column("withdrawn_by", sa.String(200), nullable=True))
    op.add_column("evaluation", sa.Column("withdrawn_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    # Without these columns a wrong value would count again.  The log's entries say what it was, and why it went.
    evaluation = sa.table("evaluation", sa.column("withdrawn_at"))
    op.execute(sa.delete(evaluation).where(evaluation.c.withdrawn_at.is_not(None)))
    op.drop_column("evaluation", "withdrawn_reason")
    op.drop_column("evaluation", "withdrawn_by")
    op.drop_column("evaluation", "withdrawn_at")
