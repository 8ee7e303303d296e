"""Records of signatures, trusted keys and tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from ..record import Record, described


class RecordedSignature(Record):
    """A recorded signature."""

    kind: str = described("kind of the signed object: `adapter`, `fused` or `bundle`")
    scheme: str = described("signing scheme: `model-signing`")
    key_id: str = described("id of the key", heading="key", cell="{:.32}")
    signer: str | None = described("name of the trusted key that made it; None without one", free=True)
    revoked: bool = described("whether the key is revoked")
    at: datetime = described("when it was recorded", exact=True)
    by: str = described("who recorded it")


class Signatures(Record):
    """The recorded signatures of an adapter, fused model or bundle."""

    kind: str = described("`adapter`, `fused` or `bundle`")
    name: str = described("its name")
    digest: str = described("digest of its manifest")
    signatures: tuple[RecordedSignature, ...] = described("oldest first")


class TrustedKey(Record):
    """A trusted or revoked key."""

    name: str = described("name of the key")
    key_id: str = described("SHA-256 of the key", heading="key", cell="{:.16}")
    aliases: tuple[str, ...] = described("patterns of its aliases", heading="for", free=True)
    fused: bool = described("whether its signature makes fused models of other registries usable")
    signatures: int = described("number of recorded signatures with it")
    created_at: datetime = described("when it was added", heading="since", exact=True)
    created_by: str = described("who added it")
    revoked_at: datetime | None = described("when it was revoked", heading="revoked", exact=True)
    revoked_by: str | None = described("who revoked it")


class RecordedEnvelope(Record):
    """The result of recording a signature."""

    envelope: str = described("the recorded envelope")
    existed: bool = described("whether it was recorded before")


class KnownKey(Record):
    """A trusted or revoked key with its public key."""

    name: str = described("name of the key")
    key_id: str = described("SHA-256 of the key")
    public_key: str = described("the public key as PEM")
    revoked: bool = described("whether it is revoked")
    aliases: tuple[str, ...] = described("patterns of its aliases")


class RecordedFiles(Record):
    """The signatures and keys for a manifest."""

    kind: str | None = described("`adapter`, `fused` or `bundle`; None if the manifest is not recorded")
    event: str = described("its kind in the log")
    digest: str | None = described("digest of the manifest; None for a single file that is not recorded")
    keys_: tuple[KnownKey, ...] = described("all keys, by name")
    envelopes: tuple[str, ...] = described("its signatures, newest first")


@dataclass(frozen=True, slots=True)
class SigningSubject:
    """Something to sign."""

    kind: str | None  # `adapter`, `fused` or `bundle`; None if its files are not recorded
    name: str
    digest: str
    event: str
    files: dict[str, str]  # path to SHA-256, as a signature lists them
    path: Path | None = None  # where it is, if a path was given
    prefix: str = ""  # the text before the name in a signature that vouches for more than the files


Role = Literal["reader", "publisher", "approver", "admin"]  # of a token; each may do what those before it may

State = Literal["active", "expired", "revoked"]


class Token(Record):
    """A token, without its secret."""

    REFERENCE = "name"

    name: str = described("user name of its bearer")
    role: Role = described("role of the token")
    state: State = described("`active`, `expired` or `revoked`")
    created_at: datetime = described("when it was created", heading="since", exact=True)
    created_by: str = described("who created it", heading="by")
    expires_at: datetime | None = described("None if it does not expire", heading="expires", exact=True)
    revoked_at: datetime | None = described("when it was revoked", heading="revoked", rare=True, exact=True)
    revoked_by: str | None = described("who revoked it", rare=True)


class NewToken(Token):
    """A token that was just made: the only record with its secret."""

    secret: str = described("what its bearer shows to a server; it cannot be asked for again", repr=False)

    def _repr_html_(self) -> str:
        """Return a table without the secret: a notebook is kept."""
        return Token._repr_html_(replace(self, secret="in .secret"))


class Identity(Record):
    """Who asks, as their token says."""

    name: str = described("name of the token")
    role: Role = described("role of the token")
    expires_at: datetime | None = described("when it expires; None for never")


class OwnIdentity(Identity):
    """Who asks, and which registry is asked."""

    registry: str = described("its id")
    version: str = described("version of fusery there")


class Listening(Record):
    """A server that answers."""

    url: str = described("where")
    entrance: str | None = described("address with a key, for a browser", optional=True, default=None)
