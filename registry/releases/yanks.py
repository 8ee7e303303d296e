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
from ..records.adapter_details import ShippedBundle
from ..records.references import fused_from, resolve_adapter
from ..records.release import LiftedYank, Yank
from ..records.weights import same_weights
from ..records.withdrawals import standing_yank, stands_at
from .deployments import deployments_of

if TYPE_CHECKING:
    from ..workspace import Workspace


def yank(workspace: Workspace, references: Sequence[str], *, reason: str) -> tuple[Yank, ...]:
    """Withdraw adapters, all of them or none; a second time changes nothing.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: no reason is given, it is too long, or the adapter was yanked and unyanked too often.
    """
    require_text("reason", reason, LIMITS["note"])
    if not reason.strip():
        raise BadInputError("a yank needs a reason", hint=f"fusery yank {' '.join(references)} --reason TEXT")
    with workspace.database.write() as session:
        return tuple(_yank(workspace, session, adapter, reason) for adapter in _resolved(session, references))


def _yank(workspace: Workspace, session: Session, adapter: tables.Adapter, reason: str) -> Yank:
    standing = standing_yank(session, adapter)
    changed = standing is None
    if standing is None:
        at = workspace.database.utcnow(session)
        standing = tables.Yank(
            adapter_id=adapter.id, reason=str(without_credentials(reason)), at=at, by=workspace.actor
        )
        known = session.scalars(select(tables.Yank).where(tables.Yank.adapter_id == adapter.id)).all()
        require_within(adapter.name, "yanks", YANKS, [*known, standing])
        session.add(standing)
        _tell(workspace, session, adapter, "adapter.yanked", reason)
    return Yank(
        name=adapter.name,
        yanked=True,
        changed=changed,
        reason=standing.reason,
        at=standing.at,
        by=standing.by,
        **_made_with(session, adapter),
    )


def lift(workspace: Workspace, references: Sequence[str], *, reason: str = "") -> tuple[LiftedYank, ...]:
    """Lift yanks, all of them or none.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: the reason is too long.
    """
    require_text("reason", reason, LIMITS["note"])
    lifted = []
    with workspace.database.write() as session:
        for adapter in _resolved(session, references):
            standing = _standing(session, adapter)
            for each in standing:
                each.lifted_at, each.lifted_by = workspace.database.utcnow(session), workspace.actor
            if standing:
                _tell(workspace, session, adapter, "adapter.unyanked", reason)
            lifted.append(LiftedYank(name=adapter.name, yanked=False, changed=bool(standing)))
    return tuple(lifted)


def _resolved(session: Session, references: Sequence[str]) -> list[tables.Adapter]:
    """Return the adapters that references name, each once."""
    found = (resolve_adapter(session, reference) for reference in references)
    return list({adapter.id: adapter for adapter in found}.values())


def _standing(session: Session, adapter: tables.Adapter) -> Sequence[tables.Yank]:
    """Return all yanks that stand: one of them may have come from another registry."""
    query = select(tables.Yank).where(tables.Yank.adapter_id == adapter.id, stands_at())
    return session.scalars(query.order_by(tables.Yank.id)).all()


def _tell(workspace: Workspace, session: Session, adapter: tables.Adapter, action: str, reason: str) -> None:
    session.flush()
    events.record(
        session,
        action=action,
        kind="adapter",
        subject=adapter.name,
        detail={"digest": adapter.digest, "reason": reason},
        actor=workspace.actor,
    )


def _made_with(session: Session, adapter: tables.Adapter) -> dict[str, Any]:
    aliases = session.scalars(
        select(tables.Alias).where(tables.Alias.adapter_id == adapter.id).order_by(tables.Alias.name)
    )
    fused = list(session.scalars(fused_from(adapter)))
    bundle = tables.Bundle
    holding = or_(
        bundle.adapters.any(tables.Adapter.id == adapter.id),
        bundle.fused_id.in_([made.id for made in fused]),  # of a sum, a bundle names the first adapter only
    )
    bundles = list(session.scalars(select(bundle).where(holding).order_by(bundle.id)))
    names = select(tables.Adapter.name).order_by(tables.Adapter.id)
    alike = same_weights(select(tables.Adapter.id).where(tables.Adapter.id == adapter.id))
    others = names.where(tables.Adapter.id.in_(select(alike.c.other)), tables.Adapter.id != adapter.id)
    same_digest = tables.Adapter.digest == adapter.digest
    source = tables.AdapterSource
    computed = select(source.adapter_id).where(source.source_id.in_(select(alike.c.other)))
    return {
        "aliases": tuple(f"{alias.task.name}#{alias.name}" for alias in aliases),
        "fused": tuple(made.key for made in fused),
        "bundles": tuple(
            ShippedBundle(target=row.target, path=row.path, digest=row.digest) for row in bundles
        ),
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
        "continued": tuple(session.scalars(names.where(tables.Adapter.parent_id == adapter.id))),
        "computed": tuple(session.scalars(names.where(tables.Adapter.id.in_(computed)))),
    }
