"""From records to nodes: ids that are made of what a thing is, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer, joinedload, selectinload
from sqlalchemy.orm.interfaces import ORMOption

from fusery.storage.digest import digest_bytes, digest_json

from .. import tables
from ..database.batches import batches
from ..records.fused_label import label_of, label_record
from ..records.graph import DeploymentNode, Node
from ..records.withdrawal import Withdrawals
from ..records.withdrawals import of_adapters, of_bundles, of_fused
from .relations import Key

Made = (
    tables.BaseModel
    | tables.Dataset
    | tables.Adapter
    | tables.Fused
    | tables.Bundle
    | tables.Alias
    | tables.Deployment
)


def key_of(thing: Made) -> Key:
    """Return what tells a record from all others of its database."""
    return thing.__tablename__, thing.id


def nodes_of(session: Session, keys: Iterable[Key], *, facts: bool = True) -> dict[Key, Node]:
    """Return the nodes of records, by `key_of`; in so many queries for each few hundred of them.

    Args:
        session: of any transaction.
        keys: of the records.
        facts: with what exports say of them; adapters without it, which may be very many, are read much faster.
    """
    wanted = dict.fromkeys(keys)
    if not facts and wanted and all(table == _ADAPTER.__tablename__ for table, _ in wanted):
        return _plain_adapters(session, [number for _, number in wanted])
    rows: dict[Key, Made] = {}
    for kind, options in _OPTIONS.items():
        numbers = (number for table, number in wanted if table == kind.__tablename__)
        for chosen in batches(numbers):
            query = select(kind).where(kind.id.in_(chosen)).options(*options)
            rows |= {key_of(row): row for row in session.scalars(query).unique()}
    known = _Known.about(session, list(rows.values()))
    return {key: _node(rows[key], known) for key in wanted}


_BASE, _ADAPTER, _FUSED, _EXTRA = tables.BaseModel, tables.Adapter, tables.Fused, tables.FusedExtra
_ALIAS, _DEPLOYMENT = tables.Alias, tables.Deployment
_OPTIONS: Mapping[Any, Sequence[ORMOption]] = {
    _BASE: (joinedload(_BASE.names), defer(_BASE.weights), defer(_BASE.config)),
    tables.Dataset: (),
    _ADAPTER: (defer(_ADAPTER.training), joinedload(_ADAPTER.run), joinedload(_ADAPTER.amendments)),
    _FUSED: (
        joinedload(_FUSED.adapter).load_only(_ADAPTER.name),
        selectinload(_FUSED.extras).joinedload(_EXTRA.adapter).load_only(_ADAPTER.name),
    ),
    tables.Bundle: (),
    _ALIAS: (joinedload(_ALIAS.task), joinedload(_ALIAS.adapter).load_only(_ADAPTER.digest)),
    _DEPLOYMENT: (
        joinedload(_DEPLOYMENT.adapter).load_only(_ADAPTER.digest),
        joinedload(_DEPLOYMENT.fused).load_only(_FUSED.digest),
        joinedload(_DEPLOYMENT.bundle).load_only(tables.Bundle.digest),
    ),
}
"""What is loaded with the records of a kind, since their nodes say it; the order is that of the queries."""


@dataclass(slots=True)
class _Known:
    """What nodes need beyond the row itself.

    Attributes:
        adapters, fused, bundles: the yanks that concern each, by the number of its row.
        moves: the last one of an alias.
    """

    adapters: Mapping[int, Withdrawals] = field(default_factory=dict)
    fused: Mapping[int, Withdrawals] = field(default_factory=dict)
    bundles: Mapping[int, Withdrawals] = field(default_factory=dict)
    moves: Mapping[int, tables.AliasMove] = field(default_factory=dict)

    @classmethod
    def about(cls, session: Session, rows: list[Made]) -> _Known:
        numbers: dict[str, list[int]] = {"adapter": [], "fused": [], "bundle": []}
        for row in rows:
            if row.__tablename__ in numbers:
                numbers[row.__tablename__].append(row.id)
            elif isinstance(row, tables.Alias | tables.Deployment):
                for name, held in numbers.items():
                    number = getattr(row, f"{name}_id", None)
                    held += [] if number is None else [number]
        return cls(
            of_adapters(session, numbers["adapter"]),
            of_fused(session, numbers["fused"]),
            of_bundles(session, numbers["bundle"]),
            {
                row.alias_id: row
                for row in _last_moves(session, (each.id for each in rows if isinstance(each, tables.Alias)))
            },
        )


def _plain_adapters(session: Session, numbers: list[int]) -> dict[Key, Node]:
    """Return the nodes of adapters without facts."""
    found: dict[Key, Node] = {}
    query = select(_ADAPTER.id, _ADAPTER.name, _ADAPTER.digest, _ADAPTER.created_at, _ADAPTER.created_by)
    for chosen in batches(numbers):
        told = of_adapters(session, chosen)
        rows = {row[0]: row for row in session.execute(query.where(_ADAPTER.id.in_(chosen)))}
        for number, name, digest, at, by in map(rows.__getitem__, chosen):
            node = Node(f"adapter:{name}", "adapter", name, digest, told.get(number, ()), at, by)
            found[_ADAPTER.__tablename__, number] = node
    return found


def _last_moves(session: Session, ids: Iterable[int]) -> Iterable[tables.AliasMove]:
    move = tables.AliasMove
    for chosen in batches(ids):
        last = select(func.max(move.id)).where(move.alias_id.in_(chosen)).group_by(move.alias_id)
        yield from session.scalars(select(move).where(move.id.in_(last)))


def _node(thing: Made, known: _Known) -> Node:
    if isinstance(thing, tables.BaseModel):
        facts = {"architecture": thing.architecture, "parameters": thing.parameters, "dtype": thing.dtype}
        name = thing.name
        return Node(
            f"base:{thing.digest[:16]}",
            "base",
            name,
            thing.digest,
            (),
            thing.created_at,
            thing.created_by,
            facts,
        )
    if isinstance(thing, tables.Adapter):
        return _adapter(thing, known)
    if isinstance(thing, tables.Fused):
        return _fused(thing, known)
    if isinstance(thing, tables.Bundle):
        # The same thing has the same id in every registry, so it is made of content and place, not of the row.
        place = digest_bytes(thing.path.encode())[:8]
        return Node(
            f"bundle:{thing.digest[:16]}:{place}",
            "bundle",
            f"{thing.target} {thing.path}",
            thing.digest,
            known.bundles.get(thing.id, ()),
            thing.created_at,
            thing.created_by,
            {"target": thing.target, "path": thing.path},
        )
    if isinstance(thing, tables.Alias):
        return _alias(thing, known)
    if isinstance(thing, tables.Deployment):
        return _deployment(thing, known)
    identity = digest_json([thing.name, thing.revision, thing.digest])
    facts = {"revision": thing.revision, "examples": thing.examples}
    return Node(f"dataset:{identity[:16]}", "dataset", thing.name, thing.digest, facts=facts)


def _adapter(row: tables.Adapter, known: _Known) -> Node:
    run = row.run
    facts = {
        "trained_on": row.trained_on_name,
        "method": row.method,
        "rank": row.rank,
        "scale": row.scale,
        "val_loss": row.val_loss,
        "amended": ", ".join(sorted({each.field for each in row.amendments})) or None,
        "iterations": row.iterations,
        "started_at": run.started_at if run else None,
        "seconds": run.seconds if run else None,
    }
    told = known.adapters.get(row.id, ())
    return Node(
        f"adapter:{row.name}", "adapter", row.name, row.digest, told, row.created_at, row.created_by, facts
    )


def _fused(row: tables.Fused, known: _Known) -> Node:
    facts = {
        "key": row.key,
        "origin": row.origin,
        "precision": row.precision,
        "format": label_record(row)["format"],
        "engine": row.engine,
        "seconds": row.seconds,
        "verdict": row.verdict,
        "retained": row.retained,
    }
    name, told = label_of(row), known.fused.get(row.id, ())
    return Node(
        f"fused:{row.key[:16]}", "fused", name, row.digest, told, row.created_at, row.created_by, facts
    )


def _alias(row: tables.Alias, known: _Known) -> Node:
    name, move, held = f"{row.task.name}#{row.name}", known.moves.get(row.id), row.adapter_id or 0
    return Node(
        f"alias:{name}",
        "alias",
        name,
        row.adapter.digest if row.adapter else "",
        known.adapters.get(held, ()),
        move.at if move else None,
        move.by if move else None,
        {"reason": move.reason if move else ""},
    )


def _deployment(row: tables.Deployment, known: _Known) -> Node:
    held = row.bundle or row.fused or row.adapter
    assert held is not None  # the database sees to that
    told = {"bundle": known.bundles, "fused": known.fused, "adapter": known.adapters}[held.__tablename__].get(
        held.id, ()
    )
    digest = held.digest
    identity = digest_json([row.place, row.at.isoformat(), digest])
    facts = {"note": row.note, "ended_at": row.ended_at, "ended_by": row.ended_by}
    return DeploymentNode(
        f"deployment:{identity[:16]}",
        "deployment",
        row.place,
        digest,
        told,
        row.at,
        row.by,
        facts,
        ended_at=row.ended_at,
    )
