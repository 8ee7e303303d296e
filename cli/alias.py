"""`fusery alias`, `yank` and `events`: which version a name means, what is withdrawn, and who did what when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from .columns import record_table
from .groups import Group
from .session import Session, command
from .text import cell, told, when

if TYPE_CHECKING:
    from fusery.registry.record import Record
    from fusery.registry.records.alias import Moved
    from fusery.registry.records.event import Event
    from fusery.registry.records.release import Yank

_ALIAS = click.argument("alias", metavar="TASK#ALIAS")
_REASON = click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
_EMERGENCY = click.option(
    "--emergency", is_flag=True, help="Do it though the alias is guarded; --reason is needed, and logged."
)


@click.group("alias", cls=Group)
def alias_command() -> None:
    """Move names such as course_rec#prod; see who held them when."""


def _print_move(session: Session, move: Moved) -> None:
    if not move.moved:
        session.print(f"{move.alias} holds {move.to or 'nothing'} already.")
    elif move.to is None:
        session.print(f"{move.alias} holds nothing any more; it held {move.from_}.")
    else:
        before = f", before that {move.from_}" if move.from_ else ""
        session.print(f"{move.alias} holds {move.to}{before}.")


def _emit_move(session: Session, move: Moved) -> None:
    session.emit(move, names=[move.to or ""], human=lambda: _print_move(session, move))
    session.warn(move)


@command("set")
@click.argument("reference", metavar="REF")
@click.argument("alias", metavar="ALIAS")
@_REASON
def set_command(session: Session, reference: str, alias: str, reason: str) -> None:
    """Let an alias of REF's task hold REF.

    For example: fusery alias set course_rec@2 prod
    """
    _emit_move(session, session.registry.aliases.set(alias, reference, reason=reason))


@command("remove")
@_ALIAS
@_REASON
@_EMERGENCY
def remove_command(session: Session, alias: str, reason: str, emergency: bool) -> None:
    """Take an alias away; its history stays."""
    _emit_move(session, session.registry.aliases.remove(alias, reason=reason, emergency=emergency))


@command("rollback")
@_ALIAS
@_REASON
@_EMERGENCY
def rollback_command(session: Session, alias: str, reason: str, emergency: bool) -> None:
    """Give an alias back to the version that held it before."""
    _emit_move(session, session.registry.aliases.roll_back(alias, reason=reason, emergency=emergency))


@command("list", table=True)
@click.option("--task", metavar="T", help="Only of this task.")
def list_command(session: Session, task: str | None) -> None:
    """List the aliases and what they hold."""
    aliases = session.registry.aliases.list(task)

    def human() -> None:
        from fusery.registry.records.alias import Alias

        columns = "alias adapter withdrawals since:age by reason since"
        session.print_table(record_table(Alias, aliases, columns, withdrawals=lambda row: told(row) or "-"))
        if not aliases:
            session.say("There is no alias. Hint: fusery alias set REF ALIAS")

    session.emit(aliases, names=[alias.alias for alias in aliases], human=human)


@command("show")
@_ALIAS
@click.option(
    "--at", metavar="DATE", help="What it held then; a day means its end, in UTC, 7d seven days ago."
)
def show_command(session: Session, alias: str, at: str | None) -> None:
    """Show what an alias holds, or held at a date."""
    shown = session.registry.aliases.show(alias, at=at)

    def human() -> None:
        held = "held" if shown.at else "holds"
        since = f", since {shown['since']}, set by {cell(shown.by)}" if shown.adapter else ""
        when = f" on {shown['at']}" if shown.at else ""
        session.print(f"{shown.alias} {held} {shown.adapter or 'nothing'}{when}{since}.")
        if shown.yanked:
            session.print("  it is yanked" if shown.at is None else "  it was yanked at that time")
        for each in shown.withdrawals:
            if each.relation != "itself":
                session.print(f"  {cell(each.told)}")

    session.emit(shown, names=[shown.adapter or ""], human=human)


@command("history", table=True)
@_ALIAS
def history_command(session: Session, alias: str) -> None:
    """Show every move of an alias, oldest first."""
    moves = session.registry.aliases.history(alias)

    def human() -> None:
        from fusery.registry.records.alias import AliasMove

        session.print_table(record_table(AliasMove, moves, "at to at:age by from_ reason"))

    session.emit(moves, names=[move.to or "" for move in moves], human=human)


for _command in (set_command, remove_command, rollback_command, list_command, show_command, history_command):
    alias_command.add_command(_command)


@command("yank")
@click.argument("references", metavar="REF...", nargs=-1, required=True)
@_REASON
@click.option("--undo", is_flag=True, help="Lift the yank.")
def yank_command(session: Session, references: tuple[str, ...], reason: str, undo: bool) -> None:
    """Withdraw adapters: they are not fused or shipped any more.

    All of them are withdrawn, or none.  They stay on record.  What was made with each before is listed.  With --json,
    several adapters give an array of the documents that one gives.
    """
    if undo:
        lifted = session.registry.adapters.unyank_all(references, reason=reason)

        def told() -> None:
            for each in lifted:
                session.print(f"{each.name} {'may be used again' if each.changed else 'was not yanked'}.")

        session.emit(_one_or_all(lifted), names=[each.name for each in lifted], human=told)
        return
    yanks = session.registry.adapters.yank_all(references, reason=reason)

    def human() -> None:
        for yank in yanks:
            _print_yank(session, yank)

    session.emit(_one_or_all(yanks), names=[yank.name for yank in yanks], human=human)


def _one_or_all(records: Sequence[Record]) -> Record | Sequence[Record]:
    return records[0] if len(records) == 1 else records


def _print_yank(session: Session, yank: Yank) -> None:
    already = "" if yank.changed else f" already, by {yank.by} on {yank['at']}"
    session.print(f"{yank.name} is yanked{already}: {yank.reason}")
    for alias in yank.aliases:
        session.print(f"  it is held by {alias}")
    for key in yank.fused:
        session.print(f"  it was fused: {key[:12]}")
    for bundle in yank.bundles:
        session.print(f"  it was shipped: {bundle.target} bundle in {bundle.path}")
    for running in yank.deployments:
        session.print(f"  it runs at {cell(running.place)}, since {running['at']}")
    for name in yank.same_bytes:
        session.print(f"  the same bytes are {cell(name)}, which is not yanked by this")
    for name in yank.same_weights:
        session.print(f"  the same weights are in {cell(name)}, which is not yanked by this")
    for name in yank.continued:
        session.print(f"  it was continued to {cell(name)}, which is not yanked by this")
    for name in yank.computed:
        session.print(f"  {cell(name)} was computed from these weights, and is not yanked by this")


def _subject(entry: Event) -> str:
    """Return what an entry is about: its name, with the beginning of its digest if that is what the log has."""
    if entry.name == entry.subject:
        return cell(entry.name)
    return cell(" ".join([*([entry.name] if entry.name else []), entry.subject[:12]]))


@command("events", table=True)
@click.option(
    "--ref",
    "reference",
    metavar="REF",
    help="Only about this, by name or digest: an adapter and what it figures in, a base, a fused model, a bundle, an alias, "
    "a place.",
)
@click.option("--since", metavar="DATE", help="Only from then on: 2026-03-01, or 7d for seven days ago.")
@click.option("--action", metavar="ACTION", help="Only of this action, such as adapter.registered.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@click.option("--follow", is_flag=True, help="Go on with new entries as they come, one a line, until Ctrl-C.")
def events_command(session: Session, follow: bool, **filters: Any) -> None:
    """Show the log: who did what, when and why.

    With --follow, --json prints one document a line for each entry.
    """
    if follow:
        _follow(session, filters)
        return
    entries = session.registry.upkeep.log(**filters)

    def human() -> None:
        from fusery.registry.records.event import Event

        columns = "seq at:age actor action name told at"
        session.print_table(record_table(Event, entries, columns, name=_subject))

    session.emit(entries, names=[entry.hash for entry in entries], human=human)


def _follow(session: Session, filters: Mapping[str, Any]) -> None:
    """Print entries one a line, also those that come, until somebody interrupts."""
    # Whoever interrupts has seen enough: that is no failure.
    with suppress(KeyboardInterrupt):
        for entry in session.registry.upkeep.follow(**filters):
            session.line(entry, name=entry.hash, text=_line(entry))


def _line(entry: Event) -> str:
    words = [when(entry.at), str(entry.seq), cell(entry.actor), entry.action, _subject(entry)]
    return "  ".join([*words, *([cell(entry.told)] if entry.told else [])])
