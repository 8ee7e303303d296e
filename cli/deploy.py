"""`fusery deploy`: where things run, and where they ran when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .columns import record_table
from .groups import Group
from .session import Session, command
from .text import cell, told

if TYPE_CHECKING:
    from fusery.registry.records.deployment import Deployment

_PLACES = click.argument("places", metavar="PLACE...", nargs=-1, required=True)


@click.group("deploy", cls=Group)
def deploy_command() -> None:
    """Record where something runs; see what ran where when."""


@command("record")
@click.argument("reference", metavar="REF|BUNDLE")
@click.argument("place", metavar="PLACE")
@click.option("--note", default="", metavar="TEXT", help="A note for people.")
@click.option("--replace", is_flag=True, help="What ran at PLACE until now does not any more.")
def record_command(session: Session, reference: str, place: str, note: str, replace: bool) -> None:
    """Say that REF or a bundle runs at a place from now on.

    REF is an adapter or a fused model.  BUNDLE is where it was written, or its digest.  PLACE is a name of yours: a
    host, a cluster and service.  Nothing is deployed by this, it is written down: a pipeline says so after it has
    deployed.
    """
    made = session.registry.deployments.record(reference, place, note=note, replace=replace)

    def human() -> None:
        already = "" if made.changed else " already"
        session.print(f"{cell(made.place)} runs {_what(made)}{already}, since {made['at']}.")
        for ended in made.ended:
            session.print(f"  it no longer runs {_what(ended)}")
        session.warn(made)

    session.emit(made, names=[made.id], human=human)


@command("end")
@_PLACES
@click.option("--ref", "reference", metavar="REF|BUNDLE", help="Only this one of those that run there.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def end_command(session: Session, places: tuple[str, ...], reference: str | None, reason: str) -> None:
    """Say that nothing runs at a place any more.

    Or, with --ref, one thing of several.
    """
    ended = session.registry.deployments.end(places, reference=reference, reason=reason)

    def human() -> None:
        for each in ended:
            session.print(f"{cell(each.place)} no longer runs {_what(each)}.")
        if not ended:
            session.say("Nothing runs there any more already.")

    session.emit(ended, names=[each.id for each in ended], human=human)


@command("list", table=True)
@click.option("--at", metavar="DATE", help="What ran then; a day means its end, in UTC, 7d seven days ago.")
@click.option("--all", "every", is_flag=True, help="Also what was ended.")
@click.option("--place", metavar="PLACE", help="Only there.")
@click.option("--ref", "reference", metavar="REF|BUNDLE", help="Only this.")
def list_command(session: Session, at: str | None, every: bool, **chosen: Any) -> None:
    """List what runs where, or ran at a date."""
    if at is not None and every:
        raise click.UsageError("--at and --all exclude each other.")
    rows = session.registry.deployments.list(at=at, every=every, **chosen)

    def human() -> None:
        from fusery.registry.records.deployment import Deployment

        columns = "place name withdrawals at:age by ended_at note digest at"
        session.print_table(
            record_table(Deployment, rows, columns, name=_what, withdrawals=lambda row: told(row) or "-")
        )
        if not rows:
            session.say("Nothing is on record there. Hint: fusery deploy record REF PLACE")

    session.emit(rows, names=[row.place for row in rows], human=human)


def _what(deployment: Deployment) -> str:
    return cell(f"{deployment.kind} {deployment.name}")


for _made in (record_command, end_command, list_command):
    deploy_command.add_command(_made)
