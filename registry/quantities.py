"""Amounts as people write them: `90m`, `2d`, `1.5GB`."""

from __future__ import annotations

import re

from .errors import BadInputError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_NUMBER = r"(?P<number>\d{1,15}(\.\d{1,9})?)"
_DURATION = re.compile(rf"{_NUMBER}\s*(?P<unit>s|m|h|d|w)?", re.IGNORECASE | re.ASCII)
_SIZE = re.compile(rf"{_NUMBER}\s*(?P<unit>[kmgt]i?b?|b)?", re.IGNORECASE | re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LARGEST = 1 << 62


def parse_duration(text: str) -> float:
    """Return the seconds of `90`, `90s`, `15m`, `24h`, `14d` or `2w`.

    Raises:
        BadInputError: it is none of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise BadInputError(f"{text[:40]!r} is not a duration", hint="write 0, 90s, 15m, 24h or 14d")
    return min(float(match["number"]) * _SECONDS[(match["unit"] or "s").lower()], float(_LARGEST))


def parse_size(text: str) -> int:
    """Return the bytes of `0`, `500MB` or `20GiB`: `K`, `M`, `G`, `T` are thousands, with an `i` they are 1024.

    Raises:
        BadInputError: it is none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadInputError(f"{text[:40]!r} is not a size", hint="write 0, 500MB, 20GiB or a number of bytes")
    unit = (match["unit"] or "b").lower()
    power = " kmgt".index(unit[0]) if unit[0] != "b" else 0
    factor = (1024 if "i" in unit else 1000) ** power
    return min(round(float(match["number"]) * float(factor)), _LARGEST)


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: `1 version`, `1,204 versions`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def shown_size(count: int) -> str:
    """Return bytes as people write them, in units that `parse_size` takes: `0 B`, `1.5 MiB`, `100 GiB`."""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.2f}".rstrip("0").rstrip(".") + f" {unit}"
