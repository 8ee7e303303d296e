"""What a server for a registry does for those who push and pull: the same as between two databases, with bytes that came before.

A package from a client is validated before it is used, and its bytes are those that the client has sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError
from fusery.storage.failures import AbsentBlobError
from fusery.storage.interface import Blob
from fusery.storage.room import require_rooms

from .. import tables
from ..collect.liveness import is_referenced
from ..errors import BadInputError, BlobsMissingError, SchemaError
from ..parsing import plural
from ..records.transfer import Moved, PackagePlan, PackageTaken
from .believing import require_believable, require_identity
from .carrying import Carrier
from .package import Fused, Item, read_package
from .planning import plan
from .taking import Receiver
from .telling import told_of_yanks
from .uploads import UploadLimits, Uploads
from .wire import Package, document_of, read_document

if TYPE_CHECKING:
    from ..workspace import Workspace


MOST_SERVED = 500
"""Adapters in a package for a client: some 15 kB each, and no more than a client may send."""


def package_document(workspace: Workspace, reference: str, *, fused: bool) -> dict[str, Any]:
    """Return the document of a thing and all that it needs; see `read_package`.

    Raises:
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a task and a base model have it.
        BadInputError: there are over `MOST_SERVED` adapters in it.
    """
    origin = workspace.identity
    with workspace.database.read() as session:
        items = read_package(session, reference, fused=fused, most=MOST_SERVED)
    return document_of(Package(origin, items, told_of_yanks([workspace], items, origin)))


def find_blob(workspace: Workspace, digest: Digest) -> Blob:
    """Return a blob that something refers to.

    Raises:
        BlobMissingError: nothing refers to it, or it is not in the store.
        BlobCorruptError: the stored blob does not have the recorded size.
    """
    blob = tables.Blob
    with workspace.database.read() as session:
        query = select(blob.size, blob.generation)
        row = session.execute(query.where(blob.digest == digest, is_referenced())).one_or_none()
    if row is None:
        raise BlobMissingError(f"there is no blob {digest[:12]} here")
    size = workspace.store.size(digest, generation=row.generation)
    if size is None:
        raise AbsentBlobError(digest, row.generation, workspace.store.url)
    if size != row.size:
        message = f"blob {digest[:12]} has {size} bytes in the store, and its row records {row.size}"
        raise BlobCorruptError(message, hint="run: fusery audit --repair")
    return Blob(digest, size, row.generation)


def plan_package(workspace: Workspace, data: bytes, limits: UploadLimits) -> PackagePlan:
    """Say what would become of a package; the collector spares its bytes from now on, as far as they are there.

    Args:
        workspace: the registry, under the name of who sends the package.
        data: the document.
        limits: how much may be on its way.

    Raises:
        BadInputError: it is none, or says what no registry could have recorded.
        AlreadyExistsError: a name or a version in it is taken by other bytes.
    """
    package = _believed(workspace, data)
    planned = plan(workspace, package.items, package.registry, unmade=False)
    digests = _digests(package.items, planned)
    arrived = Uploads(workspace, limits).arrived(digests) if digests else []
    return PackagePlan(workspace.identity, tuple(planned), tuple(arrived))


def take_package(
    workspace: Workspace,
    data: bytes,
    limits: UploadLimits,
    say: Callable[[str], None] = lambda _: None,
) -> PackageTaken:
    """Record a package of which all bytes have arrived; as `plan_package` otherwise.

    Each thing is recorded in one transaction with all that belongs to it, after what it needs.  A second time changes nothing.

    Raises:
        BlobsMissingError: bytes are missing.
        BadInputError: something in it is not what its bytes say.
        AdmissionError: this registry's rules refuse an adapter in it.
    """
    package = _believed(workspace, data)
    origin = package.registry
    planned = plan(workspace, package.items, origin, unmade=False)
    digests = _digests(package.items, planned)
    uploads = Uploads(workspace, limits)
    missing = [each for each in uploads.arrived(digests) if not each.complete] if digests else []
    if missing:
        raise BlobsMissingError(
            f"{plural(len(missing), 'file')} of this package are not here, such as {missing[0].digest[:12]}",
            hint="send them first",
        )
    require_rooms(workspace.notes)
    # The bytes are in this registry's own store already, and no folder is read on a client's word.
    carrier = Carrier(workspace, workspace, workspace, None)
    done = list(Receiver(workspace, workspace, carrier, origin, say).take(package.items))
    if digests:
        uploads.release(digests)
    told = told_of_yanks([workspace], package.items, origin)
    items = tuple(moved.with_withdrawals(each) for moved, each in zip(done, told, strict=True))
    return PackageTaken(workspace.identity, items)


def _believed(workspace: Workspace, data: bytes) -> Package:
    try:
        package = read_document(data)
    except SchemaError as error:
        # It is the client that is of another version, and no database that is away.
        raise BadInputError(error.message, hint=error.hint) from error
    require_identity(package.registry)
    for item in package.items:
        if item.files.folder is not None:
            raise BadInputError(f"the files of {item.name} are not in a store", hint="send them")
    require_believable(package.items)
    return package


def _digests(package: list[Item], planned: list[Moved]) -> list[Digest]:
    """Return the blobs of things that are to come, each once."""
    found: dict[Digest, None] = {}
    for item, moved in zip(package, planned, strict=True):
        # Of what is on record already, only a fused artifact may lack its files.
        comes = moved.state == "copied" or (moved.state == "completed" and isinstance(item, Fused))
        if comes and item.files.stored:
            found |= {entry.sha256: None for entry in item.files.manifest}
    return list(found)
