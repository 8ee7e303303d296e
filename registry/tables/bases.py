"""Tables of bytes and base models: blobs and manifests, what protects and signs them, the models, and their calibrations."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from fusery.storage import manifest as values
from fusery.storage.digest import Digest

from .record import DIGEST, Attributed, Json, Made, Numbered, TableRow, one_of


class BlobRow(TableRow):
    """Immutable bytes in the store.  `generation` is part of the name in the store, and never used twice (docs/internals/collection.md)."""

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


class IntentRow(Numbered, TableRow):
    """A running command's claim on a blob: the collector spares the blob while the claim is alive."""

    __table_args__ = (UniqueConstraint("digest", "owner"),)

    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    owner: Mapped[str] = mapped_column(String(200))
    expires: Mapped[float] = mapped_column(index=True)


class ManifestRow(Numbered, TableRow):
    """The files of one base, adapter, fused artifact or bundle, identified by the digest of their canonical list."""

    digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[list["ManifestFileRow"]] = relationship(order_by="ManifestFileRow.path", cascade="all")

    @property
    def value(self) -> values.Manifest:
        """The manifest itself."""
        return values.Manifest.of(file.entry for file in self.files)


class ManifestFileRow(TableRow):
    """One file of a manifest.  `blob` is set where its bytes are in the store, and null where only their digest is kept."""

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


class TensorRow(TableRow):
    """One tensor of a manifest's weights, by the digest of its dtype, shape and bytes, and of its numbers in float16 (`loose`)."""

    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(600), primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    loose: Mapped[str | None] = mapped_column(DIGEST, index=True)


class LeaseRow(TableRow):
    """The right to build one key.  The row is never deleted, or its fencing number would start again (docs/internals/leases.md)."""

    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    owner: Mapped[str] = mapped_column(String(200))
    fence: Mapped[int] = mapped_column(BigInteger)
    expires: Mapped[float]


class TrustedKeyRow(Numbered, Made, TableRow):
    """A public key whose signatures count for patterns of aliases (`*#prod`), and, if `fused`, for models of other registries."""

    key_id: Mapped[str] = mapped_column(String(200), unique=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    public_key: Mapped[str] = mapped_column(Text)
    aliases: Mapped[list[str]]
    fused: Mapped[bool | None]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None] = mapped_column(String(200))


class SignatureRow(Numbered, Attributed, TableRow):
    """A signature over a digest: the envelope as it was made, with the key that made it."""

    __table_args__ = (UniqueConstraint("subject_digest", "key_id", "scheme"),)

    subject_kind: Mapped[str] = mapped_column(String(20))
    subject_digest: Mapped[str] = mapped_column(DIGEST, index=True)
    scheme: Mapped[str] = mapped_column(String(50))
    key_id: Mapped[str] = mapped_column(String(200))
    envelope: Mapped[str] = mapped_column(Text)

    key: Mapped[TrustedKeyRow | None] = relationship(
        primaryjoin="foreign(SignatureRow.key_id) == TrustedKeyRow.key_id", viewonly=True
    )


class BaseModelRow(Numbered, Made, TableRow):
    """A frozen model that adapters are trained on; `content` is the digest of what its files hold (`models.identity`)."""

    __table_args__ = (CheckConstraint("parameters > 0", name="parameters"),)

    digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    content: Mapped[str | None] = mapped_column(DIGEST, index=True)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    architecture: Mapped[str] = mapped_column(String(200))
    model_type: Mapped[str] = mapped_column(String(100))
    parameters: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str] = mapped_column(String(20))
    quantization: Mapped[Json | None]
    bytes: Mapped[int] = mapped_column(BigInteger)
    config: Mapped[Json]
    weights: Mapped[
        Json
    ]  # shape, dtype and bits of each module's weight, to check adapters without the files
    written_by_mlx: Mapped[bool]  # its weight files say so, and their tensors have mlx-lm's names
    location: Mapped[str | None] = mapped_column(Text)  # of files that are referenced and not copied

    manifest: Mapped[ManifestRow] = relationship()
    names: Mapped[list["BaseNameRow"]] = relationship(order_by="BaseNameRow.id", back_populates="base")
    revisions: Mapped[list["BaseRevisionRow"]] = relationship(order_by="BaseRevisionRow.id")
    calibrations: Mapped[list["CalibrationRow"]] = relationship(
        order_by="CalibrationRow.id", back_populates="base"
    )

    @property
    def name(self) -> str:
        """The name that is shown: the first that it was given."""
        return self.names[0].name


class BaseNameRow(Numbered, TableRow):
    """A name of a base model, the first of which is shown; `folded` is unique, since names are folders on many disks."""

    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    folded: Mapped[str] = mapped_column(String(200), unique=True)
    created_at: Mapped[datetime]

    base: Mapped[BaseModelRow] = relationship(back_populates="names")


class BaseRevisionRow(Numbered, TableRow):
    """Where a base model's bytes came from: a folder, a hub id with its revision, or a GGUF file with its SHA-256."""

    __table_args__ = (UniqueConstraint("base_id", "source", "revision"),)

    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    source: Mapped[str] = mapped_column(Text)
    revision: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime]


class CalibrationRow(Numbered, Made, TableRow):
    """Statistics of the inputs of a base's linear layers, in a file of the store; for one adapter if `adapter` is its digest."""

    __table_args__ = (
        UniqueConstraint("base_id", "digest"),
        CheckConstraint("tokens > 0", name="tokens"),
        CheckConstraint("rank > 0", name="rank"),
    )

    base_id: Mapped[int] = mapped_column(ForeignKey("base_model.id"), index=True)
    digest: Mapped[str] = mapped_column(DIGEST, index=True)
    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifest.id"), index=True)
    prompts: Mapped[str] = mapped_column(String(200))
    prompts_digest: Mapped[str] = mapped_column(DIGEST)
    tokens: Mapped[int] = mapped_column(BigInteger)
    rank: Mapped[int]
    engine: Mapped[str] = mapped_column(String(200))
    adapter: Mapped[str | None] = mapped_column(DIGEST)

    base: Mapped[BaseModelRow] = relationship(back_populates="calibrations")
    manifest: Mapped[ManifestRow] = relationship()
