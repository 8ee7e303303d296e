"""Registries whose database and store can be reached from this machine, as origins and destinations of a copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fusery.storage.locate import display_url
from fusery.storage.progress import Reporter, tally
from fusery.storage.transfer import Need, needs_of, require_rooms

from .. import tables
from ..database import Database
from ..errors import BadInputError
from ..record import Record, described
from ..records.adapter import Withdrawals
from ..records.transfer import Moved
from ..records.withdrawals import of_adapters, of_fused
from ..remote.documents import KINDS, Item, Package, read_document
from ..remote.reading import MOST_ADAPTERS, read_documents
from ..wire import encode
from ..workspace.settings import Settings
from .planning import find, plan
from .receiving import Carrier, Progress, Receiver

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


class Side(Record):
    """One of two registries."""

    registry: str | None = described("id of the registry; None if it does not exist yet")
    place: str = described("home folder, database or server")
    store: str = described("the store with its files")


class Origin(Protocol):
    """The source of documents: a local registry, a server or a package."""

    def carrier(self, destination: Workspace, *, own: bool, progress: Progress | None) -> Carrier:
        """Return the carrier of its files to a registry."""


@dataclass(frozen=True, slots=True)
class LocalRegistry:
    """A registry whose database and store can be reached; `own` if it is the local replica of the other one."""

    workspace: Workspace
    here: Workspace
    own: bool = False

    def package(self, reference: str, *, fused: bool) -> Package:
        """Return the documents of a record and everything it needs, with validated types."""
        package: Package = read_document(Package, encode(package_of(self.workspace, reference, fused=fused)))
        return package

    def side(self, registry: str | None) -> Side:
        """Return its description."""
        settings = self.workspace.settings
        place = Database.open(settings.database).display_url if settings.database_url else str(settings.home)
        return Side(registry=registry, place=place, store=display_url(settings.store))

    def carrier(self, destination: Workspace, *, own: bool, progress: Progress | None) -> Carrier:
        """Return the carrier of its files to a registry."""
        return Carrier(self.workspace.store, origin=self.workspace, own=own, progress=progress)

    def plan(self, package: Package) -> tuple[str | None, list[Moved]]:
        """Return its id, and the planned state of each document."""
        registry = None if self.workspace.is_unmade else self.workspace.identity
        if (registry == package.registry) is not self.own:
            problem = "the other registry has the same id as this one"
            raise BadInputError(problem, hint="give another folder, server or database")
        return registry, plan(self.workspace, package.documents, package.registry)

    def take(
        self, package: Package, origin: Origin, planned: Sequence[Moved], reporter: Reporter
    ) -> list[Moved]:
        """Record missing documents, and return the result for each document."""
        workspace = self.workspace
        sizes = [moved.bytes for moved in planned if moved.bytes]
        needs = [*needs_of(workspace.store, sizes), *workspace.notes]
        if not isinstance(origin, LocalRegistry) or not origin.workspace.store.capabilities.local:
            needs.append(Need(self.here.settings.cache, sizes))
        require_rooms(needs)
        progress = tally(reporter.progress, sum(moved.bytes for moved in planned))
        is_own = isinstance(origin, LocalRegistry) and origin.workspace is self.here
        carrier = origin.carrier(workspace, own=is_own, progress=progress)
        receiver = Receiver(workspace, self.here, carrier, package.registry, reporter.say)
        return list(receiver.take(package.documents))

    def withdrawals(self, package: Package, moved: Sequence[Moved]) -> list[Withdrawals]:
        """Return the yanks in this registry that concern each document."""
        if self.workspace.is_unmade:
            return [() for _ in package.documents]
        return withdrawals_of(self.workspace, package)


@contextmanager
def open_home(home: Path, ours: Workspace) -> Iterator[LocalRegistry]:
    """Yield another registry of the user by its home folder: its settings count, and those of the environment do not."""
    from ..workspace.workspace import Workspace

    workspace = Workspace(replace(Settings.load(home, environment=False), user=ours.actor))
    try:
        yield LocalRegistry(workspace, ours)
    finally:
        workspace.close()


def package_of(workspace: Workspace, reference: str, *, fused: bool, most: int = MOST_ADAPTERS) -> Package:
    """Return the documents of a record and everything it needs; see `read_documents`."""
    with workspace.database.read() as session:
        documents = read_documents(session, reference, fused=fused, most=most)
    return package_with(workspace.identity, documents)


def package_with(registry: str, documents: Sequence[Item]) -> Package:
    """Return the package of documents of a registry."""
    parts = {kind: tuple(document for document in documents if document.kind == kind) for kind in KINDS}
    tool = f"fusery {version('fusery')}"
    return Package(tool=tool, registry=registry, made_at=datetime.now(UTC), **parts)  # type: ignore[arg-type]


def withdrawals_of(workspace: Workspace, package: Package) -> list[Withdrawals]:
    """Return the yanks in a registry that concern each document of a package."""
    adapter, fused = tables.AdapterRow, tables.FusedRow
    with workspace.database.read() as session:
        rows = [find(session, document, package.registry) for document in package.documents]
        by_kind: dict[type[Any], Mapping[int, Withdrawals]] = {
            adapter: of_adapters(session, [row.id for row in rows if isinstance(row, adapter)]),
            fused: of_fused(session, [row.id for row in rows if isinstance(row, fused)]),
        }
    return [by_kind[type(row)].get(row.id, ()) if type(row) in by_kind else () for row in rows]  # type: ignore[union-attr]
