"""Every recorded move of a guarded alias, judged again by the rules and the facts of its moment.

Whoever may write to the database can leave the rules out; what he has written is in the log all the same, at its place.
So an audit names moves that could not have passed, holders that no move explains, and moves that do not follow from the
one before.  A move is judged by what was recorded before it: `chronicle` says what that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from .. import tables
from ..licences import base_licence
from ..resolve import load_adapters
from .chronicle import Chronicle, Moment, had_rules, read_chronicle
from .facts import Facts
from .judging import Case, Outcome, judge

if TYPE_CHECKING:
    from ..audit.report import Report
    from ..workspace import Workspace

AGAINST_RULES = "move_against_rules"
UNEXPLAINED = "alias_unexplained"

_HERE = frozenset({"signed", "licences", "rules"})
"""Rules that cannot be decided where a package, a base's files or a newer version is missing."""


def check_moves(workspace: Workspace, report: Report) -> None:
    """Judge every move of a guarded alias again, and hold each alias against its moves.

    Args:
        workspace: the registry's parts.
        report: gets a problem for what could not have passed, and a note for what cannot be judged here.
    """
    with workspace.database.read() as session:
        rows = session.scalars(select(tables.Alias).options(joinedload(tables.Alias.task))).all()
        if not rows:
            return
        chronicle = read_chronicle(session) if had_rules(session) else None
        for alias in sorted(rows, key=lambda row: row.id):
            _check_alias(workspace, session, alias, chronicle, report)
        late = select(tables.AliasMove).where(tables.AliasMove.at > workspace.database.utcnow(session))
        for move in session.scalars(late.order_by(tables.AliasMove.id)):
            report.add(
                UNEXPLAINED,
                f"alias_move {move.id}",
                f"it claims to be of {move.at.isoformat()}, which is to come",
            )


def _check_alias(
    workspace: Workspace, session: Session, alias: tables.Alias, chronicle: Chronicle | None, report: Report
) -> None:
    moved = tables.AliasMove
    name, before = f"{alias.task.name}#{alias.name}", None
    past: list[int] = []
    for row in session.scalars(select(moved).where(moved.alias_id == alias.id).order_by(moved.id)):
        report.checked["move"] += 1
        if row.from_adapter_id != before:
            report.add(
                UNEXPLAINED, name, f"the move of {row.at.isoformat()} does not follow from the one before"
            )
        if chronicle is not None:
            _judge(workspace, _Move(session, alias, row, chronicle, tuple(past)), report)
        before = row.to_adapter_id
        if before is not None:
            past.append(before)
    if alias.adapter_id != before:
        report.add(UNEXPLAINED, name, "it holds another adapter than its last move says")


@dataclass(frozen=True, slots=True)
class _Move:
    """A move, the log, and who held the alias before."""

    session: Session
    alias: tables.Alias
    row: tables.AliasMove
    chronicle: Chronicle
    past: Sequence[int]

    @property
    def name(self) -> str:
        return f"{self.alias.task.name}#{self.alias.name}"

    def moment(self) -> Moment | None:
        """When it was recorded; None where the log does not know it, which is the matter of its seal."""
        written = self.chronicle.written.get(("alias_move", self.row.id))
        return self.chronicle.at(written[0]) if written else None


def _judge(workspace: Workspace, move: _Move, report: Report) -> None:
    moment = move.moment()
    rule = moment.rule(move.alias.task.name, move.alias.name) if moment else None
    if moment is None or rule is None or not rule[0]:
        return
    told = move.chronicle.moves.get(moment.entry)
    if told is None or told.subject != move.name:
        _accuse(move, report, ["the log has no entry that tells of it"])
    elif told.detail.get("emergency"):
        _accuse(move, report, list(_no_emergency(move, told.detail)))
    elif move.row.to_adapter_id is None:
        _accuse(move, report, ["a promotion takes no alias away"])
    else:
        outcomes = judge(_case(workspace, move, moment), rule[1])
        _accuse(move, report, [_said(found) for found in outcomes if _is_against(found)])
        if unsure := [
            _said(found) for found in outcomes if found.state == "unknown" and not _is_against(found)
        ]:
            report.notes.append(f"{_which(move)} cannot be judged here: {'; '.join(unsure)}")


def _no_emergency(move: _Move, detail: Mapping[str, Any]) -> Iterator[str]:
    """Yield what keeps a move from being an emergency: these give back or take away, and say why."""
    if not str(detail.get("reason") or "").strip():
        yield "an emergency has a reason"
    if move.row.to_adapter_id is not None and move.row.to_adapter_id not in move.past:
        yield "an emergency only goes back to an adapter that held the alias before"


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
    to = move.session.get(tables.Adapter, move.row.to_adapter_id) if move.row.to_adapter_id else None
    where = f"to {to.name}" if to else "to nothing"
    return f"the move {where} by {move.row.by} at {move.row.at.isoformat(timespec='seconds')}"
