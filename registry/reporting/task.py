"""What a report says of one task, or of one adapter of it: bounded, however much there is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from .. import tables
from ..charts.text import finite
from ..database.batches import batches
from ..provenance import trace_things
from ..records.evaluations import evaluation_records
from ..records.graph import Graph
from ..records.references import load_adapters
from ..records.views import adapter_records, moment
from ..records.withdrawals import of_bundles, own_reason, shown, stands_at
from ..releases.aliases import alias_moves
from ..releases.deployments import deployment_records
from ..training.facts import recorded_curve
from .decisions import approvals_of, decisions_of, rules_of
from .holders import holders
from .models import fused_facts
from .scope import Scope
from .signed import signatures_over

MOST_VERSIONS = 30
MOST_CURVES = 6
"""More lines in one picture cannot be told apart."""

MOST_POINTS = 120
MOST_ALIASES = 20
MOST_ROWS = 50
"""Moves of one alias, deployments, withdrawals, bundles."""

MOST_FINDINGS = 60
MOST_NODES = 60
"""Things in a picture of lineage; of more it starts from fewer versions."""

MOST_OF_A_KIND = 10
"""Things of a kind in it, where even one version leads to more: the nearest, and the newest of these."""


@dataclass(frozen=True, slots=True)
class Section:
    """What is said of one task.

    Attributes:
        facts: plain JSON values.
        graph: where its versions come from and where they went, as far as it can be drawn.
    """

    facts: dict[str, Any]
    graph: Graph


def task_section(session: Session, task: tables.Task, adapter: tables.Adapter | None) -> Section:
    """Return what a report says of a task, or of one adapter.

    Args:
        session: of a read transaction.
        task: which.
        adapter: only this one; its task's versions are listed all the same.
    """
    scope = Scope.of(session, task, adapter)
    rows = _versions(session, task, adapter)
    shown = {row.id: row for row in rows} if adapter is None else {adapter.id: adapter}
    models = fused_facts(session, scope.fused, about=adapter is not None)
    bundles = _bundles(session, scope.bundles[-MOST_ROWS:])
    digests = {
        **{row.digest: ("adapter", row.name) for row in shown.values()},
        **{line["digest"]: ("fused model", f"{line['name']} ({line['format']})") for line in models["lines"]},
        **{bundle["digest"]: ("bundle", f"{bundle['target']} {bundle['path']}") for bundle in bundles},
    }
    deployments = _deployments(session, scope.deployments)
    yanks, yanks_total = _yanks(session, task, adapter)
    aliases, rules = _aliases(session, task, adapter), rules_of(session, task)
    named = {each["alias"] for each in aliases} | {rule["alias"].partition("#")[2] for rule in rules}
    graph, complete = _lineage(session, rows, adapter)
    versions = _views(session, rows)
    corrections = _amendments([view for view in versions if adapter is None or view["name"] == adapter.name])
    for view in versions:
        view["amended"] = sorted({each["field"] for each in view["amendments"]})
    facts = {
        "task": task.name,
        "adapter": adapter.name if adapter else None,
        "versions_total": _count(session, select(tables.Adapter.id).where(tables.Adapter.task_id == task.id)),
        "versions": versions,
        **_curves(session, list(shown.values())),
        "holders": holders(session, task.name, aliases, yanks),
        "aliases": aliases,
        "rules": rules,
        **approvals_of(session, list(shown)),
        **decisions_of(session, task, named, adapter),
        "fused": models["lines"],
        "fused_total": models["total"],
        "maps": models["maps"],
        "bundles": bundles,
        "bundles_total": len(scope.bundles),
        "deployments": deployments,
        "deployments_total": len(scope.deployments),
        "yanks": yanks,
        "yanks_total": yanks_total,
        **corrections,
        **_evaluations(session, list(shown.values())),
        "signatures": signatures_over(session, digests, task.name),
        **_findings([view for view in versions if adapter is None or view["name"] == adapter.name]),
        "lineage": graph.to_dict(),
        "lineage_complete": complete,
        "until": _last_moment(session),
    }
    return Section(facts, graph)


def _count(session: Session, query: Select[Any]) -> int:
    return session.scalar(select(func.count()).select_from(query.subquery())) or 0


def _versions(session: Session, task: tables.Task, adapter: tables.Adapter | None) -> list[tables.Adapter]:
    """Return the newest versions, oldest first, and the adapter that is asked for wherever it stands."""
    row = tables.Adapter
    query = load_adapters().where(row.task_id == task.id).order_by(row.version.desc()).limit(MOST_VERSIONS)
    rows = list(reversed(session.scalars(query).all()))
    if adapter is not None and adapter.id not in {found.id for found in rows}:
        rows.insert(0, adapter)
    return rows


def _views(session: Session, rows: Sequence[tables.Adapter]) -> list[dict[str, Any]]:
    views = [
        {**view, "yanked_reason": own_reason(view), "val_loss_change": None}
        for view in adapter_records(session, rows)
    ]
    for before, view in itertools.pairwise(views):
        now, then = finite(view["val_loss"]), finite(before["val_loss"])
        if view["version"] == before["version"] + 1 and now is not None and then is not None:
            view["val_loss_change"] = now - then
    return views


def _curves(session: Session, rows: Sequence[tables.Adapter]) -> dict[str, Any]:
    """Return the training curves of the newest versions that have one, each of at most so many points."""
    point = tables.CurvePoint
    query = (
        select(point.adapter_id)
        .where(point.adapter_id.in_([row.id for row in rows]))
        .group_by(point.adapter_id)
    )
    having = set(session.scalars(query))
    found = [row for row in rows if row.id in having]
    curves = []
    for row in found[-MOST_CURVES:]:
        points = recorded_curve(row).points
        curves.append(
            {
                "name": row.name,
                "version": row.version,
                "points_total": len(points),
                "points": [
                    {"iteration": each.iteration, "train_loss": each.train_loss, "val_loss": each.val_loss}
                    for each in _thinned(points)
                ],
            }
        )
    return {"curves": curves, "curves_total": len(found)}


def _thinned(points: Sequence[Any]) -> list[Any]:
    """Return points evenly chosen; those with a validation loss before all others, and always the last one."""
    if len(points) <= MOST_POINTS:
        return list(points)
    wanted = [point for point in points if point.val_loss is not None]
    chosen = wanted if len(wanted) >= MOST_POINTS // 4 else list(points)
    step = -(-len(chosen) // (MOST_POINTS - 1))
    kept = chosen[::step]
    return kept if kept[-1] is points[-1] else [*kept, points[-1]]


def _aliases(session: Session, task: tables.Task, adapter: tables.Adapter | None) -> list[dict[str, Any]]:
    """Return the aliases of a task, or those that ever held an adapter, each with its newest moves."""
    alias, moved = tables.Alias, tables.AliasMove
    query = select(alias).where(alias.task_id == task.id).order_by(alias.name).limit(MOST_ALIASES)
    if adapter is not None:
        own = select(alias.id).where(alias.task_id == task.id)
        held = select(moved.alias_id).where(moved.alias_id.in_(own), moved.to_adapter_id == adapter.id)
        query = query.where(alias.id.in_(held))
    found = []
    for row in session.scalars(query):
        moves = [move.to_dict() for move in alias_moves(session, row, MOST_ROWS)]
        found.append(
            {
                "alias": row.name,
                "holder": row.adapter.name if row.adapter else None,
                "moves": moves,
                "moves_total": _count(session, select(moved.id).where(moved.alias_id == row.id)),
            }
        )
    return found


def _bundles(session: Session, numbers: Sequence[int]) -> list[dict[str, Any]]:
    bundle = tables.Bundle
    rows = list(session.scalars(select(bundle).where(bundle.id.in_(numbers)).order_by(bundle.id.desc())))
    told = of_bundles(session, [row.id for row in rows])
    return [
        {
            "target": row.target,
            "path": row.path,
            "digest": row.digest,
            "adapters": [adapter.name for adapter in row.adapters],
            "withdrawals": shown(told.get(row.id, ())),
            "created_at": moment(row.created_at),
            "created_by": row.created_by,
        }
        for row in rows
    ]


def _deployments(session: Session, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return where things run, and then where they ran, the newest first."""
    row = tables.Deployment
    found = [
        (each.ended_at is None, each.at, each.id)
        for chosen in batches(numbers)
        for each in session.execute(select(row.id, row.at, row.ended_at).where(row.id.in_(chosen)))
    ]
    shown = [number for _, _, number in sorted(found, reverse=True)[:MOST_ROWS]]
    rows = {each.id: each for each in session.scalars(select(row).where(row.id.in_(shown)))}
    return [each.to_dict() for each in deployment_records(session, [rows[number] for number in shown])]


def _yanks(
    session: Session, task: tables.Task, only: tables.Adapter | None
) -> tuple[list[dict[str, Any]], int]:
    yank, adapter = tables.Yank, tables.Adapter
    about = adapter.task_id == task.id if only is None else adapter.id == only.id
    query = select(yank, adapter.name).join(adapter, adapter.id == yank.adapter_id).where(about)
    found = session.execute(query.order_by(~stands_at(), yank.id.desc())).all()
    return [
        {
            "adapter": name,
            "reason": row.reason,
            "at": moment(row.at),
            "by": row.by,
            "lifted_at": moment(row.lifted_at) if row.lifted_at else None,
            "lifted_by": row.lifted_by,
        }
        for row, name in found[:MOST_ROWS]
    ], len(found)


def _findings(views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what admission found at the versions that are shown, the newest first."""
    found = [{"adapter": view["name"], **each} for view in reversed(views) for each in view["findings"]]
    return {"findings": found[:MOST_FINDINGS], "findings_total": len(found)}


def _amendments(views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what was amended at the versions that are shown, the newest first."""
    found = [{"adapter": view["name"], **each} for view in views for each in view["amendments"]]
    found.sort(key=lambda each: each["since"], reverse=True)
    return {"amendments": found[:MOST_ROWS], "amendments_total": len(found)}


def _evaluations(session: Session, rows: Sequence[tables.Adapter]) -> dict[str, Any]:
    """Return what was measured of the versions that are shown, the newest first."""
    measured, names = tables.Evaluation, {row.id: row.name for row in rows}
    query = select(measured).where(measured.adapter_id.in_(names), measured.withdrawn_at.is_(None))
    found = session.scalars(query.order_by(measured.id.desc()).limit(MOST_ROWS)).all()
    total = len(found) if len(found) < MOST_ROWS else _count(session, query.with_only_columns(measured.id))
    records = [evaluation_records(names[row.adapter_id], [row])[0].to_dict() for row in found]
    return {"evaluations": records, "evaluations_total": total}


def _lineage(
    session: Session, rows: Sequence[tables.Adapter], adapter: tables.Adapter | None
) -> tuple[Graph, bool]:
    """Return a graph that can be drawn, and whether it starts from all the versions that are shown."""
    if adapter is not None:
        return _bounded(session, [adapter]), True
    if not rows:
        return Graph(""), True
    held = select(tables.Alias.adapter_id).where(tables.Alias.adapter_id.in_([row.id for row in rows]))
    holders = set(session.scalars(held))
    wanted = [row for row in rows if row.id in holders or row is rows[-1]]
    for starts in (list(rows), wanted[-4:]):
        graph = trace_things(session, starts, limit=MOST_NODES, ancestors=MOST_NODES, count=False)
        if not graph.cut and len(graph.nodes) <= MOST_NODES:
            return graph, len(starts) == len(rows)
    return _bounded(session, [rows[-1]]), len(rows) == 1


def _bounded(session: Session, starts: Sequence[tables.Adapter]) -> Graph:
    """Return a graph of few enough things to be drawn, with how many there are besides."""
    graph = trace_things(session, starts, limit=MOST_NODES, ancestors=MOST_NODES, count=False)
    if not graph.cut and len(graph.nodes) <= MOST_NODES:
        return graph
    return trace_things(session, starts, limit=MOST_OF_A_KIND, ancestors=MOST_OF_A_KIND)


def _last_moment(session: Session) -> str | None:
    """Return when the registry last changed: a picture that ends there is the same until it changes again."""
    at = session.scalar(select(tables.Event.at).order_by(tables.Event.seq.desc()).limit(1))
    return moment(at) if at else None
