"""The first schema: every table of the registry.

Revision: 0001
Revises: nothing
Created: 2026-11-25
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
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


def check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def drop(*tables: str) -> None:
    for table in tables:
        op.drop_table(table)


def indexes(table: str, *each: str) -> None:
    for columns in each:
        op.create_index(op.f(f"ix_{table}_{columns.replace(' ', '_')}"), table, columns.split())


def upgrade() -> None:
    create_bytes()
    create_bases()
    create_adapters()
    create_adapter_details()
    create_fused()
    create_aliases()
    create_bundles()
    create_log()


def downgrade() -> None:
    drop("signature", "event")
    drop("bundle_adapter", "bundle")
    drop("yank", "alias_move", "alias", "registry")
    drop("module_fidelity", "fused")
    drop("curve_point", "adapter_finding", "adapter_tag")
    drop("adapter", "dataset", "task")
    drop("base_revision", "base_name", "base_model")
    drop("manifest_file", "manifest", "lease", "intent", "blob")


def create_bytes() -> None:
    """Create the tables of what is known about bytes."""
    op.create_table(
        "blob",
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("tomb_expires", sa.Double(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        primary("blob", "digest"),
        check("blob", "size", "size >= 0"),
        check("blob", "state", "state IN ('pending', 'ready', 'deleting', 'absent')"),
    )
    indexes("blob", "state")
    op.create_table(
        "intent",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        primary("intent", "id"),
        unique("intent", "digest", "owner"),
    )
    indexes("intent", "digest", "expires")
    op.create_table(
        "lease",
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        primary("lease", "key"),
    )
    op.create_table(
        "manifest",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        primary("manifest", "id"),
        unique("manifest", "digest"),
    )
    op.create_table(
        "manifest_file",
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(512), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", DIGEST, nullable=False),
        sa.Column("blob", DIGEST, nullable=True),
        primary("manifest_file", "manifest_id", "path"),
        foreign("manifest_file", "blob", "blob.digest"),
        foreign("manifest_file", "manifest_id", "manifest.id", ondelete="CASCADE"),
        check("manifest_file", "blob_is_content", "blob IS NULL OR blob = sha256"),
        check("manifest_file", "size", "size >= 0"),
    )
    indexes("manifest_file", "blob", "sha256")


def create_bases() -> None:
    """Create the tables of base models."""
    op.create_table(
        "base_model",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("architecture", sa.String(200), nullable=False),
        sa.Column("model_type", sa.String(100), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("dtype", sa.String(20), nullable=False),
        sa.Column("quantization", DOCUMENT, nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("config", DOCUMENT, nullable=False),
        sa.Column("weights", DOCUMENT, nullable=False),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        primary("base_model", "id"),
        unique("base_model", "digest"),
        foreign("base_model", "manifest_id", "manifest.id"),
        check("base_model", "parameters", "parameters > 0"),
    )
    indexes("base_model", "manifest_id")
    op.create_table(
        "base_name",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("folded", sa.String(200), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        primary("base_name", "id"),
        unique("base_name", "folded"),
        foreign("base_name", "base_id", "base_model.id"),
    )
    indexes("base_name", "base_id")
    op.create_table(
        "base_revision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("revision", sa.String(200), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        primary("base_revision", "id"),
        unique("base_revision", "base_id", "source", "revision"),
        foreign("base_revision", "base_id", "base_model.id"),
    )
    indexes("base_revision", "base_id")


def create_adapters() -> None:
    """Create the tables of adapters, and what they are for and from."""
    op.create_table(
        "task",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        primary("task", "id"),
        unique("task", "name"),
    )
    op.create_table(
        "dataset",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("revision", sa.String(200), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("examples", sa.BigInteger(), nullable=True),
        primary("dataset", "id"),
        unique("dataset", "name", "revision", "digest"),
    )
    op.create_table(
        "adapter",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("method", sa.String(8), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("alpha", sa.Double(), nullable=True),
        sa.Column("scale", sa.Double(), nullable=True),
        sa.Column("layers", sa.Integer(), nullable=False),
        sa.Column("target_modules", DOCUMENT, nullable=False),
        sa.Column("trainable_parameters", sa.BigInteger(), nullable=False),
        sa.Column("total_parameters", sa.BigInteger(), nullable=False),
        sa.Column("val_loss", sa.Double(), nullable=True),
        sa.Column("iterations", sa.Integer(), nullable=True),
        sa.Column("dataset_id", sa.Integer(), nullable=True),
        sa.Column("examples", sa.BigInteger(), nullable=True),
        sa.Column("training", DOCUMENT, nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        primary("adapter", "id"),
        unique("adapter", "name"),
        unique("adapter", "task_id", "version"),
        foreign("adapter", "base_id", "base_model.id"),
        foreign("adapter", "dataset_id", "dataset.id"),
        foreign("adapter", "manifest_id", "manifest.id"),
        foreign("adapter", "parent_id", "adapter.id"),
        foreign("adapter", "task_id", "task.id"),
        check("adapter", "method", "method IN ('lora', 'dora', 'full')"),
        check("adapter", "rank", "rank IS NULL OR rank > 0"),
        check("adapter", "version", "version > 0"),
    )
    indexes(
        "adapter", "base_id", "created_at id", "dataset_id", "digest", "manifest_id", "parent_id", "val_loss"
    )


def create_adapter_details() -> None:
    """Create the tables of what an adapter has many of."""
    op.create_table(
        "adapter_tag",
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("value", sa.String(500), nullable=False),
        primary("adapter_tag", "adapter_id", "key"),
        foreign("adapter_tag", "adapter_id", "adapter.id"),
    )
    indexes("adapter_tag", "key value")
    op.create_table(
        "adapter_finding",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(100), nullable=False),
        sa.Column("severity", sa.String(8), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        primary("adapter_finding", "id"),
        foreign("adapter_finding", "adapter_id", "adapter.id"),
        check("adapter_finding", "severity", "severity IN ('error', 'warning', 'info')"),
    )
    indexes("adapter_finding", "adapter_id")
    op.create_table(
        "curve_point",
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("iteration", sa.Integer(), nullable=False),
        sa.Column("train_loss", sa.Double(), nullable=True),
        sa.Column("val_loss", sa.Double(), nullable=True),
        sa.Column("learning_rate", sa.Double(), nullable=True),
        primary("curve_point", "adapter_id", "iteration"),
        foreign("curve_point", "adapter_id", "adapter.id"),
    )


def create_fused() -> None:
    """Create the tables of fused artifacts."""
    op.create_table(
        "fused",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", DIGEST, nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("recipe", DOCUMENT, nullable=False),
        sa.Column("engine", sa.String(200), nullable=False),
        sa.Column("precision", sa.String(16), nullable=False),
        sa.Column("quantization", DOCUMENT, nullable=True),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("verdict", sa.String(8), nullable=False),
        sa.Column("retained", sa.Double(), nullable=True),
        sa.Column("cosine", sa.Double(), nullable=True),
        sa.Column("relative_error", sa.Double(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("used_at", MOMENT, nullable=False),
        primary("fused", "id"),
        unique("fused", "key"),
        foreign("fused", "adapter_id", "adapter.id"),
        foreign("fused", "base_id", "base_model.id"),
        foreign("fused", "manifest_id", "manifest.id"),
        check("fused", "precision", "precision IN ('keep', 'dither', 'mixed', 'dequantize')"),
        check("fused", "verdict", "verdict IN ('PASS', 'DEGRADED', 'LOST')"),
    )
    indexes("fused", "adapter_id", "base_id", "digest", "manifest_id")
    op.create_table(
        "module_fidelity",
        sa.Column("fused_id", sa.Integer(), nullable=False),
        sa.Column("module", sa.String(300), nullable=False),
        sa.Column("norm", sa.Double(), nullable=False),
        sa.Column("retained", sa.Double(), nullable=True),
        sa.Column("cosine", sa.Double(), nullable=True),
        sa.Column("relative_error", sa.Double(), nullable=True),
        primary("module_fidelity", "fused_id", "module"),
        foreign("module_fidelity", "fused_id", "fused.id"),
    )


def create_aliases() -> None:
    """Create the tables of the registry's own row, and what moves or withdraws adapters."""
    op.create_table(
        "registry",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("store_id", sa.String(36), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        primary("registry", "id"),
        check("registry", "single", "id = 1"),
    )
    op.create_table(
        "alias",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=True),
        primary("alias", "id"),
        unique("alias", "task_id", "name"),
        foreign("alias", "adapter_id", "adapter.id"),
        foreign("alias", "task_id", "task.id"),
    )
    indexes("alias", "adapter_id")
    op.create_table(
        "alias_move",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("alias_id", sa.Integer(), nullable=False),
        sa.Column("from_adapter_id", sa.Integer(), nullable=True),
        sa.Column("to_adapter_id", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        primary("alias_move", "id"),
        foreign("alias_move", "alias_id", "alias.id"),
        foreign("alias_move", "from_adapter_id", "adapter.id"),
        foreign("alias_move", "to_adapter_id", "adapter.id"),
    )
    indexes("alias_move", "alias_id at")
    op.create_table(
        "yank",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("lifted_at", MOMENT, nullable=True),
        sa.Column("lifted_by", sa.String(200), nullable=True),
        primary("yank", "id"),
        foreign("yank", "adapter_id", "adapter.id"),
    )
    indexes("yank", "adapter_id")


def create_bundles() -> None:
    """Create the tables of what was shipped."""
    op.create_table(
        "bundle",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(32), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("manifest_id", sa.Integer(), nullable=False),
        sa.Column("fused_id", sa.Integer(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        primary("bundle", "id"),
        foreign("bundle", "fused_id", "fused.id"),
        foreign("bundle", "manifest_id", "manifest.id"),
    )
    indexes("bundle", "digest", "fused_id", "manifest_id")
    op.create_table(
        "bundle_adapter",
        sa.Column("bundle_id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        primary("bundle_adapter", "bundle_id", "adapter_id"),
        foreign("bundle_adapter", "adapter_id", "adapter.id"),
        foreign("bundle_adapter", "bundle_id", "bundle.id"),
    )
    indexes("bundle_adapter", "adapter_id")


def create_log() -> None:
    """Create the tables of the log and its signatures."""
    op.create_table(
        "event",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(50), nullable=False),
        sa.Column("subject_kind", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous", DIGEST, nullable=False),
        sa.Column("hash", DIGEST, nullable=False),
        primary("event", "seq"),
        unique("event", "hash"),
    )
    indexes("event", "at")
    op.create_index(op.f("ix_event_subject"), "event", ["subject_kind", "subject"])
    op.create_table(
        "signature",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("subject_kind", sa.String(20), nullable=False),
        sa.Column("subject_digest", DIGEST, nullable=False),
        sa.Column("scheme", sa.String(50), nullable=False),
        sa.Column("key_id", sa.String(200), nullable=False),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        primary("signature", "id"),
        unique("signature", "subject_digest", "key_id", "scheme"),
    )
    indexes("signature", "subject_digest")
