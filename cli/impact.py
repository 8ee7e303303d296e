"""`fusery impact`: everything that a base, a dataset or an adapter has reached, and where that runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .session import Session, command
from .text import aside, aside_of, cell

if TYPE_CHECKING:
    from fusery.registry.releases.impact import ReachedFused

_SHOWN = 20
"""Names of a kind that are shown to people; --json has more."""


@command("impact")
@click.argument("subject", metavar="base:NAME|dataset:NAME|adapter:REF")
@click.option("--complete", is_flag=True, help="All there is, not just the newest of each kind.")
def impact_command(session: Session, subject: str, complete: bool) -> None:
    """List what stands on a base, a dataset or an adapter.

    Adapters, fused models, bundles, aliases and places are listed.  Adapters that were continued from one count, and so
    do sums of adapters with one in them.  It is what to look at when a base is withdrawn, a dataset turns out to be
    bad, or an adapter is yanked.

    Of each kind the newest 20 are shown, 100 with --json or -q, and how many there are.
    """
    from fusery.registry.releases.impact import LIMIT

    found = session.registry.provenance.impact(subject, limit=None if complete else LIMIT)
    shown = None if complete else _SHOWN

    def human() -> None:
        session.print(f"{found.kind} {cell(found.name)} has reached:")
        running = [f"{row.place} runs {row.kind} {row.name}{aside(row)}" for row in found.deployments]
        _some(session, "deployment", running, found.totals["deployments"], shown)
        held = [f"{row.alias} holds {row.adapter}{aside(row)}" for row in found.aliases]
        _some(session, "alias", held, found.totals["aliases"], shown)
        packed = [f"{row.target} {row.path}{aside(row)}" for row in found.bundles]
        _some(session, "bundle", packed, found.totals["bundles"], shown)
        _some(session, "fused model", [_fused(row) for row in found.fused], found.totals["fused"], shown)
        names = [name + aside_of(found.withdrawals.get(name, ())) for name in found.adapters]
        _some(session, "adapter", names, found.totals["adapters"], shown)

    session.emit(found, names=found.adapters, human=human)
    if session.quiet and (left := found.totals["adapters"] - len(found.adapters)):
        click.echo(f"Note: and {left:,} more: --complete shows all", err=True)


def _fused(row: ReachedFused) -> str:
    return f"{row.combined} ({row.format}, {row.key[:12]}){aside(row)}"


def _some(session: Session, what: str, names: Sequence[str], total: int, most: int | None) -> None:
    ending = "" if total == 1 else "es" if what.endswith("s") else "s"
    session.print(f"  {total:,} {what}{ending}")
    for name in names[-most:] if most is not None else names:
        session.print(f"    {cell(name)}")
    if most is not None and total > most:
        session.print(f"    and {total - most:,} more: --complete shows all")
