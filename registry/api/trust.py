"""Signatures, and whose count, as `registry.trust` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from ..wire import LongText
from .operation import operation
from .resource import Named, Resource, named, said

if TYPE_CHECKING:
    from ..records.signature import (
        OneSignature,
        RecordedEnvelope,
        RecordedFiles,
        Signatures,
        TrustedKey,
    )
    from ..signing.anchor import Anchor
    from ..signing.checking import Checker
    from ..signing.recorded import ExportedSignature
    from ..signing.sign import Signed, SigningKey
    from ..signing.subject import Subject
    from ..signing.verify import Verification


class Trust(Resource):
    """Signatures on what is recorded and shipped, the keys that count, and anchors of the log."""

    NAME = "trust"

    def sign(
        self,
        subject: Named,
        with_key: SigningKey,
        *,
        output: str | Path | None = None,
        force: bool = False,
        reporter: Reporter = SILENT,
    ) -> Signed:
        """Sign an adapter, a fused model or a bundle, and return the signature; see `fusery.registry.signing.sign.sign`."""
        from ..signing.sign import sign

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
    def find(self, reference: Named) -> Subject:
        """Return the manifest to sign of a record; see `fusery.registry.signing.subject.find_recorded`."""
        from ..signing.subject import find_on_record

        return find_on_record(self.workspace, named(reference))

    @operation("reader")
    def look_up(self, digest: str, *, lone: bool = False) -> RecordedFiles:
        """Return the recorded signatures of a manifest, and the trusted keys.

        Args:
            digest: of the list; with `lone` of the only file.
            lone: it is one file, and not a folder.
        """
        from ..signing.recorded import look_up

        return look_up(self.workspace, digest, lone=lone)

    @operation("publisher", writes=True)
    def record_signature(
        self, kind: str, digest: str, *, key_id: str, scheme: str, envelope: LongText, public: str = ""
    ) -> RecordedEnvelope:
        """Record a signature of a recorded manifest; see `fusery.registry.signing.recorded.record_signature`."""
        from ..signing.recorded import record_signature

        return record_signature(
            self.workspace, kind, digest, key_id=key_id, scheme=scheme, envelope=envelope, public=public
        )

    @operation("reader")
    def signatures(self, reference: Named) -> Signatures:
        """Return the signatures on record over a thing; see `fusery.registry.signing.recorded.list_signatures`."""
        from ..signing.recorded import list_signatures

        return list_signatures(self.workspace, named(reference))

    def export_signature(
        self, reference: Named, output: str | Path, *, by: str | None = None, force: bool = False
    ) -> ExportedSignature:
        """Write a signature on record to a file, and return which; see `fusery.registry.signing.recorded.export_signature`."""
        from ..signing.recorded import export_signature

        return export_signature(self._signature(reference, by=by), Path(output), force=force)

    @operation("reader")
    def _signature(self, reference: Named, *, by: str | None = None) -> OneSignature:
        """Return a recorded signature with its envelope; `by` selects one of several."""
        from ..signing.recorded import find_signature

        return find_signature(self.workspace, named(reference), by=by)

    def verify(
        self,
        path: str | Path,
        *,
        signature: str | Path | None = None,
        checkers: Sequence[Checker] = (),
        reporter: Reporter = SILENT,
    ) -> Verification:
        """Verify a folder or file with what is on record; return the verdict and all that differs.

        See `fusery.registry.signing.recorded.verify_on_record`; `fusery.registry.signing.verify.verify` does it without a registry.
        """
        from ..signing.recorded import verify_on_record

        place = Path(signature) if signature is not None else None
        return verify_on_record(
            self, Path(path), signature=place, checkers=checkers, progress=reporter.progress
        )

    def add_key(
        self, name: str, key: str | Path, aliases: Sequence[str] = (), *, fused: bool = False
    ) -> TrustedKey:
        """Let the signatures of a key count, and return its record; see `fusery.registry.signing.trusted.add_key`."""
        from ..dsse.keys import public_pem, read_public_key

        return self._add_key(name, public_pem(read_public_key(Path(key))), aliases, fused=fused)

    @operation("admin", writes=True)
    def _add_key(
        self, name: str, key: str, aliases: Sequence[str] = (), *, fused: bool = False
    ) -> TrustedKey:
        """Trust a public key, given as PEM."""
        from ..signing.trusted import add_key

        return add_key(self.workspace, name, key, aliases, fused=fused)

    @operation("admin", writes=True)
    def revoke_key(self, name: str, *, reason: str = "") -> TrustedKey:
        """Let no signature of a key count any more, and return its record; see `fusery.registry.signing.trusted.revoke_key`."""
        from ..signing.trusted import revoke_key

        return revoke_key(self.workspace, name, reason=said(reason))

    @operation("reader")
    def list_keys(self) -> list[TrustedKey]:
        """Return the keys that count, and those that were revoked."""
        from ..signing.trusted import list_keys

        return list_keys(self.workspace)

    def anchor(self, key: str | Path | None, passphrase: Callable[[], bytes]) -> tuple[Anchor, bytes]:
        """Return where the log stands, and the document that says so; see `fusery.registry.signing.anchor`."""
        from ..signing.anchor import signed_anchor

        return signed_anchor(self._anchor, Path(key) if key is not None else None, passphrase)

    @operation("reader")
    def _anchor(self) -> Anchor:
        """Return the current position of the log."""
        from ..signing.anchor import newest_anchor

        return newest_anchor(self.workspace)
