"""Reading the log: filtered by subject, time and number, with names beside digests, and in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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

_FREE_TEXTS = frozenset({"reason", "reasons", "note", "path"})  # a name in these mentions no record
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
            query = query.where(tables.EventRow.action == action)
            if action not in ACTIONS and session.scalar(query.limit(1)) is None:
                hint = f"{nearest(action, ACTIONS, most=1) or ''} there are: {', '.join(ACTIONS)}".lstrip()
                raise BadInputError(f"there is no action {action[:60]!r}", hint=hint)
        if moment is not None:
            query = query.where(tables.EventRow.at >= moment)
        if after is not None:
            query = query.where(tables.EventRow.seq > after)
        if before is not None:
            query = query.where(tables.EventRow.seq < before)
        if reference is None:
            rows: Iterable[tables.EventRow] = session.scalars(query.limit(limit))
        else:  # the database finds some that are not about it
            about = _about(session, reference, places)
            rows = (row for row in session.scalars(query.where(about.condition())) if about.holds(row))
        return events_of(session, list(islice(rows, limit))[::-1])


def events_of(session: Session, rows: Sequence[tables.EventRow]) -> list[Event]:
    """Return the records of entries."""
    names, records = names_of(session, rows), list[Event]()
    for row in rows:
        detail, seals = json.loads(row.detail), json.loads(row.seals or "[]")
        written = (WrittenRecord(kind=kind, name=name, digest=digest) for kind, _, name, digest in seals)
        values = {"kind": row.subject_kind, "name": names[row.seq], "detail": detail}
        summary = summary_of(row.action, detail)
        records.append(Event.from_row(row, **values, summary=summary, records=tuple(written)))
    return records


@dataclass(frozen=True, slots=True)
class _About:
    """Which entries are about something: those about its subjects or digests, and others that mention it."""

    kinds: Sequence[str]  # what the log calls things
    subjects: frozenset[str]
    prefix: str
    figures: frozenset[str]  # names and digests by which the details of other entries mention it
    approves: Reference | None  # the alias that approvals, of adapters of its task, have to be for

    def condition(self) -> ColumnElement[bool]:
        """Return the condition for the database; each part has an index, and OR alone would read the whole log."""
        event, of_kinds = tables.EventRow, tables.EventRow.subject_kind.in_(self.kinds)
        ways = [and_(of_kinds, event.subject.in_(sorted(self.subjects)))]
        if self.prefix:
            ways.append(and_(of_kinds, begins_with(event.subject, self.prefix)))
        if self.figures:
            # Most events concern an adapter and mention no other record: only the others are searched as text.
            others = event.subject_kind.in_([kind for kind in self.kinds if kind != _ADAPTER])
            ways.append(and_(others, or_(*map(_mentions, sorted(self.figures)))))
        if self.approves is not None:
            adapter, task = tables.AdapterRow, tables.TaskRow
            names = select(adapter.name).join(task, task.id == adapter.task_id)
            of_task = event.subject.in_(names.where(task.name == self.approves.task))
            approved = and_(event.subject_kind == _ADAPTER, of_task, event.action.in_(_APPROVALS))
            ways.append(and_(approved, _mentions(self.approves.value)))
        return event.seq.in_(union(*(select(event.seq).where(way) for way in ways)))

    def holds(self, event: tables.EventRow) -> bool:
        """Tell whether an entry that the database found is about it: of a detail it sees the text only."""
        if event.subject in self.subjects or (self.prefix and event.subject.startswith(self.prefix)):
            return True
        detail = json.loads(event.detail)
        if self.approves is not None and event.action in _APPROVALS:
            return bool(detail.get("alias") == self.approves.value)
        return _figures(detail, self.figures)


def _mentions(text: str) -> ColumnElement[bool]:
    return tables.EventRow.detail.contains(json.dumps(text), autoescape=True)


def _figures(value: Any, names: frozenset[str]) -> bool:
    if isinstance(value, Mapping):
        return any(
            key in names or (key not in _FREE_TEXTS and _figures(member, names))
            for key, member in value.items()
        )
    if isinstance(value, list):
        return any(_figures(member, names) for member in value)
    return value in names if isinstance(value, str) else False


def _about(session: Session, text: str, places: Sequence[str]) -> _About:
    wanted, unknown, figures = text.strip(), None, set[str]()
    subjects = {wanted}
    if (alias := _alias(wanted)) is not None:
        task, unknown = tables.TaskRow, no_alias(session, text)
        subjects = {f"{alias.task}#{alias.value}"}
        if session.scalar(select(task.id).where(task.name == alias.task)) is not None:
            subjects.add(f"{EVERY_TASK}#{alias.value}")
    else:
        try:
            for thing in find_things(session, wanted, places):
                own, others = _names(thing)
                subjects |= own
                figures |= others
        except (UnknownReferenceError, BadInputError) as error:
            unknown = UnknownReferenceError(error.message, hint=error.hint)
    prefix = "" if alias is not None else digest_prefix(wanted)
    about = _About(_kinds(session), frozenset(subjects), prefix, frozenset(figures), alias)
    if (
        unknown is not None
        and session.scalar(select(tables.EventRow.seq).where(about.condition()).limit(1)) is None
    ):
        raise unknown
    return about


def _kinds(session: Session) -> list[str]:
    """Return what the log calls things, from its index: one step for each of them, and not for each entry."""
    kind = tables.EventRow.subject_kind
    kinds = select(func.min(kind).label("kind")).cte("kinds", recursive=True)
    following = select(func.min(kind)).where(kind > kinds.c.kind).scalar_subquery()
    every = kinds.union_all(select(following).where(kinds.c.kind.is_not(None)))
    return list(session.scalars(select(every.c.kind).where(every.c.kind.is_not(None))))


def _names(thing: Thing) -> tuple[set[str], set[str]]:
    if isinstance(thing, tables.AdapterRow):
        return {thing.name, thing.digest}, {thing.name}
    if isinstance(thing, tables.FusedRow):
        return {thing.key}, {thing.key, thing.digest}
    if isinstance(thing, tables.BundleRow):
        return {thing.digest}, {thing.digest}
    return {thing.digest} if isinstance(thing, tables.BaseModelRow) else set(), set()


def _alias(text: str) -> Reference | None:
    try:
        reference = Reference.parse(text)
    except BadInputError:
        return None
    return reference if reference.kind == "alias" else None
