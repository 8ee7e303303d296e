"""Tables of fused artifacts and bundles: what was computed or written of which adapters."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, Text, and_
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from .adapters import AdapterRow
from .bases import BaseModelRow, ManifestRow
from .record import DIGEST, DOCUMENT, Json, Made, Numbered, TableRow, one_of
from .trail import EventRow


class FusedRow(Numbered, Made, TableRow):
    """A model computed from a base, an adapter and a recipe; one that the registry `origin` claims has a key of its own."""

    __table_args__ = (
        CheckConstraint(one_of("precision", "keep", "dither", "mixed", "dequantize"), name="precision"),
        CheckConstraint(one_of("verdict", "PASS", "UNSURE", "DEGRADED", "LOST"), name="verdict"),
    )

    key: Mapped[str] = mapped_column(DIGEST, unique=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), index=True)
    recipe: Mapped[Json]
    engine: Mapped[str] = mapped_column(String(200))
    precision: Mapped[str] = mapped_column(String(16))
    quantization: Mapped[Json | None] = mapped_column(DOCUMENT)
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
    used_at: Mapped[datetime]

    base: Mapped[BaseModelRow] = relationship()
    adapter: Mapped[AdapterRow] = relationship()
    manifest: Mapped[ManifestRow] = relationship()
    modules: Mapped[list["ModuleFidelityRow"]] = relationship(order_by="ModuleFidelityRow.module")
    extras: Mapped[list["FusedExtraRow"]] = relationship(order_by="FusedExtraRow.position")
    answered: Mapped[list[EventRow]] = relationship(
        primaryjoin=lambda: and_(
            foreign(EventRow.subject) == FusedRow.key,
            EventRow.subject_kind == "fused",
            EventRow.action == "fused.answered",
        ),
        order_by=EventRow.seq,
        viewonly=True,
    )


class FusedExtraRow(TableRow):
    """A further adapter of a linear combination, and its weight."""

    fused_id: Mapped[int] = mapped_column(ForeignKey("fused.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), index=True)
    weight: Mapped[float]

    adapter: Mapped[AdapterRow] = relationship()


class ModuleFidelityRow(TableRow):
    """How much of the intended update one module's written weights hold."""

    fused_id: Mapped[int] = mapped_column(ForeignKey("fused.id"), primary_key=True)
    module: Mapped[str] = mapped_column(String(600), primary_key=True)
    norm: Mapped[float]
    retained: Mapped[float | None]
    cosine: Mapped[float | None]
    relative_error: Mapped[float | None]


class BundleRow(Numbered, Made, TableRow):
    """Something deployable that `materialize` wrote: what, where, when and with which digest."""

    target: Mapped[str] = mapped_column(String(32))
    path: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    fused_id: Mapped[int | None] = mapped_column(ForeignKey("fused.id"), index=True)

    manifest: Mapped[ManifestRow] = relationship()
    fused: Mapped[FusedRow | None] = relationship()
    adapters: Mapped[list[AdapterRow]] = relationship(secondary="bundle_adapter", order_by="AdapterRow.id")


class BundleAdapterRow(TableRow):
    """Which adapters a bundle holds."""

    bundle_id: Mapped[int] = mapped_column(ForeignKey("bundle.id"), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), primary_key=True, index=True)
