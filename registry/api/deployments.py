"""What runs where, and what should, as `registry.deployments` has it."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from .operation import operation
from .resource import Named, Resource, named, said

if TYPE_CHECKING:
    from ..records.deployment import Deployed, Deployment, Refused
    from ..sync.outcome import Synced
    from ..sync.sync import SyncRequest

_NAMES = 500
"""Names in one request: they are in its address."""


class Deployments(Resource):
    """What ran where, from when until when; and bringing servers and folders to what they should have."""

    NAME = "deployments"

    @operation("publisher", writes=True)
    def record(
        self,
        reference: Named,
        place: str,
        *,
        note: str = "",
        replace: bool = False,
        via: str = "",
        anew: str | None = None,
    ) -> Deployed:
        """Say that something runs at a place, and return the deployment, with those that it replaced.

        See `fusery.registry.releases.deployments.record_deployment`.
        """
        from ..releases.deployments import record_deployment

        return record_deployment(
            self.workspace,
            named(reference),
            place,
            note=said(note),
            replace=replace,
            via=said(via) or None,
            anew=None if anew is None else said(anew),
        )

    @operation("publisher", writes=True)
    def refuse(self, reference: Named, place: str, *, reason: str, via: str = "") -> Refused:
        """Say that something was asked for at a place and not let run there, for the log.

        See `fusery.registry.releases.deployments.record_refusal`.
        """
        from ..releases.deployments import record_refusal

        return record_refusal(
            self.workspace, named(reference), place, reason=said(reason), via=said(via) or None
        )

    @operation("publisher", writes=True)
    def end(
        self,
        places: Sequence[str],
        *,
        reference: Named | None = None,
        reason: str = "",
        via: str = "",
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
            via=said(via) or None,
        )

    @operation("reader")
    def list(
        self,
        *,
        at: str | None = None,
        every: bool = False,
        place: str | None = None,
        reference: Named | None = None,
        via: str | None = None,
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
            via=via,
            limit=limit,
            offset=offset,
        )

    def yanked(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return those of some names that are yanked adapters, each with the reason."""
        found = dict[str, str]()
        for start in range(0, len(names), _NAMES):
            found |= self._yanked(names[start : start + _NAMES])
        return found

    @operation("reader")
    def _yanked(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return those of some names that are yanked adapters, each with the reason."""
        from ..sync.desired import yanked_among

        return yanked_among(self.workspace, names)

    def sync(self, request: SyncRequest, *, dry_run: bool = False, reporter: Reporter = SILENT) -> Synced:
        """Bring a server, a folder or a bucket to the adapters that it should have, and return what was done.

        Args:
            request: what is wanted where.
            dry_run: only look what would be done.
            reporter: hears what is going on.

        See `fusery.registry.sync.sync.sync`.
        """
        from ..sync.sync import look, sync

        wanted = self._refreshed(request)
        if dry_run:
            return look(self.workspace, self, wanted)
        return sync(self.workspace, self, wanted, reporter=reporter)

    def watch(
        self,
        request: SyncRequest,
        *,
        every: float,
        told: Callable[[Synced], None],
        ended: threading.Event,
        reporter: Reporter = SILENT,
    ) -> None:
        """Sync again and again until that is ended; see `fusery.registry.sync.sync.watch`."""
        from ..sync.sync import watch

        watch(
            self.workspace,
            self,
            request,
            refresh=self._refreshed,
            every=every,
            told=told,
            ended=ended,
            reporter=reporter,
        )

    def _refreshed(self, request: SyncRequest) -> SyncRequest:
        """Download the selected adapters from a server, and return the request with their names."""
        if self.server is None:
            return request
        from .adapters import Adapters

        request.require_wish()
        chosen: builtins.list[str] = []
        if request.where is not None or request.task is not None:
            found = Adapters(self.workspace, self.server).list(where=request.where, task=request.task)
            chosen = [each.name for each in found]
        with self.here(*request.references, *chosen):
            return replace(request, chosen=chosen)
