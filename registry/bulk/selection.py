"""Which adapters a piece of bulk work is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..records.adapter import Adapter


def usable_names(adapters: Sequence[Adapter], say: Callable[[str], None]) -> list[str]:
    """Return the names of adapters in their order; yanked ones are left out, and told of."""
    names = [each.name for each in adapters if not each.yanked]
    if len(names) < len(adapters):
        yanked = len(adapters) - len(names)
        say(f"{yanked} yanked {'adapter is' if yanked == 1 else 'adapters are'} left out")
    return names
