"""What a value from another party must be to be recorded; SQLite, unlike PostgreSQL, keeps any value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import datetime
from typing import Any

from fusery.storage.jsonfile import MAX_DEPTH, is_keepable, layers
from fusery.storage.manifest import FileEntry

from ..parsing import CLOCK_SKEW
from ..record import LARGE, LINE, About, parts_of
from .record import is_moment

LARGEST = 16 << 20  # characters of a document in JSON

MOST_VALUES = 1_000_000  # the most values in a document; a base model has about seven for each tensor

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What a terminal acts upon, and what changes the direction or the lines of a text."""


_COMPUTED = frozenset({"findings", "log"})  # fields of which this registry records codes and hashes only


def problem_of(value: Any, about: About, now: datetime | None = None) -> str | None:
    """Return the problem with a value of a field, after its path; None if it is valid."""
    if isinstance(value, FileEntry):
        return None if value.size <= LARGE else "too large"
    if is_dataclass(value):
        for name, part in parts_of(type(value)).items():  # type: ignore[arg-type]
            if name not in _COMPUTED and (problem := problem_of(getattr(value, name), part.about, now)):
                return f"{part.key}: {problem}"
    elif isinstance(value, tuple):
        return next(filter(None, (problem_of(member, about, now) for member in value)), None)
    elif isinstance(value, Mapping | list):
        return json_problem(value)
    elif isinstance(value, datetime):
        if not is_moment(value) or (now is not None and value > now + CLOCK_SKEW):
            return "a time in the future, or without a time zone"
    elif isinstance(value, str):
        return _text_problem(value, about)
    elif isinstance(value, float):
        return None if math.isfinite(value) else "not finite"
    elif isinstance(value, int) and not about.least <= value <= _most(about, 2**31 - 1):
        return f"{value} is not from {about.least} to {_most(about, 2**31 - 1)}"
    return None


def _most(about: About, default: int) -> int:
    return about.most or (about.declared.most if about.declared is not None else default)


def _text_problem(text: str, about: About) -> str | None:
    most = _most(about, LINE)
    if about.choices and text not in about.choices:
        return f"expected one of {', '.join(about.choices)}"
    if len(text) > most:
        return f"too long (at most {most:,} characters)"
    if not is_keepable(text) or (most <= LINE and CONTROL.search(text)):
        return "invalid characters"
    return None


def json_problem(document: Any) -> str | None:
    """Return why a document of JSON cannot be recorded, in a few words; None if it can."""
    count = level = 0
    for level, layer in enumerate(layers(document)):
        count += len(layer)
        if count > MOST_VALUES or level > MAX_DEPTH:
            return f"more than {MOST_VALUES:,} values, or more than {MAX_DEPTH} levels"
    try:
        if not is_keepable(document):
            return "an unfit value"
        length = len(json.dumps(document, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        return "an unfit value"
    return f"more than {LARGEST:,} characters of JSON" if length > LARGEST else None
