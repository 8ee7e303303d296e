"""Tables of fused artifacts: what was computed from a base, adapters and a recipe, and how much of the update it holds."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .adapters import Adapter
from .bases import BaseModel
from .bytes import Manifest
from .record import DIGEST, DOCUMENT, Record, one_of


class Fused(Record):
    """A fused artifact: the standalone model computed from a base, an adapter and a recipe.  Its bytes are a cache.

    `origin` is the id of the registry that says so, null where it was made here.  The `key` of what was not made here is
    one of its own (`foreign.foreign_key`), so that nothing that looks for an artifact by its key finds a claim.
    """

    __tablename__ = "fused"
    __table_args__ = (
        CheckConstraint(one_of("precision", "keep", "dither", "mixed", "dequantize"), name="precision"),
        CheckConstraint(one_of("verdict", "PASS", "DEGRADED", "LOST"), name="verdict"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(DIGEST, unique=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), index=True)
    recipe: Mapped[dict[str, Any]]
    engine: Mapped[str] = mapped_column(String(200))
    precision: Mapped[str] = mapped_column(String(16))
    quantization: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    origin: Mapped[str | None] = mapped_column(String(36))
    seconds: Mapped[float]
    verdict: Mapped[str] = mapped_column(String(8))
    retained: Mapped[float | None]
    cosine: Mapped[float | None]
    relative_error: Mapped[float | None]
    noise: Mapped[float | None]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))
    used_at: Mapped[datetime]

    base: Mapped[BaseModel] = relationship()
    adapter: Mapped[Adapter] = relationship()
    manifest: Mapped[Manifest] = relationship()
    modules: Mapped[list["ModuleFidelity"]] = relationship(order_by="ModuleFidelity.module")
    extras: Mapped[list["FusedExtra"]] = relationship(order_by="FusedExtra.position")


class FusedExtra(Record):
    """A further adapter of a linear combination, and its weight."""

    __tablename__ = "fused_extra"

    fused_id: Mapped[int] = mapped_column(ForeignKey("fused.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), index=True)
    weight: Mapped[float]

    adapter: Mapped[Adapter] = relationship()


class ModuleFidelity(Record):
    """How much of the intended update one module's written weights hold."""

    __tablename__ = "module_fidelity"

    fused_id: Mapped[int] = mapped_column(ForeignKey("fused.id"), primary_key=True)
    module: Mapped[str] = mapped_column(String(600), primary_key=True)
    norm: Mapped[float]
    retained: Mapped[float | None]
    cosine: Mapped[float | None]
    relative_error: Mapped[float | None]
