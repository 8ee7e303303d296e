"""The contract of a blob store: what every backend promises, its value types and its errors.

The laws, which `testing/stores.py` checks on every backend (docs/internals/store.md says how they are kept):

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
from typing import Any

from .copying import Progress
from .digest import Digest
from .errors import StorageError, StoreMismatchError, StoreUnavailableError
from .failures import AbsentBlobError, DigestMismatchError, os_failures
from .layout import MAX_DOCUMENT_BYTES, parse_format
from .manifest import FileEntry, Outgoing
from .publishing import part_beside, write_all
from .staging import Staged

Sink = Callable[[bytes | memoryview], None]
"""Called with bytes, one piece after the other."""


@dataclass(frozen=True, slots=True, order=True)
class Blob:
    """Immutable bytes in a store.

    Attributes:
        digest: SHA-256 of the bytes.
        size: bytes.
        generation: how often a blob of this digest was deleted before; part of its name.
    """

    digest: Digest
    size: int
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do.

    Attributes:
        create_exclusive: a second writer of the same name is refused by the backend itself.
        local: blobs are files; `local_path` returns their paths.
        durable: blobs outlive the process.
        resumes: storing the same file again continues an interrupted upload.
    """

    create_exclusive: bool
    local: bool
    durable: bool = True
    resumes: bool = False

    @property
    def promise(self) -> str:
        """What two writers of one name may rely on, in a few words; docs/guides/team.md has the details."""
        if self.create_exclusive:
            return "exclusive create"
        return "no exclusive create: names are digests, and each write is read back"

    @property
    def interruption(self) -> str:
        """What becomes of an interrupted upload, in a few words."""
        return f"an interrupted upload {'goes on where it stopped' if self.resumes else 'begins anew'}"


@dataclass(frozen=True, slots=True, order=True)
class Leftover:
    """Something an interrupted write left behind.

    Attributes:
        name: what `remove_leftover` takes.
        size: bytes, 0 where the backend does not say.
        age_seconds: since the last write to it.
    """

    name: str
    size: int
    age_seconds: float


class BlobStore(ABC):
    """Blobs by digest and generation, on one backend.

    Attributes:
        url: of the store, without any secret; `open_store(store.url)` opens it again.
    """

    url: str

    _readings = 1
    """How often a blob is read before it is called damaged."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the backend can do."""

    @abstractmethod
    def put_file(
        self,
        path: Path,
        *,
        expected: FileEntry | None = None,
        generation: int = 0,
        progress: Progress | None = None,
    ) -> Blob:
        """Store the bytes of a file, hashed while they are read.

        Args:
            path: a regular file; a symbolic link is refused.
            expected: size and digest that the file must have.
            generation: the generation to store the blob under.
            progress: called with the number of bytes of each piece that is written.

        Raises:
            DigestMismatchError: the file is not what was expected; nothing was stored.
            UnsafePathError: it is not a regular file.
            MissingFileError: there is no such file.
            OutOfSpaceError: the store is full.
            StoreDeniedError: the file may not be read or the store not be written.
            StoreUnavailableError: the store failed.
        """

    def put_files(self, files: Sequence[Outgoing], *, progress: Progress | None = None) -> None:
        """Store many files; as `put_file` for one after the other, in less time where the backend can.

        All of them are durable once this returns, and those before it may be there when it raises.
        """
        for one in files:
            self.put_file(one.path, expected=one.entry, generation=one.generation, progress=progress)

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

    @abstractmethod
    def local_path(self, digest: Digest, *, generation: int = 0) -> Path | None:
        """Return the path of a blob to read in place, or None if it is not there or the store is not local.

        The file is read-only and not verified by this call.
        """

    @abstractmethod
    def quarantine(self, digest: Digest, *, generation: int = 0) -> str | None:
        """Move a damaged blob to quarantine; return its new name, None if nothing was moved.

        A blob that matches its digest stays: it has been repaired meanwhile.
        """

    @abstractmethod
    def delete(self, digest: Digest, *, generation: int = 0) -> int:
        """Delete a blob and return the bytes freed: 0 if it was gone already, which is success."""

    @abstractmethod
    def blobs(self) -> Iterator[Blob]:
        """List all blobs, in no order; other names are skipped."""

    @abstractmethod
    def strays(self) -> Iterator[str]:
        """List the names in the store's folder that fusery does not write, in no order."""

    @abstractmethod
    def quarantined(self) -> Iterator[Leftover]:
        """List blobs in quarantine."""

    @abstractmethod
    def leftovers(self) -> Iterator[Leftover]:
        """List leftovers of interrupted writes, and the part files of writes in progress."""

    @abstractmethod
    def remove_leftover(self, name: str) -> int:
        """Remove a name from `leftovers` or `quarantined`, and return the bytes freed; raise ValueError for other names."""

    @abstractmethod
    def initialise(self, store_id: str) -> None:
        """Prepare the store for writing and give it its permanent id.

        Raises:
            StoreMismatchError: it has another id already, or a layout this version does not know.
        """

    @abstractmethod
    def read_document(self, name: str) -> bytes | None:
        """Return a document that `write_document` wrote, None if there is none.

        Raises:
            StorageError: it has more than `MAX_DOCUMENT_BYTES`.
        """

    @abstractmethod
    def write_document(self, name: str, data: bytes) -> None:
        """Write a small document, such as `backup.json`, over an earlier one of that name: whole, or not at all."""

    @abstractmethod
    def _read_format(self) -> bytes | None:
        """Return the content of `format.json`, None if there is none."""

    @abstractmethod
    def _pour(self, blob: Blob, sink: Sink) -> None:
        """Pass the bytes of a blob of known size to `sink`, piece by piece; raises AbsentBlobError."""

    def identify(self) -> str | None:
        """Return the store's id, None if it has none yet.

        Raises:
            StoreMismatchError: the store has a layout this version does not know.
        """
        data = self._read_format()
        return None if data is None else parse_format(data, self.url)

    def read_bytes(self, digest: Digest, *, generation: int = 0, limit: int) -> bytes:
        """Return a small blob, verified.

        Raises:
            StorageError: it is larger than `limit` bytes.
            AbsentBlobError: it is not there.
            DigestMismatchError: it is damaged.
        """
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
        progress: Progress | None = None,
    ) -> int:
        """Copy a blob to a file, verified before the file gets its name; return its size.

        An existing file at `destination` is replaced.

        Args:
            digest: which blob.
            destination: the file's name, in a folder that exists.
            generation: the blob's generation.
            size: what it must have, if that is on record: then the store need not be asked.
            progress: called with the number of bytes of each piece that arrives.

        Raises:
            AbsentBlobError: the blob is not there.
            DigestMismatchError: it is damaged; `destination` is as it was.
            OutOfSpaceError: there is no room for it.
        """
        pour = self._pour_verified if size is None else self.pour
        blob = Blob(digest, self._size(digest, generation) if size is None else size, generation)
        with os_failures(f"write {destination}", near=destination), part_beside(destination) as (part, fd):

            def begin() -> None:
                os.ftruncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_SET)

            def keep(piece: bytes | memoryview) -> None:
                write_all(fd, piece)
                if progress:
                    progress(len(piece))

            pour(blob, keep, begin)
            written = os.fstat(fd).st_size
            part.replace(destination)
        return written

    def verify(
        self, digest: Digest, size: int, *, generation: int = 0, progress: Progress | None = None
    ) -> None:
        """Read a blob through and check its size and digest.

        Raises:
            AbsentBlobError: it is not there.
            DigestMismatchError: its size or its bytes differ.
        """

        def read(piece: bytes | memoryview) -> None:
            if progress:
                progress(len(piece))

        self.pour(Blob(digest, size, generation), read, lambda: None)

    def pour(self, blob: Blob, sink: Sink, begin: Callable[[], None]) -> None:
        """Pass a blob's bytes to `sink`, piece by piece in order; they are verified only once this returns.

        Args:
            blob: its digest, the size that it must have, and its generation.
            sink: takes the bytes.
            begin: called before each reading of the blob, since there may be more than one.

        Raises:
            AbsentBlobError: it is not there.
            DigestMismatchError: its size or its bytes differ.
            StoreUnavailableError: the store failed.
        """
        found = self._size(blob.digest, blob.generation)
        if found != blob.size:
            raise self._damage(blob.digest, f"{blob.size} bytes", f"{found} bytes")
        self._pour_verified(blob, sink, begin)

    def _pour_verified(self, blob: Blob, sink: Sink, begin: Callable[[], None]) -> None:
        """Pass a blob's bytes to `sink`, and raise unless they have the digest; `begin` is called before each reading.

        Bytes that went wrong on the way are read again: a blob is damaged when two readings find the same wrong bytes.

        Raises:
            DigestMismatchError: it is damaged.
            StoreUnavailableError: each reading found something else.
        """
        digest, before = blob.digest, None
        for reading in range(self._readings):
            if reading:
                # Somebody may have repaired it meanwhile.
                blob = replace(blob, size=self._size(digest, blob.generation))
            running = hashlib.sha256()

            def take(piece: bytes | memoryview, running: Any = running) -> None:
                running.update(piece)
                sink(piece)

            begin()
            self._pour(blob, take)
            got = running.hexdigest()
            if got == digest:
                return
            if got == before or self._readings == 1:
                raise self._damage(digest, digest, got)
            before = got
        raise StoreUnavailableError(
            f"{self._readings} readings of blob {digest} in {self.url} gave as many different answers",
            hint="check the network between here and the store, then run the command again",
        )

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

    def _require(self, digest: Digest, got: str) -> None:
        if got != digest:
            raise self._damage(digest, digest, got)

    def _damage(self, digest: Digest, expected: str, got: str) -> DigestMismatchError:
        return DigestMismatchError(
            f"blob {digest} in {self.url}",
            digest,
            expected,
            got,
            hint="run: fusery audit, then add its source again",
        )

    def _require_small(self, name: str, size: int) -> None:
        if size > MAX_DOCUMENT_BYTES:
            raise StorageError(f"{name} in {self.url} is too large for what it should be: {size} bytes")

    def _check_identity(self, store_id: str) -> bool:
        found = self.identify()
        if found is not None and found != store_id:
            raise StoreMismatchError(
                f"the store {self.url} belongs to another registry ({found}, not {store_id})",
                hint="check FUSERY_STORE_URL and FUSERY_DATABASE_URL: they must belong together",
            )
        return found is not None
