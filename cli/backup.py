"""`fusery backup` and `restore`: everything on record in another place, and a registry made of it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from fusery.registry.charts.text import size
from fusery.storage.shell import typed

from .session import Session, command

if TYPE_CHECKING:
    from fusery.registry.backup.catalogue import Amount, Position


@command("backup")
@click.argument("destination", metavar="DEST")
@click.option(
    "--verify",
    is_flag=True,
    help="Verify the blobs already in the backup, replace damaged ones, and prove that a restore works.",
)
def backup_command(session: Session, destination: str, verify: bool) -> None:
    """Copy the database and all blobs to another place.

    A second time the copy there is brought up to date.  DEST is a folder, or a URL like that of a store:
    s3://bucket/prefix, sftp://host/folder ...

    Others may work meanwhile: the copy is of one moment.  Blobs that are there already are not copied again.  An
    interrupted backup leaves the former one as it was.  Fused models in the cache are not part of it: `fuse` makes them
    again.  Options for the file system at DEST are taken from FUSERY_OTHER_STORE_OPTIONS, as JSON; those of the
    registry's own store go to no other server.
    """
    with session.progress("copying") as progress:
        made = session.registry.upkeep.backup(
            destination, verify=verify, store_options=_options(), reporter=session.reporter(progress)
        )

    def human() -> None:
        session.facts(
            [
                ("backup", made.path),
                ("of", made["made_at"]),
                ("rows", str(sum(made.rows.values()))),
                ("blobs", _amount(made.blobs)),
                ("copied", _amount(made.copied)),
                ("last event", _event(made.last_event)),
            ]
        )
        session.say(f"Next: fusery --registry FOLDER restore {typed(made.path)} --own")

    session.emit(made, names=[made.path], human=human)


@command("restore")
@click.argument("source", metavar="SRC")
@click.option("--own", is_flag=True, help="The backup is your own: all of it counts as it is.")
def restore_command(session: Session, source: str, own: bool) -> None:
    """Make this empty registry the one that a backup is of.

    SRC is what `backup` wrote.  Names, digests and the log are the same, whatever database and store this registry has.
    Everything is verified; a backup that was damaged or changed is refused, and nothing is on record then.  Options for
    the file system at SRC are taken from FUSERY_OTHER_STORE_OPTIONS, as JSON.

    Without --own a backup is somebody's word: fused models in it are foreign, its keys are trusted for nothing,
    approvals in it are withdrawn, its tokens revoked and its webhooks disabled, and admission looks at its adapters as if
    they were registered now.
    """
    with session.progress("copying") as progress:
        restored = session.registry.upkeep.restore(
            source, own=own, store_options=_options(), reporter=session.reporter(progress)
        )

    def human() -> None:
        rows, foreign = restored.rows, _foreign(restored.foreign)
        session.facts(
            [
                ("restored", f"{_count(rows, 'adapter')} on {_count(rows, 'base_model', 'base')}"),
                ("of", restored.made_at),
                ("blobs", _amount(restored.blobs)),
                ("last event", _event(restored.last_event)),
                *([("does not count", foreign)] if foreign else []),
            ]
        )
        for doubt in restored.doubts:
            codes = sorted({finding.code for finding in doubt.findings})
            session.print(
                f"{doubt.adapter}: admission finds here {', '.join(codes)}, which was not on record"
            )
        if foreign:
            session.say(
                "Note: if the backup is your own, restore it with --own, so that all of it counts: "
                f"fusery --registry FOLDER restore {typed(restored.source)} --own"
            )
        session.say("Next: fusery audit")

    session.emit(restored, names=[restored.source], human=human)


def _options() -> str | None:
    import os

    return os.environ.get("FUSERY_OTHER_STORE_OPTIONS")


def _event(event: Position) -> str:
    return f"{event.seq}, {event.hash[:12]}"


def _amount(amount: Amount) -> str:
    return f"{amount.count}, {size(amount.bytes)}"


def _count(rows: Mapping[str, int], table: str, what: str = "") -> str:
    number = rows.get(table, 0)
    return f"{number} {what or table}{'' if number == 1 else 's'}"


def _foreign(counts: Mapping[str, int]) -> str:
    """Return what of somebody else's backup does not count."""
    words = {
        "fused": "fused models (foreign)",
        "trusted_keys": "trusted keys",
        "approvals": "approvals",
        "tokens": "tokens",
        "webhooks": "webhooks (disabled)",
    }
    return ", ".join(f"{counts[key]} {word}" for key, word in words.items() if counts.get(key))
