"""What a base model holds, whatever its files are called and however its tensors are spread over them.

Revision: 0005
Revises: 0004
Created: 2026-11-25
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    # Of bases that are there it is not known until somebody has to read them anyway.
    with op.batch_alter_table("base_model") as table:
        table.add_column(sa.Column("content", sa.String(64), nullable=True))
        table.create_index(op.f("ix_base_model_content"), ["content"])


def downgrade() -> None:
    with op.batch_alter_table("base_model") as table:
        table.drop_index(op.f("ix_base_model_content"))
        table.drop_column("content")
