"""What has to leave the cache so that the rest fits: a plan first, shown or executed afterwards."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .digest import Digest
from .failures import os_failures
from .processes import is_maker_dead
from .publishing import remove_tree
from .verified_files import folder_state


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A fused model in the cache."""

    key: Digest
    path: Path
    size: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Eviction:
    """What has to go so that the cache fits its limit; nothing is gone before `execute`."""

    remove: tuple[CacheEntry, ...]
    keep: tuple[CacheEntry, ...]
    _remove: Callable[[CacheEntry], bool] = field(repr=False, compare=False)

    def execute(self) -> list[CacheEntry]:
        """Remove the entries, except those used since the plan was made or read at the moment; return what went."""
        return [entry for entry in self.remove if self._remove(entry)]


_SWEPT = ("tmp", "quarantine", "used")


def sweep(root: Path, older_than: float) -> int:
    """Remove what interrupted builds and writes and damaged entries left in a cache; return the bytes freed."""
    freed = 0
    with os_failures(f"clean up the cache {root}", near=root):
        for path in (path for name in _SWEPT for path in children(root, name)):
            with suppress(PermissionError):
                if _is_rubbish(root, path, older_than):
                    size = bytes_in(path)
                    remove_tree(path)
                    owner_file(path).unlink(missing_ok=True)
                    freed += size
    return freed


def children(root: Path, name: str) -> list[Path]:
    """Return what is in a folder of the cache, nothing if that is not there."""
    with os_failures(f"list the cache {root}", near=root):
        try:
            return list((root / name).iterdir())
        except FileNotFoundError:
            return []


def owner_file(folder: Path) -> Path:
    """Return the file beside a folder that says which process it belongs to."""
    return folder.with_name(f"{folder.name}.owner")


def bytes_in(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it is gone."""
    try:
        state = folder_state(path)
        return path.lstat().st_size if state is None else sum(max(0, size) for size, *_ in state.values())
    except FileNotFoundError:
        return 0


def _is_rubbish(root: Path, path: Path, older_than: float) -> bool:
    if path.parent.name == "used" and (root / "fused" / path.name).exists():
        return False
    owner = path if path.suffix == ".owner" else owner_file(path)
    if owner == path and path.with_suffix("").exists():
        return False
    with suppress(FileNotFoundError):
        if is_maker_dead(owner.read_text("utf-8", "replace")):
            return True
    if ".trash." in path.name:
        return True
    with suppress(FileNotFoundError):
        times = [changed for _, _, changed, *_ in (folder_state(path) or {}).values()]
        return time.time() - max([path.lstat().st_ctime_ns, *times]) / 1e9 > older_than
    return False


_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_NO_FOLDER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@contextmanager
def locked(folder: Path, *, alone: bool = False) -> Iterator[bool | None]:
    """Lock a folder until the block ends, exclusively with `alone`; yield None if it is gone, False if another process has it."""
    fd, is_held = None, False
    with suppress(BlockingIOError):
        fd = _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        is_held = True
    try:
        yield None if is_held and fd is None else is_held
    finally:
        if fd is not None:
            os.close(fd)


def _locked(folder: Path, kind: int) -> int | None:
    """Return a locked descriptor of the folder that has the name now, None if it is gone."""
    while True:
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_FOLDER:
                return None
            raise
        try:
            try:
                fcntl.flock(fd, kind)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            if os.path.samestat(os.fstat(fd), folder.lstat()):
                return fd
        except FileNotFoundError:
            pass  # removed, or replaced, while we waited: look again
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
