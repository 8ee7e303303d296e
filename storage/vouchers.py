"""Vouchers: private notes that files had their digest, valid for a day, while size, times and inode stay the same.

A restart of the machine ends all of them, since a crash can lose bytes without a trace.  Audits ignore them.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .copying import pump, reading
from .digest import Digest, canonical_json, parse_digest
from .errors import StorageError, StoreDeniedError
from .failures import DigestMismatchError, os_failures
from .interface import NOT_A_FILE
from .jsonfile import MAX_BYTES, parse_json
from .manifest import Manifest
from .plaintext import typed
from .processes import boot_id
from .publishing import make_folders, write_atomically

MAX_AGE = 24 * 3600.0
"""Seconds after which a file is hashed again, though nobody touched it: disks forget, too."""

VERSION = 2

_FILE = "file"


class Vouchers:
    """One user's vouchers on one machine, in a folder that nobody else can write."""

    def __init__(self, root: Path, *, max_age: float = MAX_AGE) -> None:
        """Take the folder; nothing is made yet."""
        self.root = root
        self._max_age = max_age

    def hold(self, path: Path, digest: Digest) -> bool:
        """Tell whether a file was found to have this digest, and is untouched since."""
        with suppress(OSError):
            return self.hold_all(digest, digest, {_FILE: state_of(path.stat())})
        return False

    def hold_all(self, name: str, digest: Digest, states: Mapping[str, FileState]) -> bool:
        """Tell whether files, in these states, were found to be those of a manifest; `name` is 64 hex digits."""
        with suppress(OSError, StorageError), private_folder(self.root) as folder:
            found = parse_json(
                read_private(folder, self._place(name).name, MAX_BYTES), "a record of verified files"
            )
            if isinstance(found, dict) and boot_id():
                age = time.time() - found.pop("hashed_at", 0)
                return 0 <= age <= self._max_age and found == _content(digest, states)
        return False

    def note(self, watch: Watch, name: str, digest: Digest) -> None:
        """Write down that one of the files that are watched was read through since, and has this digest."""
        if name not in watch.changed():
            self.note_all(digest, digest, {_FILE: watch.states[name]})

    def note_all(self, name: str, digest: Digest, states: Mapping[str, FileState]) -> None:
        """Write down that files in these states, of which every change would be seen, are those of a manifest."""
        data = canonical_json({**_content(digest, states), "hashed_at": time.time()})
        # A voucher that cannot be written costs another hash, no more: a full disk or a read-only home.
        with suppress(OSError, StorageError), private_folder(self.root, make=True):
            write_atomically(self._place(name), data, mode=0o600)

    def forget(self, name: str) -> None:
        """Have files hashed again when they are looked up next."""
        with suppress(OSError):
            self._place(name).unlink()

    def sweep(self, older_than: float) -> int:
        """Remove vouchers that hold no longer, and halves of one; return the bytes freed."""
        freed = 0
        with suppress(OSError, StorageError), private_folder(self.root) as folder:
            for name in os.listdir(folder):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                age = self._max_age if name.endswith(".json") else min(older_than, self._max_age)
                if time.time() - found.st_mtime > age:
                    os.unlink(name, dir_fd=folder)
                    freed += found.st_size
        return freed

    def _place(self, name: str) -> Path:
        return self.root / f"{parse_digest(name)}.json"


_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def _content(digest: Digest, states: Mapping[str, FileState]) -> dict[str, Any]:
    files = {name: list(state) for name, state in states.items()}
    return {"version": VERSION, "digest": digest, "boot": boot_id(), "files": files}


@contextmanager
def private_folder(folder: Path, *, make: bool = False) -> Iterator[int]:
    """Yield the descriptor of a folder that only this user can write, whatever happens to its name meanwhile."""
    with os_failures(f"read {folder}", near=folder):
        if make and not os.path.lexists(folder):
            make_folders(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_ours(os.fstat(fd)):
            raise StoreDeniedError(
                f"what is in {folder} may have been written by somebody else",
                hint=f"remove it: it is made again, for you alone (rm -r {typed(folder)})",
            )
        yield fd
    finally:
        os.close(fd)


def read_private(folder: int, name: str, limit: int) -> bytes:
    """Return the first bytes of a file in a private folder."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        if not _is_ours(os.fstat(fd)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return file.read(limit)


def others_may_write(path: Path) -> bool:
    """Tell whether somebody else than this user may write to a folder or file, as far as its mode and owner say."""
    return not _is_ours(path.stat())


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & _OTHERS


TICK = 0.02
"""Seconds that the clock of a file's times may stand still: two writes within them can look like one (Linux: 10 ms)."""

FileState = tuple[int, int, int, int, int]
"""Size, mtime in ns, ctime in ns, inode and device of a file."""

# Finder leaves it wherever it looks, and nothing reads it.
_IGNORED = ".DS_Store"


def state_of(found: os.stat_result) -> FileState:
    """Return the state of a file that was looked at."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def folder_state(folder: Path) -> dict[str, FileState] | None:
    """Return the state of every file in a folder, None if it is not there; what is no file has the size `NOT_A_FILE`."""
    if not folder.is_dir() or folder.is_symlink():
        return None
    state: dict[str, FileState] = {}
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    pending.append(Path(entry.path))
                elif entry.name != _IGNORED:
                    name = Path(entry.path).relative_to(folder).as_posix()
                    _, modified, changed, inode, device = state_of(found)
                    size = found.st_size if stat.S_ISREG(found.st_mode) else NOT_A_FILE
                    state[name] = (size, modified, changed, inode, device)
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
        """Return the names of files that are not what they were: written to, replaced or gone."""
        return [name for name, state in self.states.items() if _state(self._paths[name]) != state]

    def require_unchanged(self) -> None:
        """Refuse a file that was written to or replaced since."""
        if changed := self.changed():
            raise StorageError(
                f"{self._paths[changed[0]]} changed while it was read", hint="run the command again"
            )


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
    """Hash files and hold them against a manifest."""
    for entry in manifest:
        digest = _digest(paths[entry.path])
        if digest != entry.sha256:
            raise DigestMismatchError(
                entry.path, entry.sha256, entry.sha256, digest, hint="run: fusery audit"
            )


def _state(path: Path) -> FileState | None:
    try:
        return state_of(path.stat())
    except FileNotFoundError:
        return None


def _digest(path: Path) -> Digest:
    with reading(path.resolve()) as source:
        return pump(source.fd, None)[0]
