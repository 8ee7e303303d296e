"""Signatures, the keys that count, and tokens: `registry.trust` and `registry.tokens`."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from ..wire import LongText
from .operation import operation
from .resource import Named, Resource, moment, named, runs

if TYPE_CHECKING:
    from ..provenance.anchor import Anchor
    from ..provenance.sign import Signed, SigningKey
    from ..provenance.verify import KeyChecker, Verification
    from ..records.trust import (
        Identity,
        NewToken,
        OwnIdentity,
        RecordedEnvelope,
        RecordedFiles,
        Role,
        Signatures,
        SigningSubject,
        Token,
        TrustedKey,
    )


class Trust(Resource):
    """Signatures on what is recorded and shipped, the keys that count, and anchors of the log."""

    def sign(
        self,
        subject: Named,
        with_key: SigningKey,
        *,
        output: str | Path | None = None,
        force: bool = False,
        reporter: Reporter = SILENT,
    ) -> Signed:
        """Sign an adapter, a fused model or a bundle, and return the signature."""
        from ..provenance.sign import sign

        place = Path(output) if output is not None else None
        return sign(
            self,
            named(subject),
            with_key,
            output=place,
            force=force,
            at_server=self.server is not None,
            progress=reporter.progress,
        )

    @operation("reader")
    @runs("provenance.sign:find_on_record")
    def find(self, reference: Named) -> SigningSubject:
        """Return the manifest of a record for signing."""

    @operation("reader")
    @runs("provenance.recorded:look_up")
    def look_up(self, digest: str, *, lone: bool = False) -> RecordedFiles:
        """Return the recorded signatures of a manifest, and the trusted keys."""

    @operation("publisher", writes=True)
    @runs("provenance.recorded:record_signature")
    def record_signature(
        self, kind: str, digest: str, *, key_id: str, scheme: str, envelope: LongText, public: str = ""
    ) -> RecordedEnvelope:
        """Record a signature of a recorded manifest."""

    @operation("reader")
    @runs("provenance.recorded:list_signatures")
    def signatures(self, reference: Named) -> Signatures:
        """Return the recorded signatures of a record."""

    def verify(
        self,
        path: str | Path,
        *,
        signature: str | Path | None = None,
        checkers: Sequence[KeyChecker] = (),
        reporter: Reporter = SILENT,
    ) -> Verification:
        """Verify a folder or file with what is on record; return the verdict and all that differs."""
        from ..provenance.verify import verify_on_record

        place = Path(signature) if signature is not None else None
        return verify_on_record(
            self, Path(path), signature=place, checkers=checkers, progress=reporter.progress
        )

    def add_key(
        self, name: str, key: str | Path, aliases: Sequence[str] = (), *, fused: bool = False
    ) -> TrustedKey:
        """Let the signatures of a key count, and return its record."""
        from ..dsse import public_pem, read_public_key

        return self._add_key(name, public_pem(read_public_key(Path(key))), aliases, fused=fused)

    @operation("admin", writes=True, begins=True)
    @runs("provenance.recorded:add_key")
    def _add_key(
        self, name: str, key: str, aliases: Sequence[str] = (), *, fused: bool = False
    ) -> TrustedKey:
        """Trust a public key, given as PEM."""

    @operation("admin", writes=True)
    @runs("provenance.recorded:revoke_key")
    def revoke_key(self, name: str, *, reason: str = "") -> TrustedKey:
        """Revoke a trusted key, and return its record."""

    @operation("reader")
    @runs("provenance.recorded:list_keys")
    def list_keys(self) -> list[TrustedKey]:
        """Return the trusted keys, including revoked ones."""

    def anchor(self, key: str | Path | None, passphrase: Callable[[], bytes]) -> tuple[Anchor, bytes]:
        """Return where the log stands, and the document that says so."""
        from ..provenance.anchor import signed_anchor

        return signed_anchor(self._anchor, Path(key) if key is not None else None, passphrase)

    @operation("reader")
    @runs("provenance.anchor:newest_anchor")
    def _anchor(self) -> Anchor:
        """Return the current position of the log."""


class Tokens(Resource):
    """Who may ask a server for this registry, until when, and what they may do there."""

    @operation("admin", writes=True, begins=True)
    def create(self, name: str, role: Role, *, expires: datetime | str | None = "90d") -> NewToken:
        """Create a token, and return it with its secret, which is shown only once; `expires=None` for no expiry."""
        from ..records.tokens import create

        return create(self.workspace, name, role, "never" if expires is None else str(moment(expires)))

    @operation("admin")
    @runs("records.tokens:list_tokens")
    def list(self, *, revoked: bool = False) -> builtins.list[Token]:
        """Return the tokens by name; `revoked` includes revoked ones."""

    @operation("admin", writes=True)
    @runs("records.tokens:revoke")
    def revoke(self, name: Named, *, reason: str = "") -> Token:
        """Revoke a token, and return its record."""

    @operation("reader")
    @runs("records.tokens:own")
    def own(self) -> OwnIdentity:
        """Return the name and role of the token that this registry uses."""

    @runs("records.tokens:authenticate")
    def authenticate(self, secret: str) -> Identity:
        """Return who has a token with this secret."""
