"""From records to nodes: ids that are made of what a thing is, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fusery.storage.digest import digest_bytes, digest_json

from .. import tables
from ..database.batches import batches
from ..records.fused_label import label_of, label_record
from ..records.withdrawals import Withdrawals, of_adapters, of_bundles, of_fused
from .graph import DeploymentNode, Node

Made = (
    tables.BaseModel
    | tables.Dataset
    | tables.Adapter
    | tables.Fused
    | tables.Bundle
    | tables.Alias
    | tables.Deployment
)


def key_of(thing: Made) -> tuple[str, int]:
    """Return what tells a record from all others of its database."""
    return thing.__tablename__, thing.id


def node_of(session: Session, thing: Made) -> Node:
    """Return the node of one record."""
    return nodes_of(session, [thing])[key_of(thing)]


def nodes_of(session: Session, things: Iterable[Made]) -> dict[tuple[str, int], Node]:
    """Return the nodes of records, by `key_of`; in a number of queries that does not depend on how many they are."""
    rows = list(things)
    known = _Known.about(session, rows)
    return {key_of(row): _node(row, known) for row in rows}


@dataclass(slots=True)
class _Known:
    """What nodes need beyond the row itself.

    Attributes:
        adapters, fused, bundles: the yanks that concern each, by the number of its row.
        runs: how an adapter was trained.
        moves: the last one of an alias.
        digests: of adapters, fused models and bundles that an alias holds or a place runs.
        amended: which fields of an adapter were amended.
    """

    adapters: Mapping[int, Withdrawals] = field(default_factory=dict)
    fused: Mapping[int, Withdrawals] = field(default_factory=dict)
    bundles: Mapping[int, Withdrawals] = field(default_factory=dict)
    runs: Mapping[int, tables.TrainingRun] = field(default_factory=dict)
    moves: Mapping[int, tables.AliasMove] = field(default_factory=dict)
    digests: Mapping[tuple[str, int], str] = field(default_factory=dict)
    amended: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def about(cls, session: Session, rows: list[Made]) -> _Known:
        adapters = [row.id for row in rows if isinstance(row, tables.Adapter)]
        fused = [row.id for row in rows if isinstance(row, tables.Fused)]
        bundles = {row.id: row for row in rows if isinstance(row, tables.Bundle)}
        aliases = [row for row in rows if isinstance(row, tables.Alias)]
        deployments = [row for row in rows if isinstance(row, tables.Deployment)]
        holders = [row.adapter_id for row in aliases] + [row.adapter_id for row in deployments]
        held = [number for number in holders if number is not None]
        run_fused = [row.fused_id for row in deployments if row.fused_id is not None]
        run_bundles = [row.bundle_id for row in deployments if row.bundle_id is not None]
        for row in _rows(session, tables.Bundle, [each for each in run_bundles if each not in bundles]):
            bundles[row.id] = row
        digests = {
            **_digests(session, tables.Adapter, held),
            **_digests(session, tables.Fused, run_fused),
            **{("bundle", row.id): row.digest for row in bundles.values()},
        }
        return cls(
            of_adapters(session, [*adapters, *held]),
            of_fused(session, [*fused, *run_fused]),
            of_bundles(session, bundles),
            {row.adapter_id: row for row in _runs(session, adapters)},
            {row.alias_id: row for row in _last_moves(session, [row.id for row in aliases])},
            digests,
            _amended(session, adapters),
        )


def _rows(session: Session, table: Any, ids: Iterable[int]) -> Iterable[Any]:
    for chosen in batches(ids):
        yield from session.scalars(select(table).where(table.id.in_(chosen)))


def _digests(session: Session, table: Any, ids: Iterable[int]) -> dict[tuple[str, int], str]:
    return {
        (table.__tablename__, number): digest
        for chosen in batches(ids)
        for number, digest in session.execute(select(table.id, table.digest).where(table.id.in_(chosen)))
    }


def _runs(session: Session, ids: Iterable[int]) -> Iterable[tables.TrainingRun]:
    run = tables.TrainingRun
    for chosen in batches(ids):
        yield from session.scalars(select(run).where(run.adapter_id.in_(chosen)))


def _amended(session: Session, ids: Iterable[int]) -> dict[int, str]:
    row, found = tables.Amendment, dict[int, set[str]]()
    for chosen in batches(ids):
        for number, name in session.execute(
            select(row.adapter_id, row.field).where(row.adapter_id.in_(chosen))
        ):
            found.setdefault(number, set()).add(name)
    return {number: ", ".join(sorted(names)) for number, names in found.items()}


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
    run = known.runs.get(row.id)
    facts = {
        "trained_on": row.trained_on_name,
        "method": row.method,
        "rank": row.rank,
        "scale": row.scale,
        "val_loss": row.val_loss,
        "amended": known.amended.get(row.id),
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
        known.digests.get(("adapter", held), ""),
        known.adapters.get(held, ()),
        move.at if move else None,
        move.by if move else None,
        {"reason": move.reason if move else ""},
    )


def _deployment(row: tables.Deployment, known: _Known) -> Node:
    if row.bundle_id is not None:
        digest, told = known.digests[("bundle", row.bundle_id)], known.bundles.get(row.bundle_id, ())
    elif row.fused_id is not None:
        digest, told = known.digests[("fused", row.fused_id)], known.fused.get(row.fused_id, ())
    else:
        held = row.adapter_id or 0
        digest, told = known.digests.get(("adapter", held), ""), known.adapters.get(held, ())
    identity = digest_json([row.place, row.at.isoformat(), digest])
    facts = {"note": row.note, "ended_at": row.ended_at, "ended_by": row.ended_by}
    return DeploymentNode(
        f"deployment:{identity[:16]}", "deployment", row.place, digest, told, row.at, row.by, facts
    )
