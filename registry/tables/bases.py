"""Tables of base models: what they are, what they are called, where they came from, and their calibrations."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .bytes import Manifest
from .record import DIGEST, Record


class BaseModel(Record):
    """A frozen model that adapters are trained on.

    `location` is set when its files are referenced and not copied.  `weights` says of each module which shape, dtype and
    bits its weight has, so that an adapter can be held against the base without its files.  `written_by_mlx`: its weight
    files say so, and their tensors have mlx-lm's names.  `digest` is that of the manifest, `content` of what the files
    hold (`fusery.registry.models.identity`); unknown of bases that were added before it was recorded.
    """

    __tablename__ = "base_model"
    __table_args__ = (CheckConstraint("parameters > 0", name="parameters"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    content: Mapped[str | None] = mapped_column(DIGEST, index=True)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    architecture: Mapped[str] = mapped_column(String(200))
    model_type: Mapped[str] = mapped_column(String(100))
    parameters: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str] = mapped_column(String(20))
    quantization: Mapped[dict[str, Any] | None]
    bytes: Mapped[int] = mapped_column(BigInteger)
    config: Mapped[dict[str, Any]]
    weights: Mapped[dict[str, Any]]
    written_by_mlx: Mapped[bool]
    location: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))

    manifest: Mapped[Manifest] = relationship()
    names: Mapped[list["BaseName"]] = relationship(order_by="BaseName.id", back_populates="base")
    revisions: Mapped[list["BaseRevision"]] = relationship(order_by="BaseRevision.id")
    calibrations: Mapped[list["Calibration"]] = relationship(order_by="Calibration.id", back_populates="base")

    @property
    def name(self) -> str:
        """The name that is shown: the first that it was given."""
        return self.names[0].name


class BaseName(Record):
    """A name that a base model is known by; the first is the one that is shown.

    `folded` is the name in lower case, and unique: two names that differ in case alone are one folder on many disks.
    """

    __tablename__ = "base_name"

    id: Mapped[int] = mapped_column(primary_key=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    folded: Mapped[str] = mapped_column(String(200), unique=True)
    created_at: Mapped[datetime]

    base: Mapped[BaseModel] = relationship(back_populates="names")


class BaseRevision(Record):
    """Where a base model's bytes came from: a folder, a hub id with its revision, or a GGUF file with its SHA-256."""

    __tablename__ = "base_revision"
    __table_args__ = (UniqueConstraint("base_id", "source", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    source: Mapped[str] = mapped_column(Text)
    revision: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime]


class Calibration(Record):
    """Statistics of the inputs of a base model's linear layers, as a file in the store (`fusery.registry.engine.calibration`).

    `prompts` is the name of the texts it was made from, `prompts_digest` their digest.  `adapter` is the digest of the one
    that it is for, where scales and biases were learned for that one's fused model; null of one for all adapters.
    """

    __tablename__ = "calibration"
    __table_args__ = (
        UniqueConstraint("base_id", "digest"),
        CheckConstraint("tokens > 0", name="tokens"),
        CheckConstraint("rank > 0", name="rank"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    prompts: Mapped[str] = mapped_column(String(200))
    prompts_digest: Mapped[str] = mapped_column(DIGEST)
    tokens: Mapped[int] = mapped_column(BigInteger)
    rank: Mapped[int]
    engine: Mapped[str] = mapped_column(String(200))
    adapter: Mapped[str | None] = mapped_column(DIGEST)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))

    base: Mapped[BaseModel] = relationship(back_populates="calibrations")
    manifest: Mapped[Manifest] = relationship()
