"""Check that log entries explain every change of records: each seal is compared with the record as it was before."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased, joinedload

from fusery.storage.digest import digest_json

from .. import tables
from ..database.sealing import KINDS, Content, Row, contents_of
from ..errors import BadInputError
from ..names import parse_date
from ..records.alias_moves import ALIAS_MOVED, overtaken, text_of
from ..records.amendments import DATASET, TAG, misfits, state_of
from ..records.references import load_adapters
from ..registration.amend import accepted
from .records import SealLog
from .report import Problem

_TAGS, _FORMS = "adapter_tag", "adapter_rendering"

_ENDING: Mapping[str, frozenset[str]] = {
    "alias_move": frozenset(),
    "amendment": frozenset(),
    "approval": frozenset({"withdrawn_at"}),
    "evaluation": frozenset({"withdrawn_at", "withdrawn_by", "withdrawn_reason"}),
    "fused": frozenset(),
    "signature": frozenset(),
    "task": frozenset(),
    "yank": frozenset({"lifted_at", "lifted_by"}),
}
"""Kinds of immutable records, and the columns that are set when one ends."""

_UNREADABLE = (ValueError, TypeError, LookupError, BadInputError)


def check_history(session: Session, log: SealLog) -> Iterator[Problem]:
    """Yield records with a sealed but unattributed change."""
    entries = log.first_entries("amendment")
    for kind, number in log.changed():
        if kind != "adapter" and kind not in _ENDING:
            continue
        with suppress(*_UNREADABLE):  # `check_records` reports a record with invalid values
            content = contents_of(session, KINDS[kind], [number]).get(number, {})
            seq = _unattributed_change(session, kind, content, log.seals((kind, number)), entries)
            if seq is not None:
                name = log.seals((kind, number))[0][1]
                message = f"unattributed change in entry {seq} of the log"
                yield Problem("record_rewritten", f"{kind} {name}", message)


def _unattributed_change(
    session: Session,
    kind: str,
    content: Content,
    seals: Sequence[tuple[int, str, str]],
    entries: Mapping[int, int],
) -> int | None:
    """Return the newest entry that sealed an unattributed change; `entries` has the log entry of each amendment."""
    if not content or digest_json(content) != seals[-1][2]:
        return None  # `check_records` reports it
    for (_, _, before), (seq, _, _) in reversed(list(itertools.pairwise(seals))):
        try:
            if kind == "adapter":
                row, number = tables.AmendmentRow, content["adapter"][0]["id"]
                amended = session.scalars(select(row).where(row.adapter_id == number).order_by(row.id))
                amendments = [amendment for amendment in amended if entries.get(amendment.id) == seq]
                # Renderings are added when they are first computed.
                earlier = _undone(session, content, amendments)
                forms = earlier.get(_FORMS, [])
                some = (itertools.combinations(forms, count) for count in range(len(forms), -1, -1))
                chosen = itertools.chain.from_iterable(some)
                candidates: Iterator[Content] = (_with(earlier, {_FORMS: list(rows)}) for rows in chosen)
            else:  # an immutable record, in its present state or that before it ended
                table = KINDS[kind].table.name
                [last] = content[table]
                standing: Row = {name: value for name, value in last.items() if name not in _ENDING[kind]}
                candidates = iter((content, {**content, table: [standing]}))
            content = next(candidate for candidate in candidates if digest_json(candidate) == before)
        except (*_UNREADABLE, StopIteration):
            return seq
    return None


def _undone(session: Session, content: Content, amendments: Sequence[tables.AmendmentRow]) -> Content:
    """Return what was hashed of an adapter before some amendments."""
    values = dict(content["adapter"][0])
    tags = {tag["key"]: tag for tag in content.get(_TAGS, [])}
    row, data = tables.DatasetRow, dict.fromkeys(DATASET)
    if (dataset := session.get(row, values.get("dataset_id", 0))) is not None:
        data = dict(zip(DATASET, (dataset.name, dataset.revision, dataset.digest), strict=True))
    for amendment in reversed(amendments):
        field, value = amendment.field, accepted(amendment.field, json.loads(amendment.before))
        if field.startswith(TAG):
            key = field.removeprefix(TAG)
            tags[key] = {"adapter_id": values["id"], "key": key, "value": value}
        elif field in DATASET:
            data[field] = value
        else:
            values[field] = parse_date(value).isoformat() if field == "date" else value
    if any(amendment.field in DATASET for amendment in amendments):
        name, revision, digest = (data[field] for field in DATASET)
        dataset_query = select(row.id).where(row.name == name, row.revision == (revision or ""))
        values["dataset_id"] = None
        if name is not None:
            values["dataset_id"] = session.scalar(dataset_query.where(row.digest == (digest or "")))
    before = {name: value for name, value in values.items() if value is not None}
    kept = [tags[key] for key in sorted(tags) if tags[key]["value"] is not None]
    return _with(content, {"adapter": [before], _TAGS: kept})


def _with(content: Content, rows: Content) -> Content:
    # A table without rows is not part of what is hashed.
    return {name: of for name, of in {**content, **rows}.items() if of}


def check_amendments(session: Session, log: SealLog) -> Iterator[Problem]:
    """Yield amendments that do not lead to the adapter's values, and promotions that an amendment has overtaken."""
    alias, amendment, adapter = tables.AliasRow, tables.AmendmentRow, tables.AdapterRow
    only = None if log.only is None else {number for kind, number in log.only if kind == "adapter"}
    # SQLite keeps any value in a column; other checks report a number that is invalid.
    numbers = session.scalars(select(amendment.adapter_id).distinct())
    amended = {number for number in numbers if isinstance(number, int)}
    for number in sorted(amended if only is None else amended & only):
        with suppress(*_UNREADABLE):
            query = load_adapters().where(adapter.id == number).execution_options(populate_existing=True)
            for row in session.scalars(query):
                for message in misfits(state_of(row), row.amendments):
                    yield Problem("amendment_unfit", f"adapter {row.name}", message)
    tasks = select(adapter.task_id).join(amendment, amendment.adapter_id == adapter.id)
    held = select(alias).where(alias.task_id.in_(tasks), alias.adapter_id.is_not(None)).order_by(alias.id)
    for holding in session.scalars(held):
        if only is None or holding.adapter_id in only:
            for message in overtaken(session, holding):
                yield Problem("amended_after_promotion", f"alias {text_of(holding)}", message)


_Stated = tuple[datetime, str | None, str | None, str]  # time, adapters before and after, and reason


def check_alias_moves(session: Session, log: SealLog) -> Iterator[Problem]:
    """Yield aliases that contradict their last move, and moves that contradict the log."""
    if log.only is not None:
        return
    event, logged = tables.EventRow, defaultdict[str, Counter[_Stated]](Counter)
    for subject, at, detail in session.execute(
        select(event.subject, event.at, event.detail).where(event.action == ALIAS_MOVED)
    ):
        logged[subject][_stated(at, detail)] += 1
    row = tables.AliasRow
    for alias in session.scalars(select(row).options(joinedload(row.task)).order_by(row.id)):
        for message in _move_problems(session, alias, logged[text_of(alias)]):
            yield Problem("alias_unexplained", f"alias {text_of(alias)}", message)


def _move_problems(session: Session, alias: tables.AliasRow, logged: Counter[_Stated]) -> Iterator[str]:
    moved, before, after = tables.AliasMoveRow, aliased(tables.AdapterRow), aliased(tables.AdapterRow)
    query = (
        select(moved, before.name, after.name)
        .outerjoin(before, before.id == moved.from_adapter_id)
        .outerjoin(after, after.id == moved.to_adapter_id)
        .where(moved.alias_id == alias.id)
        .order_by(moved.id)
    )
    holder, recorded = None, Counter[_Stated]()
    for move, was, now in session.execute(query):
        if move.from_adapter_id != holder:
            yield f"the move to {now or 'nothing'} at {move.at} contradicts the previous move"
        recorded[move.at, was, now, move.reason] += 1
        holder = move.to_adapter_id
    for what, moves in (
        ("no log entry for the", recorded - logged),
        ("the log has an unrecorded", logged - recorded),
    ):
        for at, _, to, _ in moves:
            yield f"{what} move to {to or 'nothing'} at {at}"
    if alias.adapter_id != holder:
        yield "the alias and its last move have different adapters"


def _stated(at: datetime, detail: str) -> _Stated:
    try:
        facts = json.loads(detail)
        before, after = ((facts[key] or {}).get("name") for key in ("from", "to"))
        return at, before, after, str(facts["reason"])
    except (*_UNREADABLE, AttributeError):  # `events.verify_chain` reports the entry
        return at, None, None, ""
