"""Tables about which adapters count: aliases and their moves, and yanks."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .adapters import Adapter, Task
from .record import Record


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
