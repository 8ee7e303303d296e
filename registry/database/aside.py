"""An SQLite file that may be read and not written, with its folder: it is copied, and the copy is read.

SQLite makes files beside a database even to read it, and where it cannot it may only be told that nobody ever writes,
which is not known: somebody else may have the right to, or another mount of the same disk.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fusery.storage.publishing import remove_tree
from fusery.storage.temporary import make_temporary

from .files import copy_aside, stamps


def may_only_be_read(path: Path) -> bool:
    """Tell whether there is an SQLite file beside which this user cannot write: a read-only disk, or another's folder."""
    return path.is_file() and os.access(path, os.R_OK) and not os.access(path.parent, os.W_OK)


class Aside:
    """Gives connections to a copy that is made anew when the file has changed; `close` removes it.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is copied yet."""
        self.path = path
        self._folder: Path | None = None
        self._copied: list[tuple[int, int]] = []

    def connect(self) -> sqlite3.Connection:
        """Return a connection to a copy of the file as it is now.

        Raises:
            DatabaseUnavailableError: somebody writes to it all the time.
            StorageError: there is no room for the copy.
        """
        if self._folder is None or stamps(self.path) != self._copied:
            self.close()
            self._folder = make_temporary("read")
            self._copied = stamps(self.path)
            copy_aside(self.path, self._folder)
        return sqlite3.connect(self._folder / "fusery.db", check_same_thread=False)

    def close(self) -> None:
        """Remove the copy."""
        if self._folder is not None:
            remove_tree(self._folder)
            self._folder = None
