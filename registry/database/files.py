"""The files of an SQLite database: what lies beside it is read as well, and may be another party's.

A journal that was left in the middle of a write is played back by whoever opens the database next.  At its end may stand the
name of a file that the write shared with other databases, and that file is removed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fusery.storage.copying import pump, reading
from fusery.storage.errors import MissingFileError
from fusery.storage.failures import os_failures
from fusery.storage.opening import opened
from fusery.storage.room import NOTES, Need, on_disk

from ..errors import DatabaseUnavailableError, SchemaError

MOST_BYTES = 16 << 30
"""Bytes of an SQLite file that is copied to be read."""

_ATTEMPTS = 5
_SIDE_FILES = ("-wal", "-shm", "-journal")
_STATE = ("-wal", "-journal")
"""What holds a part of the database's state: writes that are not merged yet, and one that is to be undone."""

_MAGIC = bytes.fromhex("d9d505f920a163d7")
"""What a journal begins with, and ends with if it names a file (sqlite.org/fileformat2.html, section 3)."""


def require_own_journal(path: Path) -> None:
    """Refuse a database whose journal names a file to be removed: fusery never writes to two databases at once.

    Raises:
        DatabaseUnavailableError: it does.
    """
    journal = path.with_name(f"{path.name}-journal")
    if not journal.exists():
        return
    try:
        with opened(journal) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_MAGIC)))
            end = file.read(len(_MAGIC)) if size > len(_MAGIC) else b""
    except MissingFileError as error:  # the writer has just removed it; or it is a pipe
        if journal.exists() and not journal.is_file():
            raise _strange(journal) from error
        return
    if end == _MAGIC:
        raise _strange(journal)


def _strange(journal: Path) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        f"{journal} is not a journal of fusery's, and opening the database could remove another file",
        hint="look where the folder comes from; restore the database from a backup",
    )


def require_files(path: Path) -> None:
    """Refuse an SQLite file that is none, or lies beside files that are none; nothing is opened.

    Raises:
        SchemaError: one is a link, a pipe, a folder.
        DatabaseUnavailableError: the journal of a write that was not finished would have another file removed.
    """
    for name in (path, *(path.with_name(path.name + suffix) for suffix in _SIDE_FILES)):
        with os_failures(f"look at {name}", near=name):
            if not name.is_symlink() and not name.exists():
                continue
            if name.is_symlink() or not name.is_file():
                raise SchemaError(
                    f"{name} is not a regular file",
                    hint="name the database itself: --database sqlite:///PATH",
                )
    require_own_journal(path)


def copy_aside(path: Path, folder: Path) -> Path:
    """Copy an SQLite file, with what is not yet merged or undone, to where nobody else can change it; return the copy.

    Raises:
        SchemaError: it is not one, or too large.
        DatabaseUnavailableError: somebody is writing to it all the time, or its journal is not ours.
        StorageError: it cannot be read, or there is no room for it.
    """
    copy = folder / "fusery.db"
    for _ in range(_ATTEMPTS):
        require_files(path)
        before = stamps(path)
        _require_room(path, sum(size for size, _ in before), folder)
        for suffix in ("", *_STATE):
            _copy(
                path.with_name(path.name + suffix), copy.with_name(copy.name + suffix), optional=bool(suffix)
            )
        if stamps(path) == before:
            return copy
    raise DatabaseUnavailableError(
        f"the database {path} is being written to all the time", hint="run the command again"
    )


def _copy(source: Path, target: Path, *, optional: bool) -> None:
    target.unlink(missing_ok=True)
    if optional and not source.exists():
        return
    with reading(source) as opened, os_failures(f"copy {source}", near=target), target.open("x+b") as file:
        pump(opened.fd, file.fileno())


def stamps(path: Path) -> list[tuple[int, int]]:
    """Return size and time of the last change of an SQLite file, and of what beside it is a part of its state."""
    found = []
    for name in (path, *(path.with_name(path.name + suffix) for suffix in _STATE)):
        with os_failures(f"look at {name}", near=name):
            there = name.lstat() if name.exists() else None
        found.append((there.st_size, there.st_mtime_ns) if there else (0, 0))
    return found


def _require_room(path: Path, size: int, folder: Path) -> None:
    if size > min(MOST_BYTES, shutil.disk_usage(folder).free):
        raise SchemaError(
            f"{path} has {size:,} bytes, more than can be copied to be read",
            hint="make room in the folder for temporary files, or let its owner move to PostgreSQL",
        )


def notes_of(path: Path | None) -> list[Need]:
    """Return the room that a command's records need beside an SQLite file; its log is removed when it is closed."""
    if path is None:
        return []
    taken = sum(on_disk(path.with_name(path.name + suffix)) for suffix in ("-wal", "-shm"))
    return [Need(path.parent, [NOTES], taken=taken)]
