"""Origins, signatures, the keys that count, and tokens: `registry.provenance`, `registry.trust` and `registry.tokens`."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from ..wire import LongText
from .operation import operation
from .resource import Named, Resource, moment, named, runs

if TYPE_CHECKING:
    from ..provenance.anchor import Anchor
    from ..provenance.attest import Attestation, Attested
    from ..provenance.identified import Identified
    from ..provenance.sign import Signed, SigningKey
    from ..provenance.verify import KeyChecker, Verification
    from ..records.graph import Graph
    from ..records.transfer import Candidates, Resolved, SearchResults, Sought
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


class Provenance(Resource):
    """Lineage, attestations, and the identification of files."""

    @operation("reader")
    def resolve(self, reference: Named) -> Resolved:
        """Return the record that a reference names."""
        from .. import tables
        from ..records.references import resolve_any
        from ..records.transfer import Resolved
        from ..records.withdrawals import of_adapter, of_fused

        with self.workspace.database.read() as session:
            row = resolve_any(session, named(reference))
            if isinstance(row, tables.BaseModelRow):
                return Resolved("base", row.name, row.digest)
            if isinstance(row, tables.FusedRow):
                about = of_fused(session, [row.id]).get(row.id, ())
                return Resolved("fused", row.key, row.digest, withdrawn=tuple(one.adapter for one in about))
            withdrawn = tuple(one.adapter for one in of_adapter(session, row))
            return Resolved("adapter", row.name, row.digest, row.name in withdrawn, withdrawn)

    @operation("reader")
    @runs("provenance.trace:trace")
    def lineage(
        self,
        reference: Named,
        *,
        up: bool = True,
        down: bool = True,
        limit: int | None = 100,
        ancestors: int = 1_000,
    ) -> Graph:
        """Return the ancestors and descendants of a record: the nearest of each kind."""

    @operation("reader")
    @runs("catalog.listing:search")
    def search(self, text: str) -> SearchResults:
        """Search records by name or digest."""

    def attest(
        self,
        reference: Named,
        *,
        form: Attestation = "slsa",
        key: str | Path | None = None,
        passphrase: Callable[[], bytes] = lambda: b"",
    ) -> Attested:
        """Return how something was made, for auditors."""
        if key is None:
            return self._attest(reference, form=form)
        from ..provenance.attest import signed

        return signed(self._attest(reference, form=form), Path(key), passphrase)

    @operation("reader")
    @runs("provenance.attest:attest")
    def _attest(self, reference: Named, *, form: Attestation = "slsa") -> Attested:
        """Return an unsigned attestation of a record's provenance."""

    def identify(
        self,
        path: str | Path,
        *,
        signature: str | Path | None = None,
        checkers: Sequence[KeyChecker] = (),
        reporter: Reporter = SILENT,
    ) -> Identified:
        """Return what a folder or file is, whether it is intact, and who signed it."""
        from ..provenance.identify import identify
        from ..provenance.verify import verify_on_record

        if self.server is None:
            match = identify(self.workspace, path, reporter=reporter)
        else:
            from ..provenance.candidates import in_parts, sought
            from ..records.bundles import record_sent

            answers = [self._candidates(part) for part in in_parts(sought(path))]
            names = dict.fromkeys(name for answer in answers for name in answer.names)
            with self.here(*names, send=False) as (workspace, _):
                for bundle in dict.fromkeys(bundle for answer in answers for bundle in answer.bundles):
                    record_sent(workspace, bundle)
                match = identify(workspace, path, reporter=reporter)
        result = verify_on_record(
            Trust(self.workspace, self.server),
            Path(path).expanduser(),
            signature=Path(signature) if signature is not None else None,
            checkers=checkers,
            digests={file.path: file.sha256 for file in match.files},
        )
        return replace(match, intact=match.intact and result.verdict != "differs", verification=result)

    @operation("reader", writes=True)
    @runs("provenance.candidates:candidates")
    def _candidates(self, sought: Sought) -> Candidates:
        """Identify files and tensors as known adapters and models, without recording anything."""


class Trust(Resource):
    """Signatures, trusted keys, and anchors of the log."""

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
    """Tokens for a server of this registry, with user, role and expiry."""

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
