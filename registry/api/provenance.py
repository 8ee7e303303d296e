"""Where things come from and where they went, as `registry.provenance` has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from .operation import operation
from .resource import Named, Resource, named

if TYPE_CHECKING:
    from ..catalog.search import Found
    from ..identification import Begun
    from ..identification.candidates import Candidates, Sought
    from ..identification.identified import Identified
    from ..provenance import Attested, Whole
    from ..provenance.attest import Attestation
    from ..records.graph import Graph
    from ..records.resolved import Resolved
    from ..releases.impact import Impact
    from ..reporting.written import MadeReport, Written


class Provenance(Resource):
    """What a thing was made from, what was made from it, and what a found file is."""

    NAME = "provenance"

    @operation("reader")
    def resolve(self, reference: Named) -> Resolved:
        """Return which adapter, base model or fused model a reference means."""
        from ..catalog.resolved import resolve

        return resolve(self.workspace, named(reference))

    @operation("reader")
    def lineage(
        self,
        reference: Named,
        *,
        up: bool = True,
        down: bool = True,
        inputs: bool = False,
        limit: int | None = 100,
        ancestors: int = 1_000,
        count: bool = True,
    ) -> Graph:
        """Return what a thing was made from and what was made from it: of each kind the nearest, and how many more there are.

        `limit=None` returns everything; see `fusery.registry.provenance.trace`.
        """
        from ..provenance import trace

        return trace(
            self.workspace,
            named(reference),
            up=up,
            down=down,
            inputs=inputs,
            limit=limit,
            ancestors=ancestors,
            count=count,
        )

    @contextmanager
    def whole_lineage(
        self, reference: Named, *, up: bool = True, down: bool = True
    ) -> Iterator[Whole | Graph]:
        """Yield everything, which is read a part at a time on this machine; see `fusery.registry.provenance.trace_whole`."""
        if self.server is not None:
            yield self._whole_lineage(reference, up=up, down=down)
            return
        from ..provenance import trace_whole

        with trace_whole(self.workspace, named(reference), up=up, down=down) as whole:
            yield whole

    @operation("reader")
    def _whole_lineage(self, reference: Named, *, up: bool = True, down: bool = True) -> Graph:
        """Return a lineage with everything in it, in the order in which it was recorded."""
        from ..records.graph import Graph

        with self.whole_lineage(reference, up=up, down=down) as whole:
            nodes = {node.id: node for node in whole.nodes}
            return Graph(whole.root, nodes, list(whole.edges), whole.roots)

    def impact(self, subject: Named, *, limit: int | None = 100) -> Impact:
        """Return what a base, a dataset or an adapter has reached: of each kind the newest, and how many there are.

        `limit=None` returns everything; see `fusery.registry.releases.impact.impact`.
        """
        from ..records.adapter import Adapter
        from ..records.base import Base

        kinds = {Adapter: "adapter:", Base: "base:"}
        kind = next((said for each, said in kinds.items() if isinstance(subject, each)), "")
        return self._impact(kind + named(subject), limit=limit)

    @operation("reader")
    def _impact(self, subject: str, *, limit: int | None = 100) -> Impact:
        """Return everything that depends on `base:NAME`, `dataset:NAME` or `adapter:REF`."""
        from ..releases.impact import impact

        return impact(self.workspace, subject, limit=limit)

    @operation("reader")
    def search(self, text: str) -> Found:
        """Search records by name or digest; see `fusery.registry.catalog.search.search`."""
        from ..catalog.search import search

        return search(self.workspace, text)

    def attest(
        self,
        reference: Named,
        *,
        form: Attestation = "slsa",
        key: str | Path | None = None,
        passphrase: Callable[[], bytes] = lambda: b"",
    ) -> Attested:
        """Return how something was made, for auditors; see `fusery.registry.provenance.attest.attest`."""
        if key is None:
            return self._attest(reference, form=form)
        from ..provenance.attest import signed
        from ..provenance.envelope import signer_of

        signer = signer_of(Path(key), passphrase)
        return signed(self._attest(reference, form=form), signer)

    @operation("reader")
    def _attest(self, reference: Named, *, form: Attestation = "slsa") -> Attested:
        """Return an unsigned attestation of how something was made."""
        from ..provenance import attest

        return attest(self.workspace, named(reference), form=form)

    def identify(
        self,
        path: str | Path | Begun,
        *,
        fresh: bool = False,
        reporter: Reporter = SILENT,
    ) -> Identified:
        """Return what a folder, an archive or a file is; see `fusery.registry.identification.identify`."""
        from ..identification.identify import Begun, identify

        if self.server is None:
            return identify(self.workspace, path, fresh=fresh, reporter=reporter)
        from ..identification.candidates import in_parts, sought
        from ..records.sent_bundles import record_sent

        begun = path if isinstance(path, Begun) else Begun(path)
        with self.here() as (workspace, _):
            answers = [self._candidates(part) for part in in_parts(sought(workspace, begun))]
        names = dict.fromkeys(name for each in answers for name in each.names)
        with self.here(*names, send=False) as (workspace, _):
            for bundle in dict.fromkeys(bundle for each in answers for bundle in each.bundles):
                record_sent(workspace, bundle)
            return identify(workspace, begun, fresh=fresh, reporter=reporter)

    @operation("reader", writes=True)
    def _candidates(self, sought: Sought) -> Candidates:
        """Identify files and tensors as known adapters and models, without recording anything."""
        from ..identification.candidates import candidates

        return candidates(self.workspace, sought)

    def report(
        self,
        subject: Named | None = None,
        *,
        html: str | Path | None = None,
        force: bool = False,
        audit: bool = False,
        reporter: Reporter = SILENT,
    ) -> Written:
        """Return what is on record, and write it as one HTML page if asked to; see `fusery.registry.reporting.report.report`."""
        from ..reporting.report import page_file, write_page

        place = None if html is None else page_file(Path(html), force=force)
        made = self._report(subject, page=place is not None, audit=audit, reporter=reporter)
        return made.written if place is None else write_page(made, place, force=force)

    @operation("reader", writes=True)
    def _report(
        self,
        subject: Named | None = None,
        *,
        page: bool = False,
        audit: bool = False,
        reporter: Reporter = SILENT,
    ) -> MadeReport:
        """Return the report, with its HTML page on request; only an admin can have it verify all bytes."""
        from ..access.roles import require_role
        from ..reporting.report import report

        if audit:
            require_role(self.workspace, "admin", "an audit")
        name = None if subject is None else named(subject)
        return report(self.workspace, name, page=page, audit=audit, say=reporter.say)
