"""Archives that nobody vouches for, unpacked into a folder of ours: bounded in bytes, names and headers, without links."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from fusery.storage.errors import FormatError, OutOfSpaceError, UnsafePathError
from fusery.storage.failures import opened, os_failures
from fusery.storage.manifest import safe_relative_path

MOST_FILES = 10_000
RATIO = 100
"""What an archive may unpack to, in times its own size: weights hardly shrink, a bomb does nothing else."""

FREE = 64 << 20
"""Bytes that any archive may unpack to, and that are left on the disk."""

MOST_HEADER = 1 << 20
_DAMAGES = (tarfile.TarError, EOFError, ValueError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
"""Errors of reading a damaged archive."""

_WINDOW = 1 << 27
_PIECE = 1 << 20
_LONG = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME) + (
    tarfile.GNUTYPE_LONGLINK,
)


_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst"}


def archive_kind(path: Path) -> str | None:
    """Tell by its first bytes whether a file is an archive: `tar`, `gz` or `zst`; None if it is none of these."""
    with opened(path) as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


def unpack(path: Path, kind: str, folder: Path) -> None:
    """Unpack an archive into an empty folder."""
    size = path.stat().st_size
    limit = max(RATIO * size, FREE)
    if kind == "tar":
        limit = size
    room = shutil.disk_usage(folder).free - FREE
    try:
        with _decompressed(path, kind) as stream:
            source = _Bounded(path.name, stream, limit, room)
            with tarfile.open(
                fileobj=cast("IO[bytes]", source), mode="r|", tarinfo=_Member, errorlevel=1
            ) as archive:
                _extract(path.name, archive, folder)
    except _DAMAGES as error:
        reason = (str(error) or type(error).__name__)[:160]
        raise FormatError(f"the archive {path.name} cannot be read: {reason}") from error


def _extract(name: str, archive: tarfile.TarFile, folder: Path) -> None:
    count = 0
    while (member := archive.next()) is not None:
        # What is read once is not to be remembered: a million members would fill the memory.
        archive.members = []  # type: ignore[attr-defined]  # not in the stubs
        count += 1
        if count > MOST_FILES:
            raise UnsafePathError(f"the archive {name} holds more than {MOST_FILES:,} files")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise UnsafePathError(f"the archive {name} holds {member.name[:80]!r}, which is no plain file")
        target = folder / safe_relative_path(member.name.removeprefix("./"))
        content = archive.extractfile(member)
        assert content is not None
        with os_failures(f"unpack {name}", near=folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with target.open("xb") as file:
                    shutil.copyfileobj(content, file, _PIECE)
            except (FileExistsError, IsADirectoryError):
                raise UnsafePathError(f"the archive {name} holds {member.name[:80]!r} twice") from None
        if target.stat().st_size != member.size:
            raise FormatError(f"the archive {name} is cut short: it ends within {member.name[:80]!r}")


class _Member(tarfile.TarInfo):
    """A member whose header may not be larger than memory: tarfile reads long names and pax headers whole."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _LONG and self.size > MOST_HEADER:
            raise tarfile.HeaderError("a header of it is larger than any name")
        return super()._proc_member(archive)  # type: ignore[misc]  # not in the stubs


class _Bounded:
    """A stream that gives up when more comes out of it than may."""

    def __init__(self, name: str, stream: IO[bytes], limit: int, room: int) -> None:
        self._name, self._stream, self._limit, self._room = name, stream, limit, room
        self._given = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._given += len(data)
        if self._given > self._limit:
            raise UnsafePathError(
                f"the archive {self._name} unpacks to more than {self._limit >> 20:,} MiB, {RATIO} times its size",
                hint="unpack it yourself, and identify the folder",
            )
        if self._given > self._room:
            raise OutOfSpaceError(
                f"there is no room to unpack {self._name}",
                hint="unpack it elsewhere, and identify the folder",
            )
        return data


@contextmanager
def _decompressed(path: Path, kind: str) -> Iterator[IO[bytes]]:
    """Yield the bytes of an archive; memory does not grow with what its header asks for."""
    with os_failures(f"read {path}", near=path):
        file = path.open("rb")
    with file:
        if kind == "gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                yield cast("IO[bytes]", stream)
        elif kind == "zst":
            reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
            with reader.stream_reader(file) as stream:
                yield cast("IO[bytes]", stream)
        else:
            yield file
