"""Following the records up and down, a generation at a time: as many queries as there are generations, not things."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, defer, joinedload, selectinload

from .. import tables
from ..database.batches import batches
from ..records.references import find_things
from .graph import COMPUTED_FROM, REGISTERED_FOR, TRAINED_ON, Edge, Graph
from .nodes import Made, key_of, nodes_of

if TYPE_CHECKING:
    from ..workspace import Workspace

Link = tuple[Made, Made, str]
"""A thing, another, and the relation of the two."""

_BASES = select(tables.BaseModel).options(
    selectinload(tables.BaseModel.names), defer(tables.BaseModel.weights), defer(tables.BaseModel.config)
)
_ADAPTERS = select(tables.Adapter).options(defer(tables.Adapter.training)).order_by(tables.Adapter.id)
_FUSED = (
    select(tables.Fused)
    .options(
        selectinload(tables.Fused.adapter),
        selectinload(tables.Fused.extras).selectinload(tables.FusedExtra.adapter),
    )
    .order_by(tables.Fused.id)
)
_BUNDLES = select(tables.Bundle).order_by(tables.Bundle.id)
_ALIASES = select(tables.Alias).options(joinedload(tables.Alias.task)).order_by(tables.Alias.id)
_DEPLOYMENTS = select(tables.Deployment).order_by(tables.Deployment.id)


def trace(
    workspace: Workspace, reference: str, *, up: bool = True, down: bool = True, complete: bool = False
) -> Graph:
    """Return what a thing was made from (`up`), what was made from it and where it went (`down`).

    Args:
        workspace: the registry's parts.
        reference: as `things.find_things` takes it.
        up: what it was made from.
        down: what was made from it, the aliases that hold it, and where it was deployed.
        complete: also what else the things in the graph were made from, at first hand: a document about a fuse names
            all that went in.

    Raises:
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a digest prefix fits several things.
    """
    with workspace.database.read() as session:
        starts: list[Made] = [*find_things(session, reference)]
        return trace_things(session, starts, up=up, down=down, complete=complete)


def trace_things(
    session: Session,
    starts: Sequence[Made],
    *,
    up: bool = True,
    down: bool = True,
    complete: bool = False,
    most: int | None = None,
) -> Graph:
    """Return what `trace` does, of several records at once.

    Args:
        session: of any transaction.
        starts: at least one.
        up: as `trace` has it.
        down: as `trace` has it.
        complete: as `trace` has it.
        most: go no further once more things than these were come across; the graph has more nodes then.
    """
    found = _Found(session, starts, most)
    if up:
        found.walk(_parents, upwards=True)
    if down:
        found.walk(_children, upwards=False)
    if complete:
        found.step(list(found.things.values()), _parents, upwards=True)
    return found.graph()


Step = Callable[[Session, Sequence[Made]], Iterable[Link]]


class _Found:
    """What was come across, in that order."""

    def __init__(self, session: Session, starts: Sequence[Made], most: int | None = None) -> None:
        self._session = session
        self._starts = starts
        self._most = most
        self.things = {key_of(thing): thing for thing in starts}
        self._links: dict[tuple[tuple[str, int], tuple[str, int], str], None] = {}

    def walk(self, step: Step, *, upwards: bool) -> None:
        """Follow a step from the starts until nothing is new."""
        generation, seen = list(self._starts), {key_of(thing) for thing in self._starts}
        while generation and (self._most is None or len(self.things) <= self._most):
            met = self.step(generation, step, upwards=upwards)
            generation = [thing for thing in met if key_of(thing) not in seen]
            seen |= {key_of(thing) for thing in generation}

    def step(self, generation: Sequence[Made], step: Step, *, upwards: bool) -> list[Made]:
        """Follow one step from some things; return what it led to, each once."""
        met: dict[tuple[str, int], Made] = {}
        for thing, other, relation in step(self._session, generation):
            here, there = key_of(thing), key_of(other)
            self._links[(here, there, relation) if upwards else (there, here, relation)] = None
            met[there] = other
        for key, thing in met.items():
            self.things.setdefault(key, thing)
        return list(met.values())

    def graph(self) -> Graph:
        nodes = nodes_of(self._session, self.things.values())
        roots = tuple(dict.fromkeys(nodes[key_of(thing)].id for thing in self._starts))
        edges = dict.fromkeys(
            Edge(nodes[source].id, nodes[target].id, relation) for source, target, relation in self._links
        )
        return Graph(roots[0], {node.id: node for node in nodes.values()}, list(edges), roots)


def _load(session: Session, query: Select[Any], column: Any, values: Iterable[Any]) -> list[Any]:
    """Return the rows whose column has one of the values."""
    wanted = [value for value in values if value is not None]
    return [row for chosen in batches(wanted) for row in session.scalars(query.where(column.in_(chosen)))]


def _by(attribute: str, rows: Iterable[Any]) -> dict[Any, list[Any]]:
    found = defaultdict(list)
    for row in rows:
        found[getattr(row, attribute)].append(row)
    return found


def _only(kind: Any, things: Iterable[Made]) -> list[Any]:
    return [thing for thing in things if isinstance(thing, kind)]


def _parents(session: Session, things: Sequence[Made]) -> Iterator[Link]:
    yield from _adapter_parents(session, _only(tables.Adapter, things))
    yield from _fused_parents(session, _only(tables.Fused, things))
    yield from _bundle_parents(session, _only(tables.Bundle, things))
    yield from _holder_parents(session, _only(tables.Alias | tables.Deployment, things))


def _adapter_parents(session: Session, rows: Sequence[tables.Adapter]) -> Iterator[Link]:
    bases = _by("id", _load(session, _BASES, tables.BaseModel.id, (row.base_id for row in rows)))
    said = _load(session, _BASES, tables.BaseModel.digest, {row.trained_on for row in rows})
    others = _by("digest", said)
    data = _load(session, select(tables.Dataset), tables.Dataset.id, (row.dataset_id for row in rows))
    datasets = _by("id", data)
    parents = _by("id", _load(session, _ADAPTERS, tables.Adapter.id, (row.parent_id for row in rows)))
    for row in rows:
        for found, relation in (
            (bases[row.base_id], _of_base(row)),
            (others.get(row.trained_on, ()), TRAINED_ON),
            (datasets.get(row.dataset_id, ()), "trained-on-data"),
            (parents.get(row.parent_id, ()), "continued-from"),
        ):
            yield from ((row, other, relation) for other in found)
    source = tables.AdapterSource
    rows_by_id = {row.id: row for row in rows}
    for chosen in batches(rows_by_id):
        query = _ADAPTERS.add_columns(source.adapter_id).join(source, source.source_id == tables.Adapter.id)
        for other, number in session.execute(query.where(source.adapter_id.in_(chosen))):
            yield rows_by_id[number], other, COMPUTED_FROM


def _of_base(row: tables.Adapter) -> str:
    """Return what the base that an adapter is registered for is to it: as a rule, the one that it was trained on."""
    return TRAINED_ON if row.trained_on is None else REGISTERED_FOR


def _fused_parents(session: Session, rows: Sequence[tables.Fused]) -> Iterator[Link]:
    digests = [part.digest for row in rows for part in _parts(row)]
    twins = _by("digest", _load(session, _ADAPTERS, tables.Adapter.digest, digests))
    bases = _by("id", _load(session, _BASES, tables.BaseModel.id, (row.base_id for row in rows)))
    for row in rows:
        for part in _parts(row):
            same = (twin for twin in twins[part.digest] if twin.base_id == row.base_id)
            yield from ((row, twin, "fused-from-adapter") for twin in same)
        yield from ((row, base, "fused-from-base") for base in bases[row.base_id])


def _parts(row: tables.Fused) -> list[tables.Adapter]:
    return [row.adapter, *(extra.adapter for extra in row.extras)]


def _bundle_parents(session: Session, rows: Sequence[tables.Bundle]) -> Iterator[Link]:
    fused = _by("id", _load(session, _FUSED, tables.Fused.id, (row.fused_id for row in rows)))
    by_id = {row.id: row for row in rows}
    for row in rows:
        yield from ((row, made, "packed-from") for made in fused.get(row.fused_id, ()))
    packed = tables.BundleAdapter
    for chosen in batches(row.id for row in rows if row.fused_id is None):
        query = _ADAPTERS.add_columns(packed.bundle_id).join(packed, packed.adapter_id == tables.Adapter.id)
        for adapter, bundle in session.execute(query.where(packed.bundle_id.in_(chosen))):
            yield by_id[bundle], adapter, "packed-from"


def _holder_parents(session: Session, rows: Sequence[tables.Alias | tables.Deployment]) -> Iterator[Link]:
    running = _only(tables.Deployment, rows)
    adapters = _by("id", _load(session, _ADAPTERS, tables.Adapter.id, (row.adapter_id for row in rows)))
    fused = _by("id", _load(session, _FUSED, tables.Fused.id, (row.fused_id for row in running)))
    bundles = _by("id", _load(session, _BUNDLES, tables.Bundle.id, (row.bundle_id for row in running)))
    for row in rows:
        relation = "runs" if isinstance(row, tables.Deployment) else "holds"
        found = list(adapters.get(row.adapter_id, ()))
        if isinstance(row, tables.Deployment):
            found += [*fused.get(row.fused_id, ()), *bundles.get(row.bundle_id, ())]
        yield from ((row, other, relation) for other in found)


def _children(session: Session, things: Sequence[Made]) -> Iterator[Link]:
    bases = {row.id: row for row in _only(tables.BaseModel, things)}
    for row in _load(session, _ADAPTERS, tables.Adapter.base_id, bases):
        yield bases[row.base_id], row, _of_base(row)
    by_digest = {row.digest: row for row in bases.values()}
    for row in _load(session, _ADAPTERS, tables.Adapter.trained_on, by_digest):
        yield by_digest[row.trained_on], row, TRAINED_ON
    data = {row.id: row for row in _only(tables.Dataset, things)}
    for row in _load(session, _ADAPTERS, tables.Adapter.dataset_id, data):
        yield data[row.dataset_id], row, "trained-on-data"
    adapters = {row.id: row for row in _only(tables.Adapter, things)}
    for row in _load(session, _ADAPTERS, tables.Adapter.parent_id, adapters):
        yield adapters[row.parent_id], row, "continued-from"
    source = tables.AdapterSource
    for chosen in batches(adapters):
        query = _ADAPTERS.add_columns(source.source_id).join(source, source.adapter_id == tables.Adapter.id)
        for row, number in session.execute(query.where(source.source_id.in_(chosen))):
            yield adapters[number], row, COMPUTED_FROM
    yield from _fused_children(session, list(adapters.values()))
    yield from _bundle_children(session, adapters)
    for alias in _load(session, _ALIASES, tables.Alias.adapter_id, adapters):
        yield adapters[alias.adapter_id], alias, "holds"
    fused = {row.id: row for row in _only(tables.Fused, things)}
    for bundle in _load(session, _BUNDLES, tables.Bundle.fused_id, fused):
        yield fused[bundle.fused_id], bundle, "packed-from"
    bundles = {row.id: row for row in _only(tables.Bundle, things)}
    running = tables.Deployment
    for column, attribute, by_id in (
        (running.adapter_id, "adapter_id", adapters),
        (running.fused_id, "fused_id", fused),
        (running.bundle_id, "bundle_id", bundles),
    ):
        for row in _load(session, _DEPLOYMENTS, column, by_id):
            yield by_id[getattr(row, attribute)], row, "runs"


def _fused_children(session: Session, rows: Sequence[tables.Adapter]) -> Iterator[Link]:
    """Yield what was fused from adapters' bytes, alone or with others, under whichever name they are registered."""
    twins = _load(session, _ADAPTERS, tables.Adapter.digest, (row.digest for row in rows))
    numbers = [twin.id for twin in twins]
    made = {row.id: row for row in _load(session, _FUSED, tables.Fused.adapter_id, numbers)}
    extra = tables.FusedExtra
    added = _load(session, select(extra.fused_id), extra.adapter_id, numbers)
    made |= {row.id: row for row in _load(session, _FUSED, tables.Fused.id, added)}
    holding = defaultdict(list)
    for number in sorted(made):
        for part in {(part.digest, part.base_id) for part in _parts(made[number])}:
            holding[part].append(made[number])
    for row in rows:
        yield from ((row, fused, "fused-from-adapter") for fused in holding[row.digest, row.base_id])


def _bundle_children(session: Session, adapters: dict[int, tables.Adapter]) -> Iterator[Link]:
    bundle, packed = tables.Bundle, tables.BundleAdapter
    for chosen in batches(adapters):
        query = _BUNDLES.add_columns(packed.adapter_id).join(packed, packed.bundle_id == bundle.id)
        for row, adapter in session.execute(
            query.where(bundle.fused_id.is_(None), packed.adapter_id.in_(chosen))
        ):
            yield adapters[adapter], row, "packed-from"
