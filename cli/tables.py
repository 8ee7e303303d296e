"""Tables for terminals and pipes, and bars of progress."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import click

from .text import one_line

_GAP = 2  # columns of the terminal between two of the table
_LEAST = 12  # columns that a text keeps when it is cut off
_NOTHING = ("", "-")


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    title: str
    right: bool = False  # its cells are aligned to the right, as numbers are
    free: bool = False  # it has text of people, which may be cut off
    rare: bool = False  # a terminal omits it while it is empty; a pipe has the same columns every day


Marks = tuple[str, str]  # the characters of a table's rule and of a cut text
DRAWN: Marks = ("─", "…")
PLAIN: Marks = ("-", "~")  # for streams that have ASCII only


class Laid(NamedTuple):
    """A table as it is printed."""

    head: str
    rule: str
    rows: list[str]
    left_out: list[str]


class Table:
    """Rows of text below titles."""

    def __init__(self, columns: Sequence[Column], *, whole: bool = False) -> None:
        self._columns = list(columns)
        self._whole = whole
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """Add a row with a cell for each column."""
        if len(cells) != len(self._columns):
            raise ValueError(f"{len(cells)} cells for {len(self._columns)} columns")
        self._rows.append(tuple(map(one_line, cells)))

    def laid(self, width: int | None, marks: Marks = DRAWN) -> Laid:
        """Return the table as lines of at most this width, or as wide as it is for None."""
        columns, rows = self._columns, self._rows
        empty = [all(row[at] in _NOTHING for row in rows) for at in range(len(columns))]
        widths = {
            at: max([width_of(column.title), *(width_of(row[at]) for row in rows)])
            for at, column in enumerate(columns)
            if at == 0
            or self._whole
            or not empty[at]
            or (column.title and (width is None or not column.rare))
        }
        left_out: list[int] = []
        if width is not None and not self._whole:
            natural = dict(widths)
            for at, column in enumerate(columns):
                if at and at in widths and column.free:
                    widths[at] = min(natural[at], max(width_of(column.title), _LEAST))
            # The empty columns go first, and then the last ones.
            for at in sorted([*widths][1:], key=lambda at: (not empty[at], -at)):
                if _total(widths.values()) <= width:
                    break
                del widths[at]
                left_out += [at] * (not empty[at])
            room = max(0, width - _total(widths.values()))
            for at, least in list(widths.items()):
                widths[at] = min(natural[at], least + room)
                room -= widths[at] - least

        def line(cells: Sequence[str]) -> str:
            parts = []
            for at, room in widths.items():
                text = cut(cells[at], room, marks[1])
                blank = " " * (room - width_of(text))
                parts.append(blank + text if columns[at].right else text + blank)
            return (" " * _GAP).join(parts).rstrip()

        return Laid(
            line([column.title for column in columns]),
            marks[0] * _total(widths.values()),
            [line(row) for row in rows],
            [columns[at].title or "remarks" for at in sorted(left_out)],
        )


def _total(widths: Collection[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for some letters, none for some marks."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int, mark: str = DRAWN[1]) -> str:
    """Return a text in at most so many columns of a terminal, with a mark at its end if something is missing."""
    if width_of(text) <= width:
        return text
    if text.isascii():
        return text[: width - 1] + mark
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip() + mark


Progress = Callable[[int, int], None]  # takes what is done and what there is in all

_PAUSE = 0.1  # seconds between two states of a plain bar


class PlainBar:
    """A line on stderr that is written again and again, by carriage returns alone."""

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
        line = cut(text, shutil.get_terminal_size().columns - 1, PLAIN[1])
        click.echo(f"\r{line:<{len(self._shown)}}", err=True, nl=False)
        self._shown = line
