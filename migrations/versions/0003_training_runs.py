"""Training runs: where an adapter's weights come from within the run that made them.

Revision: 0003
Revises: 0002
Created: 2026-11-25
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TABLE = "training_run"


def check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{TABLE}_{name}"))


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("checkpoint", sa.Integer(), nullable=True),
        sa.Column("chosen", sa.String(9), nullable=False),
        sa.Column("last_iteration", sa.Integer(), nullable=True),
        sa.Column("last_val_loss", sa.Double(), nullable=True),
        sa.Column("best_iteration", sa.Integer(), nullable=True),
        sa.Column("best_val_loss", sa.Double(), nullable=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("source", sa.String(6), nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("peak_memory", sa.BigInteger(), nullable=True),
        sa.Column("git_commit", sa.String(64), nullable=True),
        sa.Column("git_dirty", sa.Boolean(), nullable=True),
        sa.Column("machine", DOCUMENT, nullable=True),
        sa.Column("versions", DOCUMENT, nullable=True),
        sa.Column("arguments", DOCUMENT, nullable=True),
        sa.Column("dataset_files", DOCUMENT, nullable=True),
        sa.PrimaryKeyConstraint("adapter_id", name=op.f(f"pk_{TABLE}")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name=op.f(f"fk_{TABLE}_adapter_id_adapter")),
        check("checkpoint", "checkpoint IS NULL OR checkpoint >= 0"),
        check("chosen", "chosen IN ('best', 'last', 'iteration')"),
        check("state", "state IN ('finished', 'stopped', 'unknown')"),
        check("source", "source IN ('record', 'log', 'config')"),
    )


def downgrade() -> None:
    # A run's facts are in its folder too; the registry of the release before has no place for them.
    op.drop_table(TABLE)
