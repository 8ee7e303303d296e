"""Calibrations, sums of adapters, noise beside what is retained, and whether mlx wrote a base.

Revision: 0002
Revises: 0001
Created: 2026-11-25
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

DIGEST = sa.String(64)
MOMENT = sa.DateTime(timezone=True)


def primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def foreign(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{target.partition('.')[0]}")
    return sa.ForeignKeyConstraint([column], [target], name=name)


def check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def indexes(table: str, *columns: str) -> None:
    for column in columns:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])


def upgrade() -> None:
    create_calibration()
    create_fused_extra()
    add_written_by_mlx()
    with op.batch_alter_table("fused") as table:
        table.add_column(sa.Column("noise", sa.Double(), nullable=True))
    resize_module(300, 600)


def downgrade() -> None:
    # PostgreSQL refuses where a module's name no longer fits, and then nothing is changed.
    resize_module(600, 300)
    with op.batch_alter_table("fused") as table:
        table.drop_column("noise")
    with op.batch_alter_table("base_model") as table:
        table.drop_column("written_by_mlx")
    op.drop_table("fused_extra")
    op.drop_table("calibration")


def create_calibration() -> None:
    """Create the table of what was measured of bases' layers."""
    op.create_table(
        "calibration",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("prompts", sa.String(200), nullable=False),
        sa.Column("prompts_digest", DIGEST, nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("engine", sa.String(200), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        primary("calibration", "id"),
        unique("calibration", "base_id", "digest"),
        foreign("calibration", "base_id", "base_model.id"),
        foreign("calibration", "manifest_id", "manifest.id"),
        check("calibration", "tokens", "tokens > 0"),
        check("calibration", "rank", "rank > 0"),
    )
    indexes("calibration", "base_id", "digest", "manifest_id")


def create_fused_extra() -> None:
    """Create the table of the further adapters of a sum."""
    op.create_table(
        "fused_extra",
        sa.Column("fused_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        primary("fused_extra", "fused_id", "position"),
        foreign("fused_extra", "adapter_id", "adapter.id"),
        foreign("fused_extra", "fused_id", "fused.id"),
    )
    indexes("fused_extra", "adapter_id")


def add_written_by_mlx() -> None:
    """Add the column, true for every base there is: whatever could be fused until now is taken by name."""
    with op.batch_alter_table("base_model") as table:
        table.add_column(sa.Column("written_by_mlx", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("base_model") as table:
        table.alter_column(
            "written_by_mlx", existing_type=sa.Boolean(), existing_nullable=False, server_default=None
        )


def resize_module(old: int, new: int) -> None:
    """Change how long the name of a module may be."""
    with op.batch_alter_table("module_fidelity") as table:
        table.alter_column(
            "module", existing_type=sa.String(old), type_=sa.String(new), existing_nullable=False
        )
