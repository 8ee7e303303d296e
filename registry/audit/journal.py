"""A journal of an audit: what was read and found right, so that one that was interrupted is taken up again.

It is a file that is gone when the audit is over, in a folder that only this user can write: whoever wrote to it could
have things passed over.  It spares work and decides nothing else: what it does not mention is looked at again, and so is
what was not right.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from fusery.storage.errors import StoreDeniedError
from fusery.storage.failures import os_failures
from fusery.storage.private import private_folder, read_private

LASTS = 24 * 3600.0
"""Seconds for which what was found right counts as right."""

_MOST = 1 << 30


class Journal:
    """The journal of the audit of one store.

    Args:
        path: its file.
        store: id of the store; the journal of another is not read on.
        anew: forget what an interrupted audit has found.
    """

    def __init__(self, path: Path, store: str, *, anew: bool = False) -> None:
        self._path = path
        self._store = store
        self._anew = anew
        self._file: IO[bytes] | None = None
        self.done: frozenset[str] = frozenset()
        self.begun = time.time()

    def __enter__(self) -> Self:
        # Where there is no such folder, an audit that is interrupted begins anew, and that is all.
        with (
            contextlib.suppress(StoreDeniedError),
            os_failures(f"write {self._path}", near=self._path.parent),
            private_folder(self._path.parent, make=True) as folder,
        ):
            lines = [] if self._anew else self._read(folder)
            if lines:
                self.begun, self.done = (
                    float(lines[0]["begun"]),
                    frozenset(line["done"] for line in lines[1:]),
                )
            self._file = open(self._path, "ab" if lines else "wb", opener=_ours)
            if not lines:
                self._write({"store": self._store, "begun": self.begun})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            if kind is None:
                self._path.unlink(missing_ok=True)

    def note(self, unit: str) -> None:
        """Note that something was found right."""
        if self._file is not None:
            with os_failures(f"write {self._path}", near=self._path.parent):
                self._write({"done": unit})

    def _write(self, line: dict[str, object]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line).encode("ascii") + b"\n")
        self._file.flush()

    def _read(self, folder: int) -> list[dict[str, str]]:
        """Return the lines of a journal that counts, none of another; a last line that was cut off is passed over."""
        lines: list[dict[str, str]] = []
        with contextlib.suppress(FileNotFoundError, PermissionError, ValueError, KeyError, TypeError):
            data = read_private(folder, self._path.name, _MOST + 1)
            if len(data) > _MOST:
                return []
            whole, newline, _ = data.rpartition(b"\n")
            found = [json.loads(line) for line in whole.split(b"\n")] if newline else []
            header = found[0] if found else {}
            fresh = 0 <= time.time() - float(header["begun"]) < LASTS
            if header["store"] == self._store and fresh and all("done" in line for line in found[1:]):
                lines = found
                if len(whole) + 1 < len(data):
                    self._path.write_bytes(whole + b"\n")
        return lines


def _ours(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
