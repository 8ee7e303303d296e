"""Aliases, what they ask of an adapter, and what runs where: `registry.aliases` and `registry.deployments`."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .operation import Paging, operation
from .resource import Named, Resource, runs

if TYPE_CHECKING:
    from ..catalog.waiting import Waiting
    from ..records.release import (
        Alias,
        AliasHolder,
        AliasMove,
        AliasRules,
        Approval,
        Deployed,
        Deployment,
        Moved,
        Promotion,
        Refused,
        RemovedRules,
        SetRules,
        Task,
    )


class Aliases(Resource):
    """Movable names on tasks, such as `prod`: what each holds and held, and the rules for moving it."""

    @operation("publisher", writes=True)
    @runs("releases.aliases:set_alias")
    def set(self, alias: str, adapter: Named, *, reason: str = "") -> Moved:
        """Set an alias, `prod` or `TASK#prod`, to an adapter of its task, and return the move."""

    @operation("approver", writes=True)
    @runs("releases.aliases:remove_alias")
    def remove(self, alias: str, *, reason: str = "", emergency: bool = False) -> Moved:
        """Remove an alias, and return the move."""

    @operation("approver", writes=True)
    @runs("releases.aliases:roll_back")
    def roll_back(self, alias: str, *, reason: str = "", emergency: bool = False) -> Moved:
        """Set an alias back to its previous adapter, and return the move."""

    @operation("reader")
    @runs("releases.aliases:rollback_target")
    def rollback_target(self, alias: str) -> str | None:
        """Return the adapter that a rollback would restore; None without an earlier holder that can be promoted."""

    @operation("reader")
    @runs("releases.aliases:show_alias")
    def show(self, alias: str, *, at: str | None = None) -> AliasHolder:
        """Return the adapter of an alias, now or at an earlier time."""

    @operation("reader", pages=Paging(newest=True))
    @runs("releases.aliases:alias_history")
    def history(self, alias: str, *, limit: int | None = None, offset: int = 0) -> builtins.list[AliasMove]:
        """Return the moves of an alias, oldest first."""

    @operation("publisher", writes=True)
    @runs("releases.promote:promote")
    def promote(self, reference: Named, alias: str, *, reason: str = "", dry_run: bool = False) -> Promotion:
        """Move an alias to an adapter if its rules allow it, and return the result of each rule."""

    @operation("approver", writes=True)
    @runs("releases.approvals:approve")
    def approve(self, reference: Named, alias: str, *, note: str = "") -> Approval:
        """Approve an adapter for an alias, and return the approval, with all others."""

    @operation("approver", writes=True)
    @runs("releases.approvals:withdraw")
    def withdraw_approval(self, reference: Named, alias: str, *, note: str = "") -> Approval:
        """Withdraw your approval, and return the remaining ones."""

    @runs("catalog.waiting:waiting_for_approval")
    def waiting(self, tasks: Sequence[Task]) -> builtins.list[Waiting]:
        """Return which newest versions wait for approval."""

    @operation("admin", writes=True, begins=True)
    @runs("releases.rules:set_rules")
    def set_rules(
        self,
        target: str,
        rules: Mapping[str, object] | None,
        *,
        guarded: bool | None = None,
        reason: str = "",
        dry_run: bool = False,
    ) -> SetRules:
        """Set the rules of an alias, and return them with their scope."""

    @operation("reader")
    @runs("releases.rules:show_rules")
    def rules(self, target: str) -> AliasRules:
        """Return the effective rules of an alias."""

    @operation("reader")
    @runs("releases.rules:list_rules")
    def all_rules(self) -> builtins.list[AliasRules]:
        """Return the rules of all aliases, those for every task first."""

    @operation("admin", writes=True)
    @runs("releases.rules:remove_rules")
    def remove_rules(self, target: str, *, reason: str = "", dry_run: bool = False) -> RemovedRules:
        """Remove the rules of an alias, and return them."""

    @operation("reader")
    @runs("releases.aliases:aliases_for")
    def names_for(self, adapter: Named) -> builtins.list[str]:
        """Return the possible aliases of an adapter."""

    @operation("reader", pages=Paging())
    @runs("releases.aliases:list_aliases")
    def list(
        self, task: str | None = None, *, limit: int | None = None, offset: int = 0
    ) -> builtins.list[Alias]:
        """Return the aliases with their adapters, by task and name."""


_NAMES = 500  # names in one request: they are in its address


class Deployments(Resource):
    """Records of where adapters, fused models and bundles run, since when and until when."""

    @operation("publisher", writes=True)
    @runs("releases.deployments:record_deployment")
    def record(
        self,
        reference: Named,
        place: str,
        *,
        note: str = "",
        replace: bool = False,
        via: str = "",
        restart_reason: str | None = None,
    ) -> Deployed:
        """Record a deployment, and return it, with those that it replaced."""

    @operation("publisher", writes=True)
    @runs("releases.deployments:record_refusal")
    def refuse(self, reference: Named, place: str, *, reason: str, via: str = "") -> Refused:
        """Log a refused deployment."""

    @operation("publisher", writes=True)
    @runs("releases.deployments:end_deployments")
    def end(
        self, places: Sequence[str], *, reference: Named | None = None, reason: str = "", via: str = ""
    ) -> builtins.list[Deployment]:
        """End the deployments at places, and return them."""

    @operation("reader", pages=Paging())
    @runs("releases.deployments:list_deployments")
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
        """Return deployments."""

    def yanked(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return the yanked adapters among some names, with the reasons."""
        reasons = dict[str, str]()
        for start in range(0, len(names), _NAMES):
            reasons |= self._yanked(names[start : start + _NAMES])
        return reasons

    @operation("reader")
    @runs("releases.deployments:yanked_among")
    def _yanked(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return the yanked adapters among some names, with the reasons."""
