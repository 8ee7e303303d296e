"""Blobs on their way into the store, sent by somebody over a network: resumable, and complete only with the right digest.

What has arrived of a blob lies in a part file of its sender's, in the store's own folder of part files if it is on this machine.
Intents in the sender's name keep the collector off: off the part file, and off the blob until its record comes
(docs/internals/collection.md).  They belong to no process, so that a server that is started again goes on where it was.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.copying import source_of
from fusery.storage.digest import CHUNK, Digest, digest_bytes
from fusery.storage.errors import BlobCorruptError
from fusery.storage.failures import os_failures
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.publishing import make_folders, write_all
from fusery.storage.room import Need, require_rooms
from fusery.storage.staging import Staged

from .. import tables
from ..database.batches import batches
from ..database.intents import LONGEST, claim, release
from ..errors import BadInputError, UploadBusyError, UploadOffsetError, UploadTooLargeError
from ..records.deposit import Deposit
from ..records.transfer import Arrived

if TYPE_CHECKING:
    from ..workspace import Workspace

HELD = LONGEST
"""Seconds for which bytes that have arrived wait for their records, or for the rest of them."""

_ENDING = ".upload"
_NAME = re.compile(r"(?P<sender>[0-9a-f]{16})\.[0-9a-f]{64}\.upload")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """How much may be on its way.

    Attributes:
        largest: bytes of one blob.
        parts: unfinished blobs of one sender.
        bytes: of all unfinished blobs that there are, of all senders.
    """

    largest: int = 64 << 30
    parts: int = 32
    bytes: int = 256 << 30


USUAL = UploadLimits()


class Uploads:
    """The uploads of one sender.

    Args:
        workspace: the registry that receives, under the sender's name.
        limits: how much may be on its way.
    """

    def __init__(self, workspace: Workspace, limits: UploadLimits) -> None:
        self._workspace, self._limits = workspace, limits
        name = digest_bytes(workspace.actor.encode())
        self.owner = f"upload:{name}"
        self._sender = name[:16]

    def arrived(self, digests: Sequence[Digest]) -> list[Arrived]:
        """Say of blobs how much has arrived, and keep the collector off them from now on."""
        # Nothing is written of what is not here: who sends it claims it then.
        complete = self._claimed(digests, known=True)
        return [Arrived(digest, digest in complete, self._size(digest)) for digest in digests]

    def begin(self, digest: Digest, size: int, offset: int) -> Upload | None:
        """Begin an upload, or go on with one; None where the blob is there already.

        Args:
            digest: that its bytes must have.
            size: of the whole blob.
            offset: where the bytes that come belong; 0 begins anew.

        Raises:
            UploadTooLargeError: it is larger than a blob may be.
            BadInputError: this sender has too many unfinished blobs, or there are too many in all.
            UploadBusyError: the same sender is sending the same blob at this moment.
            UploadOffsetError: another number of bytes has arrived.
            OutOfSpaceError: there is no room for the rest.
        """
        if size > self._limits.largest:
            raise UploadTooLargeError(
                f"a blob may have {self._limits.largest:,} bytes here, and this one has {size:,}",
                hint="ask who runs the server: fusery server --largest-blob BYTES",
            )
        if digest in self._claimed([digest]):
            return None
        folder = self._folder()
        self._make_place(folder, digest, size - offset)
        require_rooms([Need(folder, [size], taken=offset)])
        path = folder / self._name(digest)
        with os_failures(f"write {path}", near=folder):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os_failures(f"write {path}", near=folder):
                _lock(path, fd)
                if offset == 0:
                    os.ftruncate(fd, 0)
                found = os.fstat(fd).st_size
            if found != offset:
                if not found:
                    path.unlink(missing_ok=True)
                raise UploadOffsetError(
                    f"{found:,} bytes of this blob have arrived, and these begin after {offset:,}",
                    hint=f"go on after {found}",
                )
            return Upload(self._workspace, self.owner, path, fd, digest, size)
        except BaseException:
            os.close(fd)
            raise

    def release(self, digests: Sequence[Digest]) -> None:
        """Give up the claims on blobs whose records are made."""
        with self._workspace.database.write() as session:
            release(session, digests, self.owner)

    def _claimed(self, digests: Sequence[Digest], *, known: bool = False) -> set[Digest]:
        """Return those that are in the store; claim all, or with `known` those alone of which there is a record.

        The claim comes before the look, in one transaction: what a collector has marked meanwhile is not there any more.
        """
        blob = tables.Blob
        with self._workspace.database.write() as session:
            if known:
                digests = [
                    Digest(each)
                    for chosen in batches(digests)
                    for each in session.scalars(select(blob.digest).where(blob.digest.in_(chosen)))
                ]
            claim(session, digests, self.owner, HELD)
            rows = session.execute(
                select(blob.digest, blob.generation, blob.size).where(
                    blob.digest.in_(digests), blob.state == "ready"
                )
            ).all()
        store = self._workspace.store
        # A record of a blob may have outlived it: then it is sent again, which mends that.
        return {
            Digest(row.digest)
            for row in rows
            if store.size(Digest(row.digest), generation=row.generation) == row.size
        }

    def _folder(self) -> Path:
        folder = self._workspace.store.staging_folder
        if folder is None:
            folder = self._workspace.settings.cache / "uploads"
            with os_failures(f"write to {folder}", near=folder):
                make_folders(folder)
        return folder

    def _name(self, digest: Digest) -> str:
        return f"{self._sender}.{digest}{_ENDING}"

    def _size(self, digest: Digest) -> int:
        try:
            return (self._folder() / self._name(digest)).lstat().st_size
        except FileNotFoundError:
            return 0

    def _make_place(self, folder: Path, digest: Digest, size: int) -> None:
        """Remove uploads that nobody has gone on with for a day, and the sender's oldest for one too many; else refuse that."""
        mine, total = list[tuple[float, int, Path]](), size
        for path, found in _parts(folder):
            if time.time() - found.st_mtime > HELD:
                path.unlink(missing_ok=True)
                continue
            total += found.st_size
            match = _NAME.fullmatch(path.name)
            if match and match["sender"] == self._sender and path.name != self._name(digest):
                mine.append((found.st_mtime, found.st_size, path))
        count = len(mine)
        for _, bytes_, path in sorted(mine):
            # Whoever is interrupted often is not to shut themselves out.
            if count >= self._limits.parts and _given_up(path):
                count, total = count - 1, total - bytes_
        if count >= self._limits.parts or total > self._limits.bytes:
            raise BadInputError(
                "too many uploads here are not finished",
                hint="finish those, or wait a day for them to expire",
            )


class Upload:
    """A blob that is arriving, from its beginning or from where it was interrupted.

    Whoever has one closes it; what has arrived by then stays, and can be gone on with.
    """

    def __init__(
        self, workspace: Workspace, owner: str, path: Path, fd: int, digest: Digest, size: int
    ) -> None:
        self._workspace, self._owner = workspace, owner
        self._path, self._fd = path, fd
        self._digest, self._size = digest, size
        self._running, self._hashed = hashlib.sha256(), 0
        self._come = os.fstat(fd).st_size
        os.lseek(fd, 0, os.SEEK_END)

    @property
    def missing(self) -> int:
        """Bytes that are still to come."""
        return self._size - self._come

    def write(self, piece: bytes | bytearray) -> None:
        """Take the next bytes.

        Raises:
            BadInputError: there are more than there should be.
            OutOfSpaceError: the disk is full; nothing of the blob stays.
        """
        if len(piece) > self.missing:
            self.discard()
            raise BadInputError("there are more bytes than were announced")
        try:
            with os_failures(f"store blob {self._digest[:12]}", near=self._path):
                self._catch_up()
                write_all(self._fd, piece)
        except BaseException:
            # Half of a blob would keep a full disk full.
            self.discard()
            raise
        self._running.update(piece)
        self._come += len(piece)
        self._hashed = self._come

    def finish(self) -> None:
        """Store the blob, and leave it to the sender's claim until its record comes.

        Raises:
            BlobCorruptError: the bytes have another digest; nothing of them stays.
            OutOfSpaceError, StoreUnavailableError: it could not be stored.
        """
        with os_failures(f"read {self._path}", near=self._path):
            self._catch_up()
        if self._running.hexdigest() != self._digest:
            self.discard()
            raise BlobCorruptError(
                f"the bytes that came are not those of blob {self._digest[:12]}",
                hint="nothing of them was kept",
            )
        stamp = source_of(self._path, self._fd).stamp
        staged = Staged(self._path, self._size, self._digest, stamp)
        deposit = Deposit(self._workspace.database, self._workspace.store, self._workspace.owner())
        manifest = Manifest.of([FileEntry("blob", self._size, self._digest)])
        deposit.put({"blob": staged}, manifest=manifest)
        with deposit.recording() as session:
            deposit.hand_over(session, self._owner, HELD)
        self.discard()

    def discard(self) -> None:
        """Remove what has arrived."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the part file; an empty one goes."""
        if not self._come:
            self.discard()
        os.close(self._fd)

    def _catch_up(self) -> None:
        """Hash what had arrived before, once it is needed."""
        while self._hashed < self._come:
            piece = os.pread(self._fd, min(CHUNK, self._come - self._hashed), self._hashed)
            if not piece:
                break
            self._running.update(piece)
            self._hashed += len(piece)


def _lock(path: Path, fd: int) -> None:
    """Make sure that nobody else writes to a part file: the lock goes with the process that has it.

    Raises:
        UploadBusyError: somebody else does, or has just finished.
    """
    busy = UploadBusyError("this blob is being sent under the same name", hint="run the command again")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise busy from error
        raise
    with suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), os.fstat(fd)):
            return
    raise busy


def _given_up(path: Path) -> bool:
    """Remove a part file that nobody writes to; tell whether that was so."""
    with os_failures(f"remove {path}", near=path.parent):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _parts(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with os_failures(f"look at {folder}", near=folder):
        for path in folder.glob(f"*{_ENDING}"):
            with suppress(FileNotFoundError):
                yield path, path.lstat()
