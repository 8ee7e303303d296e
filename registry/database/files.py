"""Copies of SQLite files, and the room that writes to them need."""

from __future__ import annotations

import shutil
from pathlib import Path

from fusery.storage.copying import pump, reading
from fusery.storage.failures import os_failures
from fusery.storage.room import NOTES, Need, on_disk

from ..errors import DatabaseUnavailableError, SchemaError

_ATTEMPTS = 5
_STATE = ("-wal", "-journal")
"""What holds a part of the database's state: writes that are not merged yet, and one that is to be undone."""


def copy_aside(path: Path, folder: Path) -> Path:
    """Copy an SQLite file with its write-ahead log and journal, in one state; return the copy.

    Raises:
        SchemaError: there is no room for the copy.
        DatabaseUnavailableError: somebody writes to the file all the time.
        StorageError: the file cannot be read.
    """
    copy = folder / "fusery.db"
    for _ in range(_ATTEMPTS):
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
    if size > shutil.disk_usage(folder).free:
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
