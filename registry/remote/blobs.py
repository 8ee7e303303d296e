"""Upload and download blobs: resume interrupted transfers, and verify all bytes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from fusery.storage.copying import reading
from fusery.storage.digest import CHUNK, Digest
from fusery.storage.errors import BlobCorruptError
from fusery.storage.failures import os_failures
from fusery.storage.manifest import FileEntry, file_entry
from fusery.storage.progress import Reporter, tally
from fusery.storage.publishing import write_all

from ..errors import ServerRefusedError, UploadBusyError, UploadOffsetError
from ..records.transfer import Arrived
from .client import RetryBudget, TransientError
from .server import API, LONG, Server

AT_ONCE = 4
"""The number of concurrent transfers."""

_BATCH = 500
_BUSY = frozenset({UploadBusyError.code, UploadOffsetError.code})
_HERE = "fusery audit, here"

Progress = Callable[[int], None]
T = TypeVar("T")


def in_parallel(server: Server, transfer: Callable[[T], None], blobs: Iterable[T]) -> None:
    """Transfer blobs concurrently; after an error, cancel the other transfers and close the connections."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="transfer") as pool:
        try:
            for _ in pool.map(transfer, blobs):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            server.cancel()
            raise


def send_files(server: Server, files: Mapping[str, Path], reporter: Reporter) -> dict[str, str]:
    """Upload the files that the server does not have; return the digests of all files by name.

    Args:
        server: the destination.
        files: the paths by name.
        reporter: receives the bytes sent and the total.
    """
    entries = {name: file_entry(name, path) for name, path in files.items()}
    paths = {entry.sha256: (entry, files[name]) for name, entry in entries.items()}
    with Server(server.address, server.token) as connection:
        missing = [each for each in arrived(connection, list(paths)) if not each.complete]
        sizes = [paths[Digest(each.digest)][0].size - each.bytes for each in missing]
        progress = tally(reporter.progress, sum(sizes))

        def send(blob: Arrived) -> None:
            entry, path = paths[Digest(blob.digest)]
            upload(connection, entry, path, blob.bytes, progress)

        in_parallel(connection, send, missing)
    return {name: entry.sha256 for name, entry in entries.items()}


def arrived(server: Server, digests: Sequence[Digest]) -> list[Arrived]:
    """Return how much of each blob the server has."""
    found: list[Arrived] = []
    for start in range(0, len(digests), _BATCH):
        body = json.dumps(digests[start : start + _BATCH]).encode()
        data = server.request("POST", f"{API}/blobs/missing", body)
        found += server.decoded(list[Arrived], data)
    return found


def upload(server: Server, entry: FileEntry, path: Path, offset: int, progress: Progress | None) -> None:
    """Upload a blob, and resume after transient failures.

    Args:
        server: the destination.
        entry: the blob's size and digest.
        path: the file with its bytes.
        offset: how many bytes the server has.
        progress: called with the size of each chunk; chunks that are sent again count again.

    Raises:
        BlobCorruptError: the file's bytes do not have the digest.
    """
    furthest = known = min(max(offset, 0), entry.size)
    is_known = True

    def once(budget: RetryBudget) -> None:
        nonlocal furthest, known, is_known
        if not is_known:
            [there] = arrived(server, [entry.sha256])
            if there.complete:
                return
            known = min(max(there.bytes, 0), entry.size)
            if known > furthest:
                furthest = known
                budget.progressed()
        is_known = False
        try:
            _send(server, entry, path, known, progress)
        except BlobCorruptError as error:
            if not known:
                raise BlobCorruptError(
                    f"cannot upload blob {entry.sha256[:12]}: its bytes do not have the recorded digest",
                    hint=_HERE,
                ) from error
            # The server may have damaged bytes of an earlier upload: start again.
            known, is_known = 0, True
            raise TransientError("the bytes of an earlier upload were damaged") from error

    server.retried(once)


def _send(server: Server, entry: FileEntry, path: Path, begin: int, progress: Progress | None) -> None:
    with reading(path) as source:
        if source.size != entry.size:
            raise BlobCorruptError(
                f"wrong size of {path}: {source.size:,} bytes, {entry.size:,} are recorded", hint=_HERE
            )

        def pieces() -> Iterator[bytes]:
            place = begin
            while place < entry.size:
                server.require_wanted()
                with os_failures(f"read {path}", near=path):
                    piece = os.pread(source.fd, CHUNK, place)
                if not piece:
                    source.require_unchanged()
                    return
                place += len(piece)
                yield piece
                if progress:
                    progress(len(piece))

        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(entry.size - begin),
            "Upload-Offset": str(begin),
            "Upload-Length": str(entry.size),
        }
        place = f"{API}/blobs/{entry.sha256}"
        with server.stream("PUT", place, pieces(), headers=headers, timeout=LONG) as response:
            server.require_success(response, _BUSY)


def download(
    server: Server, entry: FileEntry, destination: Path, parts: Path, progress: Progress | None
) -> None:
    """Download a blob, resume after failures, and verify it before it is renamed to `destination`.

    Args:
        server: the source.
        entry: the blob's size and digest.
        destination: the file, in an existing folder on the same file system as `parts`.
        parts: the folder of incomplete blobs.
        progress: called with the size of each chunk.

    Raises:
        BlobCorruptError: the server sent bytes with another digest; they are removed.
    """
    part = _Part.open(parts, entry)
    try:

        def once(budget: RetryBudget) -> None:
            before = part.size
            try:
                _fetch(server, entry, part, progress)
            finally:
                if part.size > before:
                    budget.progressed()
            if part.digest() != entry.sha256:
                resumed = part.resumed
                part.clear()
                if resumed:
                    raise TransientError("the bytes of an earlier download were damaged")
                raise BlobCorruptError(
                    f"wrong digest of blob {entry.sha256[:12]} from the server", hint="fusery audit, there"
                )

        server.retried(once)
        part.publish(destination)
    finally:
        part.close()


def _fetch(server: Server, entry: FileEntry, part: _Part, progress: Progress | None) -> None:
    if part.size >= entry.size:
        return
    headers = {"Accept": "application/octet-stream"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
    with server.stream("GET", f"{API}/blobs/{entry.sha256}", headers=headers) as response:
        server.require_success(response)
        if response.status_code == 200 and part.size:
            part.clear()
        begin = f"bytes {part.size}-"
        if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(begin):
            raise ServerRefusedError(f"{server.url} sent a range of the blob that was not requested")
        for piece in response.iter_raw():
            server.require_wanted()
            wanted = piece[: entry.size - part.size]
            part.write(wanted)
            if progress:
                progress(len(wanted))
            if len(wanted) < len(piece):
                break
    if part.size < entry.size:
        raise TransientError("the response ends early")


class _Part:
    """An incomplete blob in a file that a later command can resume; only one process writes to it."""

    def __init__(self, path: Path, fd: int, *, lasting: bool) -> None:
        self._path, self._fd, self._lasting = path, fd, lasting
        self._running, self._hashing = hashlib.sha256(), ThreadPoolExecutor(1)
        self._hashed: Future[None] | None = None
        self._pieces: list[bytes] = []
        self.size, self.resumed = 0, False
        while piece := os.pread(fd, CHUNK, self.size):
            self._running.update(piece)
            self.size += len(piece)
            self.resumed = True
        self._hashed_size = self.size
        os.lseek(fd, 0, os.SEEK_END)

    @classmethod
    def open(cls, folder: Path, entry: FileEntry) -> _Part:
        """Open the file of an incomplete blob, or a new one while another process has it locked."""
        path = folder / f"{entry.sha256}.arriving"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os_failures(f"write {path}", near=folder):
            fd = os.open(path, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = os.path.samestat(path.lstat(), os.fstat(fd))
            except (BlockingIOError, FileNotFoundError):
                is_ours = False
            if is_ours:
                if os.fstat(fd).st_size > entry.size:
                    os.ftruncate(fd, 0)
                return cls(path, fd, lasting=True)
            os.close(fd)
            path = folder / f"{entry.sha256}.{os.urandom(8).hex()}.arriving"
            return cls(path, os.open(path, flags | os.O_EXCL, 0o600), lasting=False)

    def write(self, piece: bytes) -> None:
        """Append bytes."""
        with os_failures(f"write {self._path}", near=self._path):
            write_all(self._fd, piece)
        self._pieces.append(piece)
        self.size += len(piece)
        if self.size - self._hashed_size >= CHUNK:
            self._hash()

    def _hash(self) -> None:
        """Hash the written chunks in a thread, while the next ones arrive: hashing releases the GIL."""
        self._wait()
        data, self._pieces, self._hashed_size = b"".join(self._pieces), [], self.size
        self._hashed = self._hashing.submit(self._running.update, data)

    def _wait(self) -> None:
        if self._hashed is not None:
            self._hashed.result()
            self._hashed = None

    def digest(self) -> str:
        """Return the digest of all bytes."""
        self._hash()
        self._wait()
        return self._running.hexdigest()

    def clear(self) -> None:
        """Remove all bytes."""
        self._wait()
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._running, self._pieces = hashlib.sha256(), []
        self.size, self._hashed_size, self.resumed = 0, 0, False

    def publish(self, destination: Path) -> None:
        """Rename the complete blob to its destination."""
        with os_failures(f"write {destination}", near=destination):
            self._path.rename(destination)
        self._lasting = True

    def close(self) -> None:
        """Close the file; keep an incomplete blob for the next command."""
        self._hashing.shutdown()
        os.close(self._fd)
        if not self._lasting:
            with suppress(OSError):
                self._path.unlink()
