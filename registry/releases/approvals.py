"""Approvals: consent of somebody other than an adapter's author that an alias may hold it."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fusery.storage.jsonfile import is_keepable
from fusery.storage.secrets import without_credentials

from .. import tables
from ..actors import is_author, person
from ..database import events
from ..errors import BadInputError
from ..names import parse_alias, parse_task
from ..records import APPROVALS, require_count
from ..records.references import resolve_adapter
from ..records.release import Approval
from ..records.tokens import owner_of
from ..records.withdrawals import of_adapter, refuse_yanked
from ..workspace.workspace import Workspace

LONGEST_NOTE = 10_000  # characters


def approve(workspace: Workspace, reference: str, alias: str, *, note: str = "") -> Approval:
    """Approve that an alias may hold an adapter; a second time changes nothing, unless now a token says who approves."""
    if len(note) > LONGEST_NOTE or not is_keepable(note):
        raise BadInputError("the note is not acceptable", hint=f"give at most {LONGEST_NOTE:,} characters")
    with workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        name = alias_of(adapter, alias)
        refuse_yanked(session, adapter)
        if is_author(workspace.actor, adapter.created_by):
            raise BadInputError(
                f"{adapter.name} was registered by {adapter.created_by}: its author's own approval does not count",
                hint="somebody else runs the same command",
            )
        if workspace.authenticated and person(owner_of(session, adapter)) == person(workspace.actor):
            raise BadInputError(
                f"{adapter.name} was brought here by {workspace.actor}, and nothing proves who made it: "
                "who brings an adapter does not approve of it",
                hint="somebody else approves",
            )
        given = _standing(session, adapter, name, workspace.actor)
        given = [one for one in given if one.authenticated or not workspace.authenticated]
        if not given:
            at = workspace.database.utcnow(session)
            made = tables.ApprovalRow(
                adapter_id=adapter.id,
                alias=name,
                note=str(without_credentials(note)),
                at=at,
                by=workspace.actor,
                authenticated=workspace.authenticated or None,
            )
            counted = select(func.count()).where(tables.ApprovalRow.adapter_id == adapter.id)
            require_count(adapter.name, "approvals", APPROVALS, (session.scalar(counted) or 0) + 1)
            session.add(made)
            _tell(workspace, session, adapter, "adapter.approved", name, note)
        standing = given[0] if given else made
        return _record(session, adapter, name, standing, changed=not given)


def withdraw(workspace: Workspace, reference: str, alias: str, *, note: str = "") -> Approval:
    """Withdraw one's own approval."""
    with workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        name = alias_of(adapter, alias)
        given = _standing(session, adapter, name, workspace.actor)
        for approval in given:
            approval.withdrawn_at = workspace.database.utcnow(session)
        if given:
            _tell(workspace, session, adapter, "adapter.unapproved", name, note)
        return _record(session, adapter, name, None, changed=bool(given))


def approvers(
    session: Session, adapter: tables.AdapterRow, alias: str, *, authenticated: bool = False
) -> list[str]:
    """Return who approves that an alias may hold an adapter, without its author; `authenticated`: by a token."""
    names_by_person = {
        person(approval.by): approval.by
        for approval in _standing(session, adapter, alias)
        if approval.authenticated or not authenticated
    }
    return sorted(by for by in names_by_person.values() if not is_author(by, adapter.created_by))


def alias_of(adapter: tables.AdapterRow, text: str) -> str:
    """Return the name of an alias given as `prod`, `#prod` or `course_rec#prod`."""
    task, _, name = text.rpartition("#")
    if task and parse_task(task) != adapter.task.name:
        raise BadInputError(f"{text} is not an alias of {adapter.task.name}, the task of {adapter.name}")
    return parse_alias(name)


def _standing(
    session: Session, adapter: tables.AdapterRow, alias: str, by: str | None = None
) -> list[tables.ApprovalRow]:
    """Return the approvals that were not withdrawn, of everybody or of one person."""
    approval = tables.ApprovalRow
    query = select(approval).where(approval.adapter_id == adapter.id, approval.alias == alias)
    rows = session.scalars(query.where(approval.withdrawn_at.is_(None)).order_by(approval.id))
    return [row for row in rows if by is None or person(row.by) == person(by)]


def _tell(
    workspace: Workspace, session: Session, adapter: tables.AdapterRow, action: str, alias: str, note: str
) -> None:
    by_token = {"authenticated": True} if workspace.authenticated else {}
    detail = {"digest": adapter.digest, "alias": alias, "reason": note, **by_token}
    events.record(session, action, "adapter", adapter.name, detail)


def _record(
    session: Session,
    adapter: tables.AdapterRow,
    alias: str,
    standing: tables.ApprovalRow | None,
    *,
    changed: bool,
) -> Approval:
    return Approval(
        adapter=adapter.name,
        alias=f"{adapter.task.name}#{alias}",
        approved=standing is not None,
        changed=changed,
        approvals=tuple(approvers(session, adapter, alias)),
        withdrawals=of_adapter(session, adapter),
        by=standing.by if standing else None,
        at=standing.at if standing else None,
        note=standing.note if standing else None,
        authenticated=bool(standing.authenticated) if standing else None,
    )
