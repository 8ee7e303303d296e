"""Moments, durations and sizes as people type and read them; moments are in UTC."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

from .errors import BadInputError
from .names import parse_date

CLOCK_SKEW = timedelta(hours=24)
"""The most that two machines' clocks may differ; it also covers dates in time zones ahead of UTC."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_NUMBER = r"(?P<number>\d{1,15}(\.\d{1,9})?)"
_DURATION = re.compile(rf"{_NUMBER}\s*(?P<unit>s|m|h|d|w)?", re.IGNORECASE | re.ASCII)
_AGO = re.compile(rf"{_NUMBER}\s*[smhdw]", re.IGNORECASE | re.ASCII)
_SIZE = re.compile(rf"{_NUMBER}\s*(?P<unit>[kmgt]i?b?|b)?", re.IGNORECASE | re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LARGEST = 1 << 62
_LONGEST_AHEAD = 100 * 366 * 86400
_LONGEST = 200  # characters of a text with a typing error: what it costs to look grows with the square


def parse_moment(text: str, *, end_of_day: bool = False, now: datetime | None = None) -> datetime:
    """Return a moment given as a day (or, with `end_of_day`, its last moment), as ISO 8601 (by default in UTC), or as `7d`: 7 days ago."""
    stripped = text.strip()
    try:
        if is_ago(stripped):
            return (now or datetime.now(UTC)) - timedelta(seconds=parse_duration(stripped))
        if len(stripped) <= 10:
            return datetime.combine(parse_date(stripped), time.max if end_of_day else time.min, UTC)
        moment = datetime.fromisoformat(stripped)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (BadInputError, ValueError, OverflowError) as error:
        # OverflowError: the year 1 with an offset lies before the first year.
        hint = "write 2026-03-01, 2026-03-01T12:00+00:00, or 7d for seven days ago (s, m, h, d, w)"
        raise BadInputError(f"{text[:40]!r} is neither a date nor a time", hint=hint) from error


def parse_expiry(text: str, *, now: datetime) -> datetime | None:
    """Return until when something lasts: `90d` or `12h` from now, a day and all of it, or ISO 8601; None for `never`."""
    stripped = text.strip()
    if stripped.casefold() == "never":
        return None
    ahead = parse_duration(stripped) if is_ago(stripped) else None
    hint = "write 90d, 12h, 2027-03-01 or never"
    try:
        if ahead is None:
            until = parse_moment(stripped, end_of_day=True)
        else:
            until = now + timedelta(seconds=min(ahead, 2 * _LONGEST_AHEAD))
    except BadInputError as error:
        raise BadInputError(f"invalid expiry: {text[:40]!r}", hint=hint) from error
    if until <= now:
        raise BadInputError(f"{text[:40]!r} has passed already", hint=hint)
    if (until - now).total_seconds() > _LONGEST_AHEAD:
        raise BadInputError(f"{text[:40]!r} is more than a hundred years ahead", hint="write never")
    return until


def require_past(what: str, moment: datetime | date, *, now: datetime | None = None) -> None:
    """Refuse a date that is further in the future than clocks may differ."""
    latest = (now or datetime.now(UTC)) + CLOCK_SKEW
    if moment > (latest if isinstance(moment, datetime) else latest.date()):
        problem = f"invalid {what}: {moment:%Y-%m-%d} is in the future"
        raise BadInputError(problem, hint="check the date and the clock")


def is_ago(text: str) -> bool:
    """Tell whether a text says how long ago something was: `7d`, `12h`, `2w`."""
    return _AGO.fullmatch(text.strip()) is not None


def age(moment: datetime | str, *, now: datetime | None = None) -> str:
    """Return how long ago a moment was, in its largest unit, as `parse_moment` takes it: `40s`, `5m`, `3h`, `7d`."""
    then = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    seconds = max(0, int(((now or datetime.now(UTC)) - then).total_seconds()))
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds >= _SECONDS[unit] or unit == "s")
    return f"{seconds // _SECONDS[unit]}{unit}"


def parse_duration(text: str) -> float:
    """Return the seconds of `90`, `90s`, `15m`, `24h`, `14d` or `2w`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise BadInputError(f"{text[:40]!r} is not a duration", hint="write 0, 90s, 15m, 24h or 14d")
    return min(float(match["number"]) * _SECONDS[(match["unit"] or "s").lower()], float(_LARGEST))


def parse_size(text: str) -> int:
    """Return the bytes of `0`, `500MB` or `20GiB`: `K`, `M`, `G`, `T` are thousands, with an `i` they are 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadInputError(f"{text[:40]!r} is not a size", hint="write 0, 500MB, 20GiB or a number of bytes")
    unit = (match["unit"] or "b").lower()
    power = " kmgt".index(unit[0]) if unit[0] != "b" else 0
    factor = (1024 if "i" in unit else 1000) ** power
    return min(round(float(match["number"]) * float(factor)), _LARGEST)


def plural(count: int, one: str) -> str:
    """Return a count with its noun: `1 version`, `1,204 versions`."""
    return f"{count:,} {one if count == 1 else f'{one}s'}"


def shown_size(count: int) -> str:
    """Return bytes as people write them, in units that `parse_size` takes: `0 B`, `1.5 MiB`, `100 GiB`."""
    power = next((n for n in range(len(_UNITS) - 1) if count < 1024 ** (n + 1)), len(_UNITS) - 1)
    return f"{count / 1024**power:.2f}".rstrip("0").rstrip(".") + f" {_UNITS[power]}"


def nearest(wanted: str, names: Iterable[str], *, most: int = 3, before: str = "") -> str | None:
    """Return a question that names up to so many names like the wanted one; None without such."""
    if len(wanted) > _LONGEST:
        return None
    import difflib

    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(wanted.casefold(), folded, n=most, cutoff=0.5)
    return f"did you mean {' or '.join(before + folded[name] for name in close)}?" if close else None
