"""One collection: survey the store, delete what is dead, mark and delete what nothing refers to, sweep what is left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from fusery.storage.errors import StoreDeniedError
from fusery.storage.interface import Leftover

from .. import tables
from ..database import events
from ..errors import BadInputError
from ..parsing import plural, shown_size
from .collection import Collection, Removed
from .liveness import count_live, drop_orphans, end_claims
from .marking import Marking
from .sweeping import Listing, abandoned, adopt, delete_abandoned, delete_dead, planned_dead, survey

if TYPE_CHECKING:
    from ..workspace import Workspace

GRACE = 86400.0
"""The default grace, in seconds: unreferenced blobs younger than this stay."""


def collect(
    workspace: Workspace,
    *,
    grace: float = GRACE,
    dry_run: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Collection:
    """Remove unreferenced blobs from the store.

    It may run beside anything else, on any machine, and be stopped at any instant: the next collection goes on.

    Args:
        workspace: the registry's parts.
        grace: unreferenced blobs younger than this many seconds stay; safety does not depend on it.
        dry_run: only report what would be removed.
        force: also remove blobs that the database does not know, at once.
        say: called with each progress message.

    Raises:
        BadInputError: the database refers to nothing and knows nothing of what is in the store: it may be the wrong one.
        StorageError: the store did not answer; the next collection goes on from here.
    """
    database, store = workspace.database, workspace.store
    with database.read() as session:
        started = database.utcnow(session)
    done = Collection(dry_run)
    say(f"looking through {store.url}")
    listing = survey(database, store)
    marking = Marking(database, store, grace=grace, started=started)
    with database.read() as session:
        done.live, done.live_bytes = count_live(session)
    done.listed = listing.listed
    _refuse_foreign(workspace, listing, done.live, force)
    if dry_run:
        unknown = listing.unknown if force else ()
        done.add(Removed("blob", stored.digest, stored.size) for stored in unknown)
        done.add([*planned_dead(listing), *marking.plan()])
        left, waiting = abandoned(database, store, grace)
        done.add(Removed("leftover", found.name, found.size) for found in left)
    else:
        # What a killed pull left in the cache shares its bytes with what it left in the store; a cache of others' is theirs.
        # Before anything is removed that the log has to tell of: a cache that fails ends the collection here.
        with suppress(StoreDeniedError):
            workspace.cache.sweep()
        end_claims(database)
        drop_orphans(database)
        done.add(delete_dead(store, listing))
        if listing.unknown or listing.ahead:
            with database.write() as session:
                known_since = started - timedelta(seconds=min(grace, 1e9)) if force else None
                adopt(session, listing, known_since or database.utcnow(session))
        done.add(marking.run())
        left, waiting = abandoned(database, store, grace)
        done.add(delete_abandoned(store, left))
        _record(workspace, done)
    _note(done, listing, waiting, force)
    for damaged in store.quarantined():
        done.quarantined += 1
        done.quarantined_bytes += damaged.size
    return done


def _refuse_foreign(workspace: Workspace, listing: Listing, live: int, force: bool) -> None:
    if listing.unknown and live == 0 and not force:
        raise BadInputError(
            f"the database refers to nothing and does not know {plural(len(listing.unknown), 'blob')} in "
            f"{workspace.store.url}: it may be the wrong one, or one that was restored",
            hint="if they are to go: fusery gc --force",
        )


def _note(done: Collection, listing: Listing, waiting: list[Leftover], force: bool) -> None:
    if listing.unknown and not force:
        done.notes.append(
            f"{plural(len(listing.unknown), 'blob')} that the database did not know: kept until the next collection"
        )
    if listing.ahead:
        done.notes.append(
            f"{plural(len(listing.ahead), 'blob')} newer than the database; run: fusery audit --repair"
        )
    if waiting:
        done.notes.append(
            f"{plural(len(waiting), 'unfinished write')} of {shown_size(sum(left.size for left in waiting))}: kept, as "
            "somebody may be at work; a day after its last byte it goes in any case"
        )


def _record(workspace: Workspace, done: Collection) -> None:
    if not done.items_:
        return
    with workspace.database.write() as session:
        registry = session.get_one(tables.Registry, 1)
        events.record(
            session,
            action="store.collected",
            kind="registry",
            subject=registry.store_id,
            detail={"removed": done.removed, "freed_bytes": done.freed_bytes},
            actor=workspace.actor,
        )
