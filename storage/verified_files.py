"""Private notes of verified files, valid for a day and until a restart, while size, times and inode stay the same."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .copying import pump, reading
from .digest import Digest, canonical_json, parse_digest
from .errors import StorageError
from .failures import DigestMismatchError, os_failures
from .interface import NOT_A_FILE
from .jsonfile import MAX_BYTES, parse_json
from .manifest import Manifest
from .processes import boot_id
from .publishing import make_folders, write_atomically

MAX_AGE = 24 * 3600.0
"""Seconds after which a file is hashed again, though it is unchanged: disks forget, too."""

VERSION = 2
TICK = 0.02
"""Seconds that the clock of a file's times may stand still: two writes within them can look like one (Linux: 10 ms)."""

FileState = tuple[int, int, int, int, int]
"""Size, mtime in ns, ctime in ns, inode and device of a file."""

_FILE = "file"
_IGNORED = ".DS_Store"  # Finder leaves it wherever it looks, and nothing reads it


class VerifiedFiles:
    """One user's notes of verified files on one machine, in a folder that no other user can write."""

    def __init__(self, root: Path, *, max_age: float = MAX_AGE) -> None:
        self.root = root
        self._max_age = max_age

    def has(self, path: Path, digest: Digest) -> bool:
        """Return whether a file was found to have this digest, and is untouched since."""
        with suppress(OSError):
            return self.has_all(digest, digest, {_FILE: state_of(path.stat())})
        return False

    def has_all(self, name: str, digest: Digest, states: Mapping[str, FileState]) -> bool:
        """Return whether files, in these states, were found to be those of a manifest; `name` is 64 hex digits."""
        with (
            suppress(OSError, StorageError),
            _private(self.root, os.O_DIRECTORY) as folder,
            _private(self._path(name).name, os.O_NONBLOCK, folder) as file,
        ):
            note = parse_json(os.pread(file, MAX_BYTES, 0), "a record of verified files")
            if isinstance(note, dict) and boot_id():
                age = time.time() - note.pop("hashed_at", 0)
                return 0 <= age <= self._max_age and note == _content(digest, states)
        return False

    def record(self, watch: Watch, name: str, digest: Digest) -> None:
        """Record that a watched file was read through since, and has this digest."""
        if name not in watch.changed():
            self.record_all(digest, digest, {_FILE: watch.states[name]})

    def record_all(self, name: str, digest: Digest, states: Mapping[str, FileState]) -> None:
        """Record that files in these states, of which every change would be seen, are those of a manifest."""
        data = canonical_json({**_content(digest, states), "hashed_at": time.time()})
        # A note that cannot be written costs another hash, no more: a full disk or a read-only home.
        with suppress(OSError, StorageError):
            if not os.path.lexists(self.root):
                make_folders(self.root.parent)
                with suppress(FileExistsError):
                    self.root.mkdir(mode=0o700)
            with _private(self.root, os.O_DIRECTORY):
                write_atomically(self._path(name), data, mode=0o600)

    def forget(self, name: str) -> None:
        """Have files hashed again when they are looked up next."""
        with suppress(OSError):
            self._path(name).unlink()

    def sweep(self, older_than: float) -> int:
        """Remove old and incomplete notes; return the bytes freed."""
        freed = 0
        with suppress(OSError), _private(self.root, os.O_DIRECTORY) as folder:
            for name in os.listdir(folder):
                stats = os.stat(name, dir_fd=folder, follow_symlinks=False)
                age = self._max_age if name.endswith(".json") else min(older_than, self._max_age)
                if time.time() - stats.st_mtime > age:
                    os.unlink(name, dir_fd=folder)
                    freed += stats.st_size
        return freed

    def _path(self, name: str) -> Path:
        return self.root / f"{parse_digest(name)}.json"


def _content(digest: Digest, states: Mapping[str, FileState]) -> dict[str, object]:
    files = {name: list(state) for name, state in states.items()}
    return {"version": VERSION, "digest": digest, "boot": boot_id(), "files": files}


@contextmanager
def _private(path: Path | str, flags: int, folder: int | None = None) -> Iterator[int]:
    """Open a folder, or a file in an open one, that only this user can write; raise PermissionError for others."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    try:
        if others_may_write(os.fstat(fd)):
            raise PermissionError(f"others can write {path}")
        yield fd
    finally:
        os.close(fd)


def others_may_write(stats: os.stat_result) -> bool:
    """Return whether other users may write to a folder or file, by its mode and owner."""
    return stats.st_uid != os.geteuid() or bool(stats.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def state_of(stats: os.stat_result) -> FileState:
    """Return the state of a file."""
    return stats.st_size, stats.st_mtime_ns, stats.st_ctime_ns, stats.st_ino, stats.st_dev


def folder_state(folder: Path) -> dict[str, FileState] | None:
    """Return the state of every file in a folder, None if it does not exist; other kinds have the size `NOT_A_FILE`."""
    if not folder.is_dir() or folder.is_symlink():
        return None
    state: dict[str, FileState] = {}
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                stats = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(stats.st_mode):
                    pending.append(Path(entry.path))
                elif entry.name != _IGNORED:
                    size = stats.st_size if stat.S_ISREG(stats.st_mode) else NOT_A_FILE
                    state[Path(entry.path).relative_to(folder).as_posix()] = (size, *state_of(stats)[1:])
    return state


def wait_a_tick(state: Mapping[str, FileState]) -> None:
    """Wait until a write to any of the files would show in its times."""
    newest = max((changed for _, _, changed, *_ in state.values()), default=0)
    wait = newest / 1e9 + TICK - time.time()
    if 0 < wait <= TICK:
        time.sleep(wait)


class Watch:
    """Files whose every change from now on is seen."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """Begin to watch; the files are to be read afterwards, and links are followed."""
        self._paths = dict(paths)
        self.states = {name: state_of(path.stat()) for name, path in self._paths.items()}
        wait_a_tick(self.states)

    def changed(self) -> list[str]:
        """Return the names of files that were written to, replaced or removed."""
        return [name for name, state in self.states.items() if self._state(name) != state]

    def _state(self, name: str) -> FileState | None:
        try:
            return state_of(self._paths[name].stat())
        except FileNotFoundError:
            return None

    def require_unchanged(self) -> None:
        """Refuse a file that was written to or replaced since."""
        if changed := self.changed():
            problem = f"{self._paths[changed[0]]} changed while it was read"
            raise StorageError(problem, hint="run the command again")


@contextmanager
def watched(paths: Mapping[str, Path], manifest: Manifest) -> Iterator[Watch]:
    """Watch files that the block hashes first and reads then: what it read is what was hashed."""
    with os_failures("read what is to be hashed", near=Path("/")):
        watch = Watch({entry.path: paths[entry.path] for entry in manifest})
    yield watch
    watch.require_unchanged()


@contextmanager
def verified(paths: Mapping[str, Path], manifest: Manifest) -> Iterator[None]:
    """Hash files, and refuse them if they change before the block ends; arguments and errors as for `watched`."""
    with watched(paths, manifest):
        require_digests(paths, manifest)
        yield


def require_digests(paths: Mapping[str, Path], manifest: Manifest) -> None:
    """Hash files and compare them with a manifest."""
    for entry in manifest:
        with reading(paths[entry.path].resolve()) as source:
            digest, _ = pump(source.fd, None)
        if digest != entry.sha256:
            hint = "run: fusery audit"
            raise DigestMismatchError(entry.path, entry.sha256, entry.sha256, digest, hint=hint)
