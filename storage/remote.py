"""Blobs in an object store, over any fsspec file system with atomic writes; `open()` is not used, as it publishes after errors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fsspec.spec import AbstractFileSystem

from .copying import OpenFile, Progress, Staged, pump, reading
from .digest import Digest, digest_bytes, digest_pieces
from .errors import StorageError, StoreDeniedError, StoreUnavailableError
from .failures import AbsentBlobError, os_failures
from .interface import Blob, BlobStore, Leftover, Sink
from .layout import FORMAT_NAME, TMP, blob_name, document_name, format_document
from .manifest import FileEntry, Outgoing, require_expected, require_size
from .objects import READ, Objects
from .plugins import Plugin
from .processes import temporary_name
from .remote_calls import DEADLINE, RemoteCalls, RemoteError, StoreSilentError
from .transfer import in_order

SMALL = 8 << 20
"""Bytes up to which a blob is uploaded from memory, in one request."""

ATTEMPTS = 3
"""How often a write starts again when a damaged blob had its name."""


class RemotePlace:
    """A prefix of an fsspec file system of our own: bucket and folder, without a slash at either end."""

    def __init__(
        self,
        file_system: AbstractFileSystem,
        prefix: str,
        url: str,
        *,
        deadline: float = DEADLINE,
        plugin: Plugin | None = None,
    ) -> None:
        self.url = url
        self._fs = file_system
        # obstore and SFTP have calls of their own.
        kind: type[Objects] = getattr(file_system, "objects_class", Objects)
        self._objects = kind(prefix, RemoteCalls(file_system, url, deadline, plugin))


class FsspecStore(RemotePlace, BlobStore):
    """A store under a prefix of an fsspec file system."""

    # A server's disk and memory are not this machine's, and a network lies between.
    _readings = 4
    _probed: bool | None = None

    @property
    def create_exclusive(self) -> bool:
        """Whether the backend refuses a second writer of a name; see `BlobStore.create_exclusive`."""
        try:
            return self._exclusive
        except StoreDeniedError:
            return False

    @property
    def _exclusive(self) -> bool:
        # functools.cached_property would make all stores of the process wait for one that does not answer.
        if self._probed is None:
            self._probed = self._probe()
        return self._probed

    def _probe(self) -> bool:
        """Ask: the first of two exclusive writes of a name must be taken, and the second refused."""
        name = f"{TMP}/{temporary_name()}"
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
            # Some servers refuse the condition itself.  Other failures fail the plain write as well.
            self._objects.write(name, b"probe", exclusive=False)
            return False
        finally:
            self._objects.calls.tidy("rm_file", self._objects.key(name))

    def put_file(
        self, path: Path, *, expected: FileEntry | None = None, generation: int = 0, progress: Progress = None
    ) -> Blob:
        """Store the bytes of a file; of a large one, the last part goes up only if all of them have the digest."""
        with reading(path) as source:
            require_size(path, expected, source.size)
            if source.size <= SMALL or not self._objects.in_parts:
                with os_failures(f"read {path}", near=path), os.fdopen(os.dup(source.fd), "rb") as file:
                    data = file.read(source.size)
                source.require_unchanged()
                require_expected(path, expected, digest_bytes(data), len(data))
                blob = self.put_bytes(data, generation=generation)
                if progress:
                    progress(len(data))
                return blob
            if expected is None or self.size(expected.sha256, generation=generation) is not None:
                with os_failures(f"read {path}", near=path):
                    digest, _ = pump(source.fd, None)
                source.require_unchanged()
                require_expected(path, expected, digest, source.size)
            else:
                digest = expected.sha256
            return self._put_in_parts(source, Blob(digest, source.size, generation), progress)

    def put_staged(self, staged: Staged, *, generation: int = 0) -> Blob:
        """Store a private copy; see `BlobStore.put_staged`.  A large one is read once, while it is sent."""
        if staged.size <= SMALL or not self._objects.in_parts:
            return super().put_staged(staged, generation=generation)
        with reading(staged.path) as source:
            return self._put_in_parts(source, Blob(staged.sha256, staged.size, generation), None)

    def put_bytes(self, data: bytes, *, generation: int = 0) -> Blob:
        """Store bytes that are in memory; see `BlobStore.put_bytes`."""
        blob = Blob(digest_bytes(data), len(data), generation)
        name = blob_name(blob.digest, generation)
        self._publish(blob, lambda exclusive: self._objects.write(name, data, exclusive=exclusive))
        return blob

    def put_files(self, files: Sequence[Outgoing], *, progress: Progress = None) -> None:
        """Store many files; see `BlobStore.put_files`.  Small ones are under way several at a time."""
        small = [one for one in files if one.entry.size <= SMALL]
        for _ in in_order(lambda one: self._put_small(one, progress), small):
            pass
        super().put_files([one for one in files if one.entry.size > SMALL], progress=progress)

    def _put_small(self, one: Outgoing, progress: Progress) -> None:
        """Store a small blob: in two requests if its name is free, as most are."""
        if self._exclusive:
            name = blob_name(one.entry.sha256, one.generation)
            with reading(one.path) as source:
                require_size(one.path, one.entry, source.size)
                data = b"".join(read_parts(source, one.entry.sha256, SMALL))
            if self._objects.write(name, data, exclusive=True) and self._objects.size(name) == len(data):
                if progress:
                    progress(len(data))
                return
        super().put_files([one], progress=progress)

    def size(self, digest: Digest, *, generation: int = 0) -> int | None:
        """Return a blob's size in bytes as the backend reports it; see `BlobStore.size`."""
        return self._objects.size(blob_name(digest, generation))

    def _move(self, name: str, target: str) -> bool:
        try:
            self._objects.move(name, target)
        except RemoteError:
            return False
        return True

    def _remove(self, name: str) -> int:
        return self._objects.remove(name)

    def _entries(self, folder: str) -> Iterator[Leftover]:
        return self._objects.entries(folder)

    def initialise(self, store_id: str) -> None:
        """Give the store its id; see `BlobStore.initialise`.  The bucket must exist."""
        document = format_document(store_id)
        if self._check_identity(store_id):
            return
        self._objects.write(FORMAT_NAME, document, exclusive=self._exclusive)
        if not self._check_identity(store_id):
            raise not_kept(self.url)

    def write_document(self, name: str, data: bytes) -> None:
        """Write a document beside the blobs; see `BlobStore.write_document`."""
        self._require_small(name, len(data))
        self._objects.write(document_name(name), data, exclusive=False)

    def _read_small(self, name: str, limit: int) -> bytes | None:
        try:
            return self._objects.read(name, limit)
        except RemoteError:
            return None

    def pour(self, blob: Blob, sink: Sink, begin: Callable[[], None]) -> None:
        """Pass a blob's bytes on; see `BlobStore.pour`.  A small one that is as it should be takes one request."""
        if blob.size <= READ:
            data = None
            with suppress(RemoteError):  # it is missing, or the bucket is
                data = self._objects.read(blob_name(blob.digest, blob.generation), blob.size + 1)
            if data is not None and len(data) == blob.size and digest_bytes(data) == blob.digest:
                begin()
                sink(data)
                return
        super().pour(blob, sink, begin)

    def span(self, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes of a blob from one place to another, not verified; see `BlobStore.span`."""
        name = blob_name(blob.digest, blob.generation)
        try:
            for wanted, piece in self._objects.pieces(name, stop, start):
                if len(piece) != wanted:
                    # Some servers ignore the range, others cut the reply short without a word.  That says nothing
                    # about the blob, which must not be put aside for it.
                    problem = f"the store {self.url} sent {len(piece)} bytes instead of {wanted}"
                    raise StoreUnavailableError(problem, hint="run the command again; check proxies")
                yield piece
        except RemoteError as error:
            raise AbsentBlobError(blob.digest, blob.generation, self.url) from error

    def _put_in_parts(self, source: OpenFile, blob: Blob, progress: Progress) -> Blob:
        name = blob_name(blob.digest, blob.generation)

        def upload(exclusive: bool) -> bool:
            parts = read_parts(source, blob.digest, self._objects.part_size(blob.size))
            return self._objects.upload(name, parts, blob.size, exclusive=exclusive, progress=progress)

        self._publish(blob, upload)
        return blob

    def _publish(self, blob: Blob, upload: Callable[[bool], bool]) -> None:
        """Write a blob unless it is there, and see that it is there; `upload` tells whether the name was free."""
        exclusive = self._exclusive
        for _ in range(ATTEMPTS):
            size = self.size(blob.digest, generation=blob.generation)
            with suppress(RemoteError):  # somebody aborted the upload
                if size is None and upload(exclusive):
                    size = self.size(blob.digest, generation=blob.generation)
                    if size == blob.size and exclusive:
                        return
            # There already, or written meanwhile: by somebody else, or by a request of ours whose reply was lost.
            if self._holds(blob):
                return
            self.quarantine(blob.digest, generation=blob.generation)
        raise not_kept(self.url)


def not_kept(url: str) -> StoreUnavailableError:
    """Return the error for what could not be written, however often it was tried."""
    hint = "check what changes objects or aborts uploads there, such as a rule of the bucket"
    return StoreUnavailableError(f"the store {url} does not keep what is written to it", hint=hint)


def read_parts(source: OpenFile, digest: Digest, size: int) -> Iterator[bytes]:
    """Read a file in parts of `size` bytes; the last is given out only if all of them have the digest."""
    running, offset, is_last = hashlib.sha256(), 0, False
    while not is_last:
        with os_failures(f"read {source.path}", near=source.path):
            data = os.pread(source.fd, min(size, source.size - offset), offset)
        running.update(data)
        offset += len(data)
        is_last = not data or offset >= source.size
        if is_last:
            source.require_unchanged()
            entry = FileEntry("", source.size, digest)
            require_expected(source.path, entry, Digest(running.hexdigest()), offset)
        yield data


class RemoteTree(RemotePlace):
    """The files under one prefix of an fsspec file system."""

    def sizes(self) -> Mapping[str, int]:
        """Return the files there are and their sizes in bytes."""
        return {entry.name: entry.size for entry in self._objects.entries("")}

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if it is not there."""
        return self._objects.size(name)

    def put(self, path: Path, entry: FileEntry, *, progress: Progress = None) -> None:
        """Write a local file under the name that an entry gives, in place of what is there, and read it back."""
        with reading(path) as source:
            for _ in range(ATTEMPTS):
                parts = read_parts(source, entry.sha256, self._objects.part_size(entry.size))
                with suppress(RemoteError):  # somebody aborted the upload
                    if entry.size > SMALL:
                        size = entry.size
                        self._objects.upload(entry.path, parts, size, exclusive=False, progress=progress)
                    else:
                        self._objects.write(entry.path, b"".join(parts), exclusive=False)
                        if progress:
                            progress(entry.size)
                if self.holds(entry):
                    return
        raise not_kept(self.url)

    def holds(self, entry: FileEntry) -> bool:
        """Return whether a file exists and has the bytes of an entry; it is read to its end."""
        with suppress(RemoteError):
            if self._objects.size(entry.path) == entry.size:
                pieces = (piece for _, piece in self._objects.pieces(entry.path, entry.size))
                return digest_pieces(pieces) == entry.sha256
        return False

    def fetch(self, name: str, size: int, path: Path) -> None:
        """Write a file's bytes to a local path, which must not exist yet."""
        read = -1
        with suppress(RemoteError), path.open("xb") as file:
            read = sum(file.write(piece) for _, piece in self._objects.pieces(name, size))
        if read != size:
            raise StoreUnavailableError(f"{self.url}/{name} changed while it was read", hint="try again")

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is fine."""
        self._objects.remove(name)
