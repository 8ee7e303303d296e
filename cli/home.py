"""`fusery doctor`, and `init`, `db`, `backup` and `restore` of `fusery admin`: the registry itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fusery.registry.api.upkeep import Upkeep
from fusery.registry.charts.text import size
from fusery.registry.parsing import plural
from fusery.registry.record import Record, described
from fusery.storage.errors import typed

from .command import command, prints
from .exchange import other_store_options
from .session import Session

if TYPE_CHECKING:
    from fusery.registry.exchange.backup import BackedUp
    from fusery.registry.exchange.filling import Restored
    from fusery.registry.remote.container import Amount, Position


class Initialised(Record):
    """The result of `fusery admin init`."""

    home: str = described("folder of the registry, or URL of its server")
    store: str = described("URL of its store, without secrets")
    created: bool = described("whether it is new")


class SchemaCheck(Record):
    """The result of `fusery admin db check`."""

    ok: bool = described("whether there are no differences")
    differences: tuple[str, ...] = described("differences from the schema of this version, a sentence each")


@command("admin init", document=".home:Initialised")
def init(session: Session) -> None:
    """Create a registry: home folder, database and store.

    Running it again changes nothing.
    """
    made = session.registry.init()
    place, store = session.registry.place

    def human() -> None:
        if session.registry.server is not None:
            session.print(f"There is a registry at {place}")
        else:
            session.print(f"{'Made a registry' if made else 'There is a registry'} in {place}")
        session.say("Next: fusery base add SOURCE")

    session.emit(Initialised(home=place, store=store, created=made), names=[place], human=human)


@command("doctor", document="upkeep.doctor:Health")
def doctor(session: Session) -> int:
    """Show every setting and its source, and check each part.

    Exit code 1: a part has a problem.
    """
    from fusery.registry.upkeep.doctor import Health

    health = Health(tuple(session.registry.upkeep.doctor(reporter=session.reporter())))

    def human() -> None:
        for check in health.checks:
            session.print(f"{check.status:<8} {check.name:<22} {check.detail}")
            if check.hint:
                session.hint(check.hint, f"{'':<32}")
        shell = os.path.basename(os.environ.get("SHELL", "bash"))
        session.say(f'To complete names in {shell}: eval "$(_FUSERY_COMPLETE={shell}_source fusery)"')

    failed = [check.name for check in health.checks if check.status == "problem"]
    session.emit(health, names=failed, human=human)
    return 0 if health.ok else 1


@prints("admin db upgrade", Upkeep.upgrade, names="after")
def upgrade(session: Session, done: Any) -> None:
    """Upgrade the database schema to this program's version."""
    text = f"Upgraded from {done.before or 'empty'} to {done.after}"
    session.print(f"Already at {done.after}" if done.before == done.after else text)
    if done.before is None:
        session.say("Next: fusery admin init, which makes the store that belongs to it")


@prints("admin db current", Upkeep.schema, names="current")
def current(session: Session, schema: Any) -> None:
    """Show the database's schema version and this program's."""
    session.print(f"{schema.current or 'empty'} (this program needs {schema.head}: {schema.status})")


@command("admin db check", document=".home:SchemaCheck")
def check(session: Session) -> int:
    """Compare the database's schema with this program's tables.

    Exit code 1: they differ.
    """
    differences = tuple(session.registry.upkeep.schema_differences())
    done = SchemaCheck(ok=not differences, differences=differences)
    text = "The schema is as it should be." if done.ok else f"{plural(len(done.differences), 'difference')}."
    lines = (*done.differences, text)
    session.emit(done, names=done.differences, human=lambda: session.print_lines(lines))
    return 0 if done.ok else 1


@prints(
    "admin backup",
    Upkeep.backup,
    names="path",
    progress="copying",
    given=other_store_options,
    destination=("DEST", str),
)
def backup(session: Session, made: BackedUp) -> None:
    """Back up the database and all blobs.

    DEST is a folder, or the URL of a store, such as s3://BUCKET/PREFIX or sftp://HOST/FOLDER. The backup is a consistent
    snapshot, even while others write. Only new blobs are copied. FUSERY_OTHER_STORE_OPTIONS has options for the file
    system of DEST, as JSON.

    Example: fusery admin backup s3://team-bucket/backup --verify
    """
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
    session.say(f"Next: fusery --registry FOLDER admin restore {typed(made.path)} --own")


@prints(
    "admin restore",
    Upkeep.restore,
    names="source",
    progress="copying",
    given=other_store_options,
    source=("SRC", str),
)
def restore(session: Session, restored: Restored) -> None:
    """Restore a backup into this empty registry.

    Names, ids, digests and the log stay the same; a damaged or edited backup is refused. A backup that is not your own is
    not restored: `fusery pull '*' --from SRC` receives its records.

    After an interruption, run the same command again. FUSERY_OTHER_STORE_OPTIONS has options for the file system of SRC,
    as JSON.

    Example: fusery --registry new admin restore saved --own
    """
    rows = restored.rows
    adapters, bases = rows.get("adapter", 0), rows.get("base_model", 0)
    session.facts(
        [
            ("restored", f"{plural(adapters, 'adapter')} on {plural(bases, 'base')}"),
            ("of", restored.made_at),
            ("blobs", _amount(restored.blobs)),
            ("last event", _event(restored.last_event)),
        ]
    )
    session.say("Next: fusery audit")


def _event(event: Position) -> str:
    return f"{event.seq}, {event.hash[:12]}"


def _amount(amount: Amount) -> str:
    return f"{amount.count}, {size(amount.bytes)}"
