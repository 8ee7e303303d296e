"""Tables of signatures, and of the keys that count."""

from datetime import datetime

from sqlalchemy import String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .record import DIGEST, Record


class TrustedKey(Record):
    """A public key whose signatures count, and for which aliases: patterns such as `*#prod` and `course_rec#*`.

    `fused`: a fused artifact of another registry counts as if it had been made here when this key has signed it.
    """

    __tablename__ = "trusted_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(String(200), unique=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    public_key: Mapped[str] = mapped_column(Text)
    aliases: Mapped[list[str]]
    fused: Mapped[bool | None]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None] = mapped_column(String(200))


class Signature(Record):
    """A signature over a digest: the envelope as it was made, with the key that made it."""

    __tablename__ = "signature"
    __table_args__ = (UniqueConstraint("subject_digest", "key_id", "scheme"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    subject_kind: Mapped[str] = mapped_column(String(20))
    subject_digest: Mapped[str] = mapped_column(DIGEST, index=True)
    scheme: Mapped[str] = mapped_column(String(50))
    key_id: Mapped[str] = mapped_column(String(200))
    envelope: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(200))

    key: Mapped[TrustedKey | None] = relationship(
        primaryjoin="foreign(Signature.key_id) == TrustedKey.key_id", viewonly=True
    )
