"""An SQLite file that may be read and not written, with its folder: it is copied, and the copy is read.

SQLite makes files beside a database even to read it, and where it cannot it may only be told that nobody ever writes,
which is not known: somebody else may have the right to, or another mount of the same disk.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path

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
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._copied: list[tuple[int, int]] = []

    def connect(self) -> sqlite3.Connection:
        """Return a connection to a copy of the file as it is now.

        Raises:
            DatabaseUnavailableError: somebody writes to it all the time.
            StorageError: there is no room for the copy.
        """
        if self._folder is None or stamps(self.path) != self._copied:
            self.close()
            self._folder = tempfile.TemporaryDirectory(prefix="fusery-read-", ignore_cleanup_errors=True)
            self._copied = stamps(self.path)
            copy_aside(self.path, Path(self._folder.name))
        return sqlite3.connect(Path(self._folder.name) / "fusery.db", check_same_thread=False)

    def close(self) -> None:
        """Remove the copy."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
