"""Deployments: what ran at a place (any name) and when, recorded by people, `fusery deploy sync` and servers' resolvers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from fusery.storage.secrets import without_credentials

from .. import tables
from ..admission.submission import LIMITS, require_text
from ..database import events
from ..database.engine import batches
from ..errors import BadInputError, UnknownReferenceError
from ..parsing import parse_moment
from ..provenance.trace import Key, key_of, nodes_of
from ..records import DEPLOYMENTS, require_count
from ..records.graph import Node
from ..records.references import find_things, places_of, shippable
from ..records.release import Deployed, Deployment, Refused
from ..records.withdrawals import is_yanked, standing_yank
from ..workspace.workspace import Workspace

RECORDED, ENDED, REFUSED = "deployment.recorded", "deployment.ended", "deployment.refused"

_LONGEST = 300  # characters of a place: as many as the log takes for the name of what an entry is about
_VIA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def record_deployment(
    workspace: Workspace,
    reference: str,
    place: str,
    *,
    note: str = "",
    replace: bool = False,
    via: str | None = None,
    restart_reason: str | None = None,
) -> Deployed:
    """Record that something runs at a place from now on; if it does already, nothing changes."""
    where, note, lies = _place(place), _text("note", note, via), places_of(reference)
    with workspace.database.write() as session:
        subject = shippable(find_things(session, reference, lies), reference)
        standing = [row for row in _at(session, where) if row.ended_at is None]
        subject_rows = [row for row in standing if _which(row) == key_of(subject)]
        kept = [row for row in subject_rows if via in (None, row.via)] if restart_reason is None else []
        same = kept[0] if kept else None
        given_way = [row for row in (standing if replace else subject_rows) if row is not same]
        now, name = workspace.database.utcnow(session), _node(session, key_of(subject)).name
        for row in given_way:
            reason = f"replaced by {name}"
            if row in subject_rows:
                reason = restart_reason or f"from now on by {via}"
            _end(workspace, session, row, now, reason)
        row = same or tables.DeploymentRow(place=where, note=note, at=now, by=workspace.actor, via=via)
        if same is None:
            column = f"{subject.__tablename__}_id"
            count = select(func.count()).where(getattr(tables.DeploymentRow, column) == subject.id)
            require_count(name, "deployments", DEPLOYMENTS, (session.scalar(count) or 0) + 1)
            setattr(row, column, subject.id)
            session.add(row)
            more = {"note": note, **({"via": via} if via else {})}
            _tell(session, where, _which(row), RECORDED, now, more)
        record, *ended = deployment_records(session, [row, *given_way])
        changed = same is None or bool(given_way)
        return Deployed.extending(record, changed=changed, ended=tuple(ended))


def end_deployments(
    workspace: Workspace,
    places: Sequence[str],
    *,
    reference: str | None = None,
    reason: str = "",
    via: str | None = None,
) -> list[Deployment]:
    """Record that nothing, or one thing, no longer runs at some places; `via`: only deployments of that program."""
    reason, lies = _text("reason", reason, via), places_of(reference or "")
    names = dict.fromkeys(_place(place) for place in places)
    with workspace.database.write() as session:
        subject = shippable(find_things(session, reference, lies), reference) if reference else None
        now, ended = workspace.database.utcnow(session), []
        for name in names:
            rows = _at(session, name)
            if subject is not None:
                rows = [row for row in rows if _which(row) == key_of(subject)]
            if not rows:
                raise UnknownReferenceError(f"nothing runs at {name!r}", hint="fusery deploy list")
            standing = [row for row in rows if row.ended_at is None and via in (None, row.via)]
            for row in standing:
                _end(workspace, session, row, now, reason)
            ended += standing
        return deployment_records(session, ended)


def record_refusal(
    workspace: Workspace, reference: str, place: str, *, reason: str, via: str | None = None
) -> Refused:
    """Record that something was asked for at a place and not let run there."""
    where, reason, lies = _place(place), _text("reason", reason, via), places_of(reference)
    with workspace.database.write() as session:
        subject = shippable(find_things(session, reference, lies), reference)
        now, more = workspace.database.utcnow(session), {"reason": reason, **({"via": via} if via else {})}
        of = _tell(session, where, key_of(subject), REFUSED, now, more)
        facts = {"kind": of.kind, "name": of.name, "digest": of.digest, "reason": reason}
        return Refused(**facts, place=where, via=via, at=now, by=workspace.actor)


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
    """Return the deployments by place, now or at a moment; of a reference itself, and not of what holds it."""
    row = tables.DeploymentRow
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
    row = tables.DeploymentRow
    rows_by_id: dict[int, tables.DeploymentRow] = {}
    for column, numbers in ((row.adapter_id, adapters), (row.fused_id, fused), (row.bundle_id, bundles)):
        for chosen in batches(numbers):
            query = select(row).where(column.in_(chosen), row.ended_at.is_(None))
            rows_by_id |= {one.id: one for one in session.scalars(query)}
    return deployment_records(session, sorted(rows_by_id.values(), key=lambda one: (one.place, one.id)))


def deployment_records(session: Session, rows: Sequence[tables.DeploymentRow]) -> list[Deployment]:
    """Return the records of deployments."""
    nodes = nodes_of(session, (_which(row) for row in rows))
    names = ("kind", "name", "digest", "id", "yanked", "withdrawals")
    facts = ({name: getattr(nodes[_which(row)], name) for name in names} for row in rows)
    return [Deployment.from_row(row, note=row.note, **own) for row, own in zip(rows, facts, strict=True)]


def _which(row: tables.DeploymentRow) -> Key:
    held = {"bundle": row.bundle_id, "fused": row.fused_id, "adapter": row.adapter_id}
    return next((name, number) for name, number in held.items() if number is not None)


def _at(session: Session, place: str) -> list[tables.DeploymentRow]:
    row = tables.DeploymentRow
    return list(session.scalars(select(row).where(row.place == place).order_by(row.id)))


def _end(
    workspace: Workspace, session: Session, row: tables.DeploymentRow, now: datetime, reason: str
) -> None:
    row.ended_at, row.ended_by = now, workspace.actor
    _tell(session, row.place, _which(row), ENDED, now, {"reason": reason})


def _tell(
    session: Session, place: str, key: Key, action: str, now: datetime, more: Mapping[str, str]
) -> Node:
    session.flush()
    of = _node(session, key)
    detail = {"of": of.kind, "name": of.name, "digest": of.digest, **more}
    events.record(session, action, "deployment", place, detail, at=now)
    return of


def _node(session: Session, key: Key) -> Node:
    return nodes_of(session, [key])[key]


def _text(name: str, text: str, via: str | None) -> str:
    require_text(name, text, LIMITS["note"])
    if via is not None and not _VIA.fullmatch(via):
        problem = f"{via[:60]!r} is not the name of what keeps a deployment up to date"
        raise BadInputError(problem, hint="at most 40 letters, digits, '.', '_' and '-', such as vllm")
    return str(without_credentials(text))


def _place(text: str) -> str:
    place = str(without_credentials(text.strip()))
    if not place or len(place) > _LONGEST or not place.isprintable():
        problem = f"{text[:60]!r} is not a place"
        raise BadInputError(problem, hint=f"a name of at most {_LONGEST} characters, such as prod-eu/ranker")
    return place


def yanked_among(workspace: Workspace, names: Collection[str]) -> Mapping[str, str]:
    """Return the yanked adapters among some names, with the reasons."""
    adapter, reasons = tables.AdapterRow, dict[str, str]()
    with workspace.database.read() as session:
        for chosen in batches(sorted(names)):
            yanked = select(adapter).where(adapter.name.in_(chosen), is_yanked(adapter.id))
            yanks = {row.name: standing_yank(session, row) for row in session.scalars(yanked)}
            reasons |= {name: yank.reason if yank is not None else "" for name, yank in yanks.items()}
    return reasons
