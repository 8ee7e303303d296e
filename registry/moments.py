"""Moments as people type them, in UTC."""

from __future__ import annotations

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
