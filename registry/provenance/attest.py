"""Attesting: from a reference to a document for others, signed if there is a key; nothing is written to the registry."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadInputError
from ..records.things import find_things, shippable
from .account import account_of

if TYPE_CHECKING:
    from securesystemslib.signer._crypto_signer import CryptoSigner

    from ..workspace import Workspace

Attestation = Literal["slsa", "cyclonedx"]
FORMATS: tuple[Attestation, ...] = ("slsa", "cyclonedx")


@dataclass(frozen=True, slots=True)
class Attested:
    """A document of how something was made.

    Attributes:
        kind: of the thing: `adapter`, `fused` or `bundle`.
        name: of it.
        digest: of its files.
        form: one of `FORMATS`.
        document: the statement or bill itself; in an envelope, if it was signed.
        key_id: of the key that signed it, None if none did.
    """

    kind: str
    name: str
    digest: str
    form: str
    document: dict[str, Any]
    key_id: str | None = None

    @property
    def data(self) -> bytes:
        """The document as a file; the same record gives the same bytes, but for a signature."""
        return document_bytes(self.document)


def document_bytes(document: dict[str, Any]) -> bytes:
    """Return a document as indented ASCII JSON, its keys sorted.

    Raises:
        BadInputError: the record holds a number that JSON has no form for.
    """
    try:
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    except ValueError as error:
        raise BadInputError("the record holds a number that is none, which JSON cannot say") from error
    return text.encode("ascii") + b"\n"


def attest(
    workspace: Workspace,
    reference: str,
    *,
    form: Attestation = "slsa",
) -> Attested:
    """Return how an adapter, a fused model or a bundle was made, as others can read and check it.

    Args:
        workspace: the registry's parts.
        reference: as `things.find_things` takes it.
        form: `slsa` for provenance in an in-toto statement, `cyclonedx` for a bill of materials.

    Raises:
        BadInputError: there is no such format, or the thing is a base or a dataset.
        UnknownReferenceError: nothing has that name.
        MissingExtraError: a package that is needed is not installed.
    """
    if form not in FORMATS:
        raise BadInputError(f"there is no format {form[:40]!r}", hint=f"--format {'|'.join(FORMATS)}")
    with workspace.database.read() as session:
        account = account_of(workspace, session, shippable(find_things(session, reference), reference))
    if form == "slsa":
        from .slsa import statement

        document = statement(account)
    else:
        from .cyclonedx import bill

        document = bill(account)
    return Attested(account.kind, account.name, account.digest, form, document)


def signed(attested: Attested, signer: CryptoSigner) -> Attested:
    """Return a document in an envelope that a key has signed."""
    from .envelope import enveloped

    envelope = enveloped(signer, attested.data, attested.form)
    return replace(attested, document=envelope, key_id=signer.public_key.keyid)
