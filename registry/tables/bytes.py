"""Tables about bytes: blobs, the intents that protect them, manifests and their files, leases."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from fusery.storage import manifest as values
from fusery.storage.digest import Digest

from .record import DIGEST, Record, one_of


class Blob(Record):
    """Immutable bytes in the store.  `generation` is part of the name in the store, and never used twice (docs/internals/collection.md)."""

    __tablename__ = "blob"
    __table_args__ = (
        CheckConstraint(one_of("state", "pending", "ready", "deleting", "absent"), name="state"),
        CheckConstraint("size >= 0", name="size"),
    )

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    generation: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(8), index=True)
    tomb_expires: Mapped[float | None]
    created_at: Mapped[datetime]


class Intent(Record):
    """A running command's claim on a blob: the collector spares the blob while the claim is alive."""

    __tablename__ = "intent"
    __table_args__ = (UniqueConstraint("digest", "owner"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    owner: Mapped[str] = mapped_column(String(200))
    expires: Mapped[float] = mapped_column(index=True)


class Manifest(Record):
    """The files of one base, adapter, fused artifact or bundle, identified by the digest of their canonical list."""

    __tablename__ = "manifest"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[list["ManifestFile"]] = relationship(order_by="ManifestFile.path", cascade="all")

    @property
    def value(self) -> values.Manifest:
        """The manifest itself."""
        return values.Manifest.of(file.entry for file in self.files)


class ManifestFile(Record):
    """One file of a manifest.  `blob` is set where its bytes are in the store, and null where only their digest is kept."""

    __tablename__ = "manifest_file"
    __table_args__ = (
        CheckConstraint("blob IS NULL OR blob = sha256", name="blob_is_content"),
        CheckConstraint("size >= 0", name="size"),
    )

    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(512), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    blob: Mapped[str | None] = mapped_column(ForeignKey("blob.digest"), index=True)

    @property
    def entry(self) -> values.FileEntry:
        """The entry of the manifest itself."""
        return values.FileEntry(self.path, self.size, Digest(self.sha256))


class Tensor(Record):
    """One tensor of a manifest's weight files by what it holds, so that it is found again under any name.

    `digest` is that of its dtype, shape and bytes, `loose` that of its numbers rounded to float16, where it has some:
    a tensor that was converted keeps the second (`identify`).
    """

    __tablename__ = "tensor"

    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(600), primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    loose: Mapped[str | None] = mapped_column(DIGEST, index=True)


class Lease(Record):
    """The right to build one key.  The row is never deleted, or its fencing number would start again (docs/internals/leases.md)."""

    __tablename__ = "lease"

    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    owner: Mapped[str] = mapped_column(String(200))
    fence: Mapped[int] = mapped_column(BigInteger)
    expires: Mapped[float]
