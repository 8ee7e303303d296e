"""Reading the log: filtered by subject, time and number, with names beside digests, and in words."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, func, or_, select, union
from sqlalchemy.orm import Session

from .. import tables
from ..database.engine import batches
from ..database.events import ACTIONS
from ..engine.verdict import share_in_words
from ..errors import BadInputError, UnknownReferenceError
from ..names import Reference
from ..parsing import nearest, parse_moment
from ..records.alias_moves import EVERY_TASK
from ..records.event import Event, WrittenRecord
from ..records.fused_rows import label_of
from ..records.references import begins_with, digest_prefix, find_things, no_alias, places_of
from ..workspace.workspace import Workspace

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
    wanted, unknown, figures, alias = text.strip(), None, set[str](), None
    subjects = {wanted}
    with suppress(BadInputError):
        alias = reference if (reference := Reference.parse(wanted)).kind == "alias" else None
    if alias is not None:
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


_NAMED = frozenset({"adapter", "alias", "deployment", "key", "webhook"})  # subjects that the log names
_SHOWN = 3  # metrics that a line of the log names

Detail = Mapping[str, Any]


def names_of(session: Session, events: Sequence[tables.EventRow]) -> dict[int, str | None]:
    """Return the names of the subjects of entries, by number; None where only a digest is known."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for event in events:
        wanted[event.subject_kind].add(event.subject)
    names = dict[str, dict[str, str]]()
    for kind, (column, name_of) in _NAMES.items():
        # Most entries about adapters have a name themselves, and need no question.
        digests = {text for text in wanted[kind] if len(text) == 64 and not text.strip("0123456789abcdef")}
        names[kind] = {
            getattr(row, column.key): name_of(row)
            for some in batches(sorted(digests))
            for row in session.scalars(
                select(column.class_).where(column.in_(some)).order_by(column.class_.id)
            )
        }
    by_number = dict[int, str | None]()
    for event in events:
        kind, detail = event.subject_kind, json.loads(event.detail)
        name = names.get(kind, {}).get(event.subject) or (event.subject if kind in _NAMED else None)
        if kind == "bundle" and "target" in detail:
            # The same bundle may be in several places: which of them an entry is about, only that tells.
            name = f"{detail['target']} {detail['path']}"
        elif kind == "fused":
            name = name or detail.get("label") or detail.get("adapter")
        by_number[event.seq] = name or (kind if kind == "registry" else None)
    return by_number


_NAMES: Mapping[str, tuple[Any, Callable[[Any], str]]] = {
    "adapter": (tables.AdapterRow.digest, lambda row: row.name),
    "base": (tables.BaseModelRow.digest, lambda row: row.name),
    "bundle": (tables.BundleRow.digest, lambda row: f"{row.target} {row.path}"),
    "calibration": (tables.CalibrationRow.digest, lambda row: f"calibration of {row.base.name}"),
    "fused": (tables.FusedRow.key, label_of),
}
"""By kind: the column with the digest that the log calls a subject by, and the name of a row."""


def summary_of(action: str, detail: Detail) -> str:
    """Return an entry in words: its own, or else the meaning of its action."""
    tell = _TELLS.get(action, "")
    details = defaultdict(lambda: None, detail)
    first = tell.format_map(details) if isinstance(tell, str) else tell(detail)
    reason = str(detail.get("reason") or detail.get("note") or "")
    parts = (first, "" if reason in str(first) else reason)
    return "; ".join(str(part) for part in parts if part) or ACTIONS.get(action, "")


def _registered(detail: Detail) -> str:
    other, loss = detail.get("trained_on") or {}, detail.get("val_loss")
    words = [f"trained on {other['name']}"] if "name" in other else []
    return ", ".join(words if loss is None else [*words, f"validation loss {loss:.4g}"])


def _moved(detail: Detail) -> str:
    before, after = (_name(detail.get(key)) for key in ("from", "to"))
    return f"{before} -> {after}{' (emergency)' if detail.get('emergency') else ''}"


def _name(stated: Any) -> str:
    return str(stated["name"]) if isinstance(stated, Mapping) and "name" in stated else "none"


def _evaluated(detail: Detail) -> str:
    metrics = [metric for metric in detail.get("metrics") or () if isinstance(metric, Mapping)]
    words = [f"{metric.get('metric')} {metric.get('value'):.4g}" for metric in metrics[:_SHOWN]]
    return ", ".join(words + ([f"and {len(metrics) - _SHOWN} more"] if len(metrics) > _SHOWN else []))


def _repaired(detail: Detail) -> str:
    source, moved = detail.get("source"), detail.get("moved_to")
    made = f"from {source}" if source else "made again by its recipe"
    return f"{made}, what was damaged is in {moved}" if moved else made


def _proved(detail: Detail) -> str:
    claimed, made = (str(detail.get(key))[:12] for key in ("claimed", "made"))
    same = "the same came out here" if claimed == made else f"{made} came out here"
    return f"registry {str(detail.get('registry'))[:8]} claimed {claimed}, and {same}"


def _trusted(detail: Detail) -> str:
    purposes = [", ".join(detail.get("aliases", ()))]
    purposes += ["fused models of other registries"] if detail.get("fused") else []
    return f"for {' and '.join(filter(None, purposes))}" if any(purposes) else ""


def _measured(detail: Any) -> str:
    detail = detail if isinstance(detail, Mapping) else {}
    share = detail.get("retained")
    return f"{detail.get('verdict')}{'' if share is None else f', {share_in_words(share)}'}"


def _ruled(detail: Detail) -> str:
    rules = detail.get("rules") or {}
    asked = ", ".join(f"{name}={json.dumps(rules[name])}" for name in sorted(rules)) or "no rules"
    return f"{'guarded' if detail.get('guarded') else 'not guarded'}, {asked}"


def _sent(detail: Detail) -> str:
    tasks = f" of {', '.join(detail.get('tasks', ()))}" if detail.get("tasks") else ""
    return f"{', '.join(detail.get('actions', ()))}{tasks} to {detail.get('url')}"


def _received(detail: Detail) -> str:
    origin = detail.get("origin") or {}
    sender = "a client" if origin.get("client") else origin.get("registry")
    return f"{', '.join(detail.get('added') or ()) or 'whole'} from {sender}"


_TELLS: Mapping[str, str | Callable[[Detail], str]] = {
    **{f"{kind}.received": _received for kind in ("adapter", "base", "calibration", "fused")},
    **{f"{kind}.signed": "with the key {key_id!s:.12}" for kind in ("adapter", "bundle", "fused")},
    **{f"deployment.{what}": "{of} {name}" for what in ("ended", "recorded", "refused")},
    **dict.fromkeys(("adapter.evaluated", "adapter.evaluation_withdrawn"), _evaluated),
    **dict.fromkeys(
        ("adapter.approved", "adapter.unapproved"),
        lambda detail: f"for {detail.get('alias')}{', authenticated' if detail.get('authenticated') else ''}",
    ),
    **dict.fromkeys(("blob.repaired", "fused.repaired"), _repaired),
    **dict.fromkeys(("fused.confirmed", "fused.refuted"), _proved),
    **dict.fromkeys(("rules.removed", "rules.set"), _ruled),
    **dict.fromkeys(("webhook.added", "webhook.removed"), _sent),
    "adapter.amended": lambda detail: ", ".join(
        f"{change.get('field')} {json.dumps(change.get('from'))} -> {json.dumps(change.get('to'))}"
        for change in detail.get("changes") or ()
    ),
    "adapter.exported": "{target} to {path}",
    "adapter.registered": _registered,
    "alias.confirmed": lambda detail: (
        f"{_name(detail.get('to'))} holds it still, and was judged once more by what is amended"
    ),
    "alias.moved": _moved,
    "alias.refused": lambda detail: f"{_moved(detail)} refused: {'; '.join(detail.get('reasons', ()))}",
    "base.added": "{name} from {source}",
    "base.calibrated": "{prompts}, {tokens} tokens",
    "base.calibration_chosen": "{prompts}, {calibration!s:.12}",
    "base.related": "{name} and {other_name} are forms of one model",
    "base.recognised": "{name} holds the same as the base {same_as!s:.12}",
    "blob.quarantined": "moved to {moved_to}",
    "bundle.written": lambda detail: ", ".join(
        str(name) for name in detail.get("adapters") or [detail.get("adapter")] if name
    ),
    "fuse.fitted": "into {budget} times the base's size",
    "fuse.refused": lambda detail: f"not published: {detail.get('reason') or _measured(detail)}",
    "fuse.tried": lambda detail: f"the next format was tried: {detail.get('reason') or _measured(detail)}",
    "fused.answered": lambda detail: _measured(detail.get("answers")),
    "fused.made": _measured,
    "fused.published": "{bytes} bytes to the store",
    "key.trusted": _trusted,
    "registry.made": "its files are in {store}",
    "registry.indexed": "{tensors} tensors of {name}, for identify",
    "store.collected": "{removed} removed, {freed_bytes} bytes",
    "token.created": lambda detail: (
        f"as {detail.get('role')}, until {detail.get('expires') or 'it is revoked'}"
    ),
    "webhook.skipped": "entry {seq}, {action}",
}
