"""Withdrawing evaluations that were recorded wrongly: they stay on record, and count for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from fusery.storage.secrets import without_credentials

from .. import tables
from ..access.roles import require_role
from ..actors import person
from ..admission.submission import LIMITS, require_text
from ..database import events
from ..errors import BadInputError, UnknownReferenceError
from ..limits import EVALUATIONS, require_within
from ..records.evaluation import WithdrawnEvaluations
from ..records.evaluations import SETTING, evaluation_records, parse_metric, stands
from ..records.references import resolve_adapter
from .measured import Setting

if TYPE_CHECKING:
    from ..workspace import Workspace

WITHDRAWN = "adapter.evaluation_withdrawn"


def withdraw_evaluations(
    workspace: Workspace,
    reference: str,
    metric: str | None = None,
    *,
    setting: Setting,
    reason: str,
    dry_run: bool = False,
) -> WithdrawnEvaluations:
    """Withdraw those of an adapter's evaluations that fit all that is said.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        metric: only of this name.
        setting: only what was measured on and with this.
        reason: why.
        dry_run: only say which.

    Raises:
        UnknownReferenceError: there is no such adapter, or no such evaluation.
        BadInputError: no reason is given, or nothing that says which.
    """
    require_text("reason", reason, LIMITS["note"])
    if not reason.strip():
        raise BadInputError(
            "what was measured is withdrawn for a reason", hint="--reason 'of another adapter'"
        )
    wanted = {name: getattr(setting, name, None) for name in SETTING} | {"metric": metric}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if not wanted:
        raise BadInputError(
            "nothing says which evaluations to withdraw",
            hint="give the metric's name, --dataset, --split, --harness or --seed",
        )
    if metric is not None:
        parse_metric(metric)
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        rows = [
            row
            for row in adapter.evaluations
            if stands(row) and all(getattr(row, name) == value for name, value in wanted.items())
        ]
        if not rows:
            raise UnknownReferenceError(
                f"nothing like that is on record as measured of {adapter.name}",
                hint=f"fusery eval list {adapter.name}",
            )
        said = WithdrawnEvaluations(
            adapter.name, evaluation_records(adapter.name, rows), str(without_credentials(reason)), dry_run
        )
        if not dry_run:
            if not all(person(row.by) == person(workspace.actor) for row in rows):
                require_role(workspace, "approver", "the evaluation of another")
            withdraw_rows(
                session,
                adapter,
                rows,
                reason=said.reason,
                at=workspace.database.utcnow(session),
                by=workspace.actor,
            )
        return said


def withdraw_rows(
    session: Session,
    adapter: tables.Adapter,
    rows: Sequence[tables.Evaluation],
    *,
    reason: str,
    at: datetime,
    by: str,
) -> None:
    """Withdraw evaluations, and record their values in the log, in the caller's write transaction.

    Raises:
        BadInputError: the adapter's evaluations, with their reasons, would hold too much text.
    """
    for row in rows:
        row.withdrawn_at, row.withdrawn_by, row.withdrawn_reason = at, by, reason
    require_within(adapter.name, "evaluations", EVALUATIONS, adapter.evaluations)
    session.flush()
    events.record(
        session,
        action=WITHDRAWN,
        kind="adapter",
        subject=adapter.name,
        detail={
            "digest": adapter.digest,
            "reason": reason,
            "metrics": [_told(row) for row in rows],
        },
        actor=by,
        at=at,
    )


def _told(row: tables.Evaluation) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in ("metric", "value", *SETTING)}
    return {name: value for name, value in values.items() if value not in (None, "")}
