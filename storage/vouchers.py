"""Vouchers: notes that files were read through and had their digest, so that they need not be hashed again that day.

A voucher is a stamp (see `stamps`): it holds while size, times and inode are what they were, on a machine that has not
been started since, for at most a day.  None is written where a change could go unseen (see `watching`), and none is
believed that another user could have written.  Nothing that leaves the machine relies on one, nor does an audit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .digest import Digest, parse_digest
from .errors import StorageError
from .jsonfile import MAX_BYTES
from .private import private_folder, read_private
from .publishing import write_atomically
from .stamps import FileState, Stamp, boot_id, parse_stamp, state_of
from .watching import Watch

MAX_AGE = 24 * 3600.0
"""Seconds after which a file is hashed again, though nobody touched it: disks forget, too."""

_FILE = "file"


class Vouchers:
    """One user's vouchers on one machine, in a folder that nobody else can write.

    Attributes:
        root: the folder; made when the first voucher is written.
    """

    def __init__(self, root: Path, *, max_age: float = MAX_AGE) -> None:
        """Take the folder; nothing is made yet.

        Args:
            root: the folder.
            max_age: seconds for which a voucher holds at most.
        """
        self.root = root
        self._max_age = max_age

    def hold(self, path: Path, digest: Digest) -> bool:
        """Tell whether a file was found to have this digest, and is untouched since."""
        with suppress(OSError):
            return self.hold_all(digest, digest, {_FILE: state_of(path.stat())})
        return False

    def hold_all(self, name: str, digest: Digest, states: Mapping[str, FileState]) -> bool:
        """Tell whether files, in these states, were found to be those of a manifest.

        Args:
            name: of the voucher, 64 hex digits.
            digest: of the manifest.
            states: of all files, as they are now.
        """
        stamp = None
        with suppress(OSError, StorageError), private_folder(self.root) as folder:
            stamp = parse_stamp(read_private(folder, self._place(name).name, MAX_BYTES))
        return stamp is not None and stamp.holds_for(digest, dict(states), max_age=self._max_age)

    def note(self, watch: Watch, name: str, digest: Digest) -> None:
        """Write down that one of the files that are watched was read through since, and has this digest."""
        if watch.certain and name not in watch.changed():
            self.note_all(digest, digest, {_FILE: watch.states[name]})

    def note_all(self, name: str, digest: Digest, states: Mapping[str, FileState]) -> None:
        """Write down that files in these states, of which every change would be seen, are those of a manifest."""
        stamp = Stamp(digest, boot_id(), time.time(), dict(states))
        # A voucher that cannot be written costs another hash, no more: a full disk or a read-only home.
        with suppress(OSError, StorageError), private_folder(self.root, make=True):
            write_atomically(self._place(name), stamp.to_bytes(), mode=0o600)

    def forget(self, name: str) -> None:
        """Have files hashed again when they are looked up next."""
        with suppress(OSError):
            self._place(name).unlink()

    def sweep(self, older_than: float) -> int:
        """Remove vouchers that hold no longer, and halves of one; return the bytes freed.

        Args:
            older_than: seconds since the last write of a half.
        """
        freed = 0
        with suppress(OSError, StorageError), private_folder(self.root) as folder:
            for name in os.listdir(folder):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                age = self._max_age if name.endswith(".json") else min(older_than, self._max_age)
                if time.time() - found.st_mtime > age:
                    os.unlink(name, dir_fd=folder)
                    freed += found.st_size
        return freed

    def _place(self, name: str) -> Path:
        return self.root / f"{parse_digest(name)}.json"
