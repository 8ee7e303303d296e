"""Push and pull at the server: serve packages and blobs, and record validated packages whose blobs were uploaded."""

from __future__ import annotations

from sqlalchemy import select

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError
from fusery.storage.failures import AbsentBlobError
from fusery.storage.interface import Blob
from fusery.storage.transfer import require_rooms

from .. import tables
from ..errors import BadInputError, BlobsMissingError
from ..parsing import plural
from ..records.transfer import Moved, PackagePlan, PackageTaken
from ..remote.documents import Package, read_package
from ..upkeep.collect import is_referenced
from ..workspace.workspace import Workspace
from .checks import check_package
from .planning import plan
from .receiving import Carrier, Receiver
from .registries import package_bytes, package_of, with_withdrawals
from .uploads import UploadLimits, Uploads

MOST_SERVED = 500  # maximum number of adapters in a package for a client; each takes some 15 kB


def served_package(workspace: Workspace, reference: str, *, fused: bool) -> bytes:
    """Return the encoded package of a record and everything it needs; see `read_documents`."""
    return package_bytes(package_of(workspace, reference, fused=fused, most=MOST_SERVED))


def find_blob(workspace: Workspace, digest: Digest) -> Blob:
    """Return a referenced blob."""
    blob = tables.BlobRow
    with workspace.database.read() as session:
        query = select(blob.size, blob.generation)
        row = session.execute(query.where(blob.digest == digest, is_referenced())).one_or_none()
    if row is None:
        raise BlobMissingError(f"blob not found: {digest[:12]}")
    size = workspace.store.size(digest, generation=row.generation)
    if size is None:
        raise AbsentBlobError(digest, row.generation, workspace.store.url)
    if size != row.size:
        message = f"wrong size of blob {digest[:12]} in the store: {size} bytes (recorded: {row.size})"
        raise BlobCorruptError(message, hint="fusery audit --repair")
    return Blob(digest, size, row.generation)


def plan_package(workspace: Workspace, data: bytes, limits: UploadLimits) -> PackagePlan:
    """Return what would be recorded of a package, and protect its stored blobs from the collector."""
    _, planned, digests = _planned(workspace, data)
    arrived = Uploads(workspace, limits).arrived(digests) if digests else []
    return PackagePlan(workspace.identity, tuple(planned), tuple(arrived))


def take_package(workspace: Workspace, data: bytes, limits: UploadLimits) -> PackageTaken:
    """Record a package whose blobs have all arrived; recording it again changes nothing."""
    package, _, digests = _planned(workspace, data)
    uploads = Uploads(workspace, limits)
    missing = [upload for upload in uploads.arrived(digests) if not upload.complete] if digests else []
    if missing:
        problem = f"{plural(len(missing), 'file')} not uploaded, such as {missing[0].digest[:12]}"
        raise BlobsMissingError(problem, hint="upload them first")
    require_rooms(workspace.notes)
    # The bytes are already in this registry's store; folders that a client names are not read.
    carrier = Carrier(workspace.store, origin=workspace)
    receiver = Receiver(workspace, workspace, carrier, package.registry, lambda _: None)
    done = list(receiver.take(package.documents))
    if digests:
        uploads.release(digests)
    return PackageTaken(workspace.identity, tuple(with_withdrawals(workspace, package, done)))


def _planned(workspace: Workspace, data: bytes) -> tuple[Package, list[Moved], list[Digest]]:
    """Return a checked package, the state of each document, and the distinct blobs that must be uploaded."""
    package = read_package(data)
    check_package(package)
    for document in package.documents:
        if document.kept == "folder":
            raise BadInputError(f"the files of {document.name} are not in a store", hint="upload them")
    planned, digests = plan(workspace, package.documents, package.registry), dict[Digest, None]()
    for document, moved in zip(package.documents, planned, strict=True):
        # Of recorded documents, only fused models can lack files.
        is_uploaded = moved.state == "copied" or (moved.state == "completed" and document.kind == "fused")
        if is_uploaded and document.kept == "store":
            digests |= {entry.sha256: None for entry in document.files}
    return package, planned, list(digests)
