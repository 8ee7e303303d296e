"""What was amended, as people read it: a mark at the value, and what it was before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .session import Session
from .text import cell, one_line

MARK = "*"
"""Behind a value that was amended."""

_LONGEST = 100
"""Characters of a value; a note may have thousands."""


def marked(text: str, view: Mapping[str, Any], *fields: str) -> str:
    """Return the text of a value, marked where one of the fields that it shows was amended."""
    return f"{text}{MARK}" if is_amended(view, *fields) else text


def is_amended(view: Mapping[str, Any], *fields: str) -> bool:
    """Tell whether one of some fields of an adapter was amended."""
    return any(each["field"] in fields for each in view["amendments"])


def tag_fields(view: Mapping[str, Any]) -> list[str]:
    """Return the tags of an adapter that were amended, as fields."""
    return [each["field"] for each in view["amendments"] if each["field"].startswith("tag.")]


def explain_mark(session: Session, has_any: bool) -> None:
    """Say below a table what its marks mean, if it has any."""
    if has_any:
        session.say(f"{MARK} was amended; fusery show REF says what it was before")


def print_amendments(session: Session, view: Mapping[str, Any]) -> None:
    """Print the newest amendments of an adapter, oldest first."""
    if view["amendments"]:
        session.print("amended")
    for each in session.newest(view["amendments"], "amendments"):
        session.print(f"  {each['at']} by {cell(each['by'])}: {change_of(each)}")


def change_of(amendment: Mapping[str, Any]) -> str:
    """Return one change of a field, and why."""
    reason = f" ({amendment['reason']})" if amendment["reason"] else ""
    was, will = (_shown(amendment[key]) for key in ("from", "to"))
    return one_line(f"{amendment['field']} {was} -> {will}{reason}")


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
