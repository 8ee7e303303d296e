"""A folder on a server that speaks SFTP: written by a part file, fsync and an exclusive link, with asyncssh's calls."""

from __future__ import annotations

import asyncio
import posixpath
import stat
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from .copying import Progress
from .interface import Leftover
from .layout import TMP
from .objects import Objects
from .remote_calls import FailureKind, NoPlaceError, RemoteCalls, RemoteError, age

_PIECE = 256 << 10
"""Bytes of one request of SFTP, of which asyncssh keeps many under way."""


_DEEPEST = 12
"""Folders within folders that a listing goes down to: more than a store has, or the files of a bundle."""


def file_system(host: str, **options: Any) -> Any:
    """Return sshfs's file system, but connecting when it is used, and again when the connection is lost."""
    from sshfs.spec import SSHFileSystem

    class Lazy(SSHFileSystem):  # type: ignore[misc]
        protocol = "sftp"
        cachable = False
        objects_class = SftpObjects

        def connect(self, host: str, pool_type: Any, **arguments: Any) -> tuple[None, _Pool]:
            arguments.pop("timeout", None)
            return None, _Pool(lambda: self._try(host, pool_type, arguments))

        async def _try(self, host: str, pool_type: Any, arguments: Mapping[str, Any]) -> Any:
            try:
                return await self._connect(host, pool_type, **arguments)
            except (TypeError, FileNotFoundError) as error:
                # An option that asyncssh does not have, or a file of keys that is not here: not a file on the server.
                raise ValueError("asyncssh refuses the options") from error

    # Empty means the user's own known_hosts file; None, sshfs's default, would mean any key of any host.
    return Lazy(host, **{"known_hosts": (), **options})


class _Pool:
    """Channels of a connection that is made when the first is asked for."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._lock = asyncio.Lock()
        self._live: tuple[Any, Any] | None = None

    @asynccontextmanager
    async def get(self) -> AsyncIterator[Any]:
        from asyncssh.misc import ConnectionLost, DisconnectError
        from asyncssh.sftp import SFTPConnectionLost, SFTPNoConnection

        async with self._lock:
            if self._live is None:
                self._live = await self._connect()
            live = self._live
        try:
            async with live[1].get() as channel:
                yield channel
        except (ConnectionLost, DisconnectError, SFTPConnectionLost, SFTPNoConnection, ConnectionError):
            if self._live is live:
                self._live = None
            raise

    async def close(self) -> None:
        if self._live is not None:
            client, pool = self._live
            await pool.close()
            client.close()


class SftpObjects(Objects):
    """Files below a folder of an SFTP server."""

    in_parts = True

    def __init__(self, prefix: str, calls: RemoteCalls) -> None:
        """Look below a folder; its path on the server begins with a slash."""
        super().__init__("/" + prefix.lstrip("/"), calls)
        self._folders: set[str] = set()

    def size(self, name: str) -> int | None:
        """Return a file's size, None if it is not there or not a regular file."""
        try:
            file_size: int | None = self.calls.run(_size, self.key(name))
        except RemoteError:
            return None
        return file_size

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return a range."""
        return bytes(self.calls.run(_get, self.key(name), start, end, self.calls.mark()))

    def write(self, name: str, data: bytes, *, exclusive: bool) -> bool:
        """Write a file: part file, fsync, name."""
        try:
            return self.upload(name, iter([data]), len(data), exclusive=exclusive, progress=None)
        except RemoteError as error:
            raise NoPlaceError(self.calls.where, "folder") from error

    def upload(
        self, name: str, parts: Iterable[bytes], size: int, *, exclusive: bool, progress: Progress
    ) -> bool:
        """Write a part file in `tmp/`, and give it its name when it is whole."""
        part = self.key(f"{TMP}/{uuid.uuid4().hex}.part")
        final = self.key(name)
        self._make_folders(part)
        self._make_folders(final)
        try:
            return self.is_free(lambda: self._written(part, final, parts, exclusive, progress))
        except RemoteError:
            # The part file was swept, or a folder: all are looked for again.
            self._folders.clear()
            raise

    def move(self, name: str, target: str) -> None:
        """Rename a file."""
        self._make_folders(self.key(target))
        self.calls.run(_rename, self.key(name), self.key(target))

    def entries(self, folder: str) -> Iterator[Leftover]:
        """List the files below a folder."""
        waiting = [(self.key(folder), 0)]
        while waiting:
            place, depth = waiting.pop()
            try:
                listing = self.calls.run(_scan, place)
            except RemoteError:
                continue
            for path, size, modified in listing:
                if size is None:
                    # Nothing of ours lies deeper, and a server may show folders within folders without end.
                    if depth < _DEEPEST:
                        waiting.append((path, depth + 1))
                else:
                    yield Leftover(path.removeprefix(self.key("")), size, age(modified))

    def _written(
        self, part: str, final: str, parts: Iterable[bytes], exclusive: bool, progress: Progress
    ) -> None:
        offset = 0
        try:
            for data in parts:
                self.calls.run(_put, part, data, offset, self.calls.mark())
                offset += len(data)
                if progress:
                    progress(len(data))
            self.calls.run(_finish, part)
            try:
                self.calls.run(_link if exclusive else _rename, part, final)
            except RemoteError as error:
                # The server may have lost the reply to the first try: then the part file is gone, or has two names.
                if error.kind is FailureKind.MISSING and self.calls.run(_size, final) is not None:
                    raise RemoteError(FailureKind.EXISTS) from error
                raise
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                self.calls.tidy("rm_file", part)
            raise

    def _make_folders(self, path: str) -> None:
        folder = posixpath.dirname(path)
        if folder not in self._folders:
            try:
                self.is_free(lambda: self.calls.run("makedirs", folder, exist_ok=True))
            except RemoteError as error:
                raise NoPlaceError(self.calls.where, "folder") from error
            self._folders.add(folder)


async def _get(file_system: Any, path: str, start: int, end: int, reached: Callable[[int], None]) -> bytes:
    data = bytearray()
    async with file_system._pool.get() as channel, channel.open(path, "rb") as file:
        while len(data) < end - start:
            piece = await file.read(min(4 * _PIECE, end - start - len(data)), start + len(data))
            if not piece:
                break
            data += piece
            reached(len(data))
    return bytes(data)


async def _put(file_system: Any, path: str, data: bytes, offset: int, reached: Callable[[int], None]) -> None:
    async with file_system._pool.get() as channel, channel.open(path, "r+b" if offset else "wb") as file:
        for start in range(0, len(data), 8 * _PIECE):
            await file.write(data[start : start + 8 * _PIECE], offset + start)
            reached(start + 8 * _PIECE)


async def _finish(file_system: Any, path: str) -> None:
    from asyncssh.sftp import SFTPOpUnsupported

    async with file_system._pool.get() as channel:
        async with channel.open(path, "r+b") as file:
            with suppress(SFTPOpUnsupported):
                await file.fsync()
        await channel.chmod(path, 0o444)


async def _link(file_system: Any, part: str, final: str) -> None:
    """Give a file its name unless it is taken; a server without links cannot, and the probe finds that out."""
    from asyncssh.sftp import SFTPFailure

    async with file_system._pool.get() as channel:
        try:
            await channel.link(part, final)
        except SFTPFailure as error:
            # SFTP 3 has one word for all that fails.
            if await channel.lexists(final):
                raise FileExistsError from error
            raise
        await channel.unlink(part)


async def _rename(file_system: Any, path: str, target: str) -> None:
    from asyncssh.sftp import SFTPOpUnsupported

    async with file_system._pool.get() as channel:
        try:
            await channel.posix_rename(path, target)
        except SFTPOpUnsupported:
            await channel.rename(path, target)


async def _size(file_system: Any, path: str) -> int | None:
    async with file_system._pool.get() as channel:
        attributes = await channel.lstat(path)
    return int(attributes.size) if stat.S_ISREG(attributes.permissions) else None


async def _scan(file_system: Any, folder: str) -> list[tuple[str, int | None, float]]:
    """Return path, size (None for a folder) and time of the last write of what is in a folder."""
    scanned_entries: list[tuple[str, int | None, float]] = []
    async with file_system._pool.get() as channel:
        async for entry in channel.scandir(folder):
            if entry.filename in (".", ".."):
                continue
            mode, path = entry.attrs.permissions, str(posixpath.join(folder, entry.filename))
            if stat.S_ISDIR(mode):
                scanned_entries.append((path, None, 0.0))
            elif stat.S_ISREG(mode):
                scanned_entries.append((path, int(entry.attrs.size), float(entry.attrs.mtime or 0)))
    return scanned_entries
