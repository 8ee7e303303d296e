"""Format records for people: as table cells, and as lines with titles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..charts.text import size
from ..parsing import plural
from ..record import Part, parts_of

OTHERS = "..."
"""In a layout: all other columns."""

HIDDEN = "-"
"""In a layout: the prefix of a hidden line, whose fields `OTHERS` omits."""


class Line(NamedTuple):
    """A line with the values of one or several fields.

    Attributes:
        name: the name of the first field.
        title: the title of the first field.
        text: the formatted values.
        fields: the names of all fields in the line.
    """

    name: str
    title: str
    text: str
    fields: Sequence[str]


def value_text(part: Part, value: Any, *, cell: bool = False) -> str:
    """Format a value for people; return an empty string for None.

    Args:
        part: the field.
        value: the value in the record, or in its JSON.
        cell: whether to format it for a table cell: shorter, and without the unit.
    """
    about = part.about
    if value is None or value == "":
        return ""
    if form := (cell and about.cell) or about.form:
        return form.format(value)
    if about.unit and not cell:
        return plural(value, about.unit)
    if part.kind == "size":
        return size(value)
    if cell and isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if part.kind == "share":
        return f"{100 * value:.1f} %"
    if isinstance(value, float):
        return f"{value:.4g}"
    return plain_text(value)


def plain_text(value: Any) -> str:
    """Format a JSON value other than null on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def lines_of(kind: type, layout: str, record: Mapping[str, Any], nothing: str) -> Iterator[Line]:
    """Yield the lines of a record.

    Args:
        kind: the record's class.
        layout: comma-separated lines of space-separated field names; see `OTHERS` and `HIDDEN`.
        record: the record, or its JSON; fields that it does not have are left out.
        nothing: the text for a missing value.
    """
    parts = parts_of(kind)
    named = set(layout.replace(",", " ").split())
    for line in layout.split(", "):
        if line.startswith(HIDDEN):
            continue
        others = [name for name, part in parts.items() if part.about.column and name not in named]
        for names in [line.split()] if line != OTHERS else [[name] for name in others]:
            first, *more = (parts[name] for name in names)
            text = value_text(first, record.get(first.key))
            if first.key not in record or (first.about.brief and not text):
                continue
            rest = (
                part.about.words.format(found)
                for part in more
                if (found := value_text(part, record.get(part.key)))
            )
            yield Line(names[0], first.title, (text or nothing) + "".join(rest), names)
