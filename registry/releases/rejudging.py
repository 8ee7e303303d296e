"""Evaluating every recorded move of a guarded alias again, by the rules and facts of its moment.

A client with write access to the database can bypass the rules, but its move is in the log.  So an audit names moves
that could not have passed, holders without a move, and moves that do not follow from the one before.  A move is
evaluated by what was recorded before it (`chronicle`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from .. import tables
from ..database.chronicle import Chronicle, Moment, Told, read_chronicle
from ..records.licences import base_licence
from ..records.references import load_adapters
from .facts import Facts
from .histories import REWRITTEN, check_alias, check_histories
from .judging import Case, Outcome, judge

if TYPE_CHECKING:
    from ..audit.report import Report
    from ..workspace import Workspace

AGAINST_RULES = "move_against_rules"
UNEXPLAINED = "alias_unexplained"

_HERE = frozenset({"signed", "licences", "rules"})
"""Rules that cannot be decided where a package, a base's files or a newer version is missing."""


def check_moves(workspace: Workspace, report: Report) -> None:
    """Evaluate every move of a guarded alias again, and compare aliases, moves, rules and their facts with the log.

    Args:
        workspace: the registry's parts.
        report: receives a problem for each move that could not have passed, and a note for each that cannot be evaluated.
    """
    from ..audit.report import in_order

    with workspace.database.read() as session, in_order(report, "moves of aliases"):
        chronicle = read_chronicle(session)
        for subject, message in check_histories(session, chronicle):
            report.add(REWRITTEN, subject, message)
        rows = session.scalars(select(tables.Alias).options(joinedload(tables.Alias.task)))
        for alias in sorted(rows.all(), key=lambda row: row.id):
            _check_alias(workspace, session, alias, chronicle, report)


def _check_alias(
    workspace: Workspace, session: Session, alias: tables.Alias, chronicle: Chronicle, report: Report
) -> None:
    moved = tables.AliasMove
    name, before = f"{alias.task.name}#{alias.name}", None
    past: list[tables.AliasMove] = []
    for row in session.scalars(select(moved).where(moved.alias_id == alias.id).order_by(moved.id)):
        report.checked["move"] += 1
        move = _Move(session, alias, row, chronicle, tuple(past))
        if row.from_adapter_id != before or (past and row.at < past[-1].at):
            report.add(UNEXPLAINED, name, f"{_which(move)} does not follow from the one before")
        if row.at > workspace.database.utcnow(session):
            report.add(UNEXPLAINED, name, f"{_which(move)} is to come")
        _judge(workspace, move, report)
        before = row.to_adapter_id
        past.append(row)
    if alias.adapter_id != before:
        report.add(UNEXPLAINED, name, "it holds another adapter than its last move says")
    for subject, message in check_alias(session, chronicle, alias, [row.to_adapter_id for row in past]):
        report.add(REWRITTEN, subject, message)
    for seq, told in chronicle.confirmed.items():
        if told.subject == name:
            _judge_confirmation(workspace, session, alias, chronicle.at(seq), past, report)


def _judge_confirmation(
    workspace: Workspace,
    session: Session,
    alias: tables.Alias,
    moment: Moment,
    moves: Sequence[tables.AliasMove],
    report: Report,
) -> None:
    """Judge the holder that an entry says was judged once more, against the one before it."""
    done = [row for row in moves if moment.has("alias_move", row.id)]
    rule = moment.rule(alias.task.name, alias.name)
    if not done or done[-1].to_adapter_id is None or rule is None:
        report.add(
            AGAINST_RULES,
            f"{alias.task.name}#{alias.name}",
            f"entry {moment.entry} confirms a holder that there was not",
        )
        return
    move = _Move(session, alias, done[-1], moment.chronicle, tuple(done[:-1]))
    outcomes = judge(_case(workspace, move, moment), rule[1])
    if reasons := [_said(found) for found in outcomes if _is_against(found)]:
        report.add(
            AGAINST_RULES,
            move.name,
            f"the confirmation in entry {moment.entry} of the log could not have passed: {'; '.join(reasons)}",
        )


@dataclass(frozen=True, slots=True)
class _Move:
    """A move, the log, and who held the alias before."""

    session: Session
    alias: tables.Alias
    row: tables.AliasMove
    chronicle: Chronicle
    past: Sequence[tables.AliasMove]

    @property
    def name(self) -> str:
        return f"{self.alias.task.name}#{self.alias.name}"

    def moment(self) -> Moment | None:
        """When it was recorded; None where the log does not know it."""
        first = self.chronicle.first("alias_move", self.row.id)
        return None if first is None else self.chronicle.at(first)

    def is_told_by(self, told: Told | None) -> bool:
        """Return whether an entry of the log tells of just this move."""
        if told is None or told.subject != self.name:
            return False
        stated = [(told.detail.get(side) or {}).get("name") for side in ("from", "to")]
        known = [self.named(number) for number in (self.row.from_adapter_id, self.row.to_adapter_id)]
        return stated == known and told.at == self.row.at and told.detail.get("reason") == self.row.reason

    def named(self, number: int | None) -> str | None:
        """Return the name of an adapter by its row."""
        row = None if number is None else self.session.get(tables.Adapter, number)
        return None if row is None else row.name


def _judge(workspace: Workspace, move: _Move, report: Report) -> None:
    moment = move.moment()
    if moment is None:
        _accuse(move, report, ["the log does not know it"])
        return
    rule = moment.rule(move.alias.task.name, move.alias.name)
    told = move.chronicle.moves.get(moment.entry)
    if told is not None and not move.is_told_by(told):
        report.add(
            UNEXPLAINED, move.name, f"{_which(move)} is not what entry {moment.entry} of the log tells"
        )
    if rule is None or not rule[0]:
        return
    if told is None:
        _accuse(move, report, ["the log has no entry that tells of it"])
    elif told.detail.get("emergency"):
        _accuse(move, report, list(_no_emergency(move, moment, told.detail)))
    elif move.row.to_adapter_id is None:
        _accuse(move, report, ["a promotion takes no alias away"])
    else:
        outcomes = judge(_case(workspace, move, moment), rule[1])
        _accuse(move, report, [_said(found) for found in outcomes if _is_against(found)])
        if unsure := [
            _said(found) for found in outcomes if found.state == "unknown" and not _is_against(found)
        ]:
            report.notes.append(f"{_which(move)} cannot be judged here: {'; '.join(unsure)}")


def _no_emergency(move: _Move, moment: Moment, detail: Mapping[str, Any]) -> Iterator[str]:
    """Yield what keeps a move from being an emergency: these give back or take away, and say why."""
    if not str(detail.get("reason") or "").strip():
        yield "an emergency has a reason"
    if move.row.to_adapter_id is None:
        return
    if move.row.to_adapter_id not in {row.to_adapter_id for row in move.past}:
        yield "an emergency only goes back to an adapter that held the alias before"
    adapter = move.session.get(tables.Adapter, move.row.to_adapter_id)
    if adapter is not None and (why := Facts(move.session, moment).withdrawn(adapter)) is not None:
        yield why


def _case(workspace: Workspace, move: _Move, moment: Moment) -> Case:
    found = {
        row.id: row
        for row in move.session.scalars(
            load_adapters().where(tables.Adapter.id.in_([move.row.to_adapter_id, move.row.from_adapter_id]))
        )
    }
    adapter = found[move.row.to_adapter_id or 0]
    holder = found.get(move.row.from_adapter_id or 0)
    here = _is_here(adapter.base)
    licence = base_licence(workspace, adapter.base) if here else None
    return Case(Facts(move.session, moment), adapter, move.alias.name, holder, licence, here)


def _is_here(base: tables.BaseModel) -> bool:
    """Whether a base's files can be looked at on this machine: those of one by reference may be elsewhere."""
    return base.location is None or Path(base.location).is_dir()


def _is_against(found: Outcome) -> bool:
    return found.state == "failed" or (found.state == "unknown" and found.rule not in _HERE)


def _said(found: Outcome) -> str:
    return f"{found.rule}: {found.why}"


def _accuse(move: _Move, report: Report, reasons: Sequence[str]) -> None:
    if reasons:
        report.add(AGAINST_RULES, move.name, f"{_which(move)} could not have passed: {'; '.join(reasons)}")


def _which(move: _Move) -> str:
    name = move.named(move.row.to_adapter_id)
    where = f"to {name}" if name else "to nothing"
    return f"the move {where} by {move.row.by} at {move.row.at.isoformat(timespec='seconds')}"
