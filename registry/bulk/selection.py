"""Which adapters a piece of bulk work is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..catalog.listing import list_adapters

if TYPE_CHECKING:
    from ..workspace import Workspace


def select_names(
    workspace: Workspace, *, task: str | None, where: str | None, say: Callable[[str], None]
) -> list[str]:
    """Return the names of adapters, in the order of their registration; yanked ones are left out, and told of.

    Raises:
        UnknownReferenceError: there is no such task.
        WhereError: the expression is not one.
    """
    rows = list_adapters(workspace, task=task, where=where)
    names = [row["name"] for row in rows if not row["yanked"]]
    if len(names) < len(rows):
        yanked = len(rows) - len(names)
        say(f"{yanked} yanked {'adapter is' if yanked == 1 else 'adapters are'} left out")
    return names
