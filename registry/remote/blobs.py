"""Upload and download blobs: resume interrupted transfers, and verify all bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from fusery.storage.copying import pump, reading
from fusery.storage.digest import CHUNK, Digest
from fusery.storage.errors import BlobCorruptError
from fusery.storage.failures import os_failures
from fusery.storage.manifest import FileEntry, file_entry
from fusery.storage.progress import Reporter, tally
from fusery.storage.publishing import open_locked, write_all

from ..errors import ServerRefusedError, UploadBusyError, UploadOffsetError
from ..records.transfer import Arrived
from .client import RetryBudget, TransientError
from .server import API, LONG, Server

AT_ONCE = 4  # number of concurrent transfers
_BATCH = 500
_BUSY = frozenset({UploadBusyError.code, UploadOffsetError.code})
_HERE = "fusery audit, here"

Progress = Callable[[int], None]
T = TypeVar("T")


def in_parallel(server: Server, transfer: Callable[[T], None], blobs: Iterable[T]) -> None:
    """Transfer blobs concurrently; after an error, cancel the other transfers and close the connections."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="transfer") as pool:
        transfers = [pool.submit(transfer, blob) for blob in blobs]
        try:
            for ended in as_completed(transfers):
                ended.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            server.cancel()
            raise


def send_files(server: Server, files: Mapping[str, Path], reporter: Reporter) -> dict[str, str]:
    """Upload those files of the given paths by name that the server does not have; return the digests by name."""
    entries = {name: file_entry(name, path) for name, path in files.items()}
    paths = {entry.sha256: (entry, files[name]) for name, entry in entries.items()}
    with Server(server.address, server.token) as connection:
        missing = [blob for blob in arrived(connection, list(paths)) if not blob.complete]
        sizes = [paths[Digest(blob.digest)][0].size - blob.bytes for blob in missing]
        progress = tally(reporter.progress, sum(sizes))

        def send(blob: Arrived) -> None:
            entry, path = paths[Digest(blob.digest)]
            upload(connection, entry, path, blob.bytes, progress)

        in_parallel(connection, send, missing)
    return {name: entry.sha256 for name, entry in entries.items()}


def arrived(server: Server, digests: Sequence[Digest]) -> list[Arrived]:
    """Return how much of each blob the server has."""
    answered: list[Arrived] = []
    for start in range(0, len(digests), _BATCH):
        asked = digests[start : start + _BATCH]
        data = server.request("POST", f"{API}/blobs/missing", json.dumps(asked).encode())
        answers: list[Arrived] = server.decoded(list[Arrived], data)
        if sorted(answer.digest for answer in answers) != sorted(asked):
            raise server.strange()
        answered += answers
    return answered


def upload(server: Server, entry: FileEntry, path: Path, offset: int, progress: Progress | None) -> None:
    """Upload a blob, of which the server has `offset` bytes; resume after transient failures, and count resent bytes again."""
    furthest = stored_bytes = min(max(offset, 0), entry.size)
    is_current = True

    def once(budget: RetryBudget) -> None:
        nonlocal furthest, stored_bytes, is_current
        if not is_current:
            [arrived_blob] = arrived(server, [entry.sha256])
            if arrived_blob.complete:
                return
            stored_bytes = min(max(arrived_blob.bytes, 0), entry.size)
            if stored_bytes > furthest:
                furthest = stored_bytes
                budget.progressed()
        is_current = False
        try:
            _send(server, entry, path, stored_bytes, progress)
        except BlobCorruptError as error:
            if not stored_bytes:
                problem = f"cannot upload blob {entry.sha256[:12]}: its bytes do not have the recorded digest"
                raise BlobCorruptError(problem, hint=_HERE) from error
            # The server may have damaged bytes of an earlier upload: start again.
            stored_bytes, is_current = 0, True
            raise TransientError("the bytes of an earlier upload were damaged") from error

    server.retried(once)


def _send(server: Server, entry: FileEntry, path: Path, begin: int, progress: Progress | None) -> None:
    with reading(path) as source:
        if source.size != entry.size:
            problem = f"wrong size of {path}: {source.size:,} bytes, {entry.size:,} are recorded"
            raise BlobCorruptError(problem, hint=_HERE)

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
            response.read()  # so that the connection is used again


def download(
    server: Server, entry: FileEntry, destination: Path, parts: Path, progress: Progress | None
) -> None:
    """Download a blob into the folder `parts`, resume after failures, verify it, and rename it to `destination`."""
    with _part(parts, entry) as (path, fd):
        resumed = furthest = os.fstat(fd).st_size

        def once(budget: RetryBudget) -> None:
            nonlocal furthest, resumed
            try:
                _fetch(server, entry, fd, path, progress)
            finally:
                # A server that begins again each time makes no progress.
                if (size := os.fstat(fd).st_size) > furthest:
                    furthest = size
                    budget.progressed()
            with os_failures(f"read {path}", near=path):
                os.lseek(fd, 0, os.SEEK_SET)
                if pump(fd, None)[0] == entry.sha256:
                    return
                os.ftruncate(fd, 0)
            if resumed:
                resumed = 0
                raise TransientError("the bytes of an earlier download were damaged")
            problem = f"wrong digest of blob {entry.sha256[:12]} from the server"
            raise BlobCorruptError(problem, hint="fusery audit, on the other registry")

        server.retried(once)
        with os_failures(f"write {destination}", near=destination):
            path.rename(destination)


def _fetch(server: Server, entry: FileEntry, fd: int, near: Path, progress: Progress | None) -> None:
    size = os.fstat(fd).st_size
    if size >= entry.size:
        return
    headers = {"Accept": "application/octet-stream"} | ({"Range": f"bytes={size}-"} if size else {})
    with server.stream("GET", f"{API}/blobs/{entry.sha256}", headers=headers) as response:
        server.require_success(response)
        if response.status_code == 200 and size:
            os.ftruncate(fd, 0)
            size = 0
        part = response.headers.get("Content-Range", "")
        if response.status_code == 206 and not part.startswith(f"bytes {size}-"):
            raise ServerRefusedError(f"{server.url} sent a range of the blob that was not requested")
        for piece in response.iter_raw():
            server.require_wanted()
            wanted = piece[: entry.size - size]
            with os_failures(f"store blob {entry.sha256[:12]}", near=near):
                write_all(fd, wanted)
            size += len(wanted)
            if progress:
                progress(len(wanted))
            if len(wanted) < len(piece):
                break
    if size < entry.size:
        raise TransientError("the response ends early")


@contextmanager
def _part(folder: Path, entry: FileEntry) -> Iterator[tuple[Path, int]]:
    """Open the file of an incomplete blob, which a later command can resume; a new one if another process has it."""
    path = folder / f"{entry.sha256}.arriving"
    with os_failures(f"write {path}", near=folder):
        fd, lasting = open_locked(path, os.O_CREAT | os.O_APPEND), True
        if fd is None:
            path, lasting = folder / f"{entry.sha256}.{os.urandom(8).hex()}.arriving", False
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size > entry.size:
            os.ftruncate(fd, 0)
        yield path, fd
    finally:
        os.close(fd)
        if not lasting:
            path.unlink(missing_ok=True)
