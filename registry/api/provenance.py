"""Where things come from and where they went, as `registry.provenance` has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.progress import SILENT, Reporter

from .operation import operation
from .resource import Named, Resource, named, runs

if TYPE_CHECKING:
    from ..provenance.attest import Attestation, Attested
    from ..provenance.identified import Identified
    from ..provenance.verify import KeyChecker
    from ..records.graph import Graph
    from ..records.transfer import Candidates, Resolved, SearchResults, Sought


class Provenance(Resource):
    """What a thing was made from, what was made from it, and what a found file is."""

    @operation("reader")
    def resolve(self, reference: Named) -> Resolved:
        """Return the record that a reference names."""
        from .. import tables
        from ..records.references import resolve_any
        from ..records.transfer import Resolved
        from ..records.withdrawals import standing_yanks

        with self.workspace.database.read() as session:
            row = resolve_any(session, named(reference))
            if isinstance(row, tables.FusedRow):
                return Resolved("fused", row.key, row.digest)
            if isinstance(row, tables.BaseModelRow):
                return Resolved("base", row.name, row.digest)
            return Resolved("adapter", row.name, row.digest, bool(standing_yanks(session, row)))

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
        from .trust import Trust

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
            digests={file.path: Digest(file.sha256) for file in match.files},
        )
        return replace(match, intact=match.intact and result.verdict != "differs", verification=result)

    @operation("reader", writes=True)
    @runs("provenance.candidates:candidates")
    def _candidates(self, sought: Sought) -> Candidates:
        """Identify files and tensors as known adapters and models, without recording anything."""
