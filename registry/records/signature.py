"""Records of signatures and trusted keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSignature(Record):
    """A recorded signature."""

    kind: str = described("kind of the signed object: `adapter`, `fused` or `bundle`")
    scheme: str = described("signing scheme: `model-signing` or `sigstore`")
    key_id: str = described("id of the key, or the Sigstore identity", heading="key", cell="{:.32}")
    signer: str | None = described("name of the trusted key; None if it was never trusted", free=True)
    revoked: bool = described("whether the key is revoked")
    at: datetime = described("when it was recorded", exact=True)
    by: str = described("who recorded it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signatures(Record):
    """The recorded signatures of an adapter, fused model or bundle."""

    kind: str = described("`adapter`, `fused` or `bundle`")
    name: str = described("its name")
    digest: str = described("digest of its manifest")
    signatures: tuple[RecordedSignature, ...] = described("oldest first")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey(Record):
    """A trusted or revoked key."""

    name: str = described("name of the key")
    key_id: str = described("SHA-256 of the key", heading="key", cell="{:.16}")
    aliases: tuple[str, ...] = described(
        "patterns of the aliases that it is trusted for", heading="for", free=True
    )
    fused: bool = described(
        "whether its signature makes fused models of other registries usable as if made here"
    )
    signatures: int = described("number of recorded signatures with it")
    created_at: datetime = described("when it was added", heading="since", exact=True)
    created_by: str = described("who added it")
    revoked_at: datetime | None = described("when it was revoked", heading="revoked", exact=True)
    revoked_by: str | None = described("who revoked it")


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSignature(Record):
    """A recorded signature with its envelope.

    Attributes:
        kind: kind of the signed object: `adapter`, `fused` or `bundle`.
        name: name of the signed object.
        digest: digest of its manifest.
        key_id: id of the key, or the Sigstore identity.
        envelope: content of the signature file.
    """

    kind: str
    name: str
    digest: str
    key_id: str
    envelope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEnvelope(Record):
    """The result of recording a signature.

    Attributes:
        envelope: the recorded envelope.
        existed: whether it was recorded before.
    """

    envelope: str
    existed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey(Record):
    """A trusted or revoked key with its public key.

    Attributes:
        name: name of the key.
        key_id: SHA-256 of the key.
        public_key: the public key as PEM.
        revoked: whether it is revoked.
        aliases: patterns of the aliases that it is trusted for.
    """

    name: str
    key_id: str
    public_key: str
    revoked: bool
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFiles(Record):
    """The signatures and keys for a manifest.

    Attributes:
        kind: `adapter`, `fused` or `bundle`; None if the manifest is not recorded.
        event: its kind in the log.
        digest: digest of the manifest; None for a single file that is not recorded.
        keys_: all keys, by name.
        envelopes: its signatures, newest first.
    """

    kind: str | None
    event: str
    digest: str | None
    keys_: tuple[KnownKey, ...]
    envelopes: tuple[str, ...]
