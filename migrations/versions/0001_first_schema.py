"""The first schema: every table of the registry.

Revision: 0001
Revises: nothing
Created: 2026-11-30
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
WHOLE, LARGE, YES = sa.Integer(), sa.BigInteger(), sa.Boolean()
REAL: sa.Double[float] = sa.Double()
TEXT, DIGEST, DAY, MOMENT = sa.Text(), sa.String(64), sa.Date(), sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

Columns = list[sa.Column[Any]]


def upgrade() -> None:
    METADATA.create_all(op.get_bind())


def downgrade() -> None:
    METADATA.drop_all(op.get_bind())


def text(length: int) -> sa.String:
    return sa.String(length)


def sorted_text(length: int) -> sa.String:
    return text(length).with_variant(sa.String(length, collation="C"), "postgresql")


def of(kind: Any, *names: str, **options: Any) -> Columns:
    return [sa.Column(name, kind, **{"nullable": False, **options}) for name in names]


def maybe(kind: Any, *names: str, **options: Any) -> Columns:
    return of(kind, *names, nullable=True, **options)


def to(target: str, *names: str, ondelete: str | None = None, **options: Any) -> Columns:
    return [
        column for name in names for column in of(sa.ForeignKey(target, ondelete=ondelete), name, **options)
    ]


def stamp(event: str = "", **options: Any) -> Columns:
    """Return the columns that say when something happened, and who did it."""
    return [*of(MOMENT, f"{event}at", **options), *of(text(200), f"{event}by", **options)]


def checks(**conditions: str) -> list[sa.CheckConstraint]:
    return [sa.CheckConstraint(condition, name=name) for name, condition in conditions.items()]


def table(name: str, *parts: Any) -> None:
    """Declare a table; its primary key is a number of its own unless some columns are the key."""
    items = [item for part in parts for item in (part if isinstance(part, list) else [part])]
    if not any(isinstance(item, sa.Column) and item.primary_key for item in items):
        items = [sa.Column("id", WHOLE, primary_key=True), *items]
    sa.Table(name, METADATA, *items)


table(
    "blob",
    of(DIGEST, "digest", primary_key=True),
    of(LARGE, "size"),
    of(WHOLE, "generation"),
    of(text(8), "state", index=True),
    maybe(REAL, "tomb_expires"),
    of(MOMENT, "created_at"),
    checks(size="size >= 0", state="state IN ('pending', 'ready', 'deleting', 'absent')"),
)
table(
    "intent",
    of(DIGEST, "digest", index=True),
    of(text(200), "owner"),
    of(REAL, "expires", index=True),
    sa.UniqueConstraint("digest", "owner"),
)
table(
    "lease",
    of(text(100), "key", primary_key=True),
    of(text(200), "owner"),
    of(LARGE, "fence"),
    of(REAL, "expires"),
)
table("manifest", of(DIGEST, "digest", unique=True), of(LARGE, "size"))
table(
    "manifest_file",
    to("manifest.id", "manifest_id", primary_key=True, ondelete="CASCADE"),
    of(text(512), "path", primary_key=True),
    of(LARGE, "size"),
    of(DIGEST, "sha256", index=True),
    to("blob.digest", "blob", index=True, nullable=True),
    checks(blob_is_content="blob IS NULL OR blob = sha256", size="size >= 0"),
)
table(
    "tensor",
    to("manifest.id", "manifest_id", primary_key=True, ondelete="CASCADE"),
    of(text(600), "name", primary_key=True),
    of(DIGEST, "digest", index=True),
    maybe(DIGEST, "loose", index=True),
)
table(
    "base_model",
    of(DIGEST, "digest", unique=True),
    maybe(DIGEST, "content", index=True),
    to("manifest.id", "manifest_id", index=True),
    of(text(200), "architecture"),
    of(text(100), "model_type"),
    of(LARGE, "parameters", "bytes"),
    of(text(20), "dtype"),
    maybe(DOCUMENT, "quantization"),
    of(DOCUMENT, "config", "weights"),
    of(YES, "written_by_mlx"),
    maybe(TEXT, "location"),
    stamp("created_"),
    checks(parameters="parameters > 0"),
)
table(
    "base_name",
    to("base_model.id", "base_id", index=True),
    of(text(200), "name"),
    of(text(200), "folded", unique=True),
    of(MOMENT, "created_at"),
)
table(
    "base_revision",
    to("base_model.id", "base_id", index=True),
    of(TEXT, "source"),
    of(text(200), "revision"),
    of(MOMENT, "created_at"),
    sa.UniqueConstraint("base_id", "source", "revision"),
)
table(
    "calibration",
    to("base_model.id", "base_id", index=True),
    of(DIGEST, "digest", index=True),
    to("manifest.id", "manifest_id", index=True),
    of(text(200), "prompts", "engine"),
    of(DIGEST, "prompts_digest"),
    of(LARGE, "tokens"),
    of(WHOLE, "rank"),
    maybe(DIGEST, "adapter"),
    stamp("created_"),
    sa.UniqueConstraint("base_id", "digest"),
    checks(rank="rank > 0", tokens="tokens > 0"),
)
table("task", of(text(128), "name", unique=True))
table(
    "dataset",
    of(text(500), "name"),
    of(text(200), "revision"),
    of(DIGEST, "digest"),
    maybe(LARGE, "examples"),
    sa.UniqueConstraint("name", "revision", "digest"),
)
table(
    "adapter",
    to("task.id", "task_id"),
    of(WHOLE, "version", "layers"),
    of(DAY, "date"),
    of(sorted_text(200), "name", unique=True),
    of(sorted_text(200), "created_by"),
    to("base_model.id", "base_id", index=True),
    to("manifest.id", "manifest_id", index=True),
    of(DIGEST, "digest", index=True),
    of(text(8), "method"),
    maybe(WHOLE, "rank", "iterations"),
    maybe(REAL, "alpha", "scale", "val_loss"),
    of(DOCUMENT, "target_modules", "training"),
    of(LARGE, "trainable_parameters", "total_parameters"),
    to("dataset.id", "dataset_id", index=True, nullable=True),
    maybe(LARGE, "examples"),
    to("adapter.id", "parent_id", index=True, nullable=True),
    maybe(DIGEST, "trained_on", index=True),
    maybe(text(200), "trained_on_name"),
    maybe(TEXT, "note"),
    of(MOMENT, "created_at"),
    sa.UniqueConstraint("task_id", "version"),
    sa.Index(None, "alpha", "id"),
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "created_by", "id"),
    sa.Index(None, "date", "id"),
    sa.Index(None, "examples", "id"),
    sa.Index(None, "iterations", "id"),
    sa.Index(None, "layers", "id"),
    sa.Index(None, "method", "id"),
    sa.Index(None, "rank", "id"),
    sa.Index(None, "scale", "id"),
    sa.Index(None, "trainable_parameters", "id"),
    sa.Index(None, "val_loss", "id"),
    sa.Index(None, "version", "id"),
    checks(
        method="method IN ('lora', 'dora', 'full')", rank="rank IS NULL OR rank > 0", version="version > 0"
    ),
)
table(
    "adapter_tag",
    to("adapter.id", "adapter_id", primary_key=True),
    of(text(128), "key", primary_key=True),
    of(text(500), "value"),
    sa.Index(None, "key", "value"),
)
table(
    "adapter_finding",
    to("adapter.id", "adapter_id", index=True),
    of(text(100), "code"),
    of(text(8), "severity"),
    of(TEXT, "subject", "message", "hint"),
    checks(severity="severity IN ('error', 'warning', 'info')"),
)
table(
    "adapter_rendering",
    to("adapter.id", "adapter_id", primary_key=True),
    of(text(8), "form", primary_key=True),
    of(DIGEST, "digest", index=True),
    to("manifest.id", "manifest_id", index=True),
    of(MOMENT, "created_at"),
    checks(form="form IN ('mlx', 'peft')"),
)
table(
    "adapter_source",
    to("adapter.id", "adapter_id", primary_key=True),
    of(WHOLE, "position", primary_key=True),
    to("adapter.id", "source_id", index=True),
)
table(
    "curve_point",
    to("adapter.id", "adapter_id", primary_key=True),
    of(WHOLE, "iteration", primary_key=True),
    maybe(REAL, "train_loss", "val_loss", "learning_rate"),
)
table(
    "training_run",
    to("adapter.id", "adapter_id", primary_key=True),
    maybe(WHOLE, "checkpoint", "last_iteration", "best_iteration"),
    of(text(9), "chosen"),
    maybe(REAL, "last_val_loss", "best_val_loss", "seconds"),
    of(text(8), "state"),
    of(text(6), "source"),
    maybe(MOMENT, "started_at"),
    maybe(LARGE, "trained_tokens", "peak_memory"),
    maybe(text(64), "git_commit"),
    maybe(YES, "git_dirty"),
    maybe(DOCUMENT, "machine", "versions", "arguments", "dataset_files"),
    checks(
        checkpoint="checkpoint IS NULL OR checkpoint >= 0",
        chosen="chosen IN ('best', 'last', 'iteration')",
        source="source IN ('record', 'log', 'config')",
        state="state IN ('finished', 'stopped', 'unknown')",
    ),
)
table(
    "evaluation",
    to("adapter.id", "adapter_id"),
    of(text(200), "metric"),
    of(REAL, "value"),
    maybe(YES, "higher_is_better"),
    maybe(REAL, "stderr"),
    of(text(300), "dataset"),
    of(text(100), "split", "harness"),
    maybe(text(100), "harness_version", "task_version"),
    maybe(WHOLE, "shots"),
    maybe(LARGE, "seed", "samples"),
    maybe(DIGEST, "source"),
    stamp(),
    stamp("withdrawn_", nullable=True),
    maybe(TEXT, "withdrawn_reason"),
    sa.Index(None, "adapter_id", "metric"),
    sa.Index(None, "metric", "value"),
    checks(
        samples="samples IS NULL OR samples >= 0",
        shots="shots IS NULL OR shots >= 0",
        stderr="stderr IS NULL OR stderr >= 0",
    ),
)
table(
    "amendment",
    to("adapter.id", "adapter_id", index=True),
    of(text(140), "field"),
    of(TEXT, "before", "after", "reason"),
    stamp(),
    of(MOMENT, "since"),
)
table(
    "fused",
    of(DIGEST, "key", unique=True),
    to("base_model.id", "base_id", index=True),
    to("adapter.id", "adapter_id", index=True),
    of(DOCUMENT, "recipe"),
    of(text(200), "engine"),
    of(text(16), "precision"),
    maybe(DOCUMENT, "quantization"),
    to("manifest.id", "manifest_id", index=True),
    of(DIGEST, "digest", index=True),
    of(LARGE, "bytes"),
    maybe(text(36), "origin"),
    of(REAL, "seconds"),
    of(text(8), "verdict"),
    maybe(REAL, "retained", "cosine", "relative_error", "noise"),
    stamp("created_"),
    of(MOMENT, "used_at"),
    checks(
        precision="precision IN ('keep', 'dither', 'mixed', 'dequantize')",
        verdict="verdict IN ('PASS', 'DEGRADED', 'LOST')",
    ),
)
table(
    "fused_extra",
    to("fused.id", "fused_id", primary_key=True),
    of(WHOLE, "position", primary_key=True),
    to("adapter.id", "adapter_id", index=True),
    of(REAL, "weight"),
)
table(
    "module_fidelity",
    to("fused.id", "fused_id", primary_key=True),
    of(text(600), "module", primary_key=True),
    of(REAL, "norm"),
    maybe(REAL, "retained", "cosine", "relative_error"),
)
table(
    "alias",
    to("task.id", "task_id"),
    of(text(128), "name"),
    to("adapter.id", "adapter_id", index=True, nullable=True),
    sa.UniqueConstraint("task_id", "name"),
)
table(
    "alias_move",
    to("alias.id", "alias_id"),
    to("adapter.id", "from_adapter_id", "to_adapter_id", nullable=True),
    of(TEXT, "reason"),
    stamp(),
    sa.Index(None, "alias_id", "at"),
)
table(
    "alias_rule",
    of(text(128), "task", "alias"),
    of(YES, "guarded"),
    of(DOCUMENT, "rules"),
    stamp("created_"),
    sa.UniqueConstraint("task", "alias"),
)
table(
    "approval",
    to("adapter.id", "adapter_id"),
    of(text(128), "alias"),
    of(TEXT, "note"),
    stamp(),
    maybe(MOMENT, "withdrawn_at"),
    maybe(YES, "authenticated"),
    sa.Index(None, "adapter_id", "alias"),
)
table(
    "yank",
    to("adapter.id", "adapter_id", index=True),
    of(TEXT, "reason"),
    stamp(),
    stamp("lifted_", nullable=True),
)
table(
    "bundle",
    of(text(32), "target"),
    of(TEXT, "path"),
    of(DIGEST, "digest", index=True),
    to("manifest.id", "manifest_id", index=True),
    to("fused.id", "fused_id", index=True, nullable=True),
    stamp("created_"),
)
table(
    "bundle_adapter",
    to("bundle.id", "bundle_id", primary_key=True),
    to("adapter.id", "adapter_id", primary_key=True, index=True),
)
table(
    "deployment",
    to("bundle.id", "bundle_id", index=True, nullable=True),
    to("fused.id", "fused_id", index=True, nullable=True),
    to("adapter.id", "adapter_id", index=True, nullable=True),
    of(text(500), "place"),
    of(TEXT, "note"),
    stamp(),
    stamp("ended_", nullable=True),
    maybe(text(40), "via"),
    checks(subject="coalesce(bundle_id, fused_id, adapter_id) IS NOT NULL"),
)
table(
    "signature",
    of(text(20), "subject_kind"),
    of(DIGEST, "subject_digest", index=True),
    of(text(50), "scheme"),
    of(text(200), "key_id"),
    of(TEXT, "envelope"),
    stamp(),
    sa.UniqueConstraint("subject_digest", "key_id", "scheme"),
)
table(
    "trusted_key",
    of(text(200), "key_id", "name", unique=True),
    of(TEXT, "public_key"),
    of(DOCUMENT, "aliases"),
    maybe(YES, "fused"),
    stamp("created_"),
    stamp("revoked_", nullable=True),
)
table(
    "token",
    of(text(200), "name", index=True),
    of(text(20), "role"),
    of(DIGEST, "digest", unique=True),
    stamp("created_"),
    maybe(MOMENT, "expires_at"),
    stamp("revoked_", nullable=True),
    checks(role="role IN ('reader', 'publisher', 'approver', 'admin')"),
)
table(
    "event",
    of(LARGE.with_variant(WHOLE, "sqlite"), "seq", primary_key=True, autoincrement=False),
    of(MOMENT, "at", index=True),
    of(text(200), "actor"),
    of(text(50), "action"),
    of(text(20), "subject_kind"),
    of(text(300), "subject"),
    of(TEXT, "detail"),
    maybe(TEXT, "seals"),
    of(DIGEST, "previous"),
    of(DIGEST, "hash", unique=True),
    sa.Index(None, "subject_kind", "subject"),
)
table("registry", of(text(36), "store_id"), of(MOMENT, "created_at"), checks(single="id = 1"))
table(
    "webhook",
    of(text(32), "uid", unique=True),
    of(text(128), "name", unique=True),
    of(TEXT, "url"),
    of(DOCUMENT, "actions", "tasks"),
    of(YES, "private"),
    stamp("created_"),
)
table(
    "webhook_delivery",
    to("webhook.id", "webhook_id", primary_key=True),
    of(LARGE, "position"),
    of(WHOLE, "attempts"),
    maybe(text(300), "error"),
    maybe(MOMENT, "next_at", "delivered_at", "disabled_at"),
    checks(attempts="attempts >= 0", position="position >= 0"),
)
