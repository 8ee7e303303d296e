"""SQLite files: on which file system they lie, copies of those that may only be read, and the room that writes need."""

from __future__ import annotations

import re
import shutil
import sqlite3
from pathlib import Path

from fusery.storage.copying import pump, reading
from fusery.storage.failures import os_failures
from fusery.storage.processes import make_temporary
from fusery.storage.publishing import remove_tree
from fusery.storage.transfer import NOTES, Need, on_disk

from ..errors import DatabaseUnavailableError, SchemaError

_ATTEMPTS = 5
_NETWORK = re.compile(
    r"9p|acfs|afpfs|afs|beegfs|ceph|cifs|coda|davfs|drvfs|fuse(\..*)?|gfs2?|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2"
    r"|orangefs|pvfs2|smb[23]|smbfs|vboxsf|webdav"
)
_MOUNTS = Path("/proc/self/mountinfo")
_STATE = ("-wal", "-journal")
"""What holds a part of the database's state: writes that are not merged yet, and one that is to be undone."""


def copy_database(path: Path, folder: Path) -> Path:
    """Copy an SQLite file with its write-ahead log and journal, in one state; return the copy."""
    copy = folder / "fusery.db"
    for _ in range(_ATTEMPTS):
        before = stamps(path)
        if (size := sum(size for size, _ in before)) > shutil.disk_usage(folder).free:
            raise SchemaError(
                f"{path} has {size:,} bytes, more than can be copied to be read",
                hint="make room in the folder for temporary files, or let its owner move to PostgreSQL",
            )
        for suffix in ("", *_STATE):
            source, target = (each.with_name(each.name + suffix) for each in (path, copy))
            target.unlink(missing_ok=True)
            if suffix and not source.exists():
                continue
            failures = os_failures(f"copy {source}", near=target)
            with reading(source) as opened, failures, target.open("x+b") as file:
                pump(opened.fd, file.fileno())
        if stamps(path) == before:
            return copy
    raise DatabaseUnavailableError(
        f"the database {path} is being written to all the time", hint="run the command again"
    )


def stamps(path: Path) -> list[tuple[int, int]]:
    """Return size and time of the last change of an SQLite file, and of what beside it is a part of its state."""
    file_stamps = []
    for name in (path, *(path.with_name(path.name + suffix) for suffix in _STATE)):
        with os_failures(f"look at {name}", near=name):
            file_status = name.lstat() if name.exists() else None
        file_stamps.append((file_status.st_size, file_status.st_mtime_ns) if file_status else (0, 0))
    return file_stamps


def notes_of(path: Path | None) -> list[Need]:
    """Return the room that a command's records need beside an SQLite file; its log is removed when it is closed."""
    if path is None:
        return []
    taken = sum(on_disk(path.with_name(path.name + suffix)) for suffix in ("-wal", "-shm"))
    return [Need(path.parent, [NOTES], taken=taken)]


class Aside:
    """Gives connections to a copy of a file, made anew when the file has changed; `close` removes it.

    SQLite makes files beside a database even to read it; its `immutable` is only for files that nobody else can write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder: Path | None = None
        self._copied: list[tuple[int, int]] = []

    def connect(self) -> sqlite3.Connection:
        """Return a connection to a copy of the file as it is now."""
        if self._folder is None or stamps(self.path) != self._copied:
            self.close()
            self._folder = make_temporary("read")
            self._copied = stamps(self.path)
            copy_database(self.path, self._folder)
        return sqlite3.connect(self._folder / "fusery.db", check_same_thread=False)

    def close(self) -> None:
        """Remove the copy."""
        if self._folder is not None:
            remove_tree(self._folder)
            self._folder = None


def network_file_system(path: Path) -> str | None:
    """Return the name of the network file system that `path` lies on, or None for a local or an unknown one (as on macOS)."""
    resolved = path.resolve()
    existing = next((part for part in (resolved, *resolved.parents) if part.exists()), resolved)
    try:
        name = file_system_in(_MOUNTS.read_text(errors="replace"), existing)
    except OSError:
        return None
    return name if _NETWORK.fullmatch(name) else None


def file_system_in(mounts: str, path: Path) -> str:
    """Return the type of the file system that holds an absolute path, from the text of `/proc/self/mountinfo`."""
    # proc_pid_mountinfo(5): the fifth field is the mount point, and the type follows the `-`; a later mount covers an
    # earlier one on the same point.
    depth, kind = -1, ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), rest.split(" ", 1)[0]
    return kind
