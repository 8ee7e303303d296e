"""Pushing and pulling: read a package, look what is missing, carry and record it piece by piece.

Each thing is complete when it is recorded, small adapters in batches of which all are recorded or none, and comes after what it needs.  So an interrupted push leaves whole things and,
at worst, bytes that nobody refers to; the next one goes on with what is still missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fusery.storage.errors import FuseryError
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.room import needs_of, require_rooms

from ..errors import BadInputError, SchemaError
from ..record import Record
from ..records.transfer import Moved
from .believing import require_believable, require_identity
from .carrying import Carrier
from .package import Item, read_package
from .place import Place
from .planning import files_to_copy, plan
from .taking import Receiver
from .telling import told_of_yanks

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Side(Record):
    """One of two registries.

    Attributes:
        registry: its id; None where there is none yet.
        place: its home folder, or its database.
        store: where its bytes are.
    """

    registry: str | None
    place: str
    store: str


@dataclass(frozen=True, slots=True)
class Exchanged(Record):
    """What `push` or `pull` did, or would do.

    Attributes:
        reference: as given.
        from_: the registry that it comes from.
        to: the one that it goes to.
        dry_run: nothing was written.
        items_: the package, in the order in which it is recorded.
    """

    reference: str
    from_: Side
    to: Side
    dry_run: bool
    items_: tuple[Moved, ...]
    KEYS: ClassVar[tuple[str, ...]] = ("reference", "from_", "to", "dry_run", "copied", "bytes", "items_")

    @property
    def moved(self) -> list[Moved]:
        """What was not there in full."""
        return [item for item in self.items_ if item.state in ("copied", "completed")]

    @property
    def bytes(self) -> int:
        """Bytes of all files that were missing."""
        return sum(item.bytes for item in self.items_)

    @property
    def copied(self) -> int:
        """How many things were not there in full."""
        return len(self.moved)


def push(
    workspace: Workspace,
    reference: str,
    place: Place,
    *,
    fused: bool = False,
    dry_run: bool = False,
    reporter: Reporter = SILENT,
) -> Exchanged:
    """Copy an adapter, all versions of a task, a base model or a fused artifact to another registry.

    Args:
        workspace: this registry's parts.
        reference: what to copy, with all that it needs.
        place: the other registry; made, where it is a folder without one.
        fused: also what was fused from the adapters: their records, and their files if they are published.
        dry_run: only look what is missing.
        reporter: hears what is going on, and the bytes done and the total.

    Raises:
        UnknownReferenceError: nothing has that name.
        AlreadyExistsError: a name or version is taken there by other bytes; nothing of the package was copied.
        BadInputError: the other registry is this one, or is not told in full.
        StorageError, DatabaseUnavailableError: one of the two sides failed.
    """
    with place.opened(workspace) as other:
        return copy(workspace, other, workspace, reference, fused=fused, dry_run=dry_run, reporter=reporter)


def pull(
    workspace: Workspace,
    reference: str,
    place: Place,
    *,
    fused: bool = False,
    dry_run: bool = False,
    reporter: Reporter = SILENT,
) -> Exchanged:
    """Copy from another registry to this one; as `push` otherwise."""
    with place.opened(workspace) as other:
        if other.is_unmade:
            raise SchemaError(
                f"there is no registry in {other.settings.home}", hint="is that where the other registry is?"
            )
        return copy(other, workspace, workspace, reference, fused=fused, dry_run=dry_run, reporter=reporter)


def copy(
    origin: Workspace,
    destination: Workspace,
    here: Workspace,
    reference: str,
    *,
    fused: bool,
    dry_run: bool = False,
    reporter: Reporter = SILENT,
) -> Exchanged:
    """Copy from one registry to another, of which `here` is the user's own; see `push`."""
    come_from = identity_of(origin)
    package = read_any(origin, reference, fused=fused)
    require_believable(package)
    if not dry_run:
        destination.ensure()
    there = None if destination.is_unmade else destination.identity
    if there == come_from:
        raise BadInputError("the other registry is this one", hint="name another home, or another database")
    planned = plan(destination, package, come_from, unmade=there is None)
    done = planned
    if not dry_run:
        total = sum(moved.bytes for moved in planned)
        sizes = files_to_copy(destination, package, planned, unmade=there is None)
        require_rooms([*needs_of(destination.store, sizes), *destination.notes])
        carrier = Carrier(origin, destination, here, tally(reporter.progress, total))
        done = list(Receiver(destination, here, carrier, come_from, reporter.say).take(package))
    places = [origin] if there is None else [destination, origin]
    told = told_of_yanks(places, package, come_from)
    items = (moved.with_withdrawals(each) for moved, each in zip(done, told, strict=True))
    return Exchanged(
        reference, side_of(origin, come_from), side_of(destination, there), dry_run, tuple(items)
    )


def identity_of(origin: Workspace) -> str:
    """Return the id of the registry that something comes from.

    Raises:
        BadInputError: it cannot be one.
    """
    return require_identity(origin.identity)


def read_any(origin: Workspace, reference: str, *, fused: bool) -> list[Item]:
    """Read a package.

    Raises:
        BadInputError: the database was edited, and a value in it cannot be read.
    """
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


def side_of(workspace: Workspace, identity: str | None) -> Side:
    """Return what is told of a registry that is opened here."""
    from fusery.storage.locate import display_url

    from ..database import Database

    settings = workspace.settings
    place = Database.open(settings.database).display_url if settings.database_url else str(settings.home)
    return Side(registry=identity, place=place, store=display_url(settings.store))
