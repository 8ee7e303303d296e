"""Folders where the system has its temporary files, named after who made them: what a killed process left is found.

In a registry's cache `FusedCache.scratch` gives such a folder, on a disk with room for models; this is for what is small, and
for where there is no cache.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .publishing import remove_tree
from .stamps import is_tag_dead, process_tag
from .sweeping import bytes_in

_PREFIX = "fusery-"


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Give a new, empty folder that goes away again; those that killed processes left go first.

    Args:
        purpose: one word for its name.
    """
    sweep_temporary()
    with tempfile.TemporaryDirectory(prefix=_prefix(purpose)) as folder:
        yield Path(folder)


def make_temporary(purpose: str) -> Path:
    """Make such a folder that its user removes; killed, he leaves it to the next who makes one."""
    sweep_temporary()
    return Path(tempfile.mkdtemp(prefix=_prefix(purpose)))


def sweep_temporary() -> int:
    """Remove this user's temporary folders whose processes have ended; return the bytes freed.

    Folders of other users, of other machines and of processes that may still run stay.
    """
    freed = 0
    with suppress(OSError):  # a folder that cannot be listed has nothing that can be removed
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with suppress(FileNotFoundError, PermissionError):
                if _is_left(path):
                    size = bytes_in(path)
                    remove_tree(path)
                    freed += size
    return freed


def _prefix(purpose: str) -> str:
    return f"{_PREFIX}{purpose}-{process_tag()}-"


def _is_left(path: Path) -> bool:
    found = path.lstat()
    # The part after the last hyphen is random; what made the folder stands before it.
    tag = "-".join(path.name.split("-")[-3:-1])
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and is_tag_dead(tag)
