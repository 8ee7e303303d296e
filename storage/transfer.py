"""Blobs from one store to another, verified on the way; and room for bytes that are to come."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .copying import Progress
from .errors import OutOfSpaceError
from .failures import existing_folder, os_failures
from .interface import Blob, BlobStore
from .local import LocalStore
from .manifest import FileEntry
from .processes import temporary_folder


def transfer(
    origin: BlobStore, target: BlobStore, blob: Blob, *, generation: int = 0, progress: Progress = None
) -> Blob:
    """Store a blob of another store, verified: between two object stores by a file, as uploads must be known to match."""
    entry = FileEntry(blob.digest, blob.size, blob.digest)
    path = origin.local_path(blob.digest, generation=blob.generation)
    if path is not None:
        return target.put_file(path, expected=entry, generation=generation, progress=progress)
    if isinstance(target, LocalStore):
        return target.put_poured(origin, blob, generation=generation, progress=progress)
    with temporary_folder("carried") as folder:
        origin.fetch(blob.digest, folder / "blob", generation=blob.generation)
        return target.put_file(folder / "blob", expected=entry, generation=generation, progress=progress)


T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 8
"""Things under way at a time: what is small waits for replies more than it computes."""


def in_order(work: Callable[[T], R], things: Iterable[T], at_once: int = AT_ONCE) -> Iterator[R]:
    """Yield the results in order, with a few calls under way; those are waited for if one fails or the caller stops."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="hands") as pool:
        try:
            for thing in things:
                waiting.append(pool.submit(work, thing))
                if len(waiting) >= 2 * at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


NOTES = 1 << 20
"""Bytes for what is written beside files: records in a database and its log, who uses what."""

_PARALLEL = 3
"""Blocks of a file system that a file may take beside its bytes: of the folders that are made for it."""


@dataclass(frozen=True, slots=True)
class Need:
    """Sizes of files that are to come into a folder, which need not exist yet; `taken` bytes of them are written already."""

    folder: Path
    sizes: Collection[int]
    taken: int = 0


def require_room(store: BlobStore, sizes: Collection[int]) -> None:
    """Refuse blobs that a store on this machine has no room for; the room of others is unknown."""
    require_rooms(needs_of(store, sizes))


def needs_of(store: BlobStore, sizes: Collection[int]) -> Iterator[Need]:
    """Yield what blobs need in a store, if it is on this machine."""
    if isinstance(store, LocalStore) and sizes:
        yield Need(store.root, sizes)


def require_rooms(needs: Iterable[Need], *, hint: str = "free some space, or ask for less") -> None:
    """Refuse files that a file system has no room for, in whole blocks, with the bytes that must be free."""
    systems: dict[int, tuple[Path, int, int]] = {}  # a folder in each, free bytes, needed bytes
    for need in needs:
        with os_failures(f"look at {need.folder}", near=need.folder):
            place = existing_folder(need.folder)
            device, system = place.stat().st_dev, os.statvfs(place)
        block = system.f_frsize or 1
        needed = sum((-(-size // block) + _PARALLEL) * block for size in need.sizes)
        folder, free, before = systems.get(device, (need.folder, system.f_bavail * block, 0))
        systems[device] = folder, free + need.taken, before + needed
    for folder, free, needed in systems.values():
        if needed > free:
            problem = f"{needed:,} bytes must be free in {folder}, and {free:,} are"
            raise OutOfSpaceError(problem, hint=hint)


def on_disk(path: Path) -> int:
    """Return the bytes that a file, or what is in a folder, takes on its disk; 0 if it is not there."""
    bytes_used = 0
    for one in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            bytes_used += one.lstat().st_blocks * 512
    return bytes_used
