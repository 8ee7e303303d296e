"""Tables about what happened: the registry itself, its log, and to whom events are sent."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .record import DIGEST, Made, Numbered, TableRow


class RegistryRow(Numbered, TableRow):
    """The one row that says which store belongs to this database."""

    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    store_id: Mapped[str] = mapped_column(String(36))
    created_at: Mapped[datetime]


class EventRow(TableRow):
    """One entry of the append-only log; its `hash` covers it and `previous`."""

    __table_args__ = (Index(None, "subject_kind", "subject"),)

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False
    )
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(50))
    subject_kind: Mapped[str] = mapped_column(String(20))
    subject: Mapped[str] = mapped_column(String(300))
    detail: Mapped[str] = mapped_column(Text)  # canonical JSON as text: its bytes are hashed
    seals: Mapped[str | None] = mapped_column(Text)  # of the transaction's records; see `database.sealing`
    previous: Mapped[str] = mapped_column(DIGEST)
    hash: Mapped[str] = mapped_column(DIGEST, unique=True)


class WebhookRow(Numbered, Made, TableRow):
    """A receiver of events by patterns of actions and tasks; `uid` and `url` are what its signing key is derived from."""

    uid: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    url: Mapped[str] = mapped_column(Text)
    actions: Mapped[list[str]]
    tasks: Mapped[list[str]]
    private: Mapped[bool]

    delivery: Mapped["WebhookDeliveryRow"] = relationship(
        back_populates="webhook", cascade="all, delete-orphan"
    )


class WebhookDeliveryRow(TableRow):
    """The log entry up to which a webhook is done, and the attempts at the next; it changes without an entry of the log."""

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
