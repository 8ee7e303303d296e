"""Pushing to a server for a registry, and pulling from it: as between two databases, with a token and nothing else.

A push sends a package's records first, to learn which bytes are wanted, then these, and then the records once more, to be
recorded.  A pull reads a package, validates it, and fetches the bytes that are missing.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.room import Need, needs_of, require_rooms
from fusery.storage.staging import Staging

from ..errors import BadInputError, BlobsMissingError, ServerRefusedError
from ..records.bases import blob_generations
from ..records.transfer import Moved, PackagePlan, PackageTaken
from ..remote.address import ServerAddress, required_token
from ..remote.blobs import Progress, download, in_parallel, upload
from ..remote.server import API, LONG, Server
from .believing import require_believable, require_identity
from .carrying import Carrier, kept_by_reference, referenced
from .exchange import Exchanged, Side, identity_of, read_any, side_of
from .package import Files, Item
from .planning import files_to_copy, plan
from .taking import Receiver
from .telling import merged, told_of_yanks
from .wire import Package, bytes_of, document_of, read_document

if TYPE_CHECKING:
    from ..workspace import Workspace

_ROUNDS = 3
"""How often bytes are sent that a collector took before their records came."""


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """A server for another registry.

    Attributes:
        url: its address.
        insecure: a token may go over a network as it is.
        token: for it; None for that of the environment.
    """

    url: str
    insecure: bool = False
    token: str | None = field(default=None, repr=False)

    def open(self) -> Server:
        """Return the server; nothing is connected yet.

        Raises:
            BadInputError: the address is invalid, or there is no token.
        """
        address = ServerAddress.parse(self.url, insecure=self.insecure)
        return Server(address, required_token() if self.token is None else self.token)


def push_to_server(
    workspace: Workspace,
    reference: str,
    place: ServerPlace,
    *,
    fused: bool = False,
    dry_run: bool = False,
    reporter: Reporter = SILENT,
) -> Exchanged:
    """Copy a thing and all that it needs to a server; arguments and answer are those of `push`.

    Raises:
        UnknownReferenceError: nothing has that name.
        AlreadyExistsError: a name or version is taken there by other bytes; nothing of the package was copied.
        ServerRefusedError: the server refused it.
        ServerUnavailableError: it did not answer; the next push goes on where this one stopped.
    """
    come_from = identity_of(workspace)
    package = read_any(workspace, reference, fused=fused)
    require_believable(package)
    document = bytes_of(document_of(Package(come_from, package, [() for _ in package]), sending=True))
    with place.open() as server:
        planned = _plan(server, document)
        _require_as_many(planned.items_, package, server)
        done: Sequence[Moved] = planned.items_
        if not dry_run:
            done = _Sending(workspace, server, package).done(document, planned, reporter)
    told = merged(told_of_yanks([workspace], package, come_from), [each.withdrawals for each in done])
    items = tuple(moved.with_withdrawals(each) for moved, each in zip(done, told, strict=True))
    other = Side(registry=planned.registry, place=server.url, store=server.url)
    return Exchanged(reference, side_of(workspace, come_from), other, dry_run, items)


def pull_from_server(
    workspace: Workspace,
    reference: str,
    place: ServerPlace,
    *,
    fused: bool = False,
    dry_run: bool = False,
    own: bool = False,
    reporter: Reporter = SILENT,
) -> Exchanged:
    """Copy a thing and all that it needs from a server; arguments and answer are those of `pull`.

    With `own`, the workspace is the local copy of that server's registry, and has its id.

    Raises:
        UnknownReferenceError: nothing has that name there.
        AlreadyExistsError: a name or version is taken here by other bytes; nothing of the package was copied.
        BadInputError: what the server says cannot be.
        ServerRefusedError, ServerUnavailableError: it refused, or did not answer.
    """
    with place.open() as server:
        package = read_document(fetch_package(server, reference, fused=fused))
        come_from = require_identity(package.registry)
        require_believable(package.items)
        if not dry_run:
            workspace.ensure()
        here = None if workspace.is_unmade else workspace.identity
        if (here == come_from) is not own:
            # Who knows the id of a registry could give out what they like as made in it.
            raise BadInputError("the other registry has the id of this one", hint="name another server")
        done = planned = plan(workspace, package.items, come_from, unmade=here is None)
        if not dry_run:
            sizes = files_to_copy(workspace, package.items, planned, unmade=here is None)
            cache = Need(workspace.settings.cache, sizes)
            require_rooms([*needs_of(workspace.store, sizes), cache, *workspace.notes])
            progress = tally(reporter.progress, sum(moved.bytes for moved in planned))
            carrier = _Fetching(workspace, server, progress)
            receiver = Receiver(workspace, workspace, carrier, come_from, reporter.say)
            done = list(receiver.take(package.items))
    ours = told_of_yanks([] if here is None else [workspace], package.items, come_from)
    told = merged(ours, package.told)
    items = tuple(moved.with_withdrawals(each) for moved, each in zip(done, told, strict=True))
    other = Side(registry=come_from, place=server.url, store=server.url)
    return Exchanged(reference, other, side_of(workspace, here), dry_run, items)


@dataclass(frozen=True, slots=True)
class _Sending:
    """Sends the bytes that a server wants, and has their records made."""

    workspace: Workspace
    server: Server
    package: Sequence[Item]

    def done(self, document: bytes, planned: PackagePlan, reporter: Reporter) -> list[Moved]:
        """Return what became of each thing."""
        places = {entry.sha256: (item, entry) for item in self.package for entry in item.files.manifest}
        blobs = planned.blobs
        for item, moved in zip(self.package, planned.items_, strict=True):
            if moved.state == "copied":
                reporter.say(f"copying {item.kind} {item.name}")
        for left in reversed(range(_ROUNDS)):
            wanted = [
                (*places[Digest(each.digest)], each.bytes)
                for each in blobs
                if not each.complete and each.digest in places
            ]
            progress = tally(reporter.progress, sum(entry.size - offset for _, entry, offset in wanted))
            self._send(wanted, progress)
            try:
                taken = _take(self.server, document)
                _require_as_many(taken, self.package, self.server)
                # Their bytes are there by now, and were missing before.
                return [
                    replace(moved, bytes=before.bytes if moved.state == before.state else moved.bytes)
                    for moved, before in zip(taken, planned.items_, strict=True)
                ]
            except BlobsMissingError:
                if not left:
                    raise
                blobs = _plan(self.server, document).blobs
        raise AssertionError

    def _send(self, wanted: Sequence[tuple[Item, FileEntry, int]], progress: Progress | None) -> None:
        digests = [entry.sha256 for _, entry, _ in wanted]
        generations = blob_generations(self.workspace, digests)
        with self.workspace.cache.scratch() as scratch:

            def send(one: tuple[Item, FileEntry, int]) -> None:
                item, entry, offset = one
                fetched = scratch / entry.sha256
                path = self._path(item.files, entry, generations[entry.sha256], fetched)
                upload(self.server, entry, path, offset, progress)
                fetched.unlink(missing_ok=True)

            in_parallel(self.server, send, wanted)

    def _path(self, files: Files, entry: FileEntry, generation: int, fetched: Path) -> Path:
        """Return where the bytes of a file can be read; a store that is not on this machine is asked for them."""
        if files.folder is not None and not files.stored:
            return referenced(files.folder / entry.path)
        store = self.workspace.store
        path = store.local_path(entry.sha256, generation=generation)
        if path is None:
            store.fetch(entry.sha256, fetched, generation=generation)
            path = fetched
        return path


def fetch_package(server: Server, reference: str, *, fused: bool) -> bytes:
    """Return the document of a thing and all that it needs."""
    params = [("fused", "true")] if fused else []
    return server.request("GET", f"{API}/packages/{quote(reference, safe='')}", params=params, timeout=LONG)


def _plan(server: Server, document: bytes) -> PackagePlan:
    found: PackagePlan = server.decoded(
        PackagePlan, server.request("POST", f"{API}/packages/plan", document, timeout=LONG)
    )
    return found


def _take(server: Server, document: bytes) -> Sequence[Moved]:
    found: PackageTaken = server.decoded(
        PackageTaken, server.request("POST", f"{API}/packages", document, timeout=LONG)
    )
    return found.items_


def _require_as_many(moved: Sequence[Moved], package: Sequence[Item], server: Server) -> None:
    if len(moved) != len(package):
        raise ServerRefusedError(f"{server.url} answers about other items than were sent")


class _Fetching(Carrier):
    """Carries files from a server to this registry's store."""

    def __init__(self, workspace: Workspace, server: Server, progress: Progress | None) -> None:
        # What is counted is what comes over the network, and not what is stored of it.
        super().__init__(workspace, workspace, workspace, None)
        self._server, self._come = server, progress
        self._parts = workspace.cache.root / "tmp"

    def bring(
        self, files: Files, folder: Path, *, copied: bool = False, staging: Staging | None = None
    ) -> dict[str, Path]:
        """Return where files lie that were fetched; see `Carrier.bring`."""
        del copied, staging  # each has its own name here in any case, and has to be copied
        if not files.stored:
            raise kept_by_reference()
        folder.mkdir()
        found = {entry.path: folder / entry.path for entry in files.manifest}
        first = {entry.sha256: entry for entry in reversed(files.manifest.files)}
        for place in found.values():
            place.parent.mkdir(parents=True, exist_ok=True)

        def fetch(entry: FileEntry) -> None:
            download(self._server, entry, found[entry.path], self._parts, self._come)

        in_parallel(self._server, fetch, first.values())
        for entry in files.manifest:
            if first[entry.sha256] is not entry:
                os.link(found[first[entry.sha256].path], found[entry.path])
        return found

    def bring_many(
        self, wanted: Sequence[tuple[Files, Path]], staging: Staging | None = None
    ) -> Generator[dict[str, Path]]:
        """Yield where the files of each thing lie; see `Carrier.bring_many`."""
        del staging
        for files, folder in wanted:
            folder.parent.mkdir(parents=True, exist_ok=True)
            yield self.bring(files, folder)
