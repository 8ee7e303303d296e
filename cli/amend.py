"""`fusery amend`: what was said about an adapter, corrected."""

from __future__ import annotations

from typing import Any

import click

from fusery.registry.record import parts_of
from fusery.registry.records.adapter import Adapter

from .adapters import TAGS, options_of
from .amendments import change_of
from .session import Session, command

AMENDABLE = [name for name, part in parts_of(Adapter).items() if part.about.amendable != "no"]


@command("amend")
@click.argument("reference", metavar="REF")
@options_of(AMENDABLE, amends=True)
@TAGS
@click.option("--clear", multiple=True, metavar="FIELD", help="A field that has no value; tag.KEY for a tag.")
@click.option("--reason", default="", metavar="TEXT", help="Why; needed but for notes and tags.")
def amend_command(session: Session, reference: str, **correction: Any) -> None:
    """Correct what was said about an adapter.

    The log keeps what it was, who changed it and why.  Files, base and name are what an adapter is, and never change.
    `fusery show REF --at DATE` shows what was on record then.
    """
    done = session.registry.adapters.amend(reference, **correction)

    def human() -> None:
        for change in done.amendments:
            session.print(f"{done.name}: {change_of(change)}")
        if not done.changed:
            session.print(f"{done.name}: that is on record already.")

    session.emit(done, names=[done.name], human=human)
