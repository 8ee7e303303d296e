"""A server for a registry, as a client sees it: packages of records, and blobs that go up and come down piece by piece.

Both directions go on where they were interrupted, and what has come is verified before it counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fusery.storage.copying import reading
from fusery.storage.digest import CHUNK, Digest, parse_digest
from fusery.storage.errors import BlobCorruptError
from fusery.storage.failures import os_failures
from fusery.storage.manifest import FileEntry
from fusery.storage.publishing import write_all

from ..errors import ServerRefusedError, UploadBusyError, UploadOffsetError
from .http_calls import HttpCalls, PassingError, Patience, RefusedError, parsed
from .planning import Moved
from .uploads import Arrived
from .wire import read_withdrawal

API = "/api/v1"

LONG = 900.0
"""Seconds for which a server may look at what it was sent, or store it."""

_BATCH = 500
_DAMAGED = frozenset({BlobCorruptError.code})
_AGAIN = frozenset({UploadBusyError.code, UploadOffsetError.code})
_HERE = "fusery audit, here"

Progress = Callable[[int], None]


class RegistryServer:
    """What a server is asked.

    Args:
        calls: requests to it.
    """

    def __init__(self, calls: HttpCalls) -> None:
        self._calls = calls
        self.url = calls.address.url

    def package(self, reference: str, *, fused: bool) -> bytes:
        """Return the document of a thing and all that it needs."""
        query = "?fused=true" if fused else ""
        return self._calls.json("GET", f"{API}/packages/{quote(reference, safe='')}{query}", timeout=LONG)

    def write(self, operation: str, **values: object) -> bytes:
        """Have an operation done, `RESOURCE/NAME`, and return the JSON of its record."""
        return self._calls.json("POST", f"{API}/{operation}", json.dumps(values).encode())

    def plan(self, document: bytes) -> tuple[str, list[Moved], list[Arrived]]:
        """Return the server's registry, what would become of a package there, and how much of its bytes has arrived."""
        data = self._calls.json("POST", f"{API}/packages/plan", document, timeout=LONG)
        with self._read():
            told = parsed(data, self.url)
            return (
                _text(told["registry"]),
                [_moved(each) for each in told["items"]],
                [_arrived(each) for each in told["blobs"]],
            )

    def take(self, document: bytes) -> list[Moved]:
        """Have a package recorded, and return what became of it."""
        data = self._calls.json("POST", f"{API}/packages", document, timeout=LONG)
        with self._read():
            return [
                _moved(each).with_withdrawals(tuple(map(read_withdrawal, each["withdrawals"])))
                for each in parsed(data, self.url)["items"]
            ]

    def missing(self, digests: Sequence[Digest]) -> list[Arrived]:
        """Return how much of each blob has arrived."""
        found: list[Arrived] = []
        for start in range(0, len(digests), _BATCH):
            body = json.dumps(digests[start : start + _BATCH]).encode()
            data = self._calls.json("POST", f"{API}/blobs/missing", body)
            with self._read():
                found += [_arrived(each) for each in parsed(data, self.url)]
        return found

    def upload(self, entry: FileEntry, path: Path, arrived: int, progress: Progress | None) -> None:
        """Send a blob, from where the last try has come to.

        Args:
            entry: its size and digest.
            path: a file of its bytes.
            arrived: bytes that are there.
            progress: called with the bytes of each piece that is sent; of those that had to be sent again, more than once.

        Raises:
            BlobCorruptError: the file has other bytes.
        """
        offset: int | None = min(arrived, entry.size)
        resumed = bool(offset)

        def once(patience: Patience) -> None:
            nonlocal offset, resumed
            if offset is None:
                [told] = self.missing([entry.sha256])
                if told.complete:
                    return
                offset = min(told.bytes, entry.size)
                if offset > furthest[0]:
                    furthest[0] = offset
                    patience.progressed()
            begin, offset = offset, None
            resumed = begin > 0
            try:
                self._send(entry, path, begin, progress)
            except RefusedError as error:
                if error.said not in _DAMAGED:
                    raise
                if not resumed:
                    raise BlobCorruptError(
                        f"the bytes of blob {entry.sha256[:12]} did not arrive as they are on record",
                        hint=_HERE,
                    ) from error
                # What had arrived before may be what is wrong: once more, from the beginning.
                offset = 0
                raise PassingError("what had arrived before was damaged") from error

        furthest = [offset or 0]
        self._calls.tried(once)

    def _send(self, entry: FileEntry, path: Path, begin: int, progress: Progress | None) -> None:
        with reading(path) as source:
            if source.size != entry.size:
                raise BlobCorruptError(
                    f"{path} has {source.size:,} bytes, and {entry.size:,} are on record", hint=_HERE
                )

            def pieces() -> Iterator[bytes]:
                place = begin
                while place < entry.size:
                    self._calls.require_wanted()
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
            with self._calls.answer("PUT", place, pieces(), headers, timeout=LONG, again=_AGAIN) as response:
                response.read()

    def download(self, entry: FileEntry, destination: Path, parts: Path, progress: Progress | None) -> None:
        """Fetch a blob, from where the last try has come to, and verify it before it gets its name.

        Args:
            entry: its size and digest.
            destination: the file's name, in a folder that exists, on the disk of `parts`.
            parts: where what has come of a blob lies until it is complete.
            progress: called with the bytes of each piece that comes.

        Raises:
            BlobCorruptError: other bytes come; nothing of them stays.
        """
        part = _Part.open(parts, entry)
        try:

            def once(patience: Patience) -> None:
                before = part.come
                try:
                    self._fetch(entry, part, progress)
                finally:
                    if part.come > before:
                        patience.progressed()
                if part.digest() != entry.sha256:
                    resumed = part.resumed
                    part.begin_anew()
                    if resumed:
                        raise PassingError("what had come before was damaged")
                    raise BlobCorruptError(
                        f"other bytes came than blob {entry.sha256[:12]} has", hint="fusery audit, there"
                    )

            self._calls.tried(once)
            part.publish(destination)
        finally:
            part.close()

    def _fetch(self, entry: FileEntry, part: _Part, progress: Progress | None) -> None:
        if part.come >= entry.size:
            return
        headers = {"Range": f"bytes={part.come}-"} if part.come else {}
        headers["Accept"] = "application/octet-stream"
        with self._calls.answer("GET", f"{API}/blobs/{entry.sha256}", headers=headers) as response:
            if response.status == 200 and part.come:
                part.begin_anew()
            elif response.status == 206 and not response.headers.get("Content-Range", "").startswith(
                f"bytes {part.come}-"
            ):
                raise ServerRefusedError(f"{self.url} sends another part of a blob than was asked for")
            buffers = itertools.cycle([memoryview(bytearray(CHUNK)) for _ in range(2)])
            while part.come < entry.size:
                self._calls.require_wanted()
                buffer = next(buffers)
                count = response.readinto(buffer[: min(CHUNK, entry.size - part.come)])
                if not count:
                    raise PassingError("the answer breaks off")
                part.write(buffer[:count])
                if progress:
                    progress(count)
            # Its end is read too, so that the connection can be used again; one that goes on is hung up.
            response.read(1)

    def _read(self) -> _Reading:
        return _Reading(self.url)


class _Reading:
    """What is read of an answer has the form that it should have."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError):
            raise ServerRefusedError(
                f"{self._url} answers what no server of this version does", hint="is that its address?"
            ) from error


class _Part:
    """What has come of a blob, in a file that outlives the command; one process writes to it at a time."""

    def __init__(self, path: Path, fd: int, *, lasting: bool) -> None:
        self._path, self._fd, self._lasting = path, fd, lasting
        self._running, self._hashing = hashlib.sha256(), ThreadPoolExecutor(1)
        self._hashed: Future[None] | None = None
        self.come, self.resumed = 0, False
        while piece := os.pread(fd, CHUNK, self.come):
            self._running.update(piece)
            self.come += len(piece)
            self.resumed = True
        os.lseek(fd, 0, os.SEEK_END)

    @classmethod
    def open(cls, folder: Path, entry: FileEntry) -> _Part:
        """Return the part file of a blob; one of our own where another process has that."""
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

    def write(self, piece: bytes | memoryview) -> None:
        """Take the next bytes; they may be written over once the next ones but one come."""
        self._wait()
        # Hashed while the next piece comes: that releases the interpreter's lock.
        self._hashed = self._hashing.submit(self._running.update, piece)
        with os_failures(f"write {self._path}", near=self._path):
            write_all(self._fd, piece)
        self.come += len(piece)

    def digest(self) -> str:
        """Return the digest of all that has come."""
        self._wait()
        return self._running.hexdigest()

    def begin_anew(self) -> None:
        """Forget what has come."""
        self._wait()
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._running, self.come, self.resumed = hashlib.sha256(), 0, False

    def _wait(self) -> None:
        if self._hashed is not None:
            self._hashed.result()
            self._hashed = None

    def publish(self, destination: Path) -> None:
        """Give it its name."""
        with os_failures(f"write {destination}", near=destination):
            self._path.rename(destination)
        self._lasting = True

    def close(self) -> None:
        """Let go of it; what has come of it stays."""
        self._hashing.shutdown()
        os.close(self._fd)
        if not self._lasting:
            with suppress(OSError):
                self._path.unlink()


def _moved(told: Any) -> Moved:
    kind, state, size, reason = told["kind"], told["state"], told["bytes"], told["reason"]
    if kind not in ("base", "calibration", "adapter", "fused"):
        raise ValueError("no kind")
    if state not in ("copied", "completed", "present", "left out"):
        raise ValueError("no state")
    if reason is not None:
        _text(reason)
    return Moved(
        kind, _text(told["name"]), _text(told["there"]), _text(told["digest"]), state, _size(size), reason
    )


def _arrived(told: Any) -> Arrived:
    digest, complete = parse_digest(_text(told["digest"])), told["complete"]
    if not isinstance(complete, bool):
        raise TypeError("no truth")
    return Arrived(digest, complete, _size(told["bytes"]))


def _size(told: Any) -> int:
    if not isinstance(told, int) or isinstance(told, bool) or told < 0:
        raise TypeError("no size")
    return told


def _text(told: Any) -> str:
    if not isinstance(told, str):
        raise TypeError("no text")
    return told
