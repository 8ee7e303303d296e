"""The process that made a probe, a staged copy or a temporary folder, in its name: so that leftovers are found."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .digest import digest_bytes
from .publishing import remove_tree

_PROBE, _STAGED = ".probe", ".staged"


def boot_id() -> str:
    """Return a name for the time since this machine was started, "" if it is unknown."""
    if sys.platform == "darwin":
        import ctypes

        libc, size = ctypes.CDLL(None), ctypes.c_size_t(64)
        text = ctypes.create_string_buffer(size.value)
        failed = libc.sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0) != 0
        return "" if failed else text.value.decode("ascii", "replace")
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def process_tag() -> str:
    """Name this process in a few letters that fit into a file's name: its pid, and where that counts."""
    return f"{os.getpid()}-{_place()}"


def is_tag_dead(tag: str) -> bool:
    """Tell whether a process that `process_tag` named has ended; False if in doubt, as for another machine's."""
    pid, _, place = tag.partition("-")
    if not boot_id() or place != _place() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _place() -> str:
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = "pids"
    return digest_bytes(f"{boot_id()} {space}".encode())[:12]


def probe_name() -> str:
    """Return a new name of a probe, with this process in it."""
    return f"{uuid.uuid4().hex}.{process_tag().replace('-', '.')}{_PROBE}"


def staged_name() -> str:
    """Return a new name of a staged copy, with this process in it."""
    return probe_name().removesuffix(_PROBE) + _STAGED


def has_maker(name: str) -> bool:
    """Tell by a name, with or without its folder, whether it says who made what it names."""
    return name.endswith((_PROBE, _STAGED))


def is_maker_dead(name: str) -> bool:
    """Tell whether the process that made something has ended; False when in doubt, and of processes on other machines."""
    parts = name.rpartition(".")[0].split(".")
    return has_maker(name) and is_tag_dead("-".join(parts[-2:]))


_PREFIX = "fusery-"


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Give a new, empty folder that goes away again; those that killed processes left go first."""
    import tempfile  # it costs a short command some milliseconds

    sweep_temporary()
    with tempfile.TemporaryDirectory(prefix=_prefix(purpose)) as folder:
        yield Path(folder)


def sweep_temporary() -> int:
    """Remove this user's temporary folders whose processes have ended; return the bytes freed."""
    import tempfile

    freed = 0
    with suppress(OSError):  # a folder that cannot be listed has nothing that can be removed
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with suppress(FileNotFoundError, PermissionError):
                folder_status = path.lstat()
                # The part after the last hyphen is random; what made the folder stands before it.
                dead = is_tag_dead("-".join(path.name.split("-")[-3:-1]))
                if stat.S_ISDIR(folder_status.st_mode) and folder_status.st_uid == os.geteuid() and dead:
                    freed += sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
                    remove_tree(path)
    return freed


def _prefix(purpose: str) -> str:
    return f"{_PREFIX}{purpose}-{process_tag()}-"


class Scratch:
    """A temporary folder that lasts as long as somebody holds this."""

    def __init__(self, purpose: str) -> None:
        import tempfile

        sweep_temporary()
        self.path = Path(tempfile.mkdtemp(prefix=_prefix(purpose)))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
