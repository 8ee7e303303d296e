"""Seeing every change of a file, also one through a mapping: what has to hold before a file's times are believed.

Whoever writes to a file by a system call changes its ctime at once.  A write through a shared mapping changes it when the
page is written to for the first time, and then not again before the page has been brought to the disk: a page that was
dirty already takes further writes unseen.  So before a file is hashed and its times are noted, either nobody has it open
for writing, which the kernel says by granting a lease, or it is flushed, after which the next write to each page shows.
File systems on which that is not so, such as tmpfs, are found by trying it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from .copying import pump, reading
from .digest import Digest
from .errors import StorageError
from .failures import DigestMismatchError, os_failures
from .manifest import Manifest
from .stamps import FileState, state_of, wait_a_tick

_SHOWN: dict[int, bool] = {}
"""By device: whether its file system shows writes through mappings.  That costs a flush to try, once in a process."""


class Watch:
    """Files whose every change from now on is seen.

    Attributes:
        states: their states, by name.
        certain: also a write through a mapping would show in them.
    """

    def __init__(self, paths: Mapping[str, Path], *, near: Path | None = None) -> None:
        """Begin to watch; the files are to be read afterwards.

        Args:
            paths: the files, by names of the caller's choice; links are followed.
            near: a folder of ours, to try the file system in where that cannot be done beside the files.

        Raises:
            OSError: a file is not there, or may not be read.
        """
        self._paths = dict(paths)
        self.states = {name: state_of(path.stat()) for name, path in self._paths.items()}
        wait_a_tick(self.states)
        self.certain = settle(self._paths.values(), near=near)

    def changed(self) -> list[str]:
        """Return the names of files that are not what they were: written to, replaced or gone."""
        return [name for name, state in self.states.items() if _state(self._paths[name]) != state]

    def require_unchanged(self) -> None:
        """Refuse a file that was written to or replaced since.

        Raises:
            StorageError: one was.
        """
        if changed := self.changed():
            raise StorageError(
                f"{self._paths[changed[0]]} changed while it was read", hint="run the command again"
            )


@contextmanager
def watched(paths: Mapping[str, Path], manifest: Manifest, *, near: Path | None = None) -> Iterator[Watch]:
    """Watch files that the block hashes first and reads then: what it read is what was hashed.

    Where the file system does not show every change, they are hashed once more at the end.

    Args:
        paths: where the files of the manifest are.
        manifest: what they must be.
        near: as for `Watch`.

    Raises:
        StorageError: a file was changed before the block ended.
        DigestMismatchError: likewise, where that shows in its bytes only.
        MissingFileError: one is not there.
    """
    with os_failures("read what is to be hashed", near=Path("/")):
        watch = Watch({entry.path: paths[entry.path] for entry in manifest}, near=near)
    yield watch
    watch.require_unchanged()
    if not watch.certain:
        require_digests(paths, manifest)


@contextmanager
def verified(paths: Mapping[str, Path], manifest: Manifest, *, near: Path | None = None) -> Iterator[None]:
    """Hash files, and refuse them if they change before the block ends; arguments and errors as for `watched`."""
    with watched(paths, manifest, near=near):
        require_digests(paths, manifest)
        yield


def require_digests(paths: Mapping[str, Path], manifest: Manifest) -> None:
    """Hash files and hold them against a manifest.

    Raises:
        DigestMismatchError: one is not what the manifest says.
        MissingFileError: one is not there.
    """
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


def settle(paths: Iterable[Path], *, near: Path | None = None) -> bool:
    """Make every later write to files show in their times, and tell whether it will.

    Their states are to be taken before.

    Args:
        paths: the files.
        near: as for `Watch`.
    """
    try:
        return all(
            shows_mapped_writes(path, near) and (is_unopened(path) or _flushed(path)) for path in paths
        )
    except OSError:
        return False


def is_unopened(path: Path) -> bool:
    """Tell whether certainly nobody has a file open for writing, or mapped: the kernel gives a lease only then.

    It gives one to the file's owner only, and on Linux only; False is the answer to everything else.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Who opens the file for writing meanwhile has the lease taken away by a signal, which by default ends the
        # process; this one is ignored by default, and the lease is given back at once.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def shows_mapped_writes(path: Path, near: Path | None = None) -> bool:
    """Tell whether a write through a mapping, after a flush, shows in a file's times on the file system of a file.

    It is tried with a file that has no name in the file's own folder, where nobody is to find it; or else in `near`, if
    that is on the same file system.  Where it cannot be tried, the answer is False.
    """
    device = path.stat().st_dev
    if device not in _SHOWN:
        trials = (partial(_nameless, path.resolve().parent), partial(_beside, near, device))
        for trial in trials:
            with suppress(OSError), trial() as file:
                _SHOWN[device] = _shows(file)
                break
    return _SHOWN.get(device, False)


def _nameless(folder: Path) -> IO[bytes]:
    if not hasattr(os, "O_TMPFILE"):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(folder))
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    return os.fdopen(fd, "w+b", buffering=0)


def _beside(near: Path | None, device: int) -> IO[bytes]:
    import tempfile

    if near is None or near.stat().st_dev != device:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(near))
    return tempfile.TemporaryFile(dir=near, buffering=0)


def _shows(file: IO[bytes]) -> bool:
    file.write(bytes(mmap.PAGESIZE))
    with mmap.mmap(file.fileno(), mmap.PAGESIZE) as memory:
        memory[0] += 1
        _flush(file.fileno())
        before = state_of(os.fstat(file.fileno()))
        wait_a_tick({"": before})
        memory[0] += 1
        return state_of(os.fstat(file.fileno())) != before


def _flushed(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _flush(fd)
    finally:
        os.close(fd)
    return True


def _flush(fd: int) -> None:
    """Write a file's dirty pages, which makes the next write to each of them show; nothing needs to be durable."""
    os.fsync(fd)
