"""`fusery amend`: what was said about an adapter, corrected."""

from __future__ import annotations

from typing import Any

import click

from .adapters import TAGS
from .amendments import change_of
from .session import Session, command


@command("amend")
@click.argument("reference", metavar="REF")
@click.option("--val-loss", type=float, metavar="X", help="The validation loss.")
@click.option("--note", metavar="TEXT", help="The note for people.")
@click.option("--dataset", metavar="NAME", help="What it was trained on; revision and digest stay.")
@click.option("--dataset-revision", metavar="R", help="Which revision of that.")
@click.option("--dataset-digest", metavar="SHA256", help="The digest of its files.")
@click.option("--examples", type=int, metavar="N", help="How many training examples.")
@click.option("--date", metavar="YYYYMMDD", help="The day of training; the name stays as it is.")
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
