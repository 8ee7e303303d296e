"""Vouchers: a note that one file was read through and had its digest, so that it need not be hashed again that day.

A voucher is a stamp (see `stamps`) over a single file: it holds while size, times and inode are what they were, on a
machine that has not been started since, for at most a day.  An audit never asks for one.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from .digest import Digest, parse_digest
from .errors import StorageError
from .publishing import make_folders
from .stamps import FileState, Stamp, boot_id, read_stamp, wait_a_tick

MAX_AGE = 24 * 3600.0
"""Seconds after which a file is hashed again, though nobody touched it: disks forget, too."""

_FILE = "file"


def file_state(path: Path) -> FileState:
    """Return what would change if somebody wrote to a file; to be taken before the file is hashed."""
    found = path.stat()
    state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    wait_a_tick({_FILE: state})
    return state


class Vouchers:
    """The vouchers of one machine, in a folder of their own.

    Args:
        root: the folder; made when the first voucher is written.
    """

    def __init__(self, root: Path, *, max_age: float = MAX_AGE) -> None:
        self._root = root
        self._max_age = max_age

    def hold(self, path: Path, digest: Digest) -> bool:
        """Tell whether a file was found to have this digest, and is untouched since."""
        stamp = read_stamp(self._place(digest))
        if stamp is None:
            return False
        with suppress(OSError):
            return stamp.holds_for(digest, {_FILE: file_state(path)}, max_age=self._max_age)
        return False

    def note(self, path: Path, digest: Digest, state: FileState) -> None:
        """Write down that a file, whose state was taken before, was read through and has this digest."""
        with suppress(OSError, StorageError):
            # A voucher that cannot be written costs another hash, no more.
            if file_state(path) == state:
                make_folders(self._root)
                Stamp(digest, boot_id(), time.time(), {_FILE: state}).write(self._place(digest))

    def _place(self, digest: Digest) -> Path:
        return self._root / f"{parse_digest(digest)}.json"
