"""Seals of records; rules of aliases, approvals, keys that count, deployments; tensors by what they hold.

Revision: 0008
Revises: 0007
Created: 2026-11-25
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None

DIGEST = sa.String(64)
MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def foreign(table: str, column: str, target: str, ondelete: str | None = None) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{target.partition('.')[0]}")
    return sa.ForeignKeyConstraint([column], [target], name=name, ondelete=ondelete)


def indexes(table: str, *columns: str) -> None:
    for column in columns:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])


def upgrade() -> None:
    # Not as a batch: that makes the table anew, and loses the triggers that guard it.
    op.add_column("event", sa.Column("seals", sa.Text(), nullable=True))
    create_alias_rule()
    create_approval()
    create_trusted_key()
    create_deployment()
    create_tensor()


def downgrade() -> None:
    for table in ("tensor", "deployment", "trusted_key", "approval", "alias_rule"):
        op.drop_table(table)
    # Entries with seals no longer have the hash that is recorded of them: the chain says so from then on.
    op.drop_column("event", "seals")


def create_alias_rule() -> None:
    """Create the table of what an adapter has to fulfil for an alias."""
    op.create_table(
        "alias_rule",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task", sa.String(128), nullable=False),
        sa.Column("alias", sa.String(128), nullable=False),
        sa.Column("guarded", sa.Boolean(), nullable=False),
        sa.Column("rules", DOCUMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        primary("alias_rule", "id"),
        unique("alias_rule", "task", "alias"),
    )


def create_approval() -> None:
    """Create the table of who has approved of what."""
    op.create_table(
        "approval",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(128), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("withdrawn_at", MOMENT, nullable=True),
        primary("approval", "id"),
        foreign("approval", "adapter_id", "adapter.id"),
    )
    op.create_index("ix_approval_adapter_id_alias", "approval", ["adapter_id", "alias"])


def create_trusted_key() -> None:
    """Create the table of keys whose signatures count."""
    op.create_table(
        "trusted_key",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(200), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("aliases", DOCUMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("revoked_at", MOMENT, nullable=True),
        sa.Column("revoked_by", sa.String(200), nullable=True),
        primary("trusted_key", "id"),
        unique("trusted_key", "key_id"),
        unique("trusted_key", "name"),
    )


def create_deployment() -> None:
    """Create the table of what runs where."""
    op.create_table(
        "deployment",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("bundle_id", sa.Integer(), nullable=True),
        sa.Column("fused_id", sa.Integer(), nullable=True),
        sa.Column("adapter_id", sa.Integer(), nullable=True),
        sa.Column("place", sa.String(500), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("ended_by", sa.String(200), nullable=True),
        primary("deployment", "id"),
        foreign("deployment", "bundle_id", "bundle.id"),
        foreign("deployment", "fused_id", "fused.id"),
        foreign("deployment", "adapter_id", "adapter.id"),
        sa.CheckConstraint(
            "coalesce(bundle_id, fused_id, adapter_id) IS NOT NULL", name=op.f("ck_deployment_subject")
        ),
    )
    indexes("deployment", "bundle_id", "fused_id", "adapter_id")


def create_tensor() -> None:
    """Create the table of tensors by their digests."""
    op.create_table(
        "tensor",
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(600), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("loose", DIGEST, nullable=True),
        primary("tensor", "manifest_id", "name"),
        foreign("tensor", "manifest_id", "manifest.id", ondelete="CASCADE"),
    )
    indexes("tensor", "digest", "loose")
