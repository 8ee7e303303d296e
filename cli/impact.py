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
"""Names of a kind that are shown to people; --json has all."""


@command("impact")
@click.argument("subject", metavar="base:NAME|dataset:NAME|adapter:REF")
def impact_command(session: Session, subject: str) -> None:
    """List what stands on a base, a dataset or an adapter.

    Adapters, fused models, bundles, aliases and places are listed.  Adapters that were continued from one count, and so
    do sums of adapters with one in them.  It is what to look at when a base is withdrawn, a dataset turns out to be
    bad, or an adapter is yanked.
    """
    found = session.registry.provenance.impact(subject)

    def human() -> None:
        session.print(f"{found.kind} {cell(found.name)} has reached:")
        running = [f"{row.place} runs {row.kind} {row.name}{aside(row)}" for row in found.deployments]
        _some(session, "deployment", running)
        _some(session, "alias", [f"{row.alias} holds {row.adapter}{aside(row)}" for row in found.aliases])
        _some(session, "bundle", [f"{row.target} {row.path}{aside(row)}" for row in found.bundles])
        _some(session, "fused model", [_fused(row) for row in found.fused])
        names = [name + aside_of(found.withdrawals.get(name, ())) for name in found.adapters]
        _some(session, "adapter", names)

    session.emit(found, names=found.adapters, human=human)


def _fused(row: ReachedFused) -> str:
    return f"{row.combined} ({row.format}, {row.key[:12]}){aside(row)}"


def _some(session: Session, what: str, names: Sequence[str]) -> None:
    ending = "" if len(names) == 1 else "es" if what.endswith("s") else "s"
    session.print(f"  {len(names):,} {what}{ending}")
    for name in names[:_SHOWN]:
        session.print(f"    {cell(name)}")
    if len(names) > _SHOWN:
        session.print(f"    and {len(names) - _SHOWN:,} more")
