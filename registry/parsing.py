"""Moments as people type them, in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time

from .errors import BadInputError
from .names import parse_date


def parse_moment(text: str, *, end_of_day: bool = False) -> datetime:
    """Return a moment given as a day or as ISO 8601, in UTC where no offset is given.

    Args:
        text: `2026-03-01`, `20260301`, `2026-03-01T12:00`, `2026-03-01T12:00:00+02:00`.
        end_of_day: a day means its last moment and not its first.

    Raises:
        BadInputError: it is none of these.
    """
    stripped = text.strip()
    if len(stripped) <= 10:
        return datetime.combine(parse_date(stripped), time.max if end_of_day else time.min, UTC)
    try:
        found = datetime.fromisoformat(stripped)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the year 1 with an offset lies before the first year
        raise BadInputError(
            f"{text[:40]!r} is not a moment", hint="write 2026-03-01 or 2026-03-01T12:00+00:00"
        ) from error


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
