"""Stamps: a note that files were hashed through and found right, and by which a change since then is noticed.

A file whose size, times and inode are as they were when it was hashed, on a machine that has not been started since,
holds the bytes that were hashed: whoever writes to it changes its ctime, which no program can set back (`watching` has
what that takes).  A crash of the machine can lose bytes without that, so a stamp holds only until the next start.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .digest import Digest, canonical_json, digest_bytes
from .errors import FormatError
from .jsonfile import parse_json

TICK = 0.02
"""Seconds that the clock of a file's times may stand still: two writes within them can look like one (Linux: 10 ms)."""

FileState = tuple[int, int, int, int, int]
"""Size, mtime in ns, ctime in ns, inode and device of a file."""

VERSION = 2

NOT_A_FILE = -1
"""The size of what is not a regular file: it matches no manifest and no stamp."""

# Finder leaves it wherever it looks, and nothing reads it.
_IGNORED = ".DS_Store"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What was found when files were hashed.

    Attributes:
        digest: of the one file, or of the manifest that a folder matched.
        boot: the run of the machine it happened in.
        hashed_at: when, in seconds since the epoch.
        files: state of each file, by name.
    """

    digest: Digest
    boot: str
    hashed_at: float
    files: dict[str, FileState]

    def holds_for(self, digest: Digest, files: dict[str, FileState], *, max_age: float) -> bool:
        """Tell whether the stamp still vouches for files in their present state."""
        age = time.time() - self.hashed_at
        return (
            self.boot != ""
            and self.boot == boot_id()
            and self.digest == digest
            and self.files == files
            and 0 <= age <= max_age
        )

    def to_bytes(self) -> bytes:
        """Return it as a file holds it."""
        return canonical_json(
            {
                "version": VERSION,
                "digest": self.digest,
                "boot": self.boot,
                "hashed_at": self.hashed_at,
                "files": self.files,
            }
        )


def parse_stamp(data: bytes) -> Stamp | None:
    """Read a stamp; one that is not understood is None, and the files are hashed again."""
    try:
        document = parse_json(data, "the stamp")
        return _parse(document) if document["version"] == VERSION else None
    except (FormatError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _parse(document: Any) -> Stamp:
    files: dict[str, FileState] = {}
    for name, state in document["files"].items():
        size, modified, changed, inode, device = (int(number) for number in state)
        files[str(name)] = (size, modified, changed, inode, device)
    return Stamp(Digest(str(document["digest"])), str(document["boot"]), float(document["hashed_at"]), files)


def state_of(found: os.stat_result) -> FileState:
    """Return the state of a file that was looked at."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def folder_state(folder: Path) -> dict[str, FileState] | None:
    """Return the state of every file in a folder, None if the folder is not there.

    What is not a regular file has the size `NOT_A_FILE`.
    """
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


def boot_id() -> str:
    """Return a name for the time since this machine was started, "" where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return _boot_session() if sys.platform == "darwin" else ""


def _boot_session() -> str:
    import ctypes

    libc = ctypes.CDLL(None)
    size = ctypes.c_size_t(64)
    text = ctypes.create_string_buffer(size.value)
    if libc.sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0) != 0:
        return ""
    return text.value.decode("ascii", "replace")


def this_process() -> str:
    """Name this process, for `is_dead`: the machine's run, the space its pids count in, and the pid."""
    return f"{boot_id()} {_pid_space()} {os.getpid()}"


def is_dead(process: str) -> bool:
    """Tell whether a process that `this_process` named has ended; False when in doubt.

    Another machine, another container and a pid that was given out again are all in doubt.
    """
    boot, _, rest = process.strip().partition(" ")
    space, _, pid = rest.partition(" ")
    if boot == "" or (boot, space) != (boot_id(), _pid_space()) or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def process_tag() -> str:
    """Name this process in a few letters that fit into a file's name, for `is_tag_dead`: its pid, and where that counts.

    A name is given by one system call; a file that says whose a folder is can be left empty by a kill.
    """
    return f"{os.getpid()}-{_place()}"


def is_tag_dead(tag: str) -> bool:
    """Tell whether a process that `process_tag` named has ended; False when in doubt, as for `is_dead`."""
    pid, _, place = tag.partition("-")
    return place == _place() and is_dead(f"{boot_id()} {_pid_space()} {pid}")


def _place() -> str:
    return digest_bytes(f"{boot_id()} {_pid_space()}".encode())[:12]


def _pid_space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "pids"
