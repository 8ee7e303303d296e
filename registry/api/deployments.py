"""What runs where, as `registry.deployments` has it."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .resource import Named, Resource, named, said

if TYPE_CHECKING:
    from ..records.deployment import Deployed, Deployment


class Deployments(Resource):
    """What ran where, from when until when, as people and pipelines say; nothing is deployed here."""

    def record(self, reference: Named, place: str, *, note: str = "", replace: bool = False) -> Deployed:
        """Say that something runs at a place, and return the deployment, with those that it replaced.

        See `fusery.registry.releases.deployments.record_deployment`.
        """
        from ..releases.deployments import record_deployment

        return record_deployment(self.workspace, named(reference), place, note=said(note), replace=replace)

    def end(
        self, places: Sequence[str], *, reference: Named | None = None, reason: str = ""
    ) -> builtins.list[Deployment]:
        """Say that nothing runs at places any more, and return what ran there until now.

        See `fusery.registry.releases.deployments.end_deployments`.
        """
        from ..releases.deployments import end_deployments

        return end_deployments(
            self.workspace,
            places,
            reference=None if reference is None else named(reference),
            reason=said(reason),
        )

    def list(
        self,
        *,
        at: str | None = None,
        every: bool = False,
        place: str | None = None,
        reference: Named | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> builtins.list[Deployment]:
        """Return what runs where; see `fusery.registry.releases.deployments.list_deployments`."""
        from ..releases.deployments import list_deployments

        return list_deployments(
            self.workspace,
            at=at,
            every=every,
            place=place,
            reference=None if reference is None else named(reference),
            limit=limit,
            offset=offset,
        )
