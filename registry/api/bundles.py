"""Bundles, as `registry.bundles` has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from ..record import Record
from .operation import operation
from .resource import Named, Resource

if TYPE_CHECKING:
    from ..bulk.standing import StandingBundle
    from ..bulk.work import Done
    from ..bundles import Choices, Content
    from ..bundles.materialize import Materialized
    from ..fusion.request import FuseRequest
    from ..records.sent_bundles import SentBundle


class Bundles(Resource):
    """What is shipped of adapters."""

    NAME = "bundles"

    def materialize(
        self,
        reference: Named | Sequence[Named],
        destination: str | Path,
        *,
        target: str = "model",
        request: FuseRequest | None = None,
        content: Content | None = None,
        choices: Choices | None = None,
        force: bool = False,
        reporter: Reporter = SILENT,
    ) -> Materialized:
        """Write a deployable bundle, and return what is in it; see `fusery.registry.bundles.materialize.materialize`."""
        from ..bundles.materialize import materialize
        from ..fusion.request import FuseRequest

        chosen = [reference] if isinstance(reference, str | Record) else reference
        wanted = request or FuseRequest()
        with self.here(*chosen, *wanted.others, reporter=reporter) as (workspace, names):
            return materialize(
                workspace,
                names[: len(chosen)],
                destination,
                target=target,
                request=wanted.with_others(names[len(chosen) :]),
                content=content,
                choices=choices,
                force=force,
                reporter=reporter,
            )

    def materialize_all(
        self,
        pattern: str | Path,
        request: FuseRequest | None = None,
        *,
        target: str = "model",
        task: str | None = None,
        where: str | None = None,
        force: bool = False,
        content: Content | None = None,
        choices: Choices | None = None,
        jobs: int | None = None,
        reporter: Reporter = SILENT,
    ) -> Done[Materialized | StandingBundle]:
        """Write bundles of many adapters, and return what became of each; see `fusery.registry.bulk.work.materialize_all`."""
        from ..bulk.work import materialize_all
        from ..fusion.request import FuseRequest

        wanted = request or FuseRequest()
        chosen = self.chosen(task, where, reporter)
        with self.here(*chosen, *wanted.others, reporter=reporter) as (workspace, names):
            return materialize_all(
                workspace,
                names[: len(chosen)],
                str(pattern),
                wanted.with_others(names[len(chosen) :]),
                target=target,
                force=force,
                content=content,
                choices=choices,
                jobs=jobs,
                reporter=reporter,
            )

    @operation("publisher", writes=True)
    def record(self, bundle: SentBundle) -> bool:
        """Record a bundle that was written elsewhere, and tell whether it was new; see `fusery.registry.records.bundles`."""
        from ..access.roles import require_role
        from ..fusion.foreign import foreign_key
        from ..records.sent_bundles import record_sent

        workspace = self.workspace
        return record_sent(
            workspace,
            bundle,
            claim=None if bundle.fused is None else foreign_key(workspace.identity, bundle.fused),
            require_may_replace=lambda: require_role(workspace, "approver", "replacing another's bundle"),
        )
