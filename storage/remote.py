"""Blobs in an object store, over any fsspec file system whose writes of a whole object are atomic.

Nothing here writes through `open()`: fsspec's file objects publish what they hold when they are closed, also when the
body raised.  What an interrupted request did is never guessed but looked up: the name is the digest, so a second look
decides.  What differs between backends is in `backends`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fsspec.spec import AbstractFileSystem

from .backends.objects import READ, UPLOAD_NAME, objects_for
from .copying import Progress, Source, pump, reading
from .digest import Digest
from .errors import StorageError, StoreDeniedError, StoreUnavailableError
from .failures import AbsentBlobError, os_failures
from .hands import in_order
from .interface import Blob, BlobStore, Capabilities, Leftover, Sink
from .layout import (
    BLOBS,
    FORMAT_NAME,
    MAX_FORMAT_BYTES,
    QUARANTINE,
    TMP,
    blob_name,
    document_name,
    format_document,
    is_store_name,
    parse_blob_name,
    quarantine_name,
)
from .manifest import FileEntry, Outgoing, require_expected, require_size
from .plugins import Plugin
from .probes import probe_name
from .remote_calls import DEADLINE, RemoteCalls, StoreSilentError
from .remote_errors import RemoteError
from .sending import Arrived, content_of, not_kept, read_parts
from .staging import Staged

SMALL = 16 << 20
"""Bytes up to which a blob is uploaded from memory, in one request."""

ATTEMPTS = 3
"""How often a write starts again when a damaged blob had its name."""


class FsspecStore(BlobStore):
    """A store under a prefix of an fsspec file system that nobody else uses."""

    # A server's disk and memory are not this machine's, and a network lies between.
    _readings = 4

    def __init__(
        self,
        file_system: AbstractFileSystem,
        prefix: str,
        url: str,
        *,
        deadline: float = DEADLINE,
        plugin: Plugin | None = None,
    ) -> None:
        """Wrap a file system; nothing is written, and nothing is read yet.

        Args:
            file_system: made with `use_listings_cache=False` and `skip_instance_cache=True`.
            prefix: bucket and folder, without a slash at either end.
            url: the store's URL, without any secret.
            deadline: seconds without progress after which an operation is given up.
            plugin: whose file system it is.
        """
        self.url = url
        self._fs = file_system
        self._probed: bool | None = None
        self._objects = objects_for(file_system, prefix, RemoteCalls(file_system, url, deadline, plugin))

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do; the first time, a probe asks it."""
        try:
            exclusive = self._exclusive
        except StoreDeniedError:
            exclusive = False
        return Capabilities(
            create_exclusive=exclusive,
            local=False,
            durable=self._objects.durable,
            resumes=self._objects.resumes,
        )

    @property
    def _exclusive(self) -> bool:
        # functools.cached_property would make all stores of the process wait for one that does not answer.
        if self._probed is None:
            self._probed = self._probe()
        return self._probed

    def _probe(self) -> bool:
        """Ask: the first of two exclusive writes of a name must be taken, and the second refused."""
        name = f"{TMP}/{probe_name()}"
        try:
            first = self._objects.write(name, b"probe", exclusive=True)
            # A request that was sent twice by ourselves is refused, too, and then there is no telling: ask again.
            if not first:
                self._objects.remove(name)
                first = self._objects.write(name, b"probe", exclusive=True)
            return first and not self._objects.write(name, b"probe", exclusive=True)
        except (StoreDeniedError, StoreSilentError):
            raise
        except StorageError:
            # Some servers refuse the condition itself.  What is wrong otherwise fails the plain write as well.
            self._objects.write(name, b"probe", exclusive=False)
            return False
        finally:
            self._objects.discard(name)

    def put_file(
        self,
        path: Path,
        *,
        expected: FileEntry | None = None,
        generation: int = 0,
        progress: Progress | None = None,
    ) -> Blob:
        """Store the bytes of a file; see `BlobStore.put_file`.

        A file above `SMALL` is hashed first, and once more while it is sent by its name: the last part goes up only if
        all of them are what was hashed.  What an interrupted upload has brought there is not sent again.
        """
        with reading(path) as source:
            require_size(path, expected, source.size)
            if source.size <= SMALL or not self._objects.in_parts:
                return self._put_from_memory(source, expected, generation, progress)
            with os_failures(f"read {path}", near=path):
                digest, size = pump(source.fd, None)
            source.require_unchanged()
            require_expected(path, expected, digest, size)
            return self._put_in_parts(source, Blob(digest, size, generation), progress)

    def put_staged(self, staged: Staged, *, generation: int = 0) -> Blob:
        """Store a private copy; see `BlobStore.put_staged`.  A large one is read once, while it is sent."""
        if staged.size <= SMALL or not self._objects.in_parts:
            return super().put_staged(staged, generation=generation)
        with reading(staged.path) as source:
            return self._put_in_parts(source, Blob(staged.sha256, staged.size, generation), None)

    def put_bytes(self, data: bytes, *, generation: int = 0) -> Blob:
        """Store bytes that are in memory; see `BlobStore.put_bytes`."""
        blob = Blob(Digest(hashlib.sha256(data).hexdigest()), len(data), generation)
        name = blob_name(blob.digest, generation)
        self._publish(blob, lambda exclusive: self._objects.write(name, data, exclusive=exclusive))
        return blob

    def put_files(self, files: Sequence[Outgoing], *, progress: Progress | None = None) -> None:
        """Store many files; see `BlobStore.put_files`.

        Small ones are under way several at a time, each written as if its name were free, which most are: one listing tells
        then what has arrived.  What has not, or was there before, is stored like any other, with all that is looked at there.
        """
        small = (
            [one for one in files if one.entry.size <= SMALL] if len(files) > 1 and self._exclusive else []
        )
        written: dict[str, int] = {}
        for one, is_new in zip(small, in_order(self._write_new, small), strict=True):
            if is_new:
                written[blob_name(one.entry.sha256, one.generation)] = one.entry.size
        arrived = self._objects.sizes(list(written), BLOBS) if written else {}
        for one in files:
            name = blob_name(one.entry.sha256, one.generation)
            if name in written and arrived.get(name) == one.entry.size:
                if progress:
                    progress(one.entry.size)
            else:
                super().put_files([one], progress=progress)

    def _write_new(self, one: Outgoing) -> bool:
        """Write a small blob unless its name is taken; tell whether it was free."""
        with reading(one.path) as source:
            require_size(one.path, one.entry, source.size)
            data = content_of(source)
            require_expected(one.path, one.entry, Digest(hashlib.sha256(data).hexdigest()), len(data))
        return self._objects.write(blob_name(one.entry.sha256, one.generation), data, exclusive=True)

    def size(self, digest: Digest, *, generation: int = 0) -> int | None:
        """Return a blob's size in bytes as the backend reports it; see `BlobStore.size`."""
        return self._objects.size(blob_name(digest, generation))

    def local_path(self, digest: Digest, *, generation: int = 0) -> Path | None:
        """Return None: blobs are not files here."""
        return None

    def quarantine(self, digest: Digest, *, generation: int = 0) -> str | None:
        """Move a damaged blob to `quarantine/`; see `BlobStore.quarantine`."""
        size = self.size(digest, generation=generation)
        if size is None or self._holds(Blob(digest, size, generation)):
            return None
        name = quarantine_name(digest, generation)
        try:
            self._objects.move(blob_name(digest, generation), name)
        except RemoteError:
            return None
        return name

    def delete(self, digest: Digest, *, generation: int = 0) -> int:
        """Delete a blob; see `BlobStore.delete`."""
        return self._objects.remove(blob_name(digest, generation))

    def blobs(self) -> Iterator[Blob]:
        """List the blobs there are; see `BlobStore.blobs`."""
        for entry in self._objects.entries(BLOBS):
            parsed = parse_blob_name(entry.name)
            if parsed is not None:
                yield Blob(parsed[0], entry.size, parsed[1])

    def strays(self) -> Iterator[str]:
        """List the names that fusery does not write; see `BlobStore.strays`."""
        return (entry.name for entry in self._objects.entries("") if not is_store_name(entry.name))

    def quarantined(self) -> Iterator[Leftover]:
        """List what `quarantine` has put aside."""
        for entry in self._objects.entries(QUARANTINE):
            yield Leftover(entry.name, entry.size, entry.age_seconds)

    def leftovers(self) -> Iterator[Leftover]:
        """List part files, probes and, on S3, unfinished uploads under this store's prefix."""
        for entry in self._objects.entries(TMP):
            yield Leftover(entry.name, entry.size, entry.age_seconds)
        for upload in self._objects.uploads():
            yield Leftover(f"upload:{upload.name}:{upload.upload_id}", 0, upload.age_seconds)

    def remove_leftover(self, name: str) -> int:
        """Remove what `leftovers` or `quarantined` listed; see `BlobStore.remove_leftover`."""
        upload = UPLOAD_NAME.fullmatch(name)
        if upload:
            self._objects.abort(upload["name"], upload["id"])
            return 0
        folder, _, rest = name.partition("/")
        if folder not in (TMP, QUARANTINE) or not re.fullmatch(r"[0-9a-z][0-9a-z.]{0,120}", rest):
            raise ValueError(f"not the name of a leftover: {name!r}")
        return self._objects.remove(name)

    def initialise(self, store_id: str) -> None:
        """Give the store its id; see `BlobStore.initialise`.  The bucket must exist."""
        document = format_document(store_id)
        if self._check_identity(store_id):
            return
        self._objects.write(FORMAT_NAME, document, exclusive=self._exclusive)
        if not self._check_identity(store_id):
            raise StoreUnavailableError(f"the store {self.url} does not keep what is written to it")

    def read_document(self, name: str) -> bytes | None:
        """Return a document beside the blobs; see `BlobStore.read_document`."""
        size = self._objects.size(document_name(name))
        if size is None:
            return None
        self._require_small(name, size)
        try:
            return self._objects.read(name, size)
        except RemoteError:
            return None

    def write_document(self, name: str, data: bytes) -> None:
        """Write a document beside the blobs; see `BlobStore.write_document`."""
        self._require_small(name, len(data))
        self._objects.write(document_name(name), data, exclusive=False)

    def _read_format(self) -> bytes | None:
        try:
            return self._objects.read(FORMAT_NAME, MAX_FORMAT_BYTES)
        except RemoteError:
            return None

    def pour(self, blob: Blob, sink: Sink, begin: Callable[[], None]) -> None:
        """Pass a blob's bytes on; see `BlobStore.pour`.  A small one that is as it should be takes one request."""
        if blob.size <= READ:
            data = None
            with suppress(RemoteError):  # it is missing, or the bucket is
                data = self._objects.whole(blob_name(blob.digest, blob.generation), blob.size)
            if data is not None and hashlib.sha256(data).hexdigest() == blob.digest:
                begin()
                sink(data)
                return
        super().pour(blob, sink, begin)

    def _pour(self, blob: Blob, sink: Sink) -> None:
        for piece in self.span(blob, 0, blob.size):
            sink(piece)

    def span(self, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes of a blob from one place to another, not verified; see `pieces.read_pieces`."""
        name = blob_name(blob.digest, blob.generation)
        try:
            for wanted, piece in self._objects.pieces(name, stop, start):
                if len(piece) != wanted:
                    # Some servers ignore the range, others cut the reply short without a word.  That says nothing
                    # about the blob, which must not be put aside for it.
                    raise StoreUnavailableError(
                        f"the store {self.url} sent {len(piece)} bytes where {wanted} were asked for",
                        hint="run the command again; does something between here and the store change replies?",
                    )
                yield piece
        except RemoteError as error:
            raise AbsentBlobError(blob.digest, blob.generation, self.url) from error

    def _put_from_memory(
        self, source: Source, expected: FileEntry | None, generation: int, progress: Progress | None
    ) -> Blob:
        data = content_of(source)
        digest = Digest(hashlib.sha256(data).hexdigest())
        require_expected(source.path, expected, digest, len(data))
        blob = self.put_bytes(data, generation=generation)
        if progress:
            progress(len(data))
        return blob

    def _put_in_parts(self, source: Source, blob: Blob, progress: Progress | None) -> Blob:
        arrived = Arrived(progress)
        self._publish(blob, lambda exclusive: self._upload(source, blob, exclusive, arrived.once_more()))
        arrived.tell(blob.size)
        return blob

    def _upload(self, source: Source, blob: Blob, exclusive: bool, progress: Progress) -> bool:
        parts = read_parts(source, blob.digest, self._objects.part_size(blob.size))
        name = blob_name(blob.digest, blob.generation)
        return self._objects.upload(name, parts, blob.size, exclusive=exclusive, progress=progress)

    def _publish(self, blob: Blob, upload: Callable[[bool], bool]) -> None:
        """Write a blob unless it is there, and see that it is there; `upload` tells whether the name was free.

        Where the backend refuses a second writer, a name that was free holds what we sent.  Elsewhere somebody may
        have written over it since, so it is read back.
        """
        exclusive = self._exclusive
        aborted = False
        for _ in range(ATTEMPTS):
            found = self.size(blob.digest, generation=blob.generation)
            try:
                aborted = False
                if found is None and upload(exclusive):
                    found = self.size(blob.digest, generation=blob.generation)
                    if found == blob.size and exclusive:
                        return
            except RemoteError:
                # Another writer of the same bytes has completed the upload that both took up; or somebody aborted it.
                aborted = True
            # There already, or written meanwhile: by somebody else, or by a request of ours whose reply was lost.
            if self._holds(blob):
                return
            self.quarantine(blob.digest, generation=blob.generation)
        raise not_kept(f"the store {self.url}", aborted=aborted)
