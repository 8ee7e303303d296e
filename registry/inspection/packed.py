"""An archive that `materialize --target archive` wrote: every member against the list in its `fusery.json`, unpacked nowhere."""

from __future__ import annotations

import tarfile
import zlib
from hashlib import sha256
from pathlib import Path
from typing import IO, cast

import zstandard

from fusery.storage.digest import CHUNK, Digest
from fusery.storage.errors import StorageError
from fusery.storage.manifest import FileEntry

from ..documents import RECORD
from .archive_kind import archive_kind
from .archives import Member, decompressed
from .problem import Problem
from .signed_claim import Claim, read_record

_HEADROOM = 64 << 20
"""Bytes of headers and padding that an archive may unpack to, besides its files."""
_MOST_RECORD = 16 << 20


def read_packed(path: Path) -> Claim | None:
    """Return what an archive says of itself, its members compared with that; None if it is none of ours.

    Only what is listed is unpacked, in memory that does not grow with it.
    """
    kind = archive_kind(path)
    if kind not in ("gz", "zst"):
        return None
    claim = Claim("archive", path.name)
    try:
        with (
            decompressed(path, kind, frames=True) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=Member) as archive,
        ):
            _compare(archive, claim)
            if not claim.problems:
                _to_the_end(stream)  # where the compressor's own checksum is
    except (
        tarfile.TarError,
        zstandard.ZstdError,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        StorageError,
    ) as error:
        if claim.name is None and not claim.problems:
            return None
        claim.problems.append(
            Problem(
                "changed", path.name, f"{path.name} is damaged: {str(error)[:200] or 'it ends too early'}"
            )
        )
    return claim


def _to_the_end(stream: IO[bytes]) -> None:
    left = _HEADROOM
    while data := stream.read(CHUNK):
        left -= len(data)
        if left < 0:
            raise ValueError("something follows after its end")


def _compare(archive: tarfile.TarFile, claim: Claim) -> None:
    first = archive.next()
    folder, _, name = first.name.rpartition("/") if first is not None else ("", "", "")
    content = archive.extractfile(first) if first is not None and first.isreg() else None
    if first is None or content is None or first.issparse() or name != RECORD or first.size > _MOST_RECORD:
        return
    document = claim.document
    read_record(content.read(), claim)
    claim.problems = [Problem(each.code, f"{document}: {RECORD}", each.message) for each in claim.problems]
    missing = dict(claim.files)
    left = sum(entry.size for entry in missing.values()) + _HEADROOM
    while (member := archive.next()) is not None:
        path = member.name.removeprefix(f"{folder}/")
        entry = missing.pop(path, None)
        left -= member.size
        if entry is None or not member.isreg() or member.issparse() or left < 0:
            _note(claim, "added", path, "is not listed, and the rest of the archive was not unpacked")
            return
        if _of(archive, member, path) != entry:
            _note(claim, "changed", path, "is not what is listed")
    for path in missing:
        _note(claim, "missing", path, "is not there")


def _of(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> FileEntry:
    file, running = cast("IO[bytes]", archive.extractfile(member)), sha256()
    while chunk := file.read(CHUNK):
        running.update(chunk)
    return FileEntry(path, member.size, Digest(running.hexdigest()))


def _note(claim: Claim, code: str, path: str, what: str) -> None:
    place = f"{claim.document}: {path[:300]}"
    claim.problems.append(Problem(code, place, f"{place} {what}"))
