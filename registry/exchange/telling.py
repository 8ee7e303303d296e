"""The yanks that those who push and pull learn of, here and there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy.orm import Session

from .. import tables
from ..records.withdrawal import Withdrawal, Withdrawals
from ..records.withdrawals import of_adapters, of_fused
from ..workspace import Workspace
from .finding import Row, find_many
from .package import Item


def told_of_yanks(places: Sequence[Workspace], package: Sequence[Item], origin: str) -> list[Withdrawals]:
    """Return for each thing of a package the yanks that concern it.

    Args:
        places: where to ask: where it goes to, if there is a registry, and where it comes from.
        package: the things.
        origin: the id of the registry they come from.
    """
    told: list[dict[tuple[str, str], Withdrawal]] = [{} for _ in package]
    for place in places:
        with place.database.read() as session:
            rows = find_many(session, package, origin)
            for known, found in zip(told, _told(session, rows), strict=True):
                for each in found:
                    known.setdefault((each.adapter, each.relation), each)
    return [tuple(known.values()) for known in told]


def merged(first: Sequence[Withdrawals], second: Sequence[Withdrawals]) -> list[Withdrawals]:
    """Return for each thing the yanks that either place tells of; where both do, as the first one tells it."""
    found = []
    for here, there in zip(first, second, strict=True):
        known = {(each.adapter, each.relation): each for each in (*there, *here)}
        found.append(tuple(known.values()))
    return found


def _told(session: Session, rows: Sequence[Row | None]) -> Iterator[Withdrawals]:
    adapters = of_adapters(session, [row.id for row in rows if isinstance(row, tables.Adapter)])
    fused = of_fused(session, [row.id for row in rows if isinstance(row, tables.Fused)])
    for row in rows:
        if isinstance(row, tables.Adapter):
            yield adapters.get(row.id, ())
        else:
            yield fused.get(row.id, ()) if isinstance(row, tables.Fused) else ()
