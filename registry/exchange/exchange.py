"""Pushing and pulling: read a package, look what is missing, carry and record it piece by piece.

Each thing is complete when it is recorded, and comes after what it needs.  So an interrupted push leaves whole things and,
at worst, bytes that nobody refers to; the next one goes on with what is still missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.errors import FuseryError

from .. import tables
from ..bases import recorded_architecture
from ..errors import BadInputError
from ..renderings.fetching import fetch_originals
from ..renderings.other_forms import other_forms
from ..tally import tally
from .arriving import (
    Seen,
    look_at_adapter,
    look_at_base,
    look_at_calibration,
    look_at_fused,
    require_names,
)
from .carrying import Carrier
from .claims import check
from .finding import (
    find,
    find_adapter,
    find_base,
    is_complete,
    known_fused,
    missing_yanks,
    require_name,
    with_content,
)
from .package import Adapter, Base, Calibration, Fused, Item, read_package
from .place import Place
from .receiving import receive

if TYPE_CHECKING:
    from ..workspace import Workspace

_ID = re.compile(r"[0-9A-Za-z.-]{1,36}")
"""The id of a registry."""


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
        reason: why it was left out.
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
    come_from = _identity(origin)
    package = _read(origin, reference, fused=fused)
    for item in package:
        check(item)
        require_names(item)
    if not dry_run:
        destination.ensure()
    there = None if destination.is_unmade else destination.identity
    if there == come_from:
        raise BadInputError("the other registry is this one", hint="name another home, or another database")
    planned = plan(destination, package, come_from, unmade=there is None)
    done = planned
    if not dry_run:
        total = sum(moved.bytes for moved in planned)
        carrier = Carrier(origin, destination, here, tally(progress, total))
        done = list(_Receiver(destination, here, carrier, come_from, say).take(package))
    return Exchanged(reference, _told(origin, come_from), _told(destination, there), dry_run, tuple(done))


def _identity(origin: Workspace) -> str:
    found = origin.identity
    if not _ID.fullmatch(found):
        raise BadInputError("the other registry has no id that is one", hint="fusery doctor, there")
    return found


def _read(origin: Workspace, reference: str, *, fused: bool) -> list[Item]:
    """Read a package; a database of which nobody knows who wrote it may hold anything."""
    try:
        with origin.database.read() as session:
            return read_package(session, reference, fused=fused)
    except FuseryError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise BadInputError(
            f"the other registry's record of {reference} cannot be read: {type(error).__name__}",
            hint="fusery audit, there",
        ) from error


def plan(destination: Workspace, package: list[Item], origin: str, *, unmade: bool) -> list[Moved]:
    """Say of each thing whether it is missing, and how many bytes would be copied.

    Raises:
        AlreadyExistsError: one cannot come in.
    """
    counted: set[str] = set()
    if unmade:
        return [_moved(item, item.name, "copied", _bytes(None, item, counted)) for item in package]
    with destination.database.read() as session:
        return [_planned(session, item, origin, counted) for item in package]


def _planned(session: Session, item: Item, origin: str, counted: set[str]) -> Moved:
    row = find(session, item, origin)
    if row is None:
        if isinstance(item, Base):
            require_name(session, item, item.values.get("content"))
        if (reason := _obstacle(session, item, origin)) is not None:
            return _moved(item, item.name, "left out", 0, reason)
        return _moved(item, item.name, "copied", _bytes(session, item, counted))
    name = item.name
    if isinstance(row, tables.BaseModel):
        name = row.names[0].name
    elif isinstance(row, tables.Adapter):
        name = row.name
    complete = is_complete(row, item)
    if isinstance(row, tables.Adapter) and isinstance(item, Adapter):
        complete = complete and not missing_yanks(session, row, item)
    if complete:
        return _moved(item, name, "present", 0)
    return _moved(item, name, "completed", _bytes(session, item, counted))


def _obstacle(session: Session, item: Item, origin: str) -> str | None:
    """Say what keeps a fused artifact from meaning anything there: its key is made from the digest of its base."""
    if not isinstance(item, Fused):
        return None
    base = find_base(session, item.base)
    if base is not None and base.digest != item.base.digest:
        return "the base there holds the same in other files, from which other keys follow"
    for row in known_fused(session, item, origin):
        if row.origin is None:
            return "it was made there, and other bytes came out: what is claimed is false"
        return "other bytes were claimed before"
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


@dataclass(frozen=True, slots=True)
class _Receiver:
    """Takes one thing after the other: brings it, looks at it, stores it, records it."""

    destination: Workspace
    here: Workspace
    carrier: Carrier
    origin: str
    say: Callable[[str], None]

    def take(self, package: list[Item]) -> Iterator[Moved]:
        """Yield what became of each thing, once it is recorded."""
        self.here.cache.sweep()
        for item in package:
            # Again, since what came before may have decided it: a base that turned out to be there, in other files.
            (moved,) = plan(self.destination, [item], self.origin, unmade=False)
            if moved.state in ("copied", "completed"):
                with self.here.cache.scratch() as scratch:
                    moved = self._take(item, moved, scratch)
            yield moved

    def _take(self, item: Item, moved: Moved, scratch: Path) -> Moved:
        self.say(f"copying {item.kind} {item.name}")
        seen, deposit = Seen(), None
        wanted = moved.state == "copied" or isinstance(item, Fused)
        if wanted and item.files.there:
            paths = self.carrier.bring(item.files, scratch / "arrived", copied=isinstance(item, Adapter))
            seen = self._look(item, paths, scratch)
            if not self._is_there(item, seen):
                deposit = self.carrier.store(item.files, paths)
        elif isinstance(item, Adapter):
            seen = self._other_forms(item, scratch)
        new, name = receive(self.destination, item, seen, deposit, self.origin)
        if not new:  # somebody else brought it meanwhile, or it is there in other files
            return _moved(item, name if isinstance(item, Base) else moved.there, "present", 0)
        reason = None
        if seen.corrected:
            reason = f"recorded is what its bytes say, not what was said there: {', '.join(seen.corrected)}"
        return replace(moved, reason=reason)

    def _look(self, item: Item, paths: dict[str, Path], scratch: Path) -> Seen:
        if isinstance(item, Base):
            return look_at_base(self.destination, item, paths, self.say)
        if isinstance(item, Calibration):
            return look_at_calibration(item, paths)
        if isinstance(item, Fused):
            return look_at_fused(item, paths)
        with self.destination.database.read() as session:
            base = find_base(session, item.base)
            parent = find_adapter(session, item.parent) if item.parent is not None else None
            name = base.names[0].name if base is not None else item.base.name
            parent_name = parent.name if parent is not None else None
        return look_at_adapter(self.destination, item, paths, base=name, parent=parent_name, scratch=scratch)

    def _is_there(self, item: Item, seen: Seen) -> bool:
        """Tell whether a base is there in other files: then these are not stored."""
        if not isinstance(item, Base):
            return False
        with self.destination.database.read() as session:
            return with_content(session, seen.values["content"]) is not None

    def _other_forms(self, item: Adapter, scratch: Path) -> Seen:
        """Compute the forms that an adapter which is there lacks, from its files there."""
        with self.destination.database.read() as session:
            row = find_adapter(session, item)
            if row is None or is_complete(row, item):
                return Seen()
            base = recorded_architecture(row.base)
            assert row.manifest.files is not None
        files = fetch_originals(self.destination, row, scratch / "arrived")
        wanted = [values["form"] for values, _ in item.renderings]
        return Seen(forms=tuple(other_forms(files, base, wanted, scratch)))


def _told(workspace: Workspace, identity: str | None) -> dict[str, Any]:
    from fusery.storage.locate import display_url

    settings = workspace.settings
    place = str(settings.home)
    if settings.database_url:
        place = workspace.database.display_url
    return {"registry": identity, "place": place, "store": display_url(settings.store)}
