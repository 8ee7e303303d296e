"""Impact: everything that depends on a base, a dataset or an adapter, and may have to be withdrawn, rebuilt or redeployed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import CTE, ColumnElement, Select, func, literal, or_, select, union, union_all
from sqlalchemy.orm import Session

from .. import tables
from ..database.batches import batches
from ..engine.recipe import Recipe
from ..errors import BadInputError, UnknownReferenceError
from ..provenance.closure import adapters_from
from ..record import Record
from ..records.adapter_details import BundleLine
from ..records.deployment import Deployment
from ..records.fused import FusedLabel
from ..records.fused_label import names as labels
from ..records.references import resolve_adapter, resolve_base
from ..records.withdrawal import Withdrawal, own
from ..records.withdrawals import of_adapters, of_bundles, of_fused
from .deployments import deployment_records

if TYPE_CHECKING:
    from ..workspace import Workspace

KINDS = ("base", "dataset", "adapter")
"""The kinds of subjects: `base:NAME`, `dataset:NAME`, `adapter:REF`."""

Query = Select[*tuple[Any, ...]]

LIMIT = 100
"""Things of a kind that are listed, the newest, where nobody asks for all."""


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
        totals: how many adapters, fused models, bundles, aliases and deployments there are.
        cut: there are more than are listed; those are the newest.
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
    totals: Mapping[str, int]
    cut: bool


def impact(workspace: Workspace, subject: str, *, limit: int | None = LIMIT) -> Impact:
    """Return what depends on a subject, in a fixed number of statements.

    Args:
        workspace: the registry's parts.
        subject: `base:NAME`, `dataset:NAME` or `adapter:REF`; a dataset's name means all its revisions.
        limit: things of each kind that are listed, the newest; None for all there are.

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
        totals, found = _reached(session, roots, limit, many=kind != "adapter")
        adapters = _adapters(session, found["adapters"])
        fused = _fused(session, found["fused"])
        told = of_adapters(session, adapters)
        return Impact(
            kind=kind,
            name=name,
            adapters=tuple(adapters.values()),
            fused=tuple(fused),
            bundles=tuple(_bundles(session, found["bundles"])),
            aliases=tuple(_aliases(session, found["aliases"])),
            deployments=tuple(_deployments(session, found["deployments"])),
            yanked={adapters[number]: reason for number in sorted(told) if (reason := own(told[number]))},
            withdrawals={adapters[number]: told[number] for number in sorted(told)},
            totals=totals,
            cut=any(totals[name] > len(numbers) for name, numbers in found.items()),
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


def _reached(
    session: Session, roots: Select[int], limit: int | None, *, many: bool
) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Return how many things of each kind are reached, and the numbers of those that are listed; in one statement.

    Args:
        session: of any transaction.
        roots: the query for the adapters that stand on the subject at once.
        limit: as `impact` has it.
        many: they are many, as those of a base are: what holds them is found by reading through what there is, since
            SQLite would look up each of them everywhere.
    """
    adapter, fused, extra = tables.Adapter, tables.Fused, tables.FusedExtra
    bundle, packed, alias, place = tables.Bundle, tables.BundleAdapter, tables.Alias, tables.Deployment

    def among(column: Any, query: Query) -> ColumnElement[bool]:
        # No index has a sum.
        unindexed = column + ("" if column is adapter.digest else 0)
        held: ColumnElement[bool] = (unindexed if many else column).in_(query)
        return held

    line = adapters_from(session, roots)
    numbers = select(line.c[0])
    # A fused model is of bytes, alone or with others, under whichever name they are registered.
    digests = select(adapter.digest).where(adapter.id.in_(numbers)).distinct().cte("digests")
    part = select(adapter.id).where(among(adapter.digest, select(digests.c[0]))).distinct().cte("parts")
    parts = select(part.c[0])
    models = _each(
        "models",
        select(fused.id.label("id")).where(among(fused.adapter_id, parts)),
        select(extra.fused_id).where(among(extra.adapter_id, parts)),
    )
    packages = _each(
        "packages",
        select(packed.bundle_id.label("id")).where(among(packed.adapter_id, numbers)),
        select(bundle.id).where(among(bundle.fused_id, select(models.c[0]))),
    )
    held = (
        among(place.adapter_id, numbers),
        among(place.fused_id, select(models.c[0])),
        among(place.bundle_id, select(packages.c[0])),
    )
    kinds = {
        "adapters": numbers,
        "fused": select(models.c[0]),
        "bundles": select(packages.c[0]),
        "aliases": select(alias.id).where(among(alias.adapter_id, numbers)),
        "deployments": select(place.id).where(place.ended_at.is_(None), or_(*held)),
    }
    totals: dict[str, int] = {}
    found: dict[str, list[int]] = {kind: [] for kind in kinds}
    ways: list[Query] = []
    for kind, query in kinds.items():
        each = query.subquery()
        listed = select(each.c[0].label("id")).order_by(each.c[0].desc()).limit(limit).subquery()
        ways.append(select(literal(kind).label("kind"), literal(0).label("counted"), listed.c[0].label("n")))
        ways.append(select(literal(kind), literal(1), func.count()).select_from(each))
    for kind, counted, number in session.execute(union_all(*ways)):
        if counted:
            totals[kind] = number
        else:
            found[kind].append(number)
    return totals, found


def _each(name: str, *ways: Select[int]) -> CTE:
    """Return the query for what any of some queries finds, each once; so said, SQLite makes it once for all who use it."""
    each = union(*ways).subquery()
    return select(each.c[0].label("id")).distinct().cte(name)


def _adapters(session: Session, numbers: Collection[int]) -> dict[int, str]:
    """Return the names of adapters by their numbers, in their order."""
    adapter = tables.Adapter
    rows = _rows(session, select(adapter.id, adapter.name), adapter.id, numbers)
    return {row.id: row.name for row in rows}


def _rows(session: Session, query: Query, column: Any, numbers: Collection[int]) -> Iterator[Any]:
    """Yield the rows that have these numbers, in their order."""
    for chosen in batches(sorted(numbers)):
        yield from session.execute(query.where(column.in_(chosen)).order_by(column))


def _fused(session: Session, numbers: Collection[int]) -> Iterator[ReachedFused]:
    fused, extra, adapter = tables.Fused, tables.FusedExtra, tables.Adapter
    query = select(fused.id, fused.key, fused.digest, adapter.name, fused.precision, fused.recipe)
    query = query.join(adapter, adapter.id == fused.adapter_id)
    further: dict[int, list[tuple[str, float]]] = defaultdict(list)
    names = select(extra.fused_id, extra.position, adapter.name, extra.weight)
    names = names.join(adapter, adapter.id == extra.adapter_id).order_by(extra.fused_id, extra.position)
    for number, _, name, weight in _rows(session, names, extra.fused_id, numbers):
        further[number].append((name, weight))
    told = of_fused(session, numbers)
    for row in _rows(session, query, fused.id, numbers):
        yield ReachedFused(
            **labels(row.name, Recipe.from_dict(row.recipe), further[row.id]),
            key=row.key,
            digest=row[2],
            adapter=row.name,
            precision=row.precision,
            withdrawals=told.get(row.id, ()),
        )


def _bundles(session: Session, numbers: Collection[int]) -> Iterator[BundleLine]:
    bundle, told = tables.Bundle, of_bundles(session, numbers)
    for (row,) in _rows(session, select(bundle), bundle.id, numbers):
        yield BundleLine(
            target=row.target, path=row.path, digest=row.digest, withdrawals=told.get(row.id, ())
        )


def _aliases(session: Session, numbers: Collection[int]) -> list[ReachedAlias]:
    alias, task, adapter = tables.Alias, tables.Task, tables.Adapter
    query = select(alias.id, task.name, alias.name, adapter.id, adapter.name)
    query = query.join(task, task.id == alias.task_id).join(adapter, adapter.id == alias.adapter_id)
    found = sorted(tuple(row)[1:] for row in _rows(session, query, alias.id, numbers))
    told = of_adapters(session, {number for _, _, number, _ in found})
    return [
        ReachedAlias(
            alias=f"{of}#{name}",
            adapter=held,
            yanked=own(told.get(number, ())),
            withdrawals=told.get(number, ()),
        )
        for of, name, number, held in found
    ]


def _deployments(session: Session, numbers: Collection[int]) -> list[Deployment]:
    row = tables.Deployment
    running = [each for (each,) in _rows(session, select(row), row.id, numbers)]
    return deployment_records(session, sorted(running, key=lambda each: (each.place, each.id)))
