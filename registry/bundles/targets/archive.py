"""The target `archive`: what `model` writes, in one compressed tar file.

Names, order, times, owners and modes are fixed, so that the same model gives the same tar; the same version of the
compressor makes the same file of it.  Nothing is held in memory but the piece that is on its way.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Self, cast

import zstandard

from fusery.storage.digest import CHUNK, Digest
from fusery.storage.failures import DigestMismatchError, opened
from fusery.storage.manifest import FileEntry

from ..source import BundleSource, Choices, Files
from ..target import Layout
from ..writing import FILE_MODE, BundleFolder, HashedFile
from .model import write_model

LEVEL = {"zst": 3, "gz": 6}
"""The compressors' own defaults: weights hardly shrink, whatever is tried."""

_BLOCK = 1 << 20


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write the archive; all it holds is in a folder named after the model."""
    with (
        bundle.create(f"{source.name}.tar.{choices.compression}") as file,
        _compressor(file, choices.compression) as stream,
        tarfile.TarFile(None, "w", stream, format=tarfile.PAX_FORMAT, copybufsize=_BLOCK) as archive,
    ):
        write_model(source, _Archive(archive, source.name), choices)


def check(folder: Path) -> Layout:
    """Look for the one file; what is in it was hashed on its way in."""
    (_,) = folder.iterdir()
    return Layout()


class _Archive:
    def __init__(self, archive: tarfile.TarFile, folder: str) -> None:
        self._archive, self._folder = archive, folder

    def write(self, path: str, content: bytes) -> None:
        self._archive.addfile(self._member(path, len(content)), io.BytesIO(content))

    def copy(self, files: Files, *, under: str = "", link: bool = False) -> None:
        for entry in files.manifest:
            with opened(files.paths[entry.path]) as file, _Verified(file, entry) as verified:
                member = self._member(under + entry.path, entry.size)
                self._archive.addfile(member, cast("IO[bytes]", verified))
                verified.require()

    def _member(self, path: str, size: int) -> tarfile.TarInfo:
        member = tarfile.TarInfo(f"{self._folder}/{path}")
        member.size, member.mode = size, FILE_MODE
        return member


class _Verified:
    """A file that is hashed while it is read, in a thread beside the compressor's."""

    def __init__(self, file: IO[bytes], entry: FileEntry) -> None:
        self._file, self._entry, self._running = file, entry, sha256()
        self._hasher = ThreadPoolExecutor(1)
        self._pending: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hasher.shutdown()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if self._pending is not None:
            self._pending.result()
        self._pending = self._hasher.submit(self._running.update, data)
        return data

    def require(self) -> None:
        """Refuse a file that was not what its manifest says."""
        if self._pending is not None:
            self._pending.result()
        got = Digest(self._running.hexdigest())
        if got != self._entry.sha256:
            expected = self._entry.sha256
            raise DigestMismatchError(self._entry.path, expected, expected, got, hint="run: fusery audit")


@contextmanager
def _compressor(file: HashedFile, kind: str) -> Iterator[IO[bytes]]:
    target = cast("IO[bytes]", file)
    if kind == "gz":
        with gzip.GzipFile("", "wb", LEVEL[kind], target, mtime=0) as stream:
            yield cast("IO[bytes]", stream)
        return
    # Any number of threads gives the same bytes, but no threads gives others (zstd.h, ZSTD_c_nbWorkers).
    compressor = zstandard.ZstdCompressor(level=LEVEL[kind], write_checksum=True, threads=2)
    with compressor.stream_writer(target, closefd=False, write_size=CHUNK) as stream:
        yield cast("IO[bytes]", stream)
