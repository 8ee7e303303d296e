"""Tables about events that are sent out: whom they are sent to, and how far that has come."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .record import Record


class Webhook(Record):
    """A receiver of events: where it is, and which events it gets.

    `uid` and `url` are what its signing key is derived from; the key itself is in no row.  `actions` and `tasks` are patterns with
    `*` and `?`; without tasks, events of every task and of none are sent.
    """

    __tablename__ = "webhook"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    url: Mapped[str] = mapped_column(Text)
    actions: Mapped[list[str]]
    tasks: Mapped[list[str]]
    private: Mapped[bool]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))

    delivery: Mapped["WebhookDelivery"] = relationship(back_populates="webhook", cascade="all, delete-orphan")


class WebhookDelivery(Record):
    """How far the delivery to a webhook has come.  No statement about what exists: it changes without an entry of the log.

    Up to `position`, a number of the log, everything was delivered, passed over, or for others.  `attempts` are those that failed
    since then, at the first event behind it.
    """

    __tablename__ = "webhook_delivery"
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

    webhook: Mapped[Webhook] = relationship(back_populates="delivery")
