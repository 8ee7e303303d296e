"""What the terminal is like: its width, whether it shows colours, and the bars on it.

Escape codes go to terminals only, and nowhere if NO_COLOR is set to anything or TERM is dumb.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from .tables import DRAWN, PLAIN, Marks, cut

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

Told = Callable[[int, int], None]
"""Takes what is done and what there is in all."""

_PAUSE = 0.1
"""Seconds between two states of a plain bar."""


def has_colours() -> bool:
    """Tell whether a terminal may be sent escape codes."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table_width() -> int | None:
    """Return how wide a table may be on stdout: as the terminal, or None, without end, where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table_marks() -> Marks:
    """Return what stdout can draw a table with."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    return DRAWN if encoding.startswith("utf") else PLAIN


@contextmanager
def moving_bar(label: str, columns: Iterable[ProgressColumn]) -> Iterator[Told]:
    """Yield a callback that updates a progress bar on stderr; remove the bar at the end."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    moving = Progress(TextColumn(label), *columns, console=Console(stderr=True), transient=True)
    task = moving.add_task(label, total=None)

    def told(done: int, total: int) -> None:
        moving.start()  # not before: until then another bar may be drawn
        moving.update(task, completed=done, total=total)
        if done >= total:
            moving.stop()  # so that what comes next can draw its own

    try:
        yield told
    finally:
        if moving.live.is_started:
            moving.stop()


class PlainBar:
    """A line on stderr that is written again and again, by carriage returns alone.

    Args:
        label: what is going on.
        words: say how far it is, of what is done and what there is in all.
    """

    def __init__(self, label: str, words: Callable[[int, int], str]) -> None:
        self._label = label
        self._words = words
        self._shown = ""
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is, unless that was shown just now; at its end the bar goes away."""
        if done >= total:
            self.clear()
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _PAUSE
            self._write(f"{self._label} {self._words(done, total)}")

    def clear(self) -> None:
        """Make room for another line."""
        if self._shown:
            self._write("")
            click.echo("\r", err=True, nl=False)

    def _write(self, text: str) -> None:
        line = cut(text, shutil.get_terminal_size().columns - 1, PLAIN.cut)
        click.echo(f"\r{line:<{len(self._shown)}}", err=True, nl=False)
        self._shown = line
