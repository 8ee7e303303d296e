"""The cache of fused models: whole folders on this machine's disk, each loadable in place, all of them rebuildable.

fused/<key>/                     a fused model; its files are read-only
used/<key>                       empty; its mtime is the entry's last use
pins/<key>                       there if the entry must stay, whether it is here yet or not
tmp/<key>.<fence>.<uuid>/        one that is being built, with its builder's name in <...>.owner
quarantine/<key>.<nanoseconds>/  one that was found damaged

Whoever can write the folder can write all of that: an entry without a note (see `verified_files`) is hashed at each lookup.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from .cache_space import CacheEntry, Eviction, bytes_in, children, locked, owner_file, sweep
from .copying import pump, reading
from .digest import Digest, parse_digest
from .errors import MissingFileError, StorageError, StoreDeniedError, StoreUnavailableError
from .failures import DigestMismatchError, os_failures
from .interface import NOT_A_FILE
from .manifest import Manifest
from .processes import process_tag
from .publishing import remove_tree
from .transfer import on_disk
from .verified_files import FileState, VerifiedFiles, folder_state, wait_a_tick

DAY = 86400.0
ATTEMPTS = 3

_HELD: ContextVar[ExitStack | None] = ContextVar("held", default=None)


class FusedCache:
    """Fused models by key, in a folder on this machine."""

    def __init__(self, root: Path, verified: VerifiedFiles) -> None:
        """Open the cache in `root`, which need not exist yet; nothing is written."""
        self.root = root.expanduser().resolve()
        self._verified = verified
        self._made: dict[Path, tuple[int, int] | None] = {}

    def entry(self, key: str) -> Path:
        """Return where the fused model of a key is or will be."""
        return self.root / "fused" / parse_digest(key)

    def build(self, key: str, fence: int) -> AbstractContextManager[Path]:
        """Give a new, empty folder to build a fused model in; it is removed afterwards unless published."""
        return self._owned(f"{parse_digest(key)}.{fence}.{uuid.uuid4().hex}")

    def scratch(self) -> AbstractContextManager[Path]:
        """Give a new, empty folder for files that are needed for a while; it is removed afterwards."""
        return self._owned(f"inputs.{uuid.uuid4().hex}")

    @contextmanager
    def _owned(self, name: str) -> Iterator[Path]:
        """Give a folder under tmp/ with its owner's name beside it, so that a killed process's can be removed."""
        folder = self.root / "tmp" / name
        owner = owner_file(folder)
        try:
            with os_failures(f"write to the cache {self.root}", near=self.root):
                for part in ("fused", "used", "tmp", "quarantine"):
                    (self.root / part).mkdir(parents=True, exist_ok=True)
                owner.write_text(process_tag())
                # Other users who can write to the cache must not write here.
                folder.mkdir(mode=0o700)
                self._made[folder] = _identity(folder)
        except StoreDeniedError as error:
            error.hint = "set FUSERY_CACHE_DIR to a folder that you may write"
            raise
        try:
            # The lock goes with the folder when it gets its name: no moment is left in which it could be evicted.
            with locked(folder):
                yield folder
        finally:
            self._made.pop(folder, None)
            with os_failures(f"clean up {folder}", near=self.root):
                remove_tree(folder)
                owner.unlink(missing_ok=True)

    def publish(self, key: str, folder: Path, manifest: Manifest, *, hashed: bool = False) -> Path:
        """Make a finished folder the entry of its key, unless a good one is there; return its path. `hashed` files stay unread."""
        if folder.parent != self.root / "tmp":
            raise ValueError(f"{folder} was not made by build()")
        with os_failures(f"publish {folder}", near=self.root):
            rights = folder.parent.stat().st_mode & 0o777  # of those for whom the cache was made
            for name, (size, *_) in (folder_state(folder) or {}).items():
                if size != NOT_A_FILE:
                    (folder / name).chmod(0o444 & rights)
            state = self._require(folder, manifest, hashed=hashed)
            folder.chmod(rights)
            # No fsync: the files are a cache of what can be rebuilt, and syncing gigabytes would double the time of a
            # fuse.  Files torn by a crash of the machine are found, since notes end with it.
            for _ in range(ATTEMPTS):
                if existing := self.lookup(key, manifest):
                    return existing
                try:
                    folder.rename(self.entry(key))
                except OSError:
                    if not self.entry(key).exists():
                        raise
                else:
                    self._verified.record_all(key, manifest.digest, state)
                    self._use(key)
                    if (held := _HELD.get()) is not None:
                        held.enter_context(self.using(key))
                    return self.entry(key)
        raise StoreUnavailableError(f"{self.entry(key)} keeps changing", hint="run the command again")

    def lookup(self, key: str, manifest: Manifest) -> Path | None:
        """Return the folder of a fused model; a damaged one goes to quarantine, a verified one is not hashed."""
        if (held := _HELD.get()) is None:
            return self._lookup(key, manifest)
        with ExitStack() as trying:
            trying.enter_context(self.using(key))
            path = self._lookup(key, manifest)
            if path is not None:
                held.push(trying.pop_all())
        return path

    def _lookup(self, key: str, manifest: Manifest) -> Path | None:
        path = self.entry(key)
        with os_failures(f"read the cache {self.root}", near=self.root):
            try:
                state = folder_state(path)
                if state is None:
                    return None
                if not self._verified.has_all(key, manifest.digest, state):
                    state = self._require(path, manifest, hashed=False)
                    self._verified.record_all(key, manifest.digest, state)
            except (FileNotFoundError, MissingFileError):
                # It was evicted meanwhile.
                return None
            except DigestMismatchError:
                self.quarantine(key)
                return None
            self._use(key)
        return path

    def is_verified(self, key: str, manifest: Manifest) -> bool:
        """Tell whether a lookup would serve an entry without hashing it; nothing is changed."""
        with os_failures(f"read the cache {self.root}", near=self.root):
            state = folder_state(self.entry(key))
        return state is not None and self._verified.has_all(key, manifest.digest, state)

    def doubt(self, key: str) -> None:
        """Have an entry hashed when it is looked up next, whatever is known of it."""
        self._verified.forget(key)

    def quarantine(self, key: str) -> str | None:
        """Take a damaged entry out of the way and keep it for a day; return its new name, None if there was none."""
        name = f"quarantine/{parse_digest(key)}.{time.time_ns()}"
        with os_failures(f"move a damaged entry of the cache {self.root}", near=self.root):
            self._use_path(key).unlink(missing_ok=True)
            try:
                self.entry(key).rename(self.root / name)
            except FileNotFoundError:
                return None
        return name

    def last_used(self, key: str) -> float:
        """Return when an entry was last looked up or published, in seconds since the epoch; 0 without an entry."""
        for path in (self._use_path(key), self.entry(key)):
            with suppress(FileNotFoundError):
                return path.lstat().st_mtime
        return 0.0

    @contextmanager
    def using(self, key: str) -> Iterator[Path | None]:
        """Yield an entry's folder, *not* verified, None if it is not here; it is not removed until the block ends."""
        path = self.entry(key)
        with ExitStack() as held:
            with os_failures(f"read the cache {self.root}", near=self.root):
                is_present = held.enter_context(locked(path))
            yield path if is_present else None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold what this thread looks up or publishes within the block, from then until the block ends."""
        with ExitStack() as held:
            before = _HELD.set(held)
            try:
                yield
            finally:
                _HELD.reset(before)

    def is_in_use(self, key: str) -> bool:
        """Tell whether somebody reads an entry at the moment."""
        reading = locked(self.entry(key), alone=True)
        with os_failures(f"read the cache {self.root}", near=self.root), reading as is_held:
            return is_held is False

    def remove(self, key: str) -> int:
        """Remove an entry and return the bytes freed: 0 if it is gone already, or is being read and so stays."""
        with os_failures(f"remove from the cache {self.root}", near=self.root):
            size = bytes_in(self.entry(key))
            trash = self.root / "tmp" / f"{parse_digest(key)}.trash.{uuid.uuid4().hex}"
            with locked(self.entry(key), alone=True) as is_held:
                if is_held is False:
                    return 0
                try:
                    # First the name, in one step: half an entry is never visible.
                    self.entry(key).rename(trash)
                except FileNotFoundError:
                    return 0
            self._use_path(key).unlink(missing_ok=True)
            remove_tree(trash)
        return size

    def in_use_here(self) -> int:
        """Return the bytes on disk of what is being built through this object, and of what was fetched for that."""
        return sum(on_disk(folder) + on_disk(owner_file(folder)) for folder in self._made)

    def pin(self, key: str) -> bool:
        """Keep an entry from being evicted, now or once it is here; return whether that is new."""
        place = self.root / "pins" / parse_digest(key)
        with os_failures(f"write to the cache {self.root}", near=self.root):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.touch(exist_ok=False)
            except FileExistsError:
                return False
        return True

    def unpin(self, key: str) -> bool:
        """Let an entry be evicted again; return whether it was pinned."""
        with os_failures(f"write to the cache {self.root}", near=self.root):
            try:
                (self.root / "pins" / parse_digest(key)).unlink()
            except FileNotFoundError:
                return False
        return True

    def pinned(self) -> set[Digest]:
        """Return the keys that are pinned."""
        keys = set()
        for path in children(self.root, "pins"):
            with suppress(ValueError):
                keys.add(parse_digest(path.name))
        return keys

    def entries(self) -> list[CacheEntry]:
        """Return the fused models there are, least recently used first."""
        cache_entries = []
        for path in children(self.root, "fused"):
            with suppress(ValueError):
                key = parse_digest(path.name)
                cache_entries.append(CacheEntry(key, path, bytes_in(path), self.last_used(key)))
        return sorted(cache_entries, key=lambda entry: (entry.last_used, entry.key))

    def evict(self, limit_bytes: int, spare: Collection[str] = ()) -> Eviction:
        """Plan which entries have to go so that the others fit in so many bytes; those to spare, pinned or in use stay."""
        spared, entries = {*spare, *self.pinned()}, self.entries()
        total = sum(entry.size for entry in entries)
        gone, keep = list[CacheEntry](), list[CacheEntry]()
        for entry in entries:
            if total > limit_bytes and entry.key not in spared and not self.is_in_use(entry.key):
                gone.append(entry)
                total -= entry.size
            else:
                keep.append(entry)
        return Eviction(tuple(gone), tuple(keep), self._remove_unused)

    def _remove_unused(self, entry: CacheEntry) -> bool:
        """Remove an entry unless it was used since it was listed; tell whether it is gone."""
        if self.last_used(entry.key) > entry.last_used:
            return False
        self.remove(entry.key)
        return not entry.path.exists()

    def sweep(self, older_than: float = DAY) -> int:
        """Remove leftovers of ended processes, older leftovers, and old notes of verified files; return the bytes freed."""
        return self._verified.sweep(older_than) + sweep(self.root, older_than)

    def _require(self, folder: Path, manifest: Manifest, *, hashed: bool) -> dict[str, FileState]:
        """Check a folder against its manifest; return its state, which is that of the bytes that were checked."""
        state = folder_state(folder) or {}
        names = {entry.path for entry in manifest}
        if state.keys() != names:
            odd = min(state.keys() ^ names)
            got = f"{odd} besides" if odd in state else f"{odd} missing"
            raise DigestMismatchError(str(folder), manifest.digest, "the files of its manifest", got)
        wait_a_tick(state)
        # Written by this process, in a folder that only it could enter.
        ours = (made := self._made.get(folder)) is not None and made == _identity(folder)
        for entry in manifest:
            size = state[entry.path][0]
            subject = f"{entry.path} of {folder}"
            if size != entry.size:
                raise DigestMismatchError(subject, entry.sha256, f"{entry.size} bytes", f"{size} bytes")
            if not (hashed and ours):
                with reading(folder / entry.path) as source:
                    digest, _ = pump(source.fd, None)
                if digest != entry.sha256:
                    raise DigestMismatchError(subject, entry.sha256, entry.sha256, digest)
        if folder_state(folder) != state:
            raise StorageError(f"{folder} changed while it was read", hint="run the command again")
        return state

    def _use(self, key: str) -> None:
        # In a cache that may only be read nothing is evicted, either.
        with suppress(OSError):
            self._use_path(key).touch()

    def _use_path(self, key: str) -> Path:
        return self.root / "used" / parse_digest(key)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what a name cannot be given to anything else without changing; None for what others can enter."""
    folder_status = folder.lstat()
    private = folder_status.st_uid == os.geteuid() and folder_status.st_mode & 0o077 == 0
    return (folder_status.st_dev, folder_status.st_ino) if private else None
