"""The process that made a probe, a staged copy or a temporary folder, in its name: so that leftovers are found."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import uuid
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .digest import digest_bytes
from .publishing import remove_tree

_TAG = re.compile(r"([0-9]{1,20})-([0-9]{0,20})-([0-9a-f]{12})(?![0-9a-f])")
_PREFIX = "fusery-"


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
    """Name this process in a few letters that fit into a file's name: its pid, its start, and where those count."""
    pid = os.getpid()
    _, started = _state(pid) or ("", "")
    return f"{pid}-{started}-{_place()}"


def has_process_tag(name: str) -> bool:
    """Tell whether a name, or a text, holds the tag of a process."""
    return _TAG.search(name) is not None


def is_maker_dead(name: str) -> bool:
    """Tell whether the process whose tag is the last in a name has ended; False if in doubt, as for other machines'."""
    tags = _TAG.findall(name)
    if not tags or not boot_id() or tags[-1][2] != _place():
        return False
    pid, started = int(tags[-1][0]), tags[-1][1]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is there, and somebody else's
    except OverflowError:
        return False
    state = _state(pid)
    if state is None or not started:
        return False
    return state[0] in "ZXx" or state[1] != started


def _state(pid: int) -> tuple[str, str] | None:
    """Return the state of a process, and when it started; None where there is no such list of processes."""
    # Fields 3 and 22 of proc_pid_stat(5).  The name in field 2 may hold spaces and parentheses; the last `)` ends it.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (fields[0], fields[19]) if len(fields) > 19 else None


def _place() -> str:
    """Return a digest of this run of the kernel and this namespace of processes, in which a pid counts."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = "pids"
    return digest_bytes(f"{boot_id()} {space}".encode())[:12]


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process's environment until the block ends."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def temporary_name() -> str:
    """Return a unique name for a temporary file, with this process's tag."""
    return f"{uuid.uuid4().hex}.{process_tag()}.part"


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Give a new, empty folder that goes away again; those that killed processes left go first."""
    import tempfile  # it costs a short command some milliseconds

    sweep_temporary()
    with tempfile.TemporaryDirectory(prefix=_prefix(purpose)) as folder:
        yield Path(folder)


def sweep_temporary(place: Path | None = None, prefix: str = _PREFIX) -> int:
    """Remove this user's folders, by default temporary ones, whose processes have ended; return the bytes freed."""
    import tempfile

    freed = 0
    with suppress(OSError):  # a folder that cannot be listed has nothing that can be removed
        for path in (place or Path(tempfile.gettempdir())).glob(f"{prefix}*"):
            with suppress(FileNotFoundError, PermissionError):
                status = path.lstat()
                is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
                if is_ours and is_maker_dead(path.name):
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
