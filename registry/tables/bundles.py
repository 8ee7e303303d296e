"""Tables of bundles: what was written for deployment, and of which adapters."""

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .adapters import Adapter
from .bytes import Manifest
from .fused import Fused
from .record import DIGEST, Record


class Bundle(Record):
    """Something deployable that `materialize` wrote: what, where, when and with which digest."""

    __tablename__ = "bundle"

    id: Mapped[int] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(String(32))
    path: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    fused_id: Mapped[int | None] = mapped_column(ForeignKey("fused.id"), index=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))

    manifest: Mapped[Manifest] = relationship()
    fused: Mapped[Fused | None] = relationship()
    adapters: Mapped[list[Adapter]] = relationship(secondary="bundle_adapter", order_by="Adapter.id")


class BundleAdapter(Record):
    """Which adapters a bundle holds."""

    __tablename__ = "bundle_adapter"

    bundle_id: Mapped[int] = mapped_column(ForeignKey("bundle.id"), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapter.id"), primary_key=True, index=True)
