"""The templates of pages: texts are escaped by themselves, and what hides or reorders text is shown as escapes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..charts import svg, text
from ..charts.curves import swatch
from ..charts.heat_map_svg import touched
from ..engine.verdict import share_in_words
from ..parsing import plural
from ..record import Part, parts_of
from ..records.adapter import Adapter
from ..records.adapter_details import PAGE, AdapterDetails
from ..records.lines import lines_of, value_text
from ..releases.rules import rule_words
from .cells import cells

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = ("page.html.j2", "task.html.j2", "parts.html.j2")
_STATES = {
    "good": ("good", "valid"),
    "wrong": ("bad", "does not verify"),
    "revoked": ("bad", "key was revoked"),
    "unknown-key": ("warn", "key is not trusted"),
    "not-checked": ("warn", "not checked"),
}
_VERDICTS = {"PASS": "good", "DEGRADED": "warn", "LOST": "bad"}
_SEVERITIES = {"error": "bad", "warning": "warn"}


def environment(others: Callable[[str], str | None] = lambda _: None) -> Environment:
    """Return what renders the templates here, `parts.html.j2` with its macros among them, and further ones.

    Args:
        others: returns the source of a template that is not here, None where there is none.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        loader=FunctionLoader(lambda name: _resource(name) if name in _TEMPLATES else others(name)),
        undefined=StrictUndefined,
        finalize=_shown,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("change", "number", "share", "short", "size", "when")
    made.filters |= {name: getattr(text, name) for name in names}
    made.filters |= {"cells": cells, "plural": plural, "retained": share_in_words, "touched": touched}
    made.filters |= {"wanted": rule_words}
    made.filters |= {"version": lambda name, task: f"v{text.version_of(task, name)}"}
    made.filters |= {"lines": lambda view: list(lines_of(AdapterDetails, PAGE, view, "–"))}
    made.globals |= {
        "usual": [_usual(part) for part in parts_of(Adapter).values() if part.about.usual],
        "states": _STATES,
        "verdicts": _VERDICTS,
        "severities": _SEVERITIES,
        "swatch": swatch,
    }
    return made


def _usual(part: Part) -> dict[str, Any]:
    """Return a column that tables of versions have besides their own: its head, and the text of its cells."""
    title = part.title[:1].upper() + part.title[1:]
    return {
        "head": f">{title}" if part.is_number else title,
        "number": part.is_number,
        "text": lambda view: value_text(part, view[part.key], cell=True) or "–",
    }


def style() -> str:
    """Return the style sheet of pages and of the pictures in them."""
    return svg.style_sheet() + _resource("style.css")


def _resource(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Return what an expression of the template inserts; what is marked as HTML was made here."""
    return text.shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value
