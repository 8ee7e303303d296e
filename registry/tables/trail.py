"""Tables about what happened: the registry itself, its log, and to whom events are sent."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .record import DIGEST, TableRow


class RegistryRow(TableRow):
    """The one row that says which store belongs to this database."""

    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    store_id: Mapped[str] = mapped_column(String(36))
    created_at: Mapped[datetime]


class EventRow(TableRow):
    """One entry of the append-only log.

    `hash` covers the entry and `previous`.  `detail` is the canonical JSON as text, because its bytes are hashed; so is
    `seals`, the digests of the records that the transaction wrote (`database.sealing`), null where it wrote none.
    """

    __table_args__ = (Index(None, "subject_kind", "subject"),)

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


class WebhookRow(TableRow):
    """A receiver of events: where it is, and which events it gets.

    `uid` and `url` are what its signing key is derived from; the key itself is in no row.  `actions` and `tasks` are patterns with
    `*` and `?`; without tasks, events of every task and of none are sent.
    """

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    url: Mapped[str] = mapped_column(Text)
    actions: Mapped[list[str]]
    tasks: Mapped[list[str]]
    private: Mapped[bool]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))

    delivery: Mapped["WebhookDeliveryRow"] = relationship(
        back_populates="webhook", cascade="all, delete-orphan"
    )


class WebhookDeliveryRow(TableRow):
    """How far the delivery to a webhook has come.  No statement about what exists: it changes without an entry of the log.

    Up to `position`, a number of the log, everything was delivered, passed over, or for others.  `attempts` are those that failed
    since then, at the first event behind it.
    """

    __table_args__ = (
        CheckConstraint("position >= 0", name="position"),
        CheckConstraint("attempts >= 0", name="attempts"),
    )

    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhook.id"), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int]
    error: Mapped[str | None] = mapped_column(String(300))
    next_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]

    webhook: Mapped[WebhookRow] = relationship(back_populates="delivery")
