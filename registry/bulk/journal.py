"""A journal of an audit: what was read and found right, so that one that was interrupted is taken up again.

It is a local file that is gone when the audit is over.  It spares work and decides nothing else: what it does not
mention is looked at again, and so is what was not right.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from fusery.storage.failures import os_failures

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
        with os_failures(f"write {self._path}", near=self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = [] if self._anew else self._read()
            if lines:
                self.begun, self.done = (
                    float(lines[0]["begun"]),
                    frozenset(line["done"] for line in lines[1:]),
                )
            self._file = self._path.open("ab" if lines else "wb")
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
        with os_failures(f"write {self._path}", near=self._path.parent):
            self._write({"done": unit})

    def _write(self, line: dict[str, object]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line).encode("ascii") + b"\n")
        self._file.flush()

    def _read(self) -> list[dict[str, str]]:
        """Return the lines of a journal that counts, none of another; a last line that was cut off is passed over."""
        lines: list[dict[str, str]] = []
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            if self._path.stat().st_size > _MOST:
                return []
            data = self._path.read_bytes()
            whole, newline, _ = data.rpartition(b"\n")
            found = [json.loads(line) for line in whole.split(b"\n")] if newline else []
            header = found[0] if found else {}
            fresh = 0 <= time.time() - float(header["begun"]) < LASTS
            if header["store"] == self._store and fresh and all("done" in line for line in found[1:]):
                lines = found
                if len(whole) + 1 < len(data):
                    self._path.write_bytes(whole + b"\n")
        return lines
