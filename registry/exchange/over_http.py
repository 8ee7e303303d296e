"""Push to and pull from a server.

A push sends the documents, uploads the blobs that the server lacks, and sends the documents again to record them.  A
pull reads a package, validates it, and fetches the missing blobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import Reporter, tally

from ..errors import BadInputError
from ..records.adapter import Withdrawals
from ..records.transfer import Arrived, Moved, PackagePlan, PackageTaken
from ..remote.blobs import download, in_parallel, upload
from ..remote.documents import MOST_BYTES, Item, Package, read_package
from ..remote.server import API, LONG, Server, server_at
from ..wire import encode
from .local import LocalRegistry, Origin, Side
from .receiving import Carrier, Progress

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


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

    def carrier(self, destination: Workspace, *, own: bool, progress: Progress | None) -> Carrier:
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
        carrier = origin.carrier(origin.workspace, own=True, progress=None)
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

    def withdrawals(self, package: Package, moved: Sequence[Moved]) -> list[Withdrawals]:
        """Return the yanks at the server that concern each document."""
        return [document.withdrawals for document in moved]

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
