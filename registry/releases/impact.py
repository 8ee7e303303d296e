"""Impact: everything that depends on a base, a dataset or an adapter, and may have to be withdrawn, rebuilt or redeployed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..database.batches import batches
from ..engine.recipe import Recipe
from ..errors import BadInputError, UnknownReferenceError
from ..record import Record
from ..records.adapter_details import BundleLine
from ..records.deployment import Deployment
from ..records.fused import FusedLabel
from ..records.fused_label import names as labels
from ..records.references import resolve_adapter, resolve_base
from ..records.withdrawals import Withdrawal, Withdrawals, of_adapters, of_bundles, of_fused, own
from .deployments import deployment_records

if TYPE_CHECKING:
    from ..workspace import Workspace

KINDS = ("base", "dataset", "adapter")
"""The kinds of subjects: `base:NAME`, `dataset:NAME`, `adapter:REF`."""

Query = Select[*tuple[Any, ...]]

MANY = 5_000
"""Of more adapters than this, what holds them is found by reading through what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachedFused(FusedLabel):
    """A fused model that something has reached.

    Attributes:
        key: digest of what it is made from and how.
        digest: of its manifest.
        adapter: name of its first adapter.
        precision: how it was written, such as `keep` or `auto`.
        withdrawals: what it has to do with yanks that stand.
    """

    key: str
    digest: str
    adapter: str
    precision: str
    withdrawals: tuple[Withdrawal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachedAlias(Record):
    """An alias that something has reached.

    Attributes:
        alias: its name with that of its task, `TASK#NAME`.
        adapter: name of the adapter that it holds.
        yanked: why that adapter is yanked itself; None if it is not.
        withdrawals: what the adapter has to do with yanks that stand.
    """

    alias: str
    adapter: str
    yanked: str | None
    withdrawals: tuple[Withdrawal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact(Record):
    """What depends on a subject.

    Attributes:
        kind: of the subject: `base`, `dataset` or `adapter`.
        name: of the subject.
        adapters: names of the adapters trained on it or with it, those continued or computed from them, or the adapter itself.
        fused: the fused models with one of them.
        bundles: with one of them.
        aliases: that hold one of them.
        deployments: of any of these.
        yanked: reasons of yanked adapters among these, by name.
        withdrawals: the yanks that concern adapters among these, by name; what is none has its own.
    """

    kind: str
    name: str
    adapters: tuple[str, ...]
    fused: tuple[ReachedFused, ...]
    bundles: tuple[BundleLine, ...]
    aliases: tuple[ReachedAlias, ...]
    deployments: tuple[Deployment, ...]
    yanked: Mapping[str, str]
    withdrawals: Mapping[str, tuple[Withdrawal, ...]]


def impact(workspace: Workspace, subject: str) -> Impact:
    """Return everything that depends on a subject, in a constant number of queries for each generation of computed adapters.

    Args:
        workspace: the registry's parts.
        subject: `base:NAME`, `dataset:NAME` or `adapter:REF`; a dataset's name means all its revisions.

    Raises:
        BadInputError: the subject is none of these.
        UnknownReferenceError: nothing has that name.
    """
    kind, colon, reference = subject.partition(":")
    if kind not in KINDS or not colon or not reference.strip():
        raise BadInputError(
            f"{subject[:80]!r} is not base:NAME, dataset:NAME or adapter:REF", hint="fusery impact base:NAME"
        )
    with workspace.database.read() as session:
        name, roots = _roots(session, kind, reference.strip())
        adapters = _descendants(session, roots)
        fused = _fused(session, {row.digest for row in adapters.values()})
        bundles = _bundles(session, adapters, fused)
        told = of_adapters(session, adapters)
        packed = of_bundles(session, bundles)
        return Impact(
            kind=kind,
            name=name,
            adapters=tuple(row.name for row in adapters.values()),
            fused=tuple(fused[number] for number in sorted(fused)),
            bundles=tuple(
                BundleLine(
                    target=row.target,
                    path=row.path,
                    digest=row.digest,
                    withdrawals=packed.get(number, ()),
                )
                for number, row in sorted(bundles.items())
            ),
            aliases=tuple(_aliases(session, adapters, told)),
            deployments=tuple(_deployments(session, adapters, fused, bundles)),
            yanked={
                adapters[number].name: reason for number in sorted(told) if (reason := own(told[number]))
            },
            withdrawals={adapters[number].name: told[number] for number in sorted(told)},
        )


def _roots(session: Session, kind: str, reference: str) -> tuple[str, Select[int]]:
    """Return the thing's name, and the query for the adapters that stand on it at once."""
    adapter = tables.Adapter
    if kind == "base":
        base = resolve_base(session, reference)
        stands = or_(adapter.base_id == base.id, adapter.trained_on == base.digest)
        return base.name, select(adapter.id).where(stands)
    if kind == "adapter":
        found = resolve_adapter(session, reference)
        # The same bytes may be registered under two tasks.
        return found.name, select(adapter.id).where(adapter.digest == found.digest)
    numbers = select(tables.Dataset.id).where(tables.Dataset.name == reference)
    if session.scalars(numbers.limit(1)).first() is None:
        raise UnknownReferenceError(
            f"there is no dataset {reference[:80]!r}", hint="fusery list --where 'dataset = NAME'"
        )
    return reference, select(adapter.id).where(adapter.dataset_id.in_(numbers))


def _descendants(session: Session, roots: Select[int]) -> dict[int, Any]:
    """Return those adapters and all that were continued or computed from them: `id`, `name` and `digest`, by number."""
    found = {row.id: row for row in session.execute(_continued(roots))}
    source, adapter = tables.AdapterSource, tables.Adapter
    new = dict(found) if session.scalar(select(source.adapter_id).limit(1)) is not None else {}
    # Not in the one query: no recursive query of both databases follows two relations along their indexes.
    while new:
        made = {
            number
            for chosen in batches(new)
            for number in session.scalars(select(source.adapter_id).where(source.source_id.in_(chosen)))
        }
        new = {
            row.id: row
            for chosen in batches(sorted(made - found.keys()))
            for row in session.execute(_continued(select(adapter.id).where(adapter.id.in_(chosen))))
            if row.id not in found
        }
        found |= new
    return dict(sorted(found.items()))


def _continued(roots: Select[int]) -> Query:
    """Return the query for those adapters and all that were continued from them."""
    reached = roots.cte("reached", recursive=True)
    adapter, child = tables.Adapter, aliased(tables.Adapter)
    line = reached.union(select(child.id).join(reached, child.parent_id == reached.c.id))
    query = select(adapter.id, adapter.name, adapter.digest)
    return query.where(adapter.id.in_(select(line.c.id))).order_by(adapter.id)


def _among(session: Session, query: Query, column: Any, values: Collection[Any]) -> Iterator[Any]:
    """Yield the rows of a query whose column has one of the values, as tuples that end with that column.

    Of many values most rows have one, so the table is read as a whole; that is ten times as fast.
    """
    query = query.add_columns(column)
    if len(values) > MANY:
        yield from (row for row in session.execute(query) if row[-1] in values)
        return
    for chosen in batches(values):
        yield from session.execute(query.where(column.in_(chosen)))


def _fused(session: Session, digests: Collection[str]) -> dict[int, ReachedFused]:
    """Return the fused models that hold these bytes, alone or with others, by the numbers of their rows."""
    fused, extra, adapter = tables.Fused, tables.FusedExtra, tables.Adapter
    query = select(fused.id, fused.key, fused.digest, adapter.name, fused.precision, fused.recipe)
    query = query.join(adapter, adapter.id == fused.adapter_id)
    parts = select(extra.fused_id).join(adapter, adapter.id == extra.adapter_id)
    found = list(_among(session, query, adapter.digest, digests))
    alone = {row.id for row in found}
    added = {row.fused_id for row in _among(session, parts, adapter.digest, digests)} - alone
    found += _among(session, query, fused.id, added)
    further: dict[int, list[tuple[str, float]]] = defaultdict(list)
    names = select(extra.position, adapter.name, extra.weight).join(adapter, adapter.id == extra.adapter_id)
    for _, name, weight, number in sorted(_among(session, names, extra.fused_id, {row.id for row in found})):
        further[number].append((name, weight))
    told = of_fused(session, {row.id for row in found})
    return {
        row.id: ReachedFused(
            **labels(row.name, Recipe.from_dict(row.recipe), further[row.id]),
            key=row.key,
            digest=row[2],
            adapter=row.name,
            precision=row.precision,
            withdrawals=told.get(row.id, ()),
        )
        for row in found
    }


def _bundles(session: Session, adapters: Collection[int], fused: Collection[int]) -> dict[int, tables.Bundle]:
    """Return the bundles that hold one of the adapters or fused models, by the numbers of their rows."""
    bundle, packed = tables.Bundle, tables.BundleAdapter
    lying = _among(
        session, select(bundle).join(packed, packed.bundle_id == bundle.id), packed.adapter_id, adapters
    )
    found = {row.id: row for row, _ in lying}
    return found | {row.id: row for row, _ in _among(session, select(bundle), bundle.fused_id, fused)}


def _aliases(
    session: Session, adapters: Mapping[int, Any], told: Mapping[int, Withdrawals]
) -> list[ReachedAlias]:
    alias, task = tables.Alias, tables.Task
    query = select(task.name, alias.name).join(task, task.id == alias.task_id)
    found = sorted(tuple(row) for row in _among(session, query, alias.adapter_id, adapters))
    return [
        ReachedAlias(
            alias=f"{of}#{name}",
            adapter=adapters[number].name,
            yanked=own(told.get(number, ())),
            withdrawals=told.get(number, ()),
        )
        for of, name, number in found
    ]


def _deployments(
    session: Session, adapters: Collection[int], fused: Collection[int], bundles: Collection[int]
) -> list[Deployment]:
    """Return what of these runs somewhere; there are fewer places than adapters, so one looks from there."""
    row = tables.Deployment
    running = session.scalars(select(row).where(row.ended_at.is_(None)).order_by(row.place, row.id))
    reached = (
        each
        for each in running
        if each.adapter_id in adapters or each.fused_id in fused or each.bundle_id in bundles
    )
    return deployment_records(session, list(reached))
