"""What those who push and pull are told of yanks, here and there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import tables
from ..withdrawals import of_adapters, of_fused, shown
from ..workspace import Workspace
from .finding import find
from .package import Item


def told_of_yanks(places: Sequence[Workspace], package: Sequence[Item]) -> list[list[dict[str, Any]]]:
    """Return for each thing of a package what it is told of yanks, as `show` has it, by the first place that has it.

    Args:
        places: where to look: where it goes to, if there is a registry, and where it comes from.
        package: the things.
    """
    told: list[list[dict[str, Any]] | None] = [None] * len(package)
    for place in places:
        with place.database.read() as session:
            rows = {at: find(session, item) for at, item in enumerate(package) if told[at] is None}
            adapters = of_adapters(
                session, [row.id for row in rows.values() if isinstance(row, tables.Adapter)]
            )
            fused = of_fused(session, [row.id for row in rows.values() if isinstance(row, tables.Fused)])
            for at, row in rows.items():
                if row is not None:
                    known = adapters if isinstance(row, tables.Adapter) else fused
                    kept = isinstance(row, tables.Adapter | tables.Fused)
                    told[at] = shown(known.get(row.id, ())) if kept else []
    return [each or [] for each in told]
