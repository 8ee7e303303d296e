"""Tables of adapters: tasks, datasets, the adapters with what is known of their training, evaluations, aliases and yanks."""

from datetime import date, datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .bases import BaseModelRow, ManifestRow, SignatureRow
from .record import DIGEST, DOCUMENT, Attributed, Json, Numbered, TableRow, one_of, sorted_text


class TaskRow(Numbered, TableRow):
    """The purpose of adapters; versions count up within a task."""

    name: Mapped[str] = mapped_column(String(128), unique=True)


class DatasetRow(Numbered, TableRow):
    """What an adapter was trained on, as far as it is known.  Unknown parts are the empty string, so that the constraint binds."""

    __table_args__ = (UniqueConstraint("name", "revision", "digest"),)

    name: Mapped[str] = mapped_column(String(500))
    revision: Mapped[str] = mapped_column(String(200), default="")
    digest: Mapped[str] = mapped_column(DIGEST, default="")
    examples: Mapped[int | None] = mapped_column(BigInteger)


_INDEXED = (
    "version", "date", "method", "rank", "alpha", "scale", "layers", "val_loss", "iterations", "examples",
    "trainable_parameters", "created_at", "created_by",
)  # fmt: skip
"""Columns of the fields that lists are sorted by, besides its name; a page is read along the index of one."""


class AdapterRow(Numbered, TableRow):
    """One version of one task, immutable once registered, but for declared facts, whose earlier values are in `amendments`."""

    __table_args__ = (
        UniqueConstraint("task_id", "version"),
        CheckConstraint(one_of("method", "lora", "dora", "full"), name="method"),
        CheckConstraint("version > 0", name="version"),
        CheckConstraint("rank IS NULL OR rank > 0", name="rank"),
        *(Index(f"ix_adapter_{column}_id", column, "id") for column in _INDEXED),
    )

    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"))
    version: Mapped[int]
    date: Mapped[date]
    name: Mapped[str] = mapped_column(sorted_text(200), unique=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    method: Mapped[str] = mapped_column(String(8))
    rank: Mapped[int | None]
    alpha: Mapped[float | None]
    scale: Mapped[float | None]
    layers: Mapped[int]
    target_modules: Mapped[list[str]]
    trainable_parameters: Mapped[int] = mapped_column(BigInteger)
    total_parameters: Mapped[int] = mapped_column(BigInteger)
    val_loss: Mapped[float | None]
    iterations: Mapped[int | None]
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("dataset.id"), index=True)
    examples: Mapped[int | None] = mapped_column(BigInteger)
    training: Mapped[Json]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("adapter.id"), index=True)
    trained_on: Mapped[str | None] = mapped_column(DIGEST, index=True)
    trained_on_name: Mapped[str | None] = mapped_column(String(200))
    note: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(sorted_text(200))

    task: Mapped[TaskRow] = relationship()
    base: Mapped[BaseModelRow] = relationship()
    manifest: Mapped[ManifestRow] = relationship()
    dataset: Mapped[DatasetRow | None] = relationship()
    parent: Mapped["AdapterRow | None"] = relationship(remote_side="AdapterRow.id")
    tags: Mapped[list["AdapterTagRow"]] = relationship(order_by="AdapterTagRow.key")
    findings: Mapped[list["AdapterFindingRow"]] = relationship(order_by="AdapterFindingRow.id")
    renderings: Mapped[list["AdapterRenderingRow"]] = relationship(order_by="AdapterRenderingRow.form")
    amendments: Mapped[list["AmendmentRow"]] = relationship(order_by="AmendmentRow.id")
    sources: Mapped[list["AdapterSourceRow"]] = relationship(
        order_by="AdapterSourceRow.position", foreign_keys="AdapterSourceRow.adapter_id"
    )
    evaluations: Mapped[list["EvaluationRow"]] = relationship(order_by="EvaluationRow.id")
    run: Mapped["TrainingRunRow | None"] = relationship(viewonly=True)
    signatures: Mapped[list[SignatureRow]] = relationship(
        primaryjoin="foreign(SignatureRow.subject_digest) == AdapterRow.digest",
        order_by="SignatureRow.id",
        viewonly=True,
    )
    curve: Mapped[list["CurvePointRow"]] = relationship(order_by="CurvePointRow.iteration", viewonly=True)


class AdapterSourceRow(TableRow):
    """An adapter that another one was computed from, by the recipe in that one's configuration; not its training's parent."""

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), index=True)

    source: Mapped[AdapterRow] = relationship(foreign_keys=[source_id])


class AdapterTagRow(TableRow):
    """One `key=value` of an adapter."""

    __table_args__ = (Index("ix_adapter_tag_key_value", "key", "value"),)

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[str] = mapped_column(String(500))


class AdapterFindingRow(Numbered, TableRow):
    """What admission found when the adapter was registered: warnings and remarks, since errors keep it out."""

    __table_args__ = (CheckConstraint(one_of("severity", "error", "warning", "info"), name="severity"),)

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), index=True)
    code: Mapped[str] = mapped_column(String(100))
    severity: Mapped[str] = mapped_column(String(8))
    subject: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    hint: Mapped[str] = mapped_column(Text, default="")


class AdapterRenderingRow(TableRow):
    """The other form of an adapter: the files that are computed from it, by their digests.  Their bytes are not stored."""

    __table_args__ = (CheckConstraint(one_of("form", "mlx", "peft"), name="form"),)

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    form: Mapped[str] = mapped_column(String(8), primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    created_at: Mapped[datetime]

    manifest: Mapped[ManifestRow] = relationship()


class AdapterSketchRow(TableRow):
    """A sketch of an adapter's update, by which similar ones are found; a full fine-tune and an update of zero have none."""

    __table_args__ = (CheckConstraint("length(numbers) = 512", name="numbers"),)

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    numbers: Mapped[str] = mapped_column(String(512))


class CurvePointRow(TableRow):
    """One point of an adapter's training curve."""

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    iteration: Mapped[int] = mapped_column(primary_key=True)
    train_loss: Mapped[float | None]
    val_loss: Mapped[float | None]
    learning_rate: Mapped[float | None]


class TrainingRunRow(TableRow):
    """The run that made an adapter's weights; `best_` and `last_` are of the whole run, `peak_memory` is in bytes."""

    __table_args__ = (
        CheckConstraint("checkpoint IS NULL OR checkpoint >= 0", name="checkpoint"),
        CheckConstraint(one_of("chosen", "best", "last", "iteration"), name="chosen"),
        CheckConstraint(one_of("state", "finished", "stopped", "unknown"), name="state"),
        CheckConstraint(one_of("source", "record", "log", "config"), name="source"),
    )

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    checkpoint: Mapped[int | None]
    chosen: Mapped[str] = mapped_column(String(9))
    last_iteration: Mapped[int | None]
    last_val_loss: Mapped[float | None]
    best_iteration: Mapped[int | None]
    best_val_loss: Mapped[float | None]
    state: Mapped[str] = mapped_column(String(8))
    source: Mapped[str] = mapped_column(String(6))
    started_at: Mapped[datetime | None]
    seconds: Mapped[float | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    peak_memory: Mapped[int | None] = mapped_column(BigInteger)
    git_commit: Mapped[str | None] = mapped_column(String(64))
    git_dirty: Mapped[bool | None]
    machine: Mapped[Json | None]
    versions: Mapped[Json | None]
    arguments: Mapped[Json | None]
    dataset_files: Mapped[list[Json] | None] = mapped_column(DOCUMENT)


class AmendmentRow(Numbered, TableRow):
    """One correction of a declared fact: from `before` to `after` (canonical JSON), made `at`, and known here `since`."""

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), index=True)
    field: Mapped[str] = mapped_column(String(140))
    before: Mapped[str] = mapped_column(Text)
    after: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[datetime]
    since: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(200))


class EvaluationRow(Numbered, Attributed, TableRow):
    """One metric that was measured of an adapter; unknown texts of its setting are empty, `source` is the digest of a file."""

    __table_args__ = (
        CheckConstraint("stderr IS NULL OR stderr >= 0", name="stderr"),
        CheckConstraint("shots IS NULL OR shots >= 0", name="shots"),
        CheckConstraint("samples IS NULL OR samples >= 0", name="samples"),
        # The newest of an adapter's values, and a list along the values of all.
        Index("ix_evaluation_adapter_id_metric", "adapter_id", "metric"),
        Index("ix_evaluation_metric_value", "metric", "value"),
    )

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"))
    metric: Mapped[str] = mapped_column(String(200))
    value: Mapped[float]
    higher_is_better: Mapped[bool | None]
    stderr: Mapped[float | None]
    dataset: Mapped[str] = mapped_column(String(300), default="")
    split: Mapped[str] = mapped_column(String(100), default="")
    harness: Mapped[str] = mapped_column(String(100), default="")
    harness_version: Mapped[str | None] = mapped_column(String(100))
    task_version: Mapped[str | None] = mapped_column(String(100))
    shots: Mapped[int | None]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    samples: Mapped[int | None] = mapped_column(BigInteger)
    source: Mapped[str | None] = mapped_column(DIGEST)
    withdrawn_at: Mapped[datetime | None]
    withdrawn_by: Mapped[str | None] = mapped_column(String(200))
    withdrawn_reason: Mapped[str | None] = mapped_column(Text)


class AliasRow(Numbered, TableRow):
    """A movable name on a task, such as `prod`.  A null adapter means that it was taken away."""

    __table_args__ = (UniqueConstraint("task_id", "name"),)

    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"))
    name: Mapped[str] = mapped_column(String(128))
    adapter_id: Mapped[int | None] = mapped_column(ForeignKey("adapter.id"), index=True)

    task: Mapped[TaskRow] = relationship()
    adapter: Mapped[AdapterRow | None] = relationship()


class AliasMoveRow(Numbered, Attributed, TableRow):
    """One move of an alias: from which adapter to which, when, by whom and why."""

    __table_args__ = (Index("ix_alias_move_alias_id_at", "alias_id", "at"),)

    alias_id: Mapped[int] = mapped_column(ForeignKey("alias.id"))
    from_adapter_id: Mapped[int | None] = mapped_column(ForeignKey("adapter.id"))
    to_adapter_id: Mapped[int | None] = mapped_column(ForeignKey("adapter.id"))
    reason: Mapped[str] = mapped_column(Text, default="")


class YankRow(Numbered, Attributed, TableRow):
    """A withdrawal: the adapter stays on record, and is neither fused nor shipped until it is lifted."""

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), index=True)
    reason: Mapped[str] = mapped_column(Text)
    lifted_at: Mapped[datetime | None]
    lifted_by: Mapped[str | None] = mapped_column(String(200))
