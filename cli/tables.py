"""Tables for terminals and pipes: each row is one line, so that what is copied is what was printed.

A pipe and a file get everything.  A terminal that is too narrow loses columns from the right, of those first that have
nothing in them, and texts that people wrote are cut off; the first column, which is what a row is called, stays whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .text import one_line

_GAP = 2
"""Columns of the terminal between two of the table."""

_LEAST = 12
"""Columns that a text keeps when it is cut off."""

_NOTHING = ("", "-")


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: stands above it.
        right: its cells end at the same place, as numbers do, and do not begin there.
        free: it has text of people, which may be cut off.
        rare: a terminal does without it while there is nothing in it; a pipe has the same columns every day.
    """

    title: str
    right: bool = False
    free: bool = False
    rare: bool = False


class Marks(NamedTuple):
    """What a table is drawn with.

    Attributes:
        rule: below the titles.
        cut: behind a text that was cut off.
    """

    rule: str
    cut: str


DRAWN = Marks("─", "…")
PLAIN = Marks("-", "~")
"""For streams that have ASCII only."""


class Laid(NamedTuple):
    """A table as it is printed.

    Attributes:
        head: the titles.
        rule: the line below.
        rows: one line each.
        left_out: titles of columns for which there was no room.
    """

    head: str
    rule: str
    rows: list[str]
    left_out: list[str]


class Table:
    """Rows of text below titles.

    Args:
        columns: from left to right; the last ones go first when there is no room.
        whole: all columns are kept and none is cut off, whether there is room or not.
    """

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
        shown = [index for index in range(len(self._columns)) if self._is_shown(index, width)]
        widths = {index: self._natural(index) for index in shown}
        left_out: list[int] = []
        if width is not None and not self._whole:
            least = {index: self._least(index, widths[index]) for index in shown}
            left_out = self._no_room(shown, least, width)
            shown = [index for index in shown if index not in left_out]
            widths = _shared(shown, least, widths, width)
        rule = marks.rule * _total(widths[index] for index in shown)
        titles = [self._columns[index].title for index in range(len(self._columns))]
        told = [index for index in left_out if not self._is_empty(index)]
        return Laid(
            self._line(titles, shown, widths, marks),
            rule,
            [self._line(row, shown, widths, marks) for row in self._rows],
            [titles[index] or "remarks" for index in told],
        )

    def _is_shown(self, index: int, width: int | None) -> bool:
        column = self._columns[index]
        if index == 0 or self._whole or not self._is_empty(index):
            return True
        return bool(column.title) and (width is None or not column.rare)

    def _is_empty(self, index: int) -> bool:
        return all(row[index] in _NOTHING for row in self._rows)

    def _natural(self, index: int) -> int:
        cells = (row[index] for row in self._rows)
        return max(width_of(self._columns[index].title), *map(width_of, cells), 0)

    def _least(self, index: int, natural: int) -> int:
        column = self._columns[index]
        if index == 0 or not column.free:
            return natural
        return min(natural, max(width_of(column.title), _LEAST))

    def _no_room(self, shown: list[int], least: dict[int, int], width: int) -> list[int]:
        """Return the columns that go, in the order of the table."""
        kept = list(shown)
        order = sorted(shown[1:], key=lambda index: (not self._is_empty(index), -index))
        for index in order:
            if _total(least[each] for each in kept) <= width:
                break
            kept.remove(index)
        return [index for index in shown if index not in kept]

    def _line(self, cells: Sequence[str], shown: Iterable[int], widths: dict[int, int], marks: Marks) -> str:
        parts = []
        for index in shown:
            text = cut(cells[index], widths[index], marks.cut)
            blank = " " * (widths[index] - width_of(text))
            parts.append(blank + text if self._columns[index].right else text + blank)
        return (" " * _GAP).join(parts).rstrip()


def _total(widths: Iterable[int]) -> int:
    found = list(widths)
    return sum(found) + _GAP * (len(found) - 1)


def _shared(shown: list[int], least: dict[int, int], natural: dict[int, int], width: int) -> dict[int, int]:
    """Return the widths of columns: the least, and from the left what is left over, for whoever needs it."""
    room = max(0, width - _total(least[index] for index in shown))
    widths = {}
    for index in shown:
        more = min(room, natural[index] - least[index])
        widths[index] = least[index] + more
        room -= more
    return widths


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for some letters, none for some marks."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int, mark: str = DRAWN.cut) -> str:
    """Return a text in at most so many columns of a terminal, with a mark at its end if something is missing."""
    if width_of(text) <= width:
        return text
    if text.isascii():
        return text[: width - 1] + mark
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip() + mark
