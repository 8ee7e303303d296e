"""The relations between records, and the records that are reached through them, however far away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, case, literal, literal_column, or_, select, union_all
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..database.engine import batches
from ..records.graph import COMPUTED_FROM, REGISTERED_FOR, TRAINED_ON

Key = tuple[str, int]
"""The table and the number of a record."""

Link = tuple[Key, Key, str]
"""A made record, what it was made from, and the relation of the two."""

FUSED_FROM = "fused-from-base"
"""The relation of a fused model to its base, which is followed upwards only."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One way in which things are made from others.

    Attributes:
        pairs: a query for the number of what was made, of what it was made from, and the name of the relation.
        upwards: it is followed upwards only.
    """

    pairs: Select[*tuple[Any, ...]]
    made: Any
    source: Any
    upwards: bool = False

    def column(self, up: bool) -> Any:
        """Return the column with the number of what is asked about."""
        return self.pairs.selected_columns[0 if up else 1]

    def ends(self, up: bool) -> tuple[str, str]:
        """Return the table of what is asked about, and that of what it leads to."""
        names = self.made.__tablename__, self.source.__tablename__
        return names if up else names[::-1]


def _relations() -> Iterator[Relation]:
    base, adapter, dataset = tables.BaseModelRow, tables.AdapterRow, tables.DatasetRow
    fused, extra, bundle, packed = (
        tables.FusedRow,
        tables.FusedExtraRow,
        tables.BundleRow,
        tables.BundleAdapterRow,
    )
    alias, runs, sources = tables.AliasRow, tables.DeploymentRow, tables.AdapterSourceRow

    # What the base that an adapter is registered for is to it: as a rule, the one that it was trained on.
    for_base = case((adapter.trained_on.is_(None), TRAINED_ON), else_=REGISTERED_FOR)
    yield Relation(select(adapter.id, adapter.base_id, for_base), adapter, base)
    said = select(adapter.id, base.id, literal(TRAINED_ON)).join(base, base.digest == adapter.trained_on)
    yield Relation(said, adapter, base)
    yield _plain(adapter.id, adapter.dataset_id, "trained-on-data", adapter, dataset)
    yield _plain(adapter.id, adapter.parent_id, "continued-from", adapter, adapter)
    yield _plain(sources.adapter_id, sources.source_id, COMPUTED_FROM, adapter, adapter)

    # A fused model is of bytes, alone or with others, under whichever name they are registered.
    part, twin = aliased(adapter), aliased(adapter)
    # The sums keep SQLite from going through all that there is for a base, which looks like little to it.
    on_its_base = or_(twin.base_id + 0 == fused.base_id + 0, twin.base_id + 0 == part.base_id + 0)
    same = and_(twin.digest == part.digest, on_its_base)
    made = select(fused.id, twin.id, literal("fused-from-adapter"))
    first = made.join(part, part.id == fused.adapter_id)
    further = made.join(extra, extra.fused_id == fused.id).join(part, part.id == extra.adapter_id)
    yield Relation(first.join(twin, same), fused, adapter)
    yield Relation(further.join(twin, same), fused, adapter)
    onto = select(fused.id, fused.base_id, literal(FUSED_FROM))
    yield Relation(onto, fused, base, upwards=True)

    yield _plain(bundle.id, bundle.fused_id, "packed-from", bundle, fused)
    apart = select(packed.bundle_id, packed.adapter_id, literal("packed-from"))
    # And here from going through all bundles.
    alone = apart.join(bundle, bundle.id == packed.bundle_id).where((bundle.fused_id + 0).is_(None))
    yield Relation(alone, bundle, adapter)
    yield _plain(alias.id, alias.adapter_id, "holds", alias, adapter)
    yield _plain(runs.id, runs.adapter_id, "runs", runs, adapter)
    yield _plain(runs.id, runs.fused_id, "runs", runs, fused)
    yield _plain(runs.id, runs.bundle_id, "runs", runs, bundle)


def _plain(made_id: Any, source_id: Any, name: str, made: Any, source: Any) -> Relation:
    return Relation(select(made_id, source_id, literal(name)).where(source_id.is_not(None)), made, source)


RELATIONS = tuple(_relations())

_KINDS = (
    tables.BaseModelRow,
    tables.DatasetRow,
    tables.AdapterRow,
    tables.FusedRow,
    tables.BundleRow,
    tables.AliasRow,
    tables.DeploymentRow,
)
DOWN = tuple(kind.__tablename__ for kind in _KINDS)
"""Kinds, each after those that it is made from."""


def walk(
    session: Session, starts: Sequence[Key], *, up: bool, limit: int | None = None
) -> tuple[dict[Key, None], bool]:
    """Return what was made from records, or with `up` what they were made from, the nearest first, and whether it was cut.

    Args:
        limit: of each kind so many of the nearest, and the newest of these; None for all.
    """
    reached, left, cut = dict.fromkeys(starts), dict[str, int](), False
    adapters = tables.AdapterRow.__tablename__
    near = list(reached)
    while near:
        further: dict[str, set[int]] = defaultdict(set)
        for chosen in batches(near):
            most = None if limit is None else limit + len(reached) + 1
            for kind, number in _next(session, chosen, up, most):
                if (kind, number) not in reached:
                    further[kind].add(number)
        near = []
        for kind in (adapters, *(kind for kind in DOWN if kind != adapters)):
            found = further[kind]
            room = len(found) if limit is None else left.setdefault(kind, limit)
            near += [(kind, number) for number in sorted(found, reverse=True)[:room]]
            cut |= len(found) > room
            left[kind] = room - min(room, len(found))
        reached |= dict.fromkeys(near)
    return reached, cut


def _next(session: Session, keys: Sequence[Key], up: bool, most: int | None) -> Iterator[Key]:
    numbers = _by_kind(keys)
    ways: list[Select[int, int]] = []
    for position, relation in enumerate(RELATIONS):
        here, _ = relation.ends(up)
        if here in numbers and (up or not relation.upwards):
            there = relation.column(not up)
            query = relation.pairs.with_only_columns(
                literal_column(str(position)).label("way"), there.label("id")
            )
            newest = query.where(relation.column(up).in_(numbers[here])).distinct().order_by(there.desc())
            ways.append(select(*newest.limit(most).subquery().c))
    for way, number in session.execute(union_all(*ways)) if ways else ():
        yield RELATIONS[way].ends(up)[1], number


def links_of(session: Session, keys: Iterable[Key]) -> Iterator[Link]:
    """Yield what records were made from."""
    for chosen in batches(keys):
        numbers = _by_kind(chosen)
        ways = [
            relation.pairs.add_columns(literal_column(str(position))).where(
                relation.column(True).in_(numbers[here])
            )
            for position, relation in enumerate(RELATIONS)
            if (here := relation.ends(True)[0]) in numbers
        ]
        rows = session.execute(union_all(*ways)).all() if ways else []
        for made, source, name, way in sorted(rows, key=lambda row: (row[3], row[0], row[1])):
            here, there = RELATIONS[way].ends(True)
            yield (here, made), (there, source), name


def _by_kind(keys: Iterable[Key]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for kind, number in keys:
        found[kind].append(number)
    return found
