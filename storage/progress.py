"""What hears how long work goes on, and bytes of several transfers added up for one bar."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock


class Reporter:
    """Receives messages, done and total amounts, and names of items (`say` by default) of long work."""

    def __init__(
        self,
        say: Callable[[str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        item: Callable[[str], None] | None = None,
        *,
        verbose: bool = False,
    ) -> None:
        self._say, self._progress, self._item, self._verbose = say, progress, item, verbose

    def __repr__(self) -> str:
        return "Reporter()" if self._say is None and self._progress is None else "Reporter(...)"

    def say(self, text: str, detail: str = "") -> None:
        """Report what is going on; a verbose reporter adds the detail."""
        if self._say is not None:
            self._say(f"{text} ({detail})" if detail and self._verbose else text)

    def item(self, name: str) -> None:
        """Report the item that is being processed."""
        if self._item is not None:
            self._item(name)
        else:
            self.say(name)

    def begin(self, what: str) -> None:
        """Hear that something else is counted from now on: `probe` fuses first, and then answers `tokens`."""

    def progress(self, done: int, total: int) -> None:
        """Hear how much is done, and of how much."""
        if self._progress is not None:
            self._progress(done, total)


SILENT = Reporter()
"""Hears nothing."""


def tally(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """Return a thread-safe function that adds a number of bytes and reports the total to `progress`."""
    done, lock = 0, Lock()

    def add(number: int) -> None:
        nonlocal done
        with lock:
            done += number
            if progress is not None:
                progress(done, max(total, done))

    return add
