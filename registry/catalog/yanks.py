"""Yanking an adapter, and lifting the yank; its effect is in `fusery.registry.records.withdrawals`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fusery.storage.secrets import without_credentials

from .. import tables
from ..admission.submission import LIMITS, require_text
from ..database import events
from ..errors import BadInputError, UnknownReferenceError
from ..records import YANKS, require_within
from ..records.fused_rows import fused_from
from ..records.references import resolve_adapter
from ..records.release import LiftedYank, ShippedBundle, Yank
from ..records.withdrawals import same_weights, source_pairs, standing_yank, standing_yanks
from ..releases.deployments import deployments_of
from ..workspace.workspace import Workspace
from .where import parse

MOST = 1_000  # adapters of one call


def yank(
    workspace: Workspace,
    references: Sequence[str],
    *,
    reason: str = "",
    where: str | None = None,
    dry_run: bool = False,
) -> tuple[Yank, ...]:
    """Yank adapters by reference or expression, all or none; a second time changes nothing."""
    require_text("reason", reason, LIMITS["note"])
    if not reason.strip() and not dry_run:
        raise BadInputError("a yank needs a reason", hint="add --reason TEXT")
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        adapters = _chosen(session, references, where)
        return tuple(_yank(workspace, session, adapter, reason, dry_run=dry_run) for adapter in adapters)


def _yank(
    workspace: Workspace, session: Session, adapter: tables.AdapterRow, reason: str, *, dry_run: bool
) -> Yank:
    standing = standing_yank(session, adapter)
    changed = standing is None
    if standing is None:
        at = workspace.database.utcnow(session)
        standing = tables.YankRow(
            adapter_id=adapter.id, reason=str(without_credentials(reason)), at=at, by=workspace.actor
        )
        if not dry_run:
            own = select(tables.YankRow).where(tables.YankRow.adapter_id == adapter.id)
            require_within(adapter.name, "yanks", YANKS, [*session.scalars(own), standing])
            session.add(standing)
            _tell(session, adapter, "adapter.yanked", reason)
    return Yank.from_row(
        standing,
        name=adapter.name,
        yanked=not (changed and dry_run),
        changed=changed,
        dry_run=dry_run,
        **_made_with(session, adapter),
    )


def lift(
    workspace: Workspace, references: Sequence[str], *, reason: str = "", where: str | None = None
) -> tuple[LiftedYank, ...]:
    """Lift yanks, all of them or none."""
    require_text("reason", reason, LIMITS["note"])
    lifted = []
    with workspace.database.write() as session:
        for adapter in _chosen(session, references, where):
            standing = standing_yanks(session, adapter)
            for row in standing:
                row.lifted_at, row.lifted_by = workspace.database.utcnow(session), workspace.actor
            if standing:
                _tell(session, adapter, "adapter.unyanked", reason)
            lifted.append(LiftedYank(name=adapter.name, yanked=False, changed=bool(standing)))
    return tuple(lifted)


def _chosen(session: Session, references: Sequence[str], where: str | None) -> Sequence[tables.AdapterRow]:
    if bool(references) == (where is not None):
        raise BadInputError("name adapters or give an expression", hint="fusery yank REF..., or --where EXPR")
    if where is None:
        rows_by_id = {row.id: row for row in (resolve_adapter(session, text) for text in references)}
        return [*rows_by_id.values()]
    adapter = tables.AdapterRow
    rows = session.scalars(select(adapter).where(parse(where)).order_by(adapter.id).limit(MOST + 1)).all()
    if not rows:
        raise UnknownReferenceError("no adapter matches the expression", hint="fusery list --where EXPR")
    if len(rows) > MOST:
        raise BadInputError(f"more than {MOST:,} adapters match", hint="narrow the expression by task")
    return rows


def _tell(session: Session, adapter: tables.AdapterRow, action: str, reason: str) -> None:
    detail = {"digest": adapter.digest, "reason": reason}
    events.record(session, action, "adapter", adapter.name, detail)


def _made_with(session: Session, adapter: tables.AdapterRow) -> Mapping[str, Any]:
    row, alias, bundle = tables.AdapterRow, tables.AliasRow, tables.BundleRow
    aliases = session.scalars(select(alias).where(alias.adapter_id == adapter.id).order_by(alias.name))
    fused = fused_from(session, adapter)
    fused_ids = [made.id for made in fused]
    # Of a sum, a bundle names the first adapter only.
    holding = or_(bundle.adapters.any(row.id == adapter.id), bundle.fused_id.in_(fused_ids))
    bundles = list(session.scalars(select(bundle).where(holding).order_by(bundle.id)))
    numbers = [held.id for held in bundles]
    running = deployments_of(session, adapters=[adapter.id], fused=fused_ids, bundles=numbers)
    names = select(row.name).order_by(row.id)
    alike = same_weights(select(row.id).where(row.id == adapter.id))
    others = names.where(row.id.in_(select(alike.c.other)), row.id != adapter.id)
    same_digest = row.digest == adapter.digest
    pairs = source_pairs(select(alike.c.other), up=False)
    computed = select(pairs.c.adapter).where(pairs.c.adapter != pairs.c.source)
    continued = select(row.id).where(row.parent_id == adapter.id).cte(recursive=True)
    continued = continued.union(select(row.id).join(continued, row.parent_id == continued.c.id))
    return {
        "aliases": tuple(f"{held.task.name}#{held.name}" for held in aliases),
        "fused": tuple(made.key for made in fused),
        "bundles": tuple(map(ShippedBundle.from_row, bundles)),
        "deployments": tuple(running),
        "same_bytes": tuple(session.scalars(others.where(same_digest))),
        "same_weights": tuple(session.scalars(others.where(~same_digest))),
        "continued": tuple(session.scalars(names.where(row.id.in_(select(continued.c.id))))),
        "computed": tuple(session.scalars(names.where(row.id.in_(computed)))),
    }
