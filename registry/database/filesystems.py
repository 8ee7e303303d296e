"""Which kind of file system a path lies on: SQLite's write-ahead log needs one that this machine alone serves."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_NETWORK = re.compile(
    r"9p|acfs|afpfs|afs|beegfs|ceph|cifs|coda|davfs|drvfs|fuse(\..*)?|gfs2?|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2"
    r"|orangefs|pvfs2|smb[23]|smbfs|vboxsf|webdav"
)
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path) -> str | None:
    """Return the name of the network file system that `path` lies on, or None for a local or an unknown one."""
    name = _file_system(_nearest(path))
    return name if _NETWORK.fullmatch(name) else None


def _nearest(path: Path) -> Path:
    """Return the deepest part of a path that exists, with links followed."""
    resolved = path.resolve()
    return next((part for part in (resolved, *resolved.parents) if part.exists()), resolved)


def _file_system(path: Path) -> str:
    if sys.platform == "darwin":
        return _ask_darwin(path)
    try:
        return file_system_in(_MOUNTS.read_text(errors="replace"), path)
    except OSError:
        return ""


def file_system_in(mounts: str, path: Path) -> str:
    """Return the type of the file system that holds an absolute path, from the text of `/proc/self/mountinfo`.

    The format is in proc_pid_mountinfo(5): the fifth field is the mount point, and the type follows the `-`.  Of two
    mounts on one point the later one covers the earlier one.
    """
    depth, kind = -1, ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), rest.split(" ", 1)[0]
    return kind


def _ask_darwin(path: Path) -> str:
    """Return `f_fstypename` of statfs(2): 16 bytes at offset 72 of the structure with 64-bit inodes."""
    import ctypes
    import os

    library = ctypes.CDLL(None)
    statfs = getattr(library, "statfs$INODE64", None) or library.statfs
    buffer = ctypes.create_string_buffer(4096)
    if statfs(os.fsencode(path), buffer) != 0:
        return ""
    return buffer.raw[72:88].split(b"\0", 1)[0].decode("ascii", "replace")
