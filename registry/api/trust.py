"""The part of the Python API about trust: promotion, signatures, proofs, and what a found file is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..workspace import Workspace

if TYPE_CHECKING:
    from ..identification.identify import Begun, Identified
    from ..provenance import Attested
    from ..releases.promote import Promotion
    from ..reporting import Written
    from ..signing.anchor import Anchor
    from ..signing.sign import Signed, SigningKey
    from ..signing.verify import Verification


class Trust:
    """What `Registry` does to prove things.

    Attributes:
        workspace: the registry's parts.
    """

    workspace: Workspace

    def set_rules(self, target: str, rules: Mapping[str, Any] | None, **options: Any) -> dict[str, Any]:
        """Give an alias rules; see `fusery.registry.releases.keeping.set_rules`, which has the options."""
        from ..releases.keeping import set_rules

        return set_rules(self.workspace, target, rules, **options)

    def rules(self, target: str) -> dict[str, Any]:
        """Return the rules that count for an alias; see `fusery.registry.releases.keeping.show_rules`."""
        from ..releases.keeping import show_rules

        return show_rules(self.workspace, target)

    def all_rules(self) -> list[dict[str, Any]]:
        """Return the rules of all aliases."""
        from ..releases.keeping import list_rules

        return list_rules(self.workspace)

    def remove_rules(self, target: str, *, reason: str = "", dry_run: bool = False) -> dict[str, Any]:
        """Take the rules of an alias away; see `fusery.registry.releases.keeping.remove_rules`."""
        from ..releases.keeping import remove_rules

        return remove_rules(self.workspace, target, reason=reason, dry_run=dry_run)

    def approve(self, reference: str, alias: str, *, note: str = "") -> dict[str, Any]:
        """Approve of an alias holding an adapter; see `fusery.registry.releases.approvals.approve`."""
        from ..releases.approvals import approve

        return approve(self.workspace, reference, alias, note=note)

    def withdraw_approval(self, reference: str, alias: str, *, note: str = "") -> dict[str, Any]:
        """Take one's own approval back; see `fusery.registry.releases.approvals.withdraw`."""
        from ..releases.approvals import withdraw

        return withdraw(self.workspace, reference, alias, note=note)

    def promote(self, reference: str, alias: str, *, reason: str = "", dry_run: bool = False) -> Promotion:
        """Let an alias hold an adapter if its rules allow it; see `fusery.registry.releases.promote.promote`.

        Nothing is raised where they do not: look at `verdict` of what is returned.
        """
        from ..releases.promote import promote

        return promote(self.workspace, reference, alias, reason=reason, dry_run=dry_run)

    def record_deployment(self, reference: str, place: str, **options: Any) -> dict[str, Any]:
        """Say that something runs at a place; see `fusery.registry.releases.deployments.record_deployment` for the options."""
        from ..releases.deployments import record_deployment

        return record_deployment(self.workspace, reference, place, **options)

    def end_deployments(self, places: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        """Say that nothing runs at places any more; see `fusery.registry.releases.deployments.end_deployments`."""
        from ..releases.deployments import end_deployments

        return end_deployments(self.workspace, places, **options)

    def deployments(self, **filters: Any) -> list[dict[str, Any]]:
        """Return what runs where; `filters` are the keywords of `fusery.registry.releases.deployments.list_deployments`."""
        from ..releases.deployments import list_deployments

        return list_deployments(self.workspace, **filters)

    def identify(
        self,
        path: str | Path | Begun,
        *,
        fresh: bool = False,
        say: Callable[[str], None] = lambda _: None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Identified:
        """Find out what a folder, an archive or a file is; see `fusery.registry.identification.identify`."""
        from ..identification.identify import identify

        return identify(self.workspace, path, fresh=fresh, say=say, progress=progress)

    def sign(self, subject: str, with_key: SigningKey, **options: Any) -> Signed:
        """Sign an adapter, a fused model or a bundle; see `fusery.registry.signing.sign.sign` for the options."""
        from ..signing.sign import sign

        return sign(self.workspace, subject, with_key, **options)

    def signatures(self, reference: str) -> dict[str, Any]:
        """Return the signatures on record over a thing; see `fusery.registry.signing.recorded.list_signatures`."""
        from ..signing.recorded import list_signatures

        return list_signatures(self.workspace, reference)

    def export_signature(
        self, reference: str, output: str | Path, *, by: str | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Write a signature on record to a file; see `fusery.registry.signing.recorded.export_signature`."""
        from ..signing.recorded import export_signature

        return export_signature(self.workspace, reference, Path(output), by=by, force=force)

    def verify(self, path: str | Path, **options: Any) -> Verification:
        """Verify a folder or file with what is on record; see `fusery.registry.signing.recorded.verify_on_record`.

        `fusery.registry.signing.verify.verify` does it without a registry.
        """
        from ..signing.recorded import verify_on_record

        return verify_on_record(self.workspace, Path(path), **options)

    def trust_key(
        self, name: str, key: str | Path, aliases: Sequence[str] = (), *, fused: bool = False
    ) -> dict[str, Any]:
        """Let the signatures of a key count for aliases or fused artifacts; see `fusery.registry.signing.trusted.add_key`."""
        from ..signing.trusted import add_key

        return add_key(self.workspace, name, Path(key), aliases, fused=fused)

    def revoke_key(self, name: str, *, reason: str = "") -> dict[str, Any]:
        """Let no signature of a key count any more; see `fusery.registry.signing.trusted.revoke_key`."""
        from ..signing.trusted import revoke_key

        return revoke_key(self.workspace, name, reason=reason)

    def trusted_keys(self) -> list[dict[str, Any]]:
        """Return the keys that count, and those that were revoked."""
        from ..signing.trusted import list_keys

        return list_keys(self.workspace)

    def anchor(self, key: str | Path | None, passphrase: Callable[[], bytes]) -> tuple[Anchor, bytes]:
        """Return where the log stands, and the document that says so; see `fusery.registry.signing.anchor`."""
        from ..signing.anchor import make_anchor

        return make_anchor(self.workspace, Path(key) if key is not None else None, passphrase)

    def attest(self, reference: str, *, key: str | Path | None = None, **options: Any) -> Attested:
        """Return how something was made, for auditors; see `fusery.registry.provenance.attest.attest`."""
        from ..provenance import attest

        return attest(self.workspace, reference, key=Path(key) if key is not None else None, **options)

    def report(
        self,
        subject: str | None = None,
        *,
        html: str | Path | None = None,
        force: bool = False,
        audit: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> Written:
        """Write what is on record as one HTML page; see `fusery.registry.reporting.report.report`."""
        from ..reporting import report

        place = Path(html) if html is not None else None
        return report(self.workspace, subject, html=place, force=force, audit=audit, say=say)
