"""Registries as origins and destinations of a copy: on this machine, or behind a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from fusery.storage.digest import Digest
from fusery.storage.locate import display_url
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import Reporter, tally
from fusery.storage.transfer import Need, needs_of, require_rooms

from .. import tables
from ..database import Database
from ..errors import BadInputError
from ..record import Record, described
from ..records.adapter import Withdrawals
from ..records.transfer import Arrived, Moved, PackagePlan, PackageTaken
from ..records.withdrawals import of_adapters, of_fused
from ..remote.blobs import Progress, download, in_parallel, upload
from ..remote.documents import KINDS, MOST_BYTES, Item, Package, read_document, read_package
from ..remote.reading import MOST_ADAPTERS, read_documents
from ..remote.server import API, LONG, Server, server_at
from ..wire import encode
from ..workspace.settings import Settings
from ..workspace.workspace import Workspace
from .planning import find, plan
from .receiving import Carrier, Receiver


class Side(Record):
    """One of two registries."""

    registry: str | None = described("id of the registry; None if it does not exist yet")
    place: str = described("home folder, database or server")
    store: str = described("the store with its files")


class Origin(Protocol):
    """The source of documents: a local registry, a server or a package."""

    def carrier(self, destination: Workspace, progress: Progress | None, /) -> Carrier:
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

    def carrier(self, _: Workspace, progress: Progress | None) -> Carrier:
        """Return the carrier of its files to a registry; paths that a registry other than the user's names are not read."""
        own = self.workspace is self.here
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
        if not isinstance(origin, LocalRegistry) or not origin.workspace.store.is_local:
            needs.append(Need(self.here.settings.cache, sizes))
        require_rooms(needs)
        progress = tally(reporter.progress, sum(moved.bytes for moved in planned))
        carrier = origin.carrier(workspace, progress)
        receiver = Receiver(workspace, self.here, carrier, package.registry, reporter.say)
        return list(receiver.take(package.documents))


@contextmanager
def open_home(home: Path, ours: Workspace) -> Iterator[LocalRegistry]:
    """Yield another registry of the user by its home folder: its settings count, and those of the environment do not."""
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


def with_withdrawals(workspace: Workspace, package: Package, done: Sequence[Moved]) -> list[Moved]:
    """Return the result for each document of a package with the yanks in a registry that concern it."""
    if workspace.is_unmade:
        return list(done)
    adapter, fused = tables.AdapterRow, tables.FusedRow
    with workspace.database.read() as session:
        rows = [find(workspace, session, document, package.registry) for document in package.documents]
        by_kind: dict[type[Any], Mapping[int, Withdrawals]] = {
            adapter: of_adapters(session, [row.id for row in rows if isinstance(row, adapter)]),
            fused: of_fused(session, [row.id for row in rows if isinstance(row, fused)]),
        }
    yanks = (by_kind[type(row)].get(row.id, ()) if type(row) in by_kind else () for row in rows)  # type: ignore[union-attr]
    return [replace(moved, withdrawals=own) for moved, own in zip(done, yanks, strict=True)]


@contextmanager
def open_server_registry(
    url: str, token: str | None = None, *, insecure: bool = False
) -> Iterator[ServerRegistry]:
    """Yield a server's registry, and close the connections at the end; see `server_at`."""
    with server_at(url, token, insecure=insecure) as server:
        yield ServerRegistry(server)


@dataclass(slots=True)
class ServerRegistry:
    """A registry behind a server, as the origin or destination of a copy; see `LocalRegistry`."""

    server: Server
    blobs: Sequence[Arrived] = ()

    def side(self, registry: str | None) -> Side:
        """Return its description."""
        return Side(registry=registry, place=self.server.url, store=self.server.url)

    def package(self, reference: str, *, fused: bool = False) -> Package:
        """Return the documents of a record and everything it needs."""
        params = [("fused", "true")] if fused else []
        path = f"{API}/packages/{quote(reference, safe='')}"
        return read_package(self.server.request("GET", path, params=params, timeout=LONG))

    def carrier(self, destination: Workspace, progress: Progress | None) -> Carrier:
        """Return the carrier of its files to a registry."""
        return _ServerCarrier(self.server, destination, progress)

    def plan(self, package: Package) -> tuple[str | None, list[Moved]]:
        """Return its id, and the planned state of each document."""
        package_plan: PackagePlan = self._sent(PackagePlan, "packages/plan", package)
        self.blobs = package_plan.blobs
        return package_plan.registry, list(package_plan.items_)

    def take(
        self, package: Package, origin: Origin, planned: Sequence[Moved], reporter: Reporter
    ) -> list[Moved]:
        """Upload the blobs that the server lacks, and have the documents recorded."""
        files = [(document, entry) for document in package.documents for entry in document.files]
        places = {entry.sha256: (document, entry) for document, entry in files}
        for document, moved in zip(package.documents, planned, strict=True):
            if moved.state == "copied":
                reporter.say(f"copying {document.kind} {document.name}")
        missing = [blob for blob in self.blobs if not blob.complete and blob.digest in places]
        wanted = [(*places[Digest(blob.digest)], blob.bytes) for blob in missing]
        progress = tally(reporter.progress, sum(entry.size - offset for _, entry, offset in wanted))
        if not isinstance(origin, LocalRegistry):
            raise BadInputError("cannot copy from one server to another", hint="pull from one, then push")
        carrier = origin.carrier(origin.workspace, None)
        with origin.here.cache.scratch() as scratch:

            def send(one: tuple[Item, FileEntry, int]) -> None:
                document, entry, offset = one
                fetched = scratch / entry.sha256
                upload(self.server, entry, carrier.path(document, entry, fetched), offset, progress)
                fetched.unlink(missing_ok=True)

            in_parallel(self.server, send, wanted)
        taken = self._sent(PackageTaken, "packages", package).items_
        # The server reports them as present after the upload: keep the planned sizes.
        return [
            replace(moved, bytes=before.bytes if moved.state == before.state else moved.bytes)
            for moved, before in zip(taken, planned, strict=True)
        ]

    def _sent(self, kind: type[Any], path: str, package: Package) -> Any:
        # The files of a base model kept by reference are sent.
        base = tuple(replace(document, kept="store") for document in package.base)
        data = package_bytes(replace(package, base=base))
        response = self.server.decoded(kind, self.server.request("POST", f"{API}/{path}", data, timeout=LONG))
        if len(response.items_) != len(package.documents):
            raise self.server.strange()
        return response


def package_bytes(package: Package) -> bytes:
    """Return an encoded package."""
    data = json.dumps(encode(package), separators=(",", ":"), allow_nan=False).encode()
    if len(data) > MOST_BYTES:
        problem = f"package too large: {len(data):,} bytes (at most {MOST_BYTES:,})"
        raise BadInputError(problem, hint="copy versions one by one")
    return data


class _ServerCarrier(Carrier):
    """Copies files from a server to a registry on this machine."""

    def __init__(self, server: Server, destination: Workspace, progress: Progress | None) -> None:
        # Progress counts received bytes, not stored ones.
        super().__init__(None)
        self._server, self._received = server, progress
        self._parts = destination.cache.root / "tmp"

    def _in_parallel(
        self, fetch: Callable[[tuple[FileEntry, Path]], None], blobs: Sequence[tuple[FileEntry, Path]]
    ) -> None:
        in_parallel(self._server, fetch, blobs)

    def _fetch(self, entry: FileEntry, generation: int, place: Path) -> None:
        download(self._server, entry, place, self._parts, self._received)
