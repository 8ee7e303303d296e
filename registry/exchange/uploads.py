"""Uploads of blobs to a server: resumable, and complete only with the right digest.

Received bytes are in a part file of the sender, in the store's folder of part files if the store is on this machine.  Intents in
the sender's name keep the collector from the blob until its record is made (docs/internals/collection.md).  They belong to no
process, so that uploads can be resumed after a restart of the server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from fusery.storage.copying import Staged, pump, source_of
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import BlobCorruptError
from fusery.storage.failures import os_failures
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.publishing import make_folders, open_locked, write_all
from fusery.storage.transfer import Need, require_rooms

from .. import tables
from ..database.engine import batches
from ..database.leases import LONGEST, claim, release
from ..errors import BadInputError, UploadBusyError, UploadOffsetError, UploadTooLargeError
from ..records.deposit import Deposit
from ..records.transfer import Arrived
from ..workspace.workspace import Workspace

HELD = LONGEST  # seconds for which received bytes are kept without their records
_ENDING = ".upload"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """Limits of uploads: bytes of a blob, unfinished blobs of a sender, and the bytes of all unfinished ones."""

    largest: int = 64 << 30
    parts: int = 32
    bytes: int = 256 << 30


USUAL = UploadLimits()


class Uploads:
    """The uploads of one sender."""

    def __init__(self, workspace: Workspace, limits: UploadLimits) -> None:
        self.workspace, self._limits = workspace, limits
        name = digest_bytes(workspace.actor.encode())
        self.owner = f"upload:{name}"
        self._sender = name[:16]

    def arrived(self, digests: Sequence[Digest]) -> list[Arrived]:
        """Return how much of each blob has arrived, and keep the collector from them."""
        # Nothing is written about unknown blobs: their upload claims them.
        complete = self._claimed(digests, recorded_only=True)
        return [Arrived(digest, digest in complete, self._size(digest)) for digest in digests]

    def begin(self, digest: Digest, size: int, offset: int) -> Upload | None:
        """Begin or resume an upload; return None if the store has the blob."""
        if size > self._limits.largest:
            problem = f"blob too large: {size:,} bytes (at most {self._limits.largest:,})"
            hint = "split the weights into several files"
            raise UploadTooLargeError(problem, hint=hint)
        if self._claimed([digest]):
            return None
        try:
            folder = self._folder
            self._make_room(folder, digest, size - offset)
            require_rooms([Need(folder, [size], taken=offset)])
            path = folder / self._name(digest)
            with os_failures(f"write {path}", near=folder):
                fd = open_locked(path, os.O_CREAT)
            if fd is None:
                problem = "this blob is being sent under the same name"
                raise UploadBusyError(problem, hint="run the command again")
            return Upload(self, path, fd, digest, size, offset)
        except BaseException:
            # Claims on blobs that are never sent would fill the database.
            if not self._size(digest):
                self.release([digest])
            raise

    def release(self, digests: Sequence[Digest]) -> None:
        """Release the claims on blobs whose records are made."""
        with self.workspace.database.write() as session:
            release(session, digests, self.owner)

    def _claimed(self, digests: Sequence[Digest], *, recorded_only: bool = False) -> set[Digest]:
        """Claim blobs, or only recorded ones; return those that are in the store."""
        blob, store = tables.BlobRow, self.workspace.store
        with self.workspace.database.write() as session:
            if recorded_only:
                queries = (select(blob.digest).where(blob.digest.in_(chosen)) for chosen in batches(digests))
                digests = [Digest(digest) for query in queries for digest in session.scalars(query)]
            claim(session, digests, self.owner, HELD)
            columns = select(blob.digest, blob.generation, blob.size)
            rows = session.execute(columns.where(blob.digest.in_(digests), blob.state == "ready")).all()
        # A recorded blob may be missing in the store: sending it again repairs that.
        sizes = {row: store.size(Digest(row.digest), generation=row.generation) for row in rows}
        complete = {Digest(row.digest) for row, size in sizes.items() if row.size == size}
        for digest in complete:  # a server that stored an upload may have been killed before it removed it
            _remove_upload(self._folder / self._name(digest))
        return complete

    @property
    def _folder(self) -> Path:
        folder = self.workspace.store.staging_folder
        if folder is None:
            folder = self.workspace.settings.cache / "uploads"
            with os_failures(f"write to {folder}", near=folder):
                make_folders(folder)
        return folder

    def _name(self, digest: Digest) -> str:
        return f"{self._sender}.{digest}{_ENDING}"

    def _size(self, digest: Digest) -> int:
        try:
            return (self._folder / self._name(digest)).lstat().st_size
        except FileNotFoundError:
            return 0

    def _make_room(self, folder: Path, digest: Digest, size: int) -> None:
        """Remove uploads that were not resumed for a day, and the sender's oldest ones above the limit; else refuse."""
        mine, total = list[tuple[float, int, Path]](), size
        for path in folder.glob(f"*{_ENDING}"):
            with os_failures(f"look at {path}", near=folder), suppress(FileNotFoundError):
                stats = path.lstat()
                if time.time() - stats.st_mtime > HELD:
                    path.unlink(missing_ok=True)
                    continue
                total += stats.st_size
                if path.name.startswith(f"{self._sender}.") and path.name != self._name(digest):
                    mine.append((stats.st_mtime, stats.st_size, path))
        count = len(mine)
        for _, bytes_, path in sorted(mine):
            if count < self._limits.parts:
                break
            # A sender that is interrupted often must not lock itself out.
            if not _remove_upload(path):
                continue
            count, total = count - 1, total - bytes_
            self.release([Digest(path.name.split(".")[1])])
        if count >= self._limits.parts or total > self._limits.bytes:
            raise BadInputError("too many unfinished uploads", hint="finish them, or wait a day")


def _remove_upload(path: Path) -> bool:
    """Remove an upload; return False if it is being sent."""
    with os_failures(f"remove {path}", near=path), suppress(FileNotFoundError):
        if (fd := open_locked(path)) is None:
            return False
        path.unlink(missing_ok=True)
        os.close(fd)
    return True


class Upload:
    """A new or resumed upload; the caller closes it, and can resume it later."""

    def __init__(self, sender: Uploads, path: Path, fd: int, digest: Digest, size: int, offset: int) -> None:
        """Take the locked part file, which must have `offset` bytes; offset 0 begins again."""
        self._sender, self._path, self._fd = sender, path, fd
        self._digest, self._size = digest, size
        self._stored, self.has_claim = False, True
        if offset == 0:
            os.ftruncate(fd, 0)
        self._come = os.lseek(fd, 0, os.SEEK_END)
        if self._come != offset:
            self.close()
            problem = f"wrong offset of the upload: {offset:,} (expected {self._come:,})"
            raise UploadOffsetError(problem, hint=f"resume at offset {self._come}")

    @property
    def missing(self) -> int:
        """Number of bytes that have not arrived."""
        return self._size - self._come

    def write(self, piece: bytes | bytearray) -> None:
        """Append bytes."""
        try:
            if len(piece) > self.missing:
                raise BadInputError("the upload has more bytes than announced")
            with os_failures(f"store blob {self._digest[:12]}", near=self._path):
                write_all(self._fd, piece)
        except BaseException:
            # A partial blob would keep a full disk full.
            self.discard()
            raise
        self._come += len(piece)

    def finish(self) -> None:
        """Store the blob; the sender's claim keeps it until its record is made."""
        with os_failures(f"read {self._path}", near=self._path):
            os.lseek(self._fd, 0, os.SEEK_SET)
            digest, _ = pump(self._fd, None)
        if digest != self._digest:
            self.discard()
            problem = f"wrong digest of the uploaded blob {self._digest[:12]}"
            raise BlobCorruptError(problem, hint="upload it again from offset 0")
        staged = Staged(self._path, self._size, self._digest, source_of(self._path, self._fd).stamp)
        workspace = self._sender.workspace
        deposit = Deposit(workspace.database, workspace.store, workspace.owner())
        manifest = Manifest.of([FileEntry("blob", self._size, self._digest)])
        deposit.put({"blob": staged}, manifest=manifest)
        with deposit.recording() as session:
            deposit.hand_over(session, self._sender.owner, HELD)
        self._stored = True
        self.discard()

    def discard(self) -> None:
        """Remove the part file."""
        self._path.unlink(missing_ok=True)
        self.has_claim = self._stored

    def release(self) -> None:
        """Release the claim on a blob that has not arrived: claims on blobs that are never sent would fill the database."""
        self._sender.release([self._digest])

    def close(self) -> None:
        """Close the part file; remove an empty one."""
        if not self._come:
            self.discard()
        os.close(self._fd)
