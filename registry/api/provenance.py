"""Where things come from and where they went, as `registry.provenance` has it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from .operation import operation
from .resource import Named, Resource, named

if TYPE_CHECKING:
    from ..identification import Begun
    from ..identification.identified import Identified
    from ..provenance import Attested, Whole
    from ..provenance.attest import Attestation
    from ..records.graph import Graph
    from ..records.resolved import Resolved
    from ..releases.impact import Impact
    from ..reporting import Written


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

    def whole_lineage(
        self, reference: Named, *, up: bool = True, down: bool = True
    ) -> AbstractContextManager[Whole]:
        """Return a context in which everything is read a part at a time; see `fusery.registry.provenance.trace_whole`."""
        from ..provenance import trace_whole

        return trace_whole(self.workspace, named(reference), up=up, down=down)

    def impact(self, subject: Named, *, limit: int | None = 100) -> Impact:
        """Return what a base, a dataset or an adapter has reached: of each kind the newest, and how many there are.

        `limit=None` returns everything; see `fusery.registry.releases.impact.impact`.
        """
        from ..records.adapter import Adapter
        from ..records.base import Base
        from ..releases.impact import impact

        kinds = {Adapter: "adapter:", Base: "base:"}
        kind = next((said for each, said in kinds.items() if isinstance(subject, each)), "")
        return impact(self.workspace, kind + named(subject), limit=limit)

    def attest(
        self,
        reference: Named,
        *,
        form: Attestation = "slsa",
        key: str | Path | None = None,
        passphrase: Callable[[], bytes] = lambda: b"",
    ) -> Attested:
        """Return how something was made, for auditors; see `fusery.registry.provenance.attest.attest`."""
        from ..provenance import attest

        place = Path(key) if key is not None else None
        return attest(self.workspace, named(reference), form=form, key=place, passphrase=passphrase)

    def identify(
        self,
        path: str | Path | Begun,
        *,
        fresh: bool = False,
        reporter: Reporter = SILENT,
    ) -> Identified:
        """Return what a folder, an archive or a file is; see `fusery.registry.identification.identify`."""
        from ..identification.identify import identify

        return identify(self.workspace, path, fresh=fresh, reporter=reporter)

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
        from ..reporting import report

        place = Path(html) if html is not None else None
        return report(
            self.workspace,
            None if subject is None else named(subject),
            html=place,
            force=force,
            audit=audit,
            say=reporter.say,
        )
