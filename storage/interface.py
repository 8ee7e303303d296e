"""The contract of a blob store, whose laws `testing/stores.py` checks on every backend.

- a name that is visible holds exactly the bytes of its digest, whatever happened while they were written;
- writing the same bytes again changes nothing; bytes that do not match what was expected are never visible;
- what is read is verified before the caller gets it;
- deleting what is gone is success.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import layout
from .copying import Progress, Staged
from .digest import Digest
from .errors import StorageError, StoreMismatchError, StoreUnavailableError
from .failures import AbsentBlobError, DigestMismatchError, os_failures
from .manifest import FileEntry, Outgoing
from .publishing import part_near, write_all

NOT_A_FILE = -1
"""The size of what is not a regular file."""

Sink = Callable[[bytes], None]
"""Called with bytes, one piece after the other."""


@dataclass(frozen=True, slots=True, order=True)
class Blob:
    """Immutable bytes in a store; the generation says how often a blob of this digest was deleted before."""

    digest: Digest
    size: int
    generation: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Leftover:
    """Something an interrupted write left behind, by the name that `remove_leftover` takes."""

    name: str
    size: int
    age_seconds: float


class BlobStore(ABC):
    """Blobs by digest and generation, on one backend."""

    url: str
    """Without any secret; `open_store(store.url)` opens the store again."""

    _readings = 1
    """How often a blob is read before it is called damaged."""

    is_local = False
    """Whether blobs can be read as files of this machine."""

    @property
    def create_exclusive(self) -> bool:
        """Whether the backend refuses a second writer of a name; the first time, a remote one is probed."""
        return True

    @abstractmethod
    def put_file(
        self, path: Path, *, expected: FileEntry | None = None, generation: int = 0, progress: Progress = None
    ) -> Blob:
        """Store the bytes of a file, hashed while they are read."""

    def put_files(self, files: Sequence[Outgoing], *, progress: Progress = None) -> None:
        """Store many files; all are durable once this returns, and some may be there when it raises."""
        for file in files:
            self.put_file(file.path, expected=file.entry, generation=file.generation, progress=progress)

    @property
    def staging_folder(self) -> Path | None:
        """Where copies lie that `put_staged` can take as they are, None if that is nowhere; made if it is needed."""
        return None

    def put_staged(self, staged: Staged, *, generation: int = 0) -> Blob:
        """Store a private copy, which was hashed while it was made; raises as `put_file`."""
        return self.put_file(staged.path, expected=staged.entry(staged.path.name), generation=generation)

    @abstractmethod
    def put_bytes(self, data: bytes, *, generation: int = 0) -> Blob:
        """Store bytes that are in memory; raises as `put_file`."""

    @abstractmethod
    def size(self, digest: Digest, *, generation: int = 0) -> int | None:
        """Return a blob's size in bytes as the backend reports it, or None if the blob is not there."""

    def local_path(self, digest: Digest, *, generation: int = 0) -> Path | None:
        """Return the path of a blob to read in place, *not* verified; None if absent or not local."""
        return None

    def quarantine(self, digest: Digest, *, generation: int = 0) -> str | None:
        """Move a blob to quarantine, unless it matches its digest; return its new name, None if it stays."""
        size = self.size(digest, generation=generation)
        if size is None or self._holds(Blob(digest, size, generation)):
            return None
        name = layout.quarantine_name(digest, generation)
        return name if self._move(layout.blob_name(digest, generation), name) else None

    def delete(self, digest: Digest, *, generation: int = 0) -> int:
        """Delete a blob and return the bytes freed: 0 if it was gone already, which is success."""
        return self._remove(layout.blob_name(digest, generation))

    def blobs(self) -> Iterator[Blob]:
        """List all blobs, in no order; other names are skipped."""
        for entry in self._entries(layout.BLOBS):
            parsed = layout.parse_blob_name(entry.name)
            if parsed is not None and entry.size != NOT_A_FILE:
                yield Blob(parsed[0], entry.size, parsed[1])

    def strays(self) -> Iterator[str]:
        """List the names in the store's folder that fusery does not write, in no order."""
        for entry in self._entries(""):
            if not layout.is_store_name(entry.name) or entry.size == NOT_A_FILE:
                yield entry.name

    def quarantined(self) -> Iterator[Leftover]:
        """List blobs in quarantine."""
        return self._entries(layout.QUARANTINE)

    def leftovers(self) -> Iterator[Leftover]:
        """List leftovers of interrupted writes, and the part files of writes in progress."""
        return self._entries(layout.TMP)

    def remove_leftover(self, name: str) -> int:
        """Remove a name from `leftovers` or `quarantined`, and return the bytes freed; raise ValueError for other names."""
        folder, _, rest = name.partition("/")
        if folder not in (layout.TMP, layout.QUARANTINE) or "/" in rest or rest in ("", ".", ".."):
            raise ValueError(f"not the name of a leftover: {name!r}")
        return self._remove(name)

    @abstractmethod
    def initialise(self, store_id: str) -> None:
        """Prepare the store for writing and give it its permanent id; raise StoreMismatchError if it has another."""

    def read_document(self, name: str) -> bytes | None:
        """Return a document that `write_document` wrote, or None."""
        data = self._read_small(layout.document_name(name), layout.MAX_DOCUMENT_BYTES + 1)
        if data is not None:
            self._require_small(name, len(data))
        return data

    @abstractmethod
    def write_document(self, name: str, data: bytes) -> None:
        """Write a small document, such as `package.json`, over an earlier one of that name: whole, or not at all."""

    @abstractmethod
    def _read_small(self, name: str, limit: int) -> bytes | None:
        """Return the first bytes of an object beside the blobs, None if it is not there."""

    @abstractmethod
    def _move(self, name: str, target: str) -> bool:
        """Give an object another name; tell whether it was there."""

    @abstractmethod
    def _remove(self, name: str) -> int:
        """Remove an object, and return the bytes freed: 0 if it was gone."""

    @abstractmethod
    def _entries(self, folder: str) -> Iterator[Leftover]:
        """List the objects below a folder, or all for an empty one; what is not a file has the size `NOT_A_FILE`."""

    @abstractmethod
    def span(self, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes of a blob from one place to another, piece by piece, and *not* verified."""

    def identify(self) -> str | None:
        """Return the store's id, None if it has none yet."""
        data = self._read_small(layout.FORMAT_NAME, layout.MAX_FORMAT_BYTES)
        return None if data is None else layout.parse_format(data, self.url)

    def read_bytes(self, digest: Digest, *, generation: int = 0, limit: int) -> bytes:
        """Return a blob, verified; raise StorageError if it has more than `limit` bytes."""
        size = self._size(digest, generation)
        if size > limit:
            raise StorageError(f"blob {digest} has {size} bytes, more than the {limit} that are read here")
        data = bytearray()
        self._pour_verified(Blob(digest, size, generation), data.extend, data.clear)
        return bytes(data)

    def fetch(
        self,
        digest: Digest,
        destination: Path,
        *,
        generation: int = 0,
        size: int | None = None,
        progress: Progress = None,
    ) -> int:
        """Copy a blob to a file, which is replaced once the bytes are verified; return its size."""
        blob = Blob(digest, self._size(digest, generation) if size is None else size, generation)
        with os_failures(f"write {destination}", near=destination), part_near(destination) as (part, fd):
            self.pour_into(blob, fd, progress)
            written = os.fstat(fd).st_size
            part.replace(destination)
        return written

    def pour_into(self, blob: Blob, fd: int, progress: Progress = None) -> None:
        """Write a blob's bytes over an open file; they are verified once this returns; raises as `pour`."""

        def begin() -> None:
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)

        def keep(piece: bytes) -> None:
            write_all(fd, piece)
            if progress:
                progress(len(piece))

        self.pour(blob, keep, begin)

    def verify(self, digest: Digest, size: int, *, generation: int = 0, progress: Progress = None) -> None:
        """Read a blob through and check its size and digest; raises as `pour`."""

        def read(piece: bytes) -> None:
            if progress:
                progress(len(piece))

        self.pour(Blob(digest, size, generation), read, lambda: None)

    def pour(self, blob: Blob, sink: Sink, begin: Callable[[], None]) -> None:
        """Pass a blob's bytes to `sink`, piece by piece in order; they are verified only once this returns."""
        size = self._size(blob.digest, blob.generation)
        if size != blob.size:
            raise self._damage(blob.digest, f"{blob.size} bytes", f"{size} bytes")
        self._pour_verified(blob, sink, begin)

    def _pour_verified(self, blob: Blob, sink: Sink, begin: Callable[[], None]) -> None:
        """Pass a blob's bytes to `sink`, and raise unless they have the digest; `begin` is called before each reading."""
        digest, before = blob.digest, None
        for reading in range(self._readings):
            if reading:
                # Somebody may have repaired it meanwhile.
                blob = replace(blob, size=self._size(digest, blob.generation))
            running = hashlib.sha256()
            begin()
            for piece in self.span(blob, 0, blob.size):
                running.update(piece)
                sink(piece)
            got = running.hexdigest()
            if got == digest:
                return
            if got == before or self._readings == 1:
                raise self._damage(digest, digest, got)
            before = got
        problem = f"each reading of blob {digest} in {self.url} gave other bytes"
        raise StoreUnavailableError(problem, hint="check the network")

    def _holds(self, blob: Blob) -> bool:
        try:
            self.verify(blob.digest, blob.size, generation=blob.generation)
        except (AbsentBlobError, DigestMismatchError):
            return False
        return True

    def _size(self, digest: Digest, generation: int) -> int:
        size = self.size(digest, generation=generation)
        if size is None:
            raise AbsentBlobError(digest, generation, self.url)
        return size

    def _damage(self, digest: Digest, expected: str, got: str) -> DigestMismatchError:
        hint = "run: fusery audit, then add its source again"
        return DigestMismatchError(f"blob {digest} in {self.url}", digest, expected, got, hint=hint)

    def _require_small(self, name: str, size: int) -> None:
        if size > layout.MAX_DOCUMENT_BYTES:
            raise StorageError(f"{name} in {self.url} is too large for what it should be: {size} bytes")

    def _check_identity(self, store_id: str) -> bool:
        existing_id = self.identify()
        if existing_id is not None and existing_id != store_id:
            hint = "check FUSERY_STORE_URL and FUSERY_DATABASE_URL: they must belong together"
            problem = f"the store {self.url} belongs to another registry ({existing_id}, not {store_id})"
            raise StoreMismatchError(problem, hint=hint)
        return existing_id is not None
