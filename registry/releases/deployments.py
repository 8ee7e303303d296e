"""Deployments: what ran where and when, as recorded by people and pipelines, by `fusery sync`, and by servers' resolvers.

A place is any name: a host, a cluster and service, a device.  Several things may run at one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from fusery.storage.secrets import without_credentials

from .. import tables
from ..admission.submission import LIMITS, require_text
from ..database import events
from ..database.batches import batches
from ..errors import BadInputError, UnknownReferenceError
from ..limits import DEPLOYMENTS, require_count
from ..parsing import parse_moment
from ..provenance.nodes import key_of, nodes_of
from ..provenance.relations import Key
from ..records.deployment import Deployed, Deployment, Refused
from ..records.graph import Node
from ..records.things import find_things, places_of, shippable

if TYPE_CHECKING:
    from ..workspace import Workspace

RECORDED, ENDED, REFUSED = "deployment.recorded", "deployment.ended", "deployment.refused"

_LONGEST = 300
"""Characters of a place: as many as the log takes for the name of what an entry is about."""

_VIA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")

Subject = tables.Adapter | tables.Fused | tables.Bundle


def record_deployment(
    workspace: Workspace,
    reference: str,
    place: str,
    *,
    note: str = "",
    replace: bool = False,
    via: str | None = None,
    anew: str | None = None,
) -> Deployed:
    """Record that something runs at a place from now on; if it does already, nothing changes.

    A yanked adapter may be recorded as well, since it does run; the record says that it is yanked.

    Args:
        workspace: the registry's parts.
        reference: an adapter, a fused model or a bundle, as `fusery impact` takes it.
        place: where it runs.
        note: for people.
        replace: everything that ran there until now has ended.
        via: what keeps the record up to date; None where somebody says so.
        anew: why it has come anew, if it is on record that it runs there already; None if it has not.

    Raises:
        UnknownReferenceError: nothing has that name.
        BadInputError: the place is not valid, the reference names something that cannot run, or it has too many
            deployments.
    """
    require_text("note", note, LIMITS["note"])
    where, said, lies = _place(place), str(without_credentials(note)), places_of(reference)
    _require_name(via)
    with workspace.database.write() as session:
        subject = shippable(find_things(session, reference, lies), reference)
        standing = [row for row in _at(session, where) if row.ended_at is None]
        known = [row for row in standing if _is(row, subject)]
        same = (
            None if anew is not None else next((row for row in known if via is None or row.via == via), None)
        )
        given_way = [row for row in (standing if replace else known) if row is not same]
        now = workspace.database.utcnow(session)
        for row in given_way:
            reason = (
                anew or f"from now on by {via}" if row in known else f"replaced by {_title(session, subject)}"
            )
            _end(workspace, session, row, now, reason)
        row = same or _new(workspace, session, subject, where, said, now, via)
        facts, *ended = _facts(session, [row, *given_way])
        return Deployed(
            **facts,
            changed=same is None or bool(given_way),
            ended=tuple(Deployment(**each) for each in ended),
        )


def end_deployments(
    workspace: Workspace,
    places: Sequence[str],
    *,
    reference: str | None = None,
    reason: str = "",
    via: str | None = None,
) -> list[Deployment]:
    """Record that nothing runs at some places any more, or that one thing does not; return the ended deployments.

    Deployments that have ended before do not change.

    Args:
        workspace: the registry's parts.
        places: where they ran.
        reference: only this adapter, fused model or bundle.
        reason: for the log.
        via: only what this keeps up to date.

    Raises:
        UnknownReferenceError: nothing ever ran at one of the places.
    """
    require_text("reason", reason, LIMITS["note"])
    names, lies = [_place(place) for place in places], places_of(reference or "")
    _require_name(via)
    with workspace.database.write() as session:
        subject = shippable(find_things(session, reference, lies), reference) if reference else None
        now, ended = workspace.database.utcnow(session), []
        for name in dict.fromkeys(names):
            known = [row for row in _at(session, name) if subject is None or _is(row, subject)]
            if not known:
                raise UnknownReferenceError(f"nothing runs at {name!r}", hint="fusery deploy list")
            found = [row for row in known if row.ended_at is None and via in (None, row.via)]
            for row in found:
                _end(workspace, session, row, now, str(without_credentials(reason)))
            ended += found
        return deployment_records(session, ended)


def record_refusal(
    workspace: Workspace, reference: str, place: str, *, reason: str, via: str | None = None
) -> Refused:
    """Record that something was asked for at a place and not let run there.

    Args:
        workspace: the registry's parts.
        reference: an adapter, a fused model or a bundle.
        place: where it would have run.
        reason: why it did not.
        via: what refused it.

    Raises:
        UnknownReferenceError: nothing has that name.
        BadInputError: the place is not valid, or the reference names something that cannot run.
    """
    require_text("reason", reason, LIMITS["note"])
    where, said, lies = _place(place), str(without_credentials(reason)), places_of(reference)
    _require_name(via)
    with workspace.database.write() as session:
        subject = shippable(find_things(session, reference, lies), reference)
        now, of = workspace.database.utcnow(session), nodes_of(session, [key_of(subject)])[key_of(subject)]
        told = {"reason": said, **({"via": via} if via else {})}
        _tell(workspace, session, where, of, REFUSED, now, told)
        return Refused(
            place=where,
            kind=of.kind,
            name=of.name,
            digest=of.digest,
            reason=said,
            via=via,
            at=now,
            by=workspace.actor,
        )


def list_deployments(
    workspace: Workspace,
    *,
    at: str | None = None,
    every: bool = False,
    place: str | None = None,
    reference: str | None = None,
    via: str | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[Deployment]:
    """Return what runs where, by place.

    Args:
        workspace: the registry's parts.
        at: the deployments at that moment; a day means its end, in UTC.
        every: include ended ones.
        place: only this place.
        reference: only this adapter, fused model or bundle, itself and not what holds it.
        via: only what this keeps up to date, such as `sync`.
        limit: at most so many; None for all.
        offset: without so many of the first.

    Raises:
        BadInputError: that is no moment.
        UnknownReferenceError: nothing has that name.
    """
    row = tables.Deployment
    query = select(row).order_by(row.place, row.id)
    if at is not None:
        then = parse_moment(at, end_of_day=True)
        query = query.where(row.at <= then, or_(row.ended_at.is_(None), row.ended_at > then))
    elif not every:
        query = query.where(row.ended_at.is_(None))
    if place is not None:
        query = query.where(row.place == _place(place))
    if via is not None:
        query = query.where(row.via == via)
    with workspace.database.read() as session:
        if reference is not None:
            subject = shippable(find_things(session, reference), reference)
            query = query.where(getattr(row, f"{subject.__tablename__}_id") == subject.id)
        return deployment_records(session, list(session.scalars(query.limit(limit).offset(offset or None))))


def deployments_of(
    session: Session,
    *,
    adapters: Sequence[int] = (),
    fused: Sequence[int] = (),
    bundles: Sequence[int] = (),
) -> list[Deployment]:
    """Return current deployments by the numbers of their rows."""
    row = tables.Deployment
    found: dict[int, tables.Deployment] = {}
    for column, numbers in ((row.adapter_id, adapters), (row.fused_id, fused), (row.bundle_id, bundles)):
        for chosen in batches(numbers):
            query = select(row).where(column.in_(chosen), row.ended_at.is_(None))
            found |= {each.id: each for each in session.scalars(query)}
    return deployment_records(session, sorted(found.values(), key=lambda each: (each.place, each.id)))


def deployment_records(session: Session, rows: Sequence[tables.Deployment]) -> list[Deployment]:
    """Return the records of deployments."""
    return [Deployment(**facts) for facts in _facts(session, rows)]


def _facts(session: Session, rows: Sequence[tables.Deployment]) -> list[dict[str, Any]]:
    nodes = nodes_of(session, (_which(row) for row in rows))
    return [_facts_of(row, nodes[_which(row)]) for row in rows]


def _facts_of(row: tables.Deployment, subject: Node) -> dict[str, Any]:
    return {
        "place": row.place,
        "kind": subject.kind,
        "name": subject.name,
        "digest": subject.digest,
        "id": subject.id,
        "yanked": subject.yanked,
        "withdrawals": subject.withdrawals,
        "note": row.note,
        "at": row.at,
        "by": row.by,
        "ended_at": row.ended_at,
        "ended_by": row.ended_by,
        "via": row.via,
    }


def _which(row: tables.Deployment) -> Key:
    held = {"bundle": row.bundle_id, "fused": row.fused_id, "adapter": row.adapter_id}
    return next((name, number) for name, number in held.items() if number is not None)


def _is(row: tables.Deployment, subject: Subject) -> bool:
    return _which(row) == key_of(subject)


def _at(session: Session, place: str) -> list[tables.Deployment]:
    row = tables.Deployment
    return list(session.scalars(select(row).where(row.place == place).order_by(row.id)))


def _new(
    workspace: Workspace,
    session: Session,
    subject: Subject,
    place: str,
    note: str,
    now: datetime,
    via: str | None,
) -> tables.Deployment:
    _require_limit(session, subject)
    row = tables.Deployment(
        bundle_id=subject.id if isinstance(subject, tables.Bundle) else None,
        fused_id=subject.id if isinstance(subject, tables.Fused) else None,
        adapter_id=subject.id if isinstance(subject, tables.Adapter) else None,
        place=place,
        note=note,
        at=now,
        by=workspace.actor,
        via=via,
    )
    session.add(row)
    session.flush()
    of = nodes_of(session, [_which(row)])[_which(row)]
    _tell(workspace, session, place, of, RECORDED, now, {"note": note, **({"via": via} if via else {})})
    return row


def _require_limit(session: Session, subject: Subject) -> None:
    """Refuse one deployment too many of an adapter, fused model or bundle.

    Raises:
        BadInputError: the limit is exceeded.
    """
    key = getattr(tables.Deployment, f"{subject.__tablename__}_id")
    count = session.scalar(select(func.count()).where(key == subject.id)) or 0
    require_count(_title(session, subject), "deployments", DEPLOYMENTS, count + 1)


def _end(workspace: Workspace, session: Session, row: tables.Deployment, now: datetime, reason: str) -> None:
    row.ended_at, row.ended_by = now, workspace.actor
    session.flush()
    of = nodes_of(session, [_which(row)])[_which(row)]
    _tell(workspace, session, row.place, of, ENDED, now, {"reason": reason})


def _tell(
    workspace: Workspace,
    session: Session,
    place: str,
    of: Node,
    action: str,
    now: datetime,
    said: dict[str, str],
) -> None:
    events.record(
        session,
        action=action,
        kind="deployment",
        subject=place,
        detail={
            "of": of.kind,
            "name": of.name,
            "digest": of.digest,
            **said,
        },
        actor=workspace.actor,
        at=now,
    )


def _title(session: Session, subject: Subject) -> str:
    return nodes_of(session, [key_of(subject)])[key_of(subject)].name


def _require_name(via: str | None) -> None:
    """Refuse what is no name of a program.

    Raises:
        BadInputError: it is none.
    """
    if via is not None and not _VIA.fullmatch(via):
        raise BadInputError(
            f"{via[:60]!r} is not the name of what keeps a deployment up to date",
            hint="at most 40 letters, digits, '.', '_' and '-', such as vllm",
        )


def _place(text: str) -> str:
    """Return a place in its one form, without any secret.

    Raises:
        BadInputError: it is empty, too long, or not one line of text.
    """
    place = str(without_credentials(text.strip()))
    if not place or len(place) > _LONGEST or not place.isprintable():
        raise BadInputError(
            f"{text[:60]!r} is not a place",
            hint=f"a name of at most {_LONGEST} characters, such as prod-eu/ranker",
        )
    return place
