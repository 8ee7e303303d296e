"""Pushing and pulling: read a package, look what is missing, carry and record it piece by piece.

Each thing is complete when it is recorded, and comes after what it needs.  So an interrupted push leaves whole things and,
at worst, bytes that nobody refers to; the next one goes on with what is still missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..errors import BadInputError
from ..tally import tally
from .carrying import Carrier
from .corrections import missing_corrections, why_kept
from .finding import find, is_complete, missing_yanks
from .package import Adapter, Fused, Item, read_package
from .place import Place
from .receiving import check, receive

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Moved:
    """One thing of a package.

    Attributes:
        kind: `base`, `calibration`, `adapter` or `fused`.
        name: what it is called where it comes from.
        there: what it is called where it goes.
        digest: of its manifest.
        state: `copied`; `completed`, where only something that came later was missing; `present`; or `left out`.
        bytes: of files that were missing.
        reason: why it was left out, or that it was amended otherwise there.
    """

    kind: str
    name: str
    there: str
    digest: str
    state: str
    bytes: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What `push` or `pull` did, or would do.

    Attributes:
        reference: what was asked for.
        origin: id and place of the registry it comes from.
        destination: the same of the one it goes to; its id is None where there is none yet.
        dry_run: nothing was written.
        items: the package, in the order in which it is recorded.
    """

    reference: str
    origin: dict[str, Any]
    destination: dict[str, Any]
    dry_run: bool
    items: tuple[Moved, ...]

    @property
    def moved(self) -> list[Moved]:
        """What was not there in full."""
        return [item for item in self.items if item.state in ("copied", "completed")]

    @property
    def bytes(self) -> int:
        """Of all files that were missing."""
        return sum(item.bytes for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "reference": self.reference,
            "from": self.origin,
            "to": self.destination,
            "dry_run": self.dry_run,
            "copied": len(self.moved),
            "bytes": self.bytes,
            "items": [asdict(item) for item in self.items],
        }


def push(
    workspace: Workspace,
    reference: str,
    place: Place,
    *,
    fused: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
) -> Exchanged:
    """Copy an adapter, all versions of a task, a base model or a fused artifact to another registry.

    Args:
        workspace: this registry's parts.
        reference: what to copy, with all that it needs.
        place: the other registry; made, where it is a folder without one.
        fused: also what was fused from the adapters: their records, and their files if they are published.
        dry_run: only look what is missing.
        say: told what is going on.
        progress: told bytes done and bytes in all.

    Raises:
        UnknownReferenceError: nothing has that name.
        AlreadyExistsError: a name or version is taken there by other bytes; nothing of the package was copied.
        BadInputError: the other registry is this one, or is not told in full.
        StorageError, DatabaseUnavailableError: one of the two sides failed.
    """
    other = place.open(workspace)
    try:
        return _exchange(workspace, other, workspace, reference, fused, dry_run, say, progress)
    finally:
        other.close()


def pull(
    workspace: Workspace,
    reference: str,
    place: Place,
    *,
    fused: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
) -> Exchanged:
    """Copy from another registry to this one, which is only read there; as `push` otherwise."""
    other = place.open(workspace)
    try:
        return _exchange(other, workspace, workspace, reference, fused, dry_run, say, progress)
    finally:
        other.close()


def _exchange(
    origin: Workspace,
    destination: Workspace,
    here: Workspace,
    reference: str,
    fused: bool,
    dry_run: bool,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
) -> Exchanged:
    come_from = origin.identity
    with origin.database.read() as session:
        package = read_package(session, reference, fused=fused)
    for item in package:
        check(item)
    if not dry_run:
        destination.ensure()
    there = None if destination.is_unmade else destination.identity
    if there == come_from:
        raise BadInputError("the other registry is this one", hint="name another home, or another database")
    planned = plan(destination, package, unmade=there is None)
    done = planned
    if not dry_run:
        total = sum(moved.bytes for moved in planned)
        done = _carry_out(origin, destination, here, package, planned, come_from, say, tally(progress, total))
    return Exchanged(reference, _told(origin, come_from), _told(destination, there), dry_run, tuple(done))


def plan(destination: Workspace, package: list[Item], *, unmade: bool) -> list[Moved]:
    """Say of each thing whether it is missing, and how many bytes would be copied.

    Raises:
        AlreadyExistsError: one cannot come in.
    """
    counted: set[str] = set()
    if unmade:
        return [_moved(item, item.name, "copied", _bytes(None, item, counted)) for item in package]
    with destination.database.read() as session:
        return [_planned(session, item, counted) for item in package]


def _planned(session: Session, item: Item, counted: set[str]) -> Moved:
    row = find(session, item)
    if row is None:
        if (reason := _obstacle(session, item)) is not None:
            return _moved(item, item.name, "left out", 0, reason)
        return _moved(item, item.name, "copied", _bytes(session, item, counted))
    name = item.name
    if isinstance(row, tables.BaseModel):
        name = row.names[0].name
    elif isinstance(row, tables.Adapter):
        name = row.name
    complete, kept = is_complete(row, item), None
    if isinstance(row, tables.Adapter) and isinstance(item, Adapter):
        corrections, fields = missing_corrections(row, item)
        complete = complete and not missing_yanks(session, row, item) and not corrections
        kept = why_kept(fields)
    if complete:
        return _moved(item, name, "present", 0, kept)
    return _moved(item, name, "completed", _bytes(session, item, counted), kept)


def _obstacle(session: Session, item: Item) -> str | None:
    """Say what keeps a fused artifact from meaning anything there: its key is made from the digest of its base."""
    if not isinstance(item, Fused):
        return None
    base = find(session, item.base)
    if base is not None and base.digest != item.base.digest:
        return "the base there holds the same in other files, from which other keys follow"
    return None


def _moved(item: Item, there: str, state: str, size: int, reason: str | None = None) -> Moved:
    return Moved(item.kind, item.name, there, item.digest, state, size, reason)


def _bytes(session: Session | None, item: Item, counted: set[str]) -> int:
    """Return the bytes of an item's files that are neither there nor counted already."""
    if not item.files.there:
        return 0
    sizes: dict[str, int] = {
        entry.sha256: entry.size for entry in item.files.manifest if entry.sha256 not in counted
    }
    counted |= sizes.keys()
    if session is not None:
        blob = tables.Blob
        ready = select(blob.digest).where(blob.digest.in_(sizes), blob.state == "ready")
        for digest in session.scalars(ready):
            del sizes[digest]
    return sum(sizes.values())


def _carry_out(
    origin: Workspace,
    destination: Workspace,
    here: Workspace,
    package: list[Item],
    planned: list[Moved],
    come_from: str,
    say: Callable[[str], None],
    progress: Callable[[int], None] | None,
) -> list[Moved]:
    done = []
    here.cache.sweep()
    with here.cache.scratch() as scratch:
        carrier = Carrier(origin, destination, scratch, progress)
        for item, moved in zip(package, planned, strict=True):
            if moved.state not in ("copied", "completed"):
                done.append(moved)
                continue
            say(f"copying {item.kind} {item.name}")
            wanted = moved.state == "copied" or isinstance(item, Fused)
            deposit = carrier.carry(item.files) if wanted and item.files.there else None
            if receive(destination, item, deposit, come_from):
                done.append(moved)
            else:  # somebody else brought it meanwhile
                done.append(_moved(item, moved.there, "present", 0))
    return done


def _told(workspace: Workspace, identity: str | None) -> dict[str, Any]:
    from fusery.storage.locate import display_url

    settings = workspace.settings
    place = str(settings.home)
    if settings.database_url:
        place = workspace.database.display_url
    return {"registry": identity, "place": place, "store": display_url(settings.store)}
