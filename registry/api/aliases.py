"""Aliases and what they ask of an adapter, as `registry.aliases` has them."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .operation import operation
from .resource import Named, Resource, named, said

if TYPE_CHECKING:
    from ..catalog.waiting import Waiting
    from ..records.alias import Alias, AliasHolder, AliasMove, Moved
    from ..records.release import AliasRules, Approval, Promotion, RemovedRules, SetRules
    from ..records.task import Task


class Aliases(Resource):
    """Movable names on tasks, such as `prod`: what each holds and held, and the rules for moving it."""

    NAME = "aliases"

    @operation("publisher", writes=True)
    def set(self, alias: str, adapter: Named, *, reason: str = "") -> Moved:
        """Let an alias, `prod` or `TASK#prod`, hold an adapter of its task, and return the move.

        See `fusery.registry.releases.aliases.set_alias`.
        """
        from ..releases.aliases import set_alias

        return set_alias(self.workspace, named(adapter), alias, reason=said(reason))

    @operation("approver", writes=True)
    def remove(self, alias: str, *, reason: str = "", emergency: bool = False) -> Moved:
        """Take an alias away from what it holds, and return the move.

        See `fusery.registry.releases.aliases.remove_alias`.
        """
        from ..releases.aliases import remove_alias

        return remove_alias(self.workspace, alias, reason=said(reason), emergency=emergency)

    @operation("approver", writes=True)
    def roll_back(self, alias: str, *, reason: str = "", emergency: bool = False) -> Moved:
        """Give an alias back to the adapter that held it before, and return the move.

        See `fusery.registry.releases.aliases.roll_back`.
        """
        from ..releases.aliases import roll_back

        return roll_back(self.workspace, alias, reason=said(reason), emergency=emergency)

    @operation("reader")
    def show(self, alias: str, *, at: str | None = None) -> AliasHolder:
        """Return what an alias holds, or held at a date."""
        from ..releases.history import show_alias

        return show_alias(self.workspace, alias, at=at)

    @operation("reader")
    def history(self, alias: str, *, limit: int | None = None, offset: int = 0) -> builtins.list[AliasMove]:
        """Return the moves of an alias, oldest first; see `fusery.registry.releases.aliases.alias_history`."""
        from ..releases.aliases import alias_history

        return alias_history(self.workspace, alias, limit=limit, offset=offset)

    @operation("approver", writes=True)
    def promote(self, reference: Named, alias: str, *, reason: str = "", dry_run: bool = False) -> Promotion:
        """Let an alias hold an adapter if its rules allow it, and return what came of each rule.

        Nothing is raised where they do not: look at `verdict`; see `fusery.registry.releases.promote.promote`.
        """
        from ..releases.promote import promote

        return promote(self.workspace, named(reference), alias, reason=said(reason), dry_run=dry_run)

    @operation("approver", writes=True)
    def approve(self, reference: Named, alias: str, *, note: str = "") -> Approval:
        """Approve of an alias holding an adapter, and return the approval, with all that there are.

        See `fusery.registry.releases.approvals.approve`.
        """
        from ..releases.approvals import approve

        return approve(self.workspace, named(reference), alias, note=said(note))

    @operation("approver", writes=True)
    def withdraw_approval(self, reference: Named, alias: str, *, note: str = "") -> Approval:
        """Take one's own approval back, and return those that are left.

        See `fusery.registry.releases.approvals.withdraw`.
        """
        from ..releases.approvals import withdraw

        return withdraw(self.workspace, named(reference), alias, note=said(note))

    def waiting(self, tasks: Sequence[Task]) -> builtins.list[Waiting]:
        """Return which newest versions wait for approval; see `fusery.registry.catalog.waiting.waiting_for_approval`."""
        from ..catalog.waiting import waiting_for_approval

        return waiting_for_approval(self.workspace, tasks)

    @operation("admin", writes=True)
    def set_rules(
        self,
        target: str,
        rules: Mapping[str, object] | None,
        *,
        guarded: bool | None = None,
        reason: str = "",
        dry_run: bool = False,
    ) -> SetRules:
        """Give an alias rules, and return them with what they apply to; see `fusery.registry.releases.keeping.set_rules`."""
        from ..releases.keeping import set_rules

        return set_rules(self.workspace, target, rules, guarded=guarded, reason=said(reason), dry_run=dry_run)

    @operation("reader")
    def rules(self, target: str) -> AliasRules:
        """Return the rules that count for an alias; see `fusery.registry.releases.keeping.show_rules`."""
        from ..releases.keeping import show_rules

        return show_rules(self.workspace, target)

    @operation("reader")
    def all_rules(self) -> builtins.list[AliasRules]:
        """Return the rules of all aliases, those for every task first."""
        from ..releases.keeping import list_rules

        return list_rules(self.workspace)

    @operation("admin", writes=True)
    def remove_rules(self, target: str, *, reason: str = "", dry_run: bool = False) -> RemovedRules:
        """Take the rules of an alias away, and return them; see `fusery.registry.releases.keeping.remove_rules`."""
        from ..releases.keeping import remove_rules

        return remove_rules(self.workspace, target, reason=said(reason), dry_run=dry_run)

    @operation("reader")
    def names_for(self, adapter: Named) -> builtins.list[str]:
        """Return the aliases that an adapter can be given; see `fusery.registry.releases.aliases.aliases_for`."""
        from ..releases.aliases import aliases_for

        return aliases_for(self.workspace, named(adapter))

    @operation("reader")
    def list(self, task: str | None = None) -> builtins.list[Alias]:
        """Return the aliases and what they hold, by task and name."""
        from ..releases.aliases import list_aliases

        return list_aliases(self.workspace, task)
