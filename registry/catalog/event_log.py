"""Reading the log: filtered by subject, time and number, with names beside digests, and in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, func, or_, select, union
from sqlalchemy.orm import Session

from .. import tables
from ..database.events import ACTIONS
from ..errors import BadInputError, UnknownReferenceError
from ..names import Reference
from ..parsing import nearest, parse_moment
from ..records.alias_moves import EVERY_TASK
from ..records.event import Event, WrittenRecord
from ..records.references import begins_with, digest_prefix, find_things, no_alias, places_of
from ..workspace.workspace import Workspace
from .event_texts import names_of, summary_of

if TYPE_CHECKING:
    from ..records.references import Thing

_SAID = frozenset({"reason", "reasons", "note", "path"})
"""What people wrote: a name in it is not the thing itself."""

_ADAPTER = "adapter"
_APPROVALS = ("adapter.approved", "adapter.unapproved")


def read_log(
    workspace: Workspace,
    *,
    reference: str | None = None,
    since: str | None = None,
    action: str | None = None,
    after: int | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> list[Event]:
    """Return entries of the log, oldest first."""
    moment = parse_moment(since) if since is not None else None
    places = places_of(reference) if reference is not None else []
    with workspace.database.read() as session:
        query = select(tables.EventRow).order_by(tables.EventRow.seq.desc())
        if action is not None:
            query = query.where(tables.EventRow.action == _known(session, action))
        if moment is not None:
            query = query.where(tables.EventRow.at >= moment)
        if after is not None:
            query = query.where(tables.EventRow.seq > after)
        if before is not None:
            query = query.where(tables.EventRow.seq < before)
        about = _about(session, reference, places) if reference is not None else _About()
        if about.condition is not None:
            query = query.where(about.condition)
        elif limit is not None:
            query = query.limit(limit)  # of the others, some go yet
        rows = (row for row in session.scalars(query) if about.holds(row))
        return events_of(session, list(reversed(list(islice(rows, limit)))))


def events_of(session: Session, rows: Sequence[tables.EventRow]) -> list[Event]:
    """Return the records of entries."""
    names = names_of(session, rows)
    return [_event(row, names[row.seq]) for row in rows]


def _event(row: tables.EventRow, name: str | None) -> Event:
    detail = json.loads(row.detail)
    seals = json.loads(row.seals) if row.seals is not None else []
    return Event.from_row(
        row,
        kind=row.subject_kind,
        name=name,
        summary=summary_of(row.action, detail),
        detail=detail,
        records=tuple(WrittenRecord(kind=kind, name=name, digest=digest) for kind, _, name, digest in seals),
    )


def _known(session: Session, action: str) -> str:
    if action in ACTIONS or session.scalar(
        select(tables.EventRow.seq).where(tables.EventRow.action == action).limit(1)
    ):
        return action
    hint = f"{nearest(action, ACTIONS, most=1) or ''} there are: {', '.join(ACTIONS)}".lstrip()
    raise BadInputError(f"there is no action {action[:60]!r}", hint=hint)


@dataclass(frozen=True, slots=True)
class _About:
    """Which entries are about something.

    Attributes:
        condition: for the database; None for all.
        subject: the same of entries whose subject it is.
        figures: names and digests by which the details of other entries mention it.
        approves: the name of the alias that approvals, of adapters of its task, have to be for.
    """

    condition: ColumnElement[bool] | None = None
    subjects: frozenset[str] = frozenset()
    prefix: str = ""
    figures: frozenset[str] = frozenset()
    approves: str = ""

    def holds(self, event: tables.EventRow) -> bool:
        """Tell whether an entry that the database found is about it: of a detail it sees the text only."""
        if self.condition is None or event.subject in self.subjects:
            return True
        if self.prefix and event.subject.startswith(self.prefix):
            return True
        if self.approves and event.action in _APPROVALS:
            return bool(json.loads(event.detail).get("alias") == self.approves)
        return _figures(json.loads(event.detail), self.figures)


def _figures(value: Any, names: frozenset[str]) -> bool:
    if isinstance(value, Mapping):
        return any(
            key in names or (key not in _SAID and _figures(each, names)) for key, each in value.items()
        )
    if isinstance(value, list):
        return any(_figures(each, names) for each in value)
    return value in names if isinstance(value, str) else False


def _about(session: Session, text: str, places: Sequence[str]) -> _About:
    wanted, kinds = text.strip(), _kinds(session)
    subjects, figures = {wanted}, set[str]()
    prefix = digest_prefix(wanted)
    unknown: UnknownReferenceError | None = None
    if _is_alias(wanted):
        found = _about_alias(session, Reference.parse(wanted), kinds)
        unknown = no_alias(session, text)
    else:
        try:
            for thing in find_things(session, wanted, places):
                own, others = _names(thing)
                subjects |= own
                figures |= others
        except (UnknownReferenceError, BadInputError) as error:
            unknown = UnknownReferenceError(error.message, hint=error.hint)
        found = _condition(kinds, frozenset(subjects), prefix, frozenset(figures))
    if unknown is not None:
        assert found.condition is not None
        if session.scalar(select(tables.EventRow.seq).where(found.condition).limit(1)) is None:
            raise unknown
    return found


def _kinds(session: Session) -> list[str]:
    """Return what the log calls things, from its index: one step for each of them, and not for each entry."""
    kind = tables.EventRow.subject_kind
    found = select(func.min(kind).label("kind")).cte("kinds", recursive=True)
    following = select(func.min(kind)).where(kind > found.c.kind).scalar_subquery()
    every = found.union_all(select(following).where(found.c.kind.is_not(None)))
    return list(session.scalars(select(every.c.kind).where(every.c.kind.is_not(None))))


def _about_alias(session: Session, alias: Reference, kinds: Sequence[str]) -> _About:
    subjects = {f"{alias.task}#{alias.value}"}
    adapter, task = tables.AdapterRow, tables.TaskRow
    if session.scalar(select(task.id).where(task.name == alias.task)) is not None:
        subjects.add(f"{EVERY_TASK}#{alias.value}")
    names = select(adapter.name).join(task, task.id == adapter.task_id).where(task.name == alias.task)
    event = tables.EventRow
    approved = and_(
        event.subject_kind == _ADAPTER,
        event.subject.in_(names),
        event.action.in_(_APPROVALS),
        event.detail.contains(json.dumps(alias.value), autoescape=True),
    )
    own = and_(event.subject_kind.in_(kinds), event.subject.in_(sorted(subjects)))
    return _About(_any_of([own, approved]), frozenset(subjects), approves=alias.value)


def _condition(
    kinds: Sequence[str], subjects: frozenset[str], prefix: str, figures: frozenset[str]
) -> _About:
    event = tables.EventRow
    ways = [and_(event.subject_kind.in_(kinds), event.subject.in_(sorted(subjects)))]
    if prefix:
        ways.append(and_(event.subject_kind.in_(kinds), begins_with(event.subject, prefix)))
    if figures:
        # What is about an adapter tells of no other thing, and that is most of a log: the rest is read through.
        others = event.subject_kind.in_([kind for kind in kinds if kind != _ADAPTER])
        named = (event.detail.contains(json.dumps(name), autoescape=True) for name in sorted(figures))
        ways.append(and_(others, or_(*named)))
    return _About(_any_of(ways), subjects, prefix, figures)


def _any_of(ways: Sequence[ColumnElement[bool]]) -> ColumnElement[bool]:
    """Return the condition that one of several holds, each of which has an index: OR alone would read the whole log."""
    seq = tables.EventRow.seq
    return seq.in_(union(*(select(seq).where(way) for way in ways)))


def _names(thing: Thing) -> tuple[set[str], set[str]]:
    if isinstance(thing, tables.AdapterRow):
        return {thing.name, thing.digest}, {thing.name}
    if isinstance(thing, tables.FusedRow):
        return {thing.key}, {thing.key, thing.digest}
    if isinstance(thing, tables.BundleRow):
        return {thing.digest}, {thing.digest}
    return {thing.digest} if isinstance(thing, tables.BaseModelRow) else set(), set()


def _is_alias(text: str) -> bool:
    try:
        return Reference.parse(text).kind == "alias"
    except BadInputError:
        return False
