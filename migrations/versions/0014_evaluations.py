"""Evaluations: metrics that were measured of an adapter, each with what it was measured on and with.

Revision: 0014
Revises: 0013
Created: 2026-11-27
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(200), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("higher_is_better", sa.Boolean(), nullable=True),
        sa.Column("stderr", sa.Double(), nullable=True),
        sa.Column("dataset", sa.String(300), nullable=False),
        sa.Column("split", sa.String(100), nullable=False),
        sa.Column("harness", sa.String(100), nullable=False),
        sa.Column("harness_version", sa.String(100), nullable=True),
        sa.Column("task_version", sa.String(100), nullable=True),
        sa.Column("shots", sa.Integer(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("samples", sa.BigInteger(), nullable=True),
        sa.Column("source", sa.String(64), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        sa.CheckConstraint("stderr IS NULL OR stderr >= 0", name=op.f("ck_evaluation_stderr")),
        sa.CheckConstraint("shots IS NULL OR shots >= 0", name=op.f("ck_evaluation_shots")),
        sa.CheckConstraint("samples IS NULL OR samples >= 0", name=op.f("ck_evaluation_samples")),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapter.id"], name=op.f("fk_evaluation_adapter_id_adapter")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation")),
    )
    op.create_index("ix_evaluation_adapter_id_metric", "evaluation", ["adapter_id", "metric"])
    op.create_index("ix_evaluation_metric_value", "evaluation", ["metric", "value"])


def downgrade() -> None:
    # What was measured stays in the log's entries.
    op.drop_table("evaluation")
