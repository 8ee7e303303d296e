"""Values of records as people read them: in the cells of tables, and in lines with a title each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..charts.text import size
from ..parsing import plural
from ..record import Part, parts_of

OTHERS = "..."
"""In a layout: all columns that it does not name."""

HIDDEN = "-"
"""In a layout: begins a line that is not there, with the names of columns that are not among the others."""


class Line(NamedTuple):
    """One or several values of a record.

    Attributes:
        name: of the field that it begins with.
        title: of that field.
        text: the values.
        fields: of which.
    """

    name: str
    title: str
    text: str
    fields: Sequence[str]


def value_text(part: Part, value: Any, *, cell: bool = False) -> str:
    """Return a value for people, empty if there is none.

    Args:
        part: the field that it is of.
        value: of the record, or of its JSON.
        cell: for a table, where there is less room, and the column says the unit.
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
    """Return any JSON value but null on one line."""
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
        kind: of the record.
        layout: the lines, with commas between, and of each the fields, with spaces between; `OTHERS` and `HIDDEN` are special.
        record: or its JSON; fields that it does not have are left out.
        nothing: stands for a value that is missing.
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
