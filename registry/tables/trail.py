"""Tables about what happened: the registry itself, aliases and their moves, bundles, yanks, events."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .adapters import Adapter, Task
from .bytes import Manifest
from .fused import Fused
from .record import DIGEST, Record


class Registry(Record):
    """The one row that says which store belongs to this database."""

    __tablename__ = "registry"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    store_id: Mapped[str] = mapped_column(String(36))
    created_at: Mapped[datetime]


class Alias(Record):
    """A movable name on a task, such as `prod`.  A null adapter means that it was taken away."""

    __tablename__ = "alias"
    __table_args__ = (UniqueConstraint("task_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"))
    name: Mapped[str] = mapped_column(String(128))
    adapter_id: Mapped[int | None] = mapped_column(ForeignKey("adapter.id"), index=True)

    task: Mapped[Task] = relationship()
    adapter: Mapped[Adapter | None] = relationship()


class AliasMove(Record):
    """One move of an alias: from which adapter to which, when, by whom and why."""

    __tablename__ = "alias_move"
    __table_args__ = (Index("ix_alias_move_alias_id_at", "alias_id", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    alias_id: Mapped[int] = mapped_column(ForeignKey("alias.id"))
    from_adapter_id: Mapped[int | None] = mapped_column(ForeignKey("adapter.id"))
    to_adapter_id: Mapped[int | None] = mapped_column(ForeignKey("adapter.id"))
    reason: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(200))


class Bundle(Record):
    """Something deployable that `materialize` wrote: what, where, when and with which digest."""

    __tablename__ = "bundle"

    id: Mapped[int] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(String(32))
    path: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    fused_id: Mapped[int | None] = mapped_column(ForeignKey("fused.id"), index=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))

    manifest: Mapped[Manifest] = relationship()
    fused: Mapped[Fused | None] = relationship()
    adapters: Mapped[list[Adapter]] = relationship(secondary="bundle_adapter", order_by="Adapter.id")


class BundleAdapter(Record):
    """Which adapters a bundle holds."""

    __tablename__ = "bundle_adapter"

    bundle_id: Mapped[int] = mapped_column(ForeignKey("bundle.id"), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), primary_key=True, index=True)


class Yank(Record):
    """A withdrawal: the adapter stays on record, and is neither fused nor shipped until it is lifted."""

    __tablename__ = "yank"

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), index=True)
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(200))
    lifted_at: Mapped[datetime | None]
    lifted_by: Mapped[str | None] = mapped_column(String(200))


class Event(Record):
    """One entry of the append-only log.

    `hash` covers the entry and `previous`.  `detail` is the canonical JSON as text, because its bytes are hashed; so is
    `seals`, the digests of the records that the transaction wrote (`database.sealing`), null where it wrote none.
    """

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_subject", "subject_kind", "subject"),)

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False
    )
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(50))
    subject_kind: Mapped[str] = mapped_column(String(20))
    subject: Mapped[str] = mapped_column(String(300))
    detail: Mapped[str] = mapped_column(Text)
    seals: Mapped[str | None] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(DIGEST)
    hash: Mapped[str] = mapped_column(DIGEST, unique=True)
