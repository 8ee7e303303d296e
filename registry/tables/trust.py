"""Tables about who may decide what: rules of aliases, approvals, tokens that count, and where things were deployed."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .adapters import AdapterRow
from .fused import BundleRow, FusedRow
from .record import DIGEST, TableRow, one_of


class AliasRuleRow(TableRow):
    """What an adapter must fulfil before an alias may hold it, as data.

    `task` is the empty string for every task; a rule for one task comes before it.  `guarded`: only `promote` moves the
    alias then, and `alias set`, `remove` and `rollback` refuse.
    """

    __table_args__ = (UniqueConstraint("task", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(String(128), default="")
    alias: Mapped[str] = mapped_column(String(128))
    guarded: Mapped[bool]
    rules: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))


class ApprovalRow(TableRow):
    """Somebody's approval that an alias may hold an adapter; withdrawn if `withdrawn_at` is set.

    `authenticated`: a server knew by a token who gave it; null where a client said its own name.
    """

    __table_args__ = (Index("ix_approval_adapter_id_alias", "adapter_id", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"))
    alias: Mapped[str] = mapped_column(String(128))
    note: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(200))
    withdrawn_at: Mapped[datetime | None]
    authenticated: Mapped[bool | None]

    adapter: Mapped[AdapterRow] = relationship()


class TokenRow(TableRow):
    """A secret of somebody who asks a server, as its digest: under which name, and what they may do.

    Its name is nobody else's until it is revoked, which the only writer sees to: no index of a registry has a condition.
    """

    __table_args__ = (
        CheckConstraint(one_of("role", "reader", "publisher", "approver", "admin"), name="role"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), index=True)
    role: Mapped[str] = mapped_column(String(20))
    digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None] = mapped_column(String(200))


class DeploymentRow(TableRow):
    """Where a bundle, a fused model or an adapter runs, as a person or pipeline recorded; ended if `ended_at` is set.

    `via` is what keeps it up to date, such as `sync`; null where somebody said so.
    """

    __table_args__ = (
        CheckConstraint("coalesce(bundle_id, fused_id, adapter_id) IS NOT NULL", name="subject"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    bundle_id: Mapped[int | None] = mapped_column(ForeignKey("bundle.id"), index=True)
    fused_id: Mapped[int | None] = mapped_column(ForeignKey("fused.id"), index=True)
    adapter_id: Mapped[int | None] = mapped_column(ForeignKey("adapter.id"), index=True)
    place: Mapped[str] = mapped_column(String(500))
    note: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(200))
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[str | None] = mapped_column(String(200))
    via: Mapped[str | None] = mapped_column(String(40))

    bundle: Mapped[BundleRow | None] = relationship()
    fused: Mapped[FusedRow | None] = relationship()
    adapter: Mapped[AdapterRow | None] = relationship()
