"""An adapter as it was recorded at a moment in the past."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..errors import BadInputError, UnknownReferenceError
from ..names import Reference
from ..parsing import parse_moment
from ..records.adapter_details import AdapterDetails
from ..records.amendments import FIELDS, TAG, amendment_records, state_then
from ..records.evaluations import evaluation_records
from ..records.references import latest_version, load_adapters, resolve_adapter
from ..records.withdrawal import Withdrawals, own
from ..records.withdrawals import of_adapters
from ..releases.history import holder_then
from .views import full_records

if TYPE_CHECKING:
    from ..workspace import Workspace


def show_then(workspace: Workspace, reference: str, at: str) -> AdapterDetails:
    """Return an adapter as it was recorded at a moment.

    Later amendments are undone; aliases and withdrawal are those of that moment.  What was made of it and where it ran is
    left out: `events` and `deploy list --at` have that.

    Args:
        workspace: the registry's parts.
        reference: the adapter; an alias means its holder then, `latest` the latest version then.
        at: a moment; a day means its end, in UTC.

    Returns:
        What `show` has, without `renderings`, `fused`, `bundles`, `deployments` and `signatures`, and `at`.

    Raises:
        UnknownReferenceError: there was no such adapter.
        BadInputError: that is no moment.
    """
    moment = parse_moment(at, end_of_day=True)
    with workspace.database.read() as session:
        adapter = resolve_then(session, reference, moment)
        told = of_adapters(
            session, [adapter.id, *([adapter.parent_id] if adapter.parent_id else [])], at=moment
        )
        then = {**_believed(session, adapter, moment, told), "at": moment}
        return full_records(session, [adapter], told, {adapter.id: then})[0]


def resolve_then(session: Session, text: str, moment: datetime) -> tables.Adapter:
    """Return the adapter that a reference named at a moment.

    Raises:
        UnknownReferenceError: it named nothing then.
        BadInputError, AmbiguousReferenceError: as for `resolve_adapter`.
    """
    adapter = tables.Adapter
    try:
        kind = Reference.parse(text)
    except BadInputError:
        return resolve_adapter(session, text)  # which says what else it could be
    found: tables.Adapter | None = None
    if kind.kind == "alias":
        number = holder_then(session, kind, moment)
        if number is not None:
            found = session.scalars(load_adapters().where(adapter.id == number)).one()
    elif kind.kind == "latest":
        query = load_adapters().join(adapter.task.of_type(tables.Task)).where(tables.Task.name == kind.task)
        query = query.where(adapter.version == latest_version(moment))
        found = session.scalars(query).first()
    else:
        found = resolve_adapter(session, text)
        if found.created_at > moment:
            raise UnknownReferenceError(
                f"{found.name} was not registered yet on {moment.isoformat(timespec='seconds')}",
                hint=f"it was on {found.created_at.isoformat(timespec='seconds')}",
            )
    if found is None:
        resolve_adapter(session, text)  # which says what there is, where it has never named anything
        raise UnknownReferenceError(
            f"{text} named nothing on {moment.isoformat(timespec='seconds')}",
            hint=f"fusery show {text}, without --at",
        )
    return found


def _believed(
    session: Session, adapter: tables.Adapter, moment: datetime, told: Mapping[int, Withdrawals]
) -> dict[str, Any]:
    """Return what changes with time about an adapter: values, aliases, whether it is withdrawn."""
    state = state_then(adapter, moment)
    own_yanks = told.get(adapter.id, ())
    tags = sorted(field for field in state if field.startswith(TAG))
    return {
        **{field: state[field] for field in FIELDS},
        "tags": {field.removeprefix(TAG): state[field] for field in tags},
        "amendments": tuple(amendment_records(row for row in adapter.amendments if row.since <= moment)),
        "evaluations": evaluation_records(adapter.name, adapter.evaluations, moment),
        "aliases": _aliases(session, adapter, moment),
        "yanked": own(own_yanks) is not None,
        "yanked_reason": own(own_yanks),
        "withdrawals": own_yanks,
        "parent_yanked": own(told.get(adapter.parent_id or 0, ())),
    }


def _aliases(session: Session, adapter: tables.Adapter, moment: datetime) -> tuple[str, ...]:
    """Return the aliases that held an adapter at a moment."""
    alias, moved, task = tables.Alias, tables.AliasMove, adapter.task.name
    held = select(moved.alias_id).where(moved.to_adapter_id == adapter.id)
    names = session.scalars(
        select(alias.name).where(alias.task_id == adapter.task_id, alias.id.in_(held)).order_by(alias.name)
    )
    wanted = (Reference("alias", f"{task}#{name}", task, name) for name in names)
    return tuple(one.value for one in wanted if holder_then(session, one, moment) == adapter.id)
