"""Blobs in a folder on this machine, by a protocol that fsspec's local file system does not have.

A part file in the store's own `tmp/`, hashed while it is written; fsync; read-only; a link to the final name, which is
atomic and refuses a name that is taken; fsync of the folders.  A crash at any step leaves nothing or a part file.
"""

from __future__ import annotations

import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from . import layout, publishing
from .copying import Progress, Staged, pump, reading
from .digest import CHUNK, Digest, digest_bytes
from .errors import MissingFileError, StoreUnavailableError, UnsafePathError
from .failures import AbsentBlobError, opened, os_failures
from .interface import NOT_A_FILE, Blob, BlobStore, Leftover
from .manifest import FileEntry, require_expected, require_size

ATTEMPTS = 5
"""How often a write starts again because somebody else changed the same name meanwhile."""


class LocalStore(BlobStore):
    """A store in a folder; the folder is made by the first write."""

    is_local = True

    def __init__(self, root: Path) -> None:
        """Open the store in `root`, which need not exist yet; nothing is written."""
        self.root = root.expanduser().resolve()
        self.url = self.root.as_uri()

    def put_file(
        self, path: Path, *, expected: FileEntry | None = None, generation: int = 0, progress: Progress = None
    ) -> Blob:
        """Store the bytes of a file; see `BlobStore.put_file`."""
        with reading(path) as source, os_failures(f"store {path} in {self.root}", near=self.root):
            require_size(path, expected, source.size)
            if expected is not None and self.size(expected.sha256, generation=generation) is not None:
                digest, size = pump(source.fd, None)
                require_expected(path, expected, digest, size)
                existing_blob = Blob(digest, size, generation)
                if self._holds(existing_blob):
                    self._sync_name(existing_blob)
                    return existing_blob
                os.lseek(source.fd, 0, os.SEEK_SET)
            with self._part() as (part, fd):
                digest, size = pump(source.fd, fd, progress=progress)
                source.require_unchanged()
                require_expected(path, expected, digest, size)
                blob = Blob(digest, size, generation)
                self._publish(part, fd, blob)
        return blob

    @property
    def staging_folder(self) -> Path:
        """The folder of part files: a copy there gets its blob's name by a link."""
        with os_failures(f"write to {self.root}", near=self.root):
            publishing.make_folders(self.root / layout.TMP)
        return self.root / layout.TMP

    def put_staged(self, staged: Staged, *, generation: int = 0) -> Blob:
        """Store a private copy; see `BlobStore.put_staged`.  One in `staging_folder` is not read again."""
        if staged.path.parent != self.root / layout.TMP:
            return super().put_staged(staged, generation=generation)
        blob = Blob(staged.sha256, staged.size, generation)
        with os_failures(f"store a copy in {self.root}", near=self.root):
            if self._holds(blob):
                self._sync_name(blob)
            else:
                with staged.opened() as fd:
                    self._publish(staged.path, fd, blob)
        return blob

    def put_bytes(self, data: bytes, *, generation: int = 0) -> Blob:
        """Store bytes that are in memory; see `BlobStore.put_bytes`."""
        blob = Blob(digest_bytes(data), len(data), generation)
        return self._put_new(blob, lambda fd: publishing.write_all(fd, data))

    def put_poured(
        self, origin: BlobStore, blob: Blob, *, generation: int = 0, progress: Progress = None
    ) -> Blob:
        """Store a blob of `origin`, another store, which writes it straight to the temporary file."""
        stored = replace(blob, generation=generation)
        return self._put_new(stored, lambda fd: origin.pour_into(blob, fd, progress))

    def _put_new(self, blob: Blob, write: Callable[[int], object]) -> Blob:
        with os_failures(f"store blob {blob.digest} in {self.root}", near=self.root):
            if self._holds(blob):
                self._sync_name(blob)
            else:
                with self._part() as (part, fd):
                    write(fd)
                    self._publish(part, fd, blob)
        return blob

    def pour_into(self, blob: Blob, fd: int, progress: Progress = None) -> None:
        """Overwrite an open file with a blob, as a reflink if possible; see `BlobStore.pour_into`."""
        with self._reading(blob.digest, blob.generation) as source:
            if (size := os.fstat(source).st_size) != blob.size:
                raise self._damage(blob.digest, f"{blob.size} bytes", f"{size} bytes")
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            got, _ = pump(source, fd, progress=progress)
            if got != blob.digest:
                raise self._damage(blob.digest, blob.digest, got)

    def size(self, digest: Digest, *, generation: int = 0) -> int | None:
        """Return a blob's size in bytes, or None; see `BlobStore.size`."""
        lstat = self._lstat(self._path(digest, generation))
        return None if lstat is None else lstat.st_size

    def local_path(self, digest: Digest, *, generation: int = 0) -> Path | None:
        """Return the path of a blob to read in place; see `BlobStore.local_path`."""
        path = self._path(digest, generation)
        lstat = self._lstat(path)
        return path if lstat is not None and stat.S_ISREG(lstat.st_mode) else None

    def _lstat(self, path: Path) -> os.stat_result | None:
        with os_failures(f"read {path}", near=path):
            try:
                return path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def initialise(self, store_id: str) -> None:
        """Make the folder and give the store its id; see `BlobStore.initialise`."""
        document = layout.format_document(store_id)
        with os_failures(f"write to {self.root}", near=self.root):
            for folder in (layout.BLOBS, layout.TMP, layout.QUARANTINE):
                publishing.make_folders(self.root / folder)
            if self._check_identity(store_id):
                return
            with self._part() as (part, fd):
                publishing.write_all(fd, document)
                publishing.open_as_folder(fd, 0o644, self.root)
                publishing.sync_file(fd)
                try:
                    publishing.link_exclusive(part, self.root / layout.FORMAT_NAME)
                except FileExistsError:
                    self._check_identity(store_id)
                publishing.sync_folder(self.root)

    def write_document(self, name: str, data: bytes) -> None:
        """Write a document beside the blobs; see `BlobStore.write_document`."""
        self._require_small(name, len(data))
        path = self.root / layout.document_name(name)
        with os_failures(f"write {path}", near=self.root), self._part() as (part, fd):
            publishing.write_all(fd, data)
            publishing.open_as_folder(fd, 0o644, self.root)
            publishing.sync_file(fd)
            part.replace(path)
            publishing.sync_folder(self.root)

    def _read_small(self, name: str, limit: int) -> bytes | None:
        path = self.root / name
        if self._lstat(path) is None:
            return None
        with opened(path) as file:
            return file.read(limit)

    def span(self, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        """Yield a part of a blob; see `BlobStore.span`."""
        with (
            self._reading(blob.digest, blob.generation) as source,
            os_failures(f"read {self.root}", near=self.root),
        ):
            while start < stop:
                piece = os.pread(source, min(CHUNK, stop - start), start)
                if not piece:
                    problem = f"blob {blob.digest} in {self.url} ends before its {blob.size} bytes"
                    raise StoreUnavailableError(problem, hint="fusery audit")
                start += len(piece)
                yield piece

    @contextmanager
    def _reading(self, digest: Digest, generation: int) -> Iterator[int]:
        with ExitStack() as held:
            try:
                source = held.enter_context(reading(self._path(digest, generation)))
            except MissingFileError as error:
                raise AbsentBlobError(digest, generation, self.url) from error
            except UnsafePathError as error:
                raise self._damage(digest, "a regular file", "something else") from error
            yield source.fd

    def _path(self, digest: Digest, generation: int) -> Path:
        return self.root / layout.blob_name(digest, generation)

    @contextmanager
    def _part(self) -> Iterator[tuple[Path, int]]:
        publishing.make_folders(self.root / layout.TMP)
        with publishing.new_part(self.root / layout.TMP / f"{uuid.uuid4().hex}.part", 0o600) as part:
            yield part

    def _publish(self, part: Path, fd: int, blob: Blob) -> None:
        """Give a complete part file its blob's name, durably."""
        final = self._path(blob.digest, blob.generation)
        publishing.make_folders(final.parent)
        publishing.open_as_folder(fd, 0o444, final.parent)
        publishing.sync_file(fd)
        for _ in range(ATTEMPTS):
            try:
                publishing.link_exclusive(part, final)
                break
            except FileExistsError:
                if self._holds(blob) or self._replace(part, final, blob):
                    break
            except FileNotFoundError as error:
                raise StoreUnavailableError(f"{part} was removed", hint="run the command again") from error
        else:
            raise StoreUnavailableError(f"{final} keeps changing", hint="run the command again")
        self._sync_name(blob)

    def _sync_name(self, blob: Blob) -> None:
        # Also for a blob that was there: the process that linked it may not have come to this line yet.
        folder = self._path(blob.digest, blob.generation).parent
        publishing.sync_folder(folder)
        publishing.sync_folder(folder.parent)

    def _replace(self, part: Path, final: Path, blob: Blob) -> bool:
        """Put a good part file over a damaged blob, which stays in quarantine; the name is never free between."""
        publishing.make_folders(self.root / layout.QUARANTINE)
        try:
            kept = self.root / layout.quarantine_name(blob.digest, blob.generation)
            os.link(final, kept, follow_symlinks=False)
            part.replace(final)
        except OSError:
            # A folder or a file system without links: move it away, and try again with the name free.
            self.quarantine(blob.digest, generation=blob.generation)
            return False
        return True

    def _move(self, name: str, target: str) -> bool:
        with os_failures(f"move a damaged blob in {self.root}", near=self.root):
            publishing.make_folders((self.root / target).parent)
            try:
                (self.root / name).rename(self.root / target)
            except FileNotFoundError:
                return False
        return True

    def _remove(self, name: str) -> int:
        path = self.root / name
        with os_failures(f"delete {path}", near=path):
            try:
                size = path.lstat().st_size
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return 0
        return size

    def _entries(self, folder: str) -> Iterator[Leftover]:
        waiting = [self.root / folder]
        while waiting:
            place = waiting.pop()
            with os_failures(f"list {place}", near=place):
                try:
                    entries = list(os.scandir(place))
                except (FileNotFoundError, NotADirectoryError):
                    continue
            for entry in entries:
                name = Path(entry.path).relative_to(self.root).as_posix()
                try:
                    file_status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if not stat.S_ISDIR(file_status.st_mode):
                    size = file_status.st_size if stat.S_ISREG(file_status.st_mode) else NOT_A_FILE
                    age = max(0.0, time.time() - max(file_status.st_mtime, file_status.st_ctime))
                    yield Leftover(name, size, age)
                elif folder not in (layout.TMP, layout.QUARANTINE):
                    waiting.append(Path(entry.path))
