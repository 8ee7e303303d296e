"""Yanking an adapter, and lifting the yank; its effect is in `fusery.registry.records.withdrawals`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fusery.storage.secrets import without_credentials

from .. import tables
from ..admission.submission import LIMITS, require_text
from ..database import events
from ..errors import BadInputError
from ..limits import YANKS, require_within
from ..records.fused_rows import fused_from
from ..records.references import resolve_adapter
from ..records.release import LiftedYank, ShippedBundle, Yank
from ..records.withdrawals import same_weights, standing_yank, standing_yanks
from .deployments import deployments_of

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


def yank(workspace: Workspace, references: Sequence[str], *, reason: str) -> tuple[Yank, ...]:
    """Withdraw adapters, all of them or none; a second time changes nothing."""
    require_text("reason", reason, LIMITS["note"])
    if not reason.strip():
        raise BadInputError("a yank needs a reason", hint=f"fusery yank {' '.join(references)} --reason TEXT")
    with workspace.database.write() as session:
        return tuple(_yank(workspace, session, adapter, reason) for adapter in _resolved(session, references))


def _yank(workspace: Workspace, session: Session, adapter: tables.AdapterRow, reason: str) -> Yank:
    standing = standing_yank(session, adapter)
    changed = standing is None
    if standing is None:
        at = workspace.database.utcnow(session)
        standing = tables.YankRow(
            adapter_id=adapter.id, reason=str(without_credentials(reason)), at=at, by=workspace.actor
        )
        known = session.scalars(select(tables.YankRow).where(tables.YankRow.adapter_id == adapter.id)).all()
        require_within(adapter.name, "yanks", YANKS, [*known, standing])
        session.add(standing)
        _tell(workspace, session, adapter, "adapter.yanked", reason)
    others = _made_with(session, adapter)
    return Yank.from_row(standing, name=adapter.name, yanked=True, changed=changed, **others)


def lift(workspace: Workspace, references: Sequence[str], *, reason: str = "") -> tuple[LiftedYank, ...]:
    """Lift yanks, all of them or none."""
    require_text("reason", reason, LIMITS["note"])
    lifted = []
    with workspace.database.write() as session:
        for adapter in _resolved(session, references):
            standing = standing_yanks(session, adapter)
            for each in standing:
                each.lifted_at, each.lifted_by = workspace.database.utcnow(session), workspace.actor
            if standing:
                _tell(workspace, session, adapter, "adapter.unyanked", reason)
            lifted.append(LiftedYank(name=adapter.name, yanked=False, changed=bool(standing)))
    return tuple(lifted)


def _resolved(session: Session, references: Sequence[str]) -> list[tables.AdapterRow]:
    """Return the adapters that references name, each once."""
    found = (resolve_adapter(session, reference) for reference in references)
    return list({adapter.id: adapter for adapter in found}.values())


def _tell(
    workspace: Workspace, session: Session, adapter: tables.AdapterRow, action: str, reason: str
) -> None:
    detail = {"digest": adapter.digest, "reason": reason}
    events.record(session, action, "adapter", adapter.name, detail)


def _made_with(session: Session, adapter: tables.AdapterRow) -> dict[str, Any]:
    aliases = session.scalars(
        select(tables.AliasRow).where(tables.AliasRow.adapter_id == adapter.id).order_by(tables.AliasRow.name)
    )
    fused = list(session.scalars(fused_from(adapter)))
    bundle = tables.BundleRow
    holding = or_(
        bundle.adapters.any(tables.AdapterRow.id == adapter.id),
        bundle.fused_id.in_([made.id for made in fused]),  # of a sum, a bundle names the first adapter only
    )
    bundles = list(session.scalars(select(bundle).where(holding).order_by(bundle.id)))
    names = select(tables.AdapterRow.name).order_by(tables.AdapterRow.id)
    alike = same_weights(select(tables.AdapterRow.id).where(tables.AdapterRow.id == adapter.id))
    others = names.where(tables.AdapterRow.id.in_(select(alike.c.other)), tables.AdapterRow.id != adapter.id)
    same_digest = tables.AdapterRow.digest == adapter.digest
    source = tables.AdapterSourceRow
    computed = select(source.adapter_id).where(source.source_id.in_(select(alike.c.other)))
    return {
        "aliases": tuple(f"{alias.task.name}#{alias.name}" for alias in aliases),
        "fused": tuple(made.key for made in fused),
        "bundles": tuple(map(ShippedBundle.from_row, bundles)),
        "deployments": tuple(
            deployments_of(
                session,
                adapters=[adapter.id],
                fused=[made.id for made in fused],
                bundles=[row.id for row in bundles],
            )
        ),
        "same_bytes": tuple(session.scalars(others.where(same_digest))),
        "same_weights": tuple(session.scalars(others.where(~same_digest))),
        "continued": tuple(session.scalars(names.where(tables.AdapterRow.parent_id == adapter.id))),
        "computed": tuple(session.scalars(names.where(tables.AdapterRow.id.in_(computed)))),
    }
