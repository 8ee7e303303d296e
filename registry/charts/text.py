"""Values as people read them.  Texts come from outside: nothing in them may hide, reorder or run on for ever."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from fusery.storage.errors import visible

LONGEST = 2_000  # the most characters of one text that are shown
_DIGITS = re.compile(r"([0-9]+)")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def shown(value: Any, most: int = LONGEST) -> str:
    """Return text with control and direction characters as escapes, lines kept, cut to a length."""
    text = visible(str(value)[: most + 1])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def short(value: Any, most: int) -> str:
    """Return text on one line and cut in the middle: of a name the end tells as much as the beginning."""
    text = " ".join(shown(value).split())
    tail = most // 2
    return text if len(text) <= most else f"{text[: most - tail - 1]}…{text[-tail:]}"


def finite(value: Any) -> float | None:
    """Return a number as a float; None for another value: SQLite keeps any value in any column."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A larger number would be infinite once it is scaled; a whole number may have any length.
    return float(value) if abs(value) < 1e300 else None


def number(value: Any, digits: int = 4) -> str:
    """Return a number with a few significant digits, or a dash for none."""
    finite_number = finite(value)
    return "–" if finite_number is None else f"{finite_number:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def share(value: Any) -> str:
    """Return a share as a percentage, or a dash for none."""
    fraction = finite(value)
    return "–" if fraction is None else f"{100 * fraction:.1f} %".replace("-", "\N{MINUS SIGN}")


def size(value: Any) -> str:
    """Return bytes in binary units."""
    amount = finite(value)
    if amount is None:
        return "–"
    unit = _UNITS[0]
    for unit in _UNITS:
        if amount < 1024 or unit == _UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.2f} {unit}"


def when(value: str | None) -> str:
    """Return a moment of the facts for people: UTC, to the minute."""
    return "–" if value is None else f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%M}"


def natural(name: str) -> tuple[Any, ...]:
    """Return a key that sorts names as people do: layer 9 comes before layer 10."""
    # Even parts of the split are text and odd ones digits, so that like is compared with like.
    return tuple(int(part) if place % 2 else part for place, part in enumerate(_DIGITS.split(name)))
