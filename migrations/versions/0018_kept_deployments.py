"""A deployment says what keeps it up to date, where that is not somebody who says so.

Revision: 0018
Revises: 0017
Created: 2026-11-28
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    # Null in all that is there, so that no seal changes.
    op.add_column("deployment", sa.Column("via", sa.String(40), nullable=True))


def downgrade() -> None:
    # The deployments stay, as if somebody had said so; a later sync takes none of them for its own.
    op.drop_column("deployment", "via")
