"""Room for bytes that are to come, looked at before the first of them does."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import OutOfSpaceError
from .failures import os_failures
from .interface import BlobStore
from .local import LocalStore

NOTES = 1 << 20
"""Bytes for what is written beside files: records in a database and its log, who uses what."""

_BESIDE = 3
"""Blocks of a file system that a file may take beside its bytes: of the folders that are made for it."""


@dataclass(frozen=True, slots=True)
class Need:
    """Files that are to come into a folder, which need not exist yet.

    Attributes:
        folder: any folder on the file system in question.
        sizes: of the files, in bytes.
        taken: bytes of these that are written already, and free again when this is refused.
    """

    folder: Path
    sizes: Collection[int]
    taken: int = 0


def require_room(store: BlobStore, sizes: Collection[int]) -> None:
    """Refuse blobs that a store on this machine has no room for; of others nobody knows.

    Raises:
        OutOfSpaceError: there is not so much room.
    """
    require_rooms(needs_of(store, sizes))


def needs_of(store: BlobStore, sizes: Collection[int]) -> Iterator[Need]:
    """Yield what blobs need in a store, if it is on this machine."""
    if isinstance(store, LocalStore) and sizes:
        yield Need(store.root, sizes)


def require_rooms(needs: Iterable[Need], *, hint: str = "free some space, or ask for less") -> None:
    """Refuse files that a file system has no room for, with the number of bytes that must be free for all of them.

    What goes to one file system is added up.  A file takes whole blocks, and some for the folders that it is in.

    Args:
        needs: what is to be written, and where.
        hint: what to do about it.

    Raises:
        OutOfSpaceError: there is not so much room.
    """
    systems: dict[int, _System] = {}
    for need in needs:
        with os_failures(f"look at {need.folder}", near=need.folder):
            place = _existing(need.folder)
            device, system = place.stat().st_dev, os.statvfs(place)
        block = system.f_frsize or 1
        known = systems.setdefault(device, _System(need.folder, system.f_bavail * block))
        known.needed += sum((-(-size // block) + _BESIDE) * block for size in need.sizes)
        known.free += need.taken
    for one in systems.values():
        if one.needed > one.free:
            raise OutOfSpaceError(
                f"{one.needed:,} bytes must be free in {one.folder}, and {one.free:,} are", hint=hint
            )


@dataclass(slots=True)
class _System:
    folder: Path
    free: int
    needed: int = 0


def on_disk(path: Path) -> int:
    """Return the bytes that a file, or what is in a folder, takes on its disk; 0 if it is not there."""
    found = 0
    for one in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            found += one.lstat().st_blocks * 512
    return found


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
