"""SQLite files: their file systems, connections that only read, and the room that writes need."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from fusery.storage.transfer import NOTES, Need, on_disk

_NETWORK = re.compile(
    r"9p|acfs|afpfs|afs|beegfs|ceph|cifs|coda|davfs|drvfs|fuse(\..*)?|gfs2?|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2"
    r"|orangefs|pvfs2|smb[23]|smbfs|vboxsf|webdav"
)
_MOUNTS = Path("/proc/self/mountinfo")


def notes_of(path: Path | None) -> list[Need]:
    """Return the room that a command's records need beside an SQLite file; its log is removed when it is closed."""
    if path is None:
        return []
    taken = sum(on_disk(path.with_name(path.name + suffix)) for suffix in ("-wal", "-shm"))
    return [Need(path.parent, [NOTES], taken=taken)]


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Connect to an SQLite file in a folder that cannot be written: SQLite makes files there even to read it."""
    # Without these files, no process has the database open to write it.
    is_open = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
    mode = "mode=ro" if is_open else "immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, check_same_thread=False)


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
