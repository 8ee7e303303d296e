"""Numbers and strings as people read them; nothing from a file reaches a terminal unescaped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def one_line(text: str) -> str:
    """Return text on one line: control and direction characters as escapes, passwords and tokens in URLs as stars."""
    line = str(text)
    # Looked at letter by letter, a table of a hundred rows takes a tenth of the time of a list.
    if not line.isprintable():
        line = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in line
        )
    if ":/" not in line:
        return line
    from fusery.storage.secrets import masked

    return masked(line)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with a few significant digits, or a dash for none."""
    return "-" if value is None else f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """Return a share as a percentage, or a dash for none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def times(value: float) -> str:
    """Return a multiple with two decimals: `1.17 x`."""
    return f"{value:.2f} x"


def when(at: datetime | str | None) -> str:
    """Return a moment to the second, in UTC, as `--since` and `--at` take it, or a dash for none."""
    if at is None:
        return "-"
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def ago(at: datetime | str | None) -> str:
    """Return how long ago a moment was: `5m`, `3h`, `7d`, or a dash for none."""
    from fusery.registry.parsing import age

    return "-" if at is None else age(at)


def yanks_of(view: Mapping[str, Any], form: str = "{}") -> str:
    """Return the yanks that concern a record, such as ` ({})`; empty without one."""
    words = one_line("; ".join(yank["summary"] for yank in view["withdrawals"]))
    return form.format(words) if words else ""


_STATES = {
    "itself": "yanked",
    "same-bytes": "same bytes yanked as {}",
    "contains": "contains the weights of yanked {}",
    "computed-from": "computed from yanked {}",
}


def state_of(view: Mapping[str, Any]) -> str:
    """Return an adapter's state for a table: `yanked`, or its relation to a yanked adapter."""
    words = (_STATES[yank["relation"]].format(yank["adapter"]) for yank in view["withdrawals"])
    return ", ".join(words) or "-"


def cell(value: Any) -> str:
    """Return any JSON value as the text of a table cell."""
    from fusery.registry.records.adapter_details import plain_text

    if value is None:
        return "-"
    return one_line(value) if isinstance(value, str) else one_line(plain_text(value)) or "-"


def foreign_fact(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the line that says that a fused model was not made here, if it was not."""
    if document["foreign"] is None:
        return []
    from fusery.registry.fusion.records import in_words

    return [("origin", str(in_words(document["foreign"])))]
