"""Tables about who may decide what: rules of aliases, approvals, tokens that count, and where things were deployed."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .adapters import AdapterRow
from .fused import BundleRow, FusedRow
from .record import DIGEST, Attributed, Json, Made, Numbered, TableRow, one_of


class AliasRuleRow(Numbered, Made, TableRow):
    """The rules of an alias of a task, or of every task (an empty string); if `guarded`, only a promotion moves it."""

    __table_args__ = (UniqueConstraint("task", "alias"),)

    task: Mapped[str] = mapped_column(String(128), default="")
    alias: Mapped[str] = mapped_column(String(128))
    guarded: Mapped[bool]
    rules: Mapped[Json]


class ApprovalRow(Numbered, Attributed, TableRow):
    """An approval that an alias may hold an adapter; `authenticated` if a server knew the user by a token."""

    __table_args__ = (Index("ix_approval_adapter_id_alias", "adapter_id", "alias"),)

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"))
    alias: Mapped[str] = mapped_column(String(128))
    note: Mapped[str] = mapped_column(Text, default="")
    withdrawn_at: Mapped[datetime | None]
    authenticated: Mapped[bool | None]

    adapter: Mapped[AdapterRow] = relationship()


class TokenRow(Numbered, Made, TableRow):
    """A secret of a client of a server, as its digest, with a name that is unique until it is revoked, and a role."""

    __table_args__ = (
        CheckConstraint(one_of("role", "reader", "publisher", "approver", "admin"), name="role"),
    )

    name: Mapped[str] = mapped_column(String(200), index=True)
    role: Mapped[str] = mapped_column(String(20))
    digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None] = mapped_column(String(200))


class DeploymentRow(Numbered, Attributed, TableRow):
    """Where a bundle, a fused model or an adapter runs; `via` is what keeps it up to date, such as `sync`."""

    __table_args__ = (
        CheckConstraint("coalesce(bundle_id, fused_id, adapter_id) IS NOT NULL", name="subject"),
    )

    bundle_id: Mapped[int | None] = mapped_column(ForeignKey("bundle.id"), index=True)
    fused_id: Mapped[int | None] = mapped_column(ForeignKey("fused.id"), index=True)
    adapter_id: Mapped[int | None] = mapped_column(ForeignKey("adapter.id"), index=True)
    place: Mapped[str] = mapped_column(String(500))
    note: Mapped[str] = mapped_column(Text, default="")
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[str | None] = mapped_column(String(200))
    via: Mapped[str | None] = mapped_column(String(40))

    bundle: Mapped[BundleRow | None] = relationship()
    fused: Mapped[FusedRow | None] = relationship()
    adapter: Mapped[AdapterRow | None] = relationship()
