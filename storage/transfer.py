"""Blobs from one store to another, verified on the way; and room for bytes that are to come."""

from __future__ import annotations

import os
import uuid
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


def transfer(
    origin: BlobStore,
    target: BlobStore,
    entry: FileEntry,
    scratch: Path,
    *,
    from_generation: int = 0,
    to_generation: int = 0,
    progress: Progress | None = None,
) -> Blob:
    """Store a blob of another store, through `scratch` between two object stores, as uploads must be known to match."""
    path = origin.local_path(entry.sha256, generation=from_generation)
    if path is not None:
        return target.put_file(path, expected=entry, generation=to_generation, progress=progress)
    blob = Blob(entry.sha256, entry.size, from_generation)
    if isinstance(target, LocalStore):
        return target.put_poured(origin, blob, generation=to_generation, progress=progress)
    part = scratch / f"{entry.sha256}.{uuid.uuid4().hex}"
    try:
        origin.fetch(entry.sha256, part, generation=from_generation)
        return target.put_file(part, expected=entry, generation=to_generation, progress=progress)
    finally:
        part.unlink(missing_ok=True)


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

_BESIDE = 3
"""Blocks of a file system that a file may take beside its bytes: of the folders that are made for it."""


@dataclass(frozen=True, slots=True)
class Need:
    """Sizes of files that are to come into a folder, which need not exist yet; `taken` bytes of them are written already."""

    folder: Path
    sizes: Collection[int]
    taken: int = 0


def require_room(store: BlobStore, sizes: Collection[int]) -> None:
    """Refuse blobs that a store on this machine has no room for; of others nobody knows."""
    require_rooms(needs_of(store, sizes))


def needs_of(store: BlobStore, sizes: Collection[int]) -> Iterator[Need]:
    """Yield what blobs need in a store, if it is on this machine."""
    if isinstance(store, LocalStore) and sizes:
        yield Need(store.root, sizes)


def require_rooms(needs: Iterable[Need], *, hint: str = "free some space, or ask for less") -> None:
    """Refuse files that a file system has no room for, in whole blocks, with the bytes that must be free."""
    systems: dict[int, _System] = {}
    for need in needs:
        with os_failures(f"look at {need.folder}", near=need.folder):
            place = existing_folder(need.folder)
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
