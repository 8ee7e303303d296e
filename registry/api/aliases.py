"""The part of the Python API about which version counts, and what is said of it: aliases, yanks, amendments, and the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..workspace import Workspace

if TYPE_CHECKING:
    from ..registration.amend import Amended

Rows = list[dict[str, Any]]
"""Plain values, as `--json` prints them.  Named here, because within `Registry` `list` is a method."""


class Releases:
    """What `Registry` does about released versions.

    Attributes:
        workspace: the registry's parts.
    """

    workspace: Workspace

    def set_alias(self, reference: str, alias: str, *, reason: str = "") -> dict[str, Any]:
        """Let an alias of an adapter's task hold that adapter; see `fusery.registry.releases.aliases.set_alias`."""
        from ..releases.aliases import set_alias

        return set_alias(self.workspace, reference, alias, reason=reason)

    def remove_alias(self, alias: str, *, reason: str = "", emergency: bool = False) -> dict[str, Any]:
        """Take an alias away from what it holds; see `fusery.registry.releases.aliases.remove_alias`."""
        from ..releases.aliases import remove_alias

        return remove_alias(self.workspace, alias, reason=reason, emergency=emergency)

    def roll_back(self, alias: str, *, reason: str = "", emergency: bool = False) -> dict[str, Any]:
        """Give an alias back to the adapter that held it before; see `fusery.registry.releases.aliases.roll_back`."""
        from ..releases.aliases import roll_back

        return roll_back(self.workspace, alias, reason=reason, emergency=emergency)

    def aliases(self, task: str | None = None) -> Rows:
        """Return the aliases and what they hold."""
        from ..releases.aliases import list_aliases

        return list_aliases(self.workspace, task)

    def alias(self, alias: str, *, at: str | None = None) -> dict[str, Any]:
        """Return what an alias holds, or held at a date."""
        from ..releases.history import show_alias

        return show_alias(self.workspace, alias, at=at)

    def alias_history(self, alias: str) -> Rows:
        """Return every move of an alias."""
        from ..releases.aliases import alias_history

        return alias_history(self.workspace, alias)

    def amend(self, reference: str, **correction: Any) -> Amended:
        """Correct what was said about an adapter; see `fusery.registry.registration.correction.Correction` for the keywords."""
        from ..registration.amend import amend
        from ..registration.correction import Correction

        return amend(self.workspace, reference, Correction(**correction))

    def yank(self, reference: str, *, reason: str) -> dict[str, Any]:
        """Withdraw an adapter; see `fusery.registry.releases.yanks.yank`."""
        from ..releases.yanks import yank

        return yank(self.workspace, reference, reason=reason)

    def unyank(self, reference: str, *, reason: str = "") -> dict[str, Any]:
        """Take a yank back."""
        from ..releases.yanks import lift

        return lift(self.workspace, reference, reason=reason)

    def events(self, **filters: Any) -> Rows:
        """Return entries of the log; `filters` are the keywords of `fusery.registry.catalog.journal.journal`."""
        from ..catalog.journal import journal

        return journal(self.workspace, **filters)
