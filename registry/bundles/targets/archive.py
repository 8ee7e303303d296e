"""The target `archive`: the files of the target `model` in one compressed tar file, the same for the same model and compressor."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, cast

import zstandard

from fusery.storage.digest import CHUNK, Digest
from fusery.storage.failures import DigestMismatchError, opened

from ..source import BundleSource, Choices, Files
from ..target import Layout
from ..writing import FILE_MODE, BundleFolder, HashedFile
from .model import write as write_model

LEVEL = {"zst": 3, "gz": 6}  # the compressors' defaults: weights hardly shrink

_BLOCK = 1 << 20


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write the archive of a folder with the model's name."""
    with (
        bundle.create(f"{source.name}.tar.{choices.compression}") as file,
        _compressor(file, choices.compression) as stream,
        tarfile.TarFile(None, "w", stream, format=tarfile.PAX_FORMAT, copybufsize=_BLOCK) as archive,
    ):
        write_model(source, _Archive(archive, source.name), choices)


def check(folder: Path) -> Layout:
    """Check that there is one file; its content was hashed when it was written."""
    (_,) = folder.iterdir()
    return Layout()


class _Archive:
    def __init__(self, archive: tarfile.TarFile, folder: str) -> None:
        self._archive, self._folder = archive, folder

    def write(self, path: str, content: bytes) -> None:
        self._archive.addfile(self._member(path, len(content)), io.BytesIO(content))

    def copy(self, files: Files, *, under: str = "", link: bool = False) -> None:
        for entry in files.manifest:
            with opened(files.paths[entry.path]) as file:
                hashed, expected = _Hashed(file), entry.sha256
                self._archive.addfile(self._member(under + entry.path, entry.size), cast("IO[bytes]", hashed))
            if (got := Digest(hashed.running.hexdigest())) != expected:
                raise DigestMismatchError(entry.path, expected, expected, got, hint="run: fusery audit")

    def _member(self, path: str, size: int) -> tarfile.TarInfo:
        member = tarfile.TarInfo(f"{self._folder}/{path}")
        member.size, member.mode = size, FILE_MODE
        return member


class _Hashed:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.running = file, sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.running.update(data)
        return data


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
