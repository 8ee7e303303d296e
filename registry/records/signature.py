"""Signatures on record, and the keys that count."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSignature(Record):
    """A signature on record."""

    kind: str = described("of what was signed: `adapter`, `fused` or `bundle`")
    scheme: str = described("`model-signing` or `sigstore`")
    key_id: str = described("of the key that signed, or whom Sigstore names", heading="key", cell="{:.32}")
    signer: str | None = described("what that key is called here; None where it was never trusted", free=True)
    revoked: bool = described("the key counts no more")
    at: datetime = described("when it was recorded", exact=True)
    by: str = described("who recorded it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signatures(Record):
    """The signatures over a thing on record."""

    kind: str = described("`adapter`, `fused` or `bundle`")
    name: str = described("what people call it")
    digest: str = described("of its list of files")
    signatures: tuple[RecordedSignature, ...] = described("oldest first")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey(Record):
    """A key whose signatures count, or counted."""

    name: str = described("what it is called here")
    key_id: str = described("SHA-256 of it", heading="key", cell="{:.16}")
    aliases: tuple[str, ...] = described(
        "patterns of the aliases that it counts for", heading="for", free=True
    )
    fused: bool = described("fused artifacts of other registries count as made here when it has signed them")
    signatures: int = described("how many by it are on record")
    created_at: datetime = described("since when it is trusted", heading="since", exact=True)
    created_by: str = described("who said so")
    revoked_at: datetime | None = described("since when it counts no more", heading="revoked", exact=True)
    revoked_by: str | None = described("who said that")


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSignature(Record):
    """A signature on record, with its envelope.

    Attributes:
        kind: of what was signed: `adapter`, `fused` or `bundle`.
        name: what people call it.
        digest: of its list of files.
        key_id: of the key that signed, or whom Sigstore names.
        envelope: the file's content.
    """

    kind: str
    name: str
    digest: str
    key_id: str
    envelope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEnvelope(Record):
    """A signature that was recorded.

    Attributes:
        envelope: the one on record now.
        existed: it was on record already.
    """

    envelope: str
    existed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey(Record):
    """A key that counts, or counted.

    Attributes:
        name: what it is called.
        key_id: SHA-256 of it.
        public_key: as PEM.
        revoked: it counts no more.
        aliases: patterns of the aliases that it counts for.
    """

    name: str
    key_id: str
    public_key: str
    revoked: bool
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFiles(Record):
    """What is on record of a list of files.

    Attributes:
        kind: `adapter`, `fused` or `bundle`; None where nothing of these files is on record.
        event: what the log calls it.
        digest: of the list; None where a lone file is nothing on record.
        keys_: all keys, by name.
        envelopes: signatures over it, the newest first.
    """

    kind: str | None
    event: str
    digest: str | None
    keys_: tuple[KnownKey, ...]
    envelopes: tuple[str, ...]
