"""What a server does for those who push to a registry and pull from it, as `registry.transfers` has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .resource import Resource, require_digest

if TYPE_CHECKING:
    from fusery.storage.interface import Blob

    from ..exchange.uploads import Upload, UploadLimits
    from ..records.transfer import Arrived, PackagePlan, PackageTaken


class Transfers(Resource):
    """Packages and bytes that clients of a server send and fetch."""

    NAME = "transfers"

    def package(self, reference: str, *, fused: bool = False) -> Mapping[str, object]:
        """Return the document of a thing and all that it needs; see `fusery.registry.exchange.served.package_document`."""
        from ..exchange.served import package_document

        return package_document(self.workspace, reference, fused=fused)

    def plan(self, data: bytes, limits: UploadLimits) -> PackagePlan:
        """Say what would become of a package; see `fusery.registry.exchange.served.plan_package`."""
        from ..exchange.served import plan_package

        return plan_package(self.workspace, data, limits)

    def take(self, data: bytes, limits: UploadLimits) -> PackageTaken:
        """Record a package of which all bytes are here; see `fusery.registry.exchange.served.take_package`."""
        from ..exchange.served import take_package

        return take_package(self.workspace, data, limits)

    def arrived(self, digests: Sequence[str], limits: UploadLimits) -> list[Arrived]:
        """Say of blobs how much has arrived; see `fusery.registry.exchange.uploads.Uploads`.

        Raises:
            BadInputError: one is no digest.
        """
        from ..exchange.uploads import Uploads

        return Uploads(self.workspace, limits).arrived([require_digest(each) for each in digests])

    def begin(self, digest: str, size: int, offset: int, limits: UploadLimits) -> Upload | None:
        """Begin an upload, or go on with one; see `fusery.registry.exchange.uploads.Uploads`."""
        from ..exchange.uploads import Uploads

        return Uploads(self.workspace, limits).begin(require_digest(digest), size, offset)

    def blob(self, digest: str) -> Blob:
        """Return a blob that something refers to; see `fusery.registry.exchange.served.find_blob`."""
        from ..exchange.served import find_blob

        return find_blob(self.workspace, require_digest(digest))

    def pieces(self, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        """Yield bytes of a blob, not verified: whoever puts it together does that."""
        from fusery.storage.pieces import read_pieces

        return read_pieces(self.workspace.store, blob, start, stop)
