"""`fusery backup` and `fusery restore`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural
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

    DEST is a folder, or a URL like that of a store: s3://bucket/prefix, sftp://host/folder ...  If it has a
    backup of this registry, only new blobs are copied.

    The backup is a consistent snapshot, even if others write meanwhile.  An interrupted backup leaves the
    previous one unchanged.  Fused models in the cache are not included: `fuse` makes them again.  Set options
    of the file system at DEST in FUSERY_OTHER_STORE_OPTIONS, as JSON; those of the registry's store are used
    on its server only.
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
@click.option("--own", is_flag=True, help="The backup is your own: restore it unchanged.")
def restore_command(session: Session, source: str, own: bool) -> None:
    """Restore a backup into this empty registry.

    SRC is the folder or URL of a backup.  With --own, names, ids, digests and the log stay the same on any
    database and store.  Files, blobs and the log are verified; a damaged or edited backup is refused, and
    nothing is recorded.

    Without --own, base models, calibrations, adapters and fused models are copied as by `pull`: facts are
    computed from the bytes, admission checks each adapter, and fused models are claims.  Aliases, rules,
    approvals, deployments, keys, tokens, webhooks and the log are not restored.

    After an interruption, run the same command again.  Set options of the file system at SRC in
    FUSERY_OTHER_STORE_OPTIONS, as JSON.
    """
    with session.progress("copying") as progress:
        restored = session.registry.upkeep.restore(
            source, own=own, store_options=_options(), reporter=session.reporter(progress)
        )

    def human() -> None:
        rows = restored.rows
        tables = [
            plural(each.count, *_WORDS.get(each.kind, (each.kind.replace("_", " "),)))
            for each in restored.left_out
            if each.name is None
        ]
        session.facts(
            [
                ("restored", f"{_count(rows, 'adapter')} on {_count(rows, 'base_model', 'base')}"),
                ("of", restored.made_at),
                ("blobs", _amount(restored.blobs)),
                ("last event", _event(restored.last_event)),
                *([("left out", ", ".join(tables))] if tables else []),
            ]
        )
        for each in restored.left_out:
            if each.name is not None:
                session.print(f"left out {each.kind} {each.name}: {each.reason}")
        if restored.left_out:
            session.say(
                "Note: if the backup is your own, restore all of it: "
                f"fusery --registry FOLDER restore {typed(restored.source)} --own"
            )
        session.say("Next: fusery audit")

    session.emit(restored, names=[restored.source], human=human)


_WORDS = {
    "event": ("log entry", "log entries"),
    "alias": ("alias", "aliases"),
    "webhook_delivery": ("webhook delivery", "webhook deliveries"),
}


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
