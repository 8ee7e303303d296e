"""The templates of pages: texts are escaped by themselves, and what hides or reorders text is shown as escapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..charts import svg, text
from ..charts.curves import swatch
from ..charts.heat_map_svg import touched
from ..engine.verdict import share_in_words
from ..parsing import plural
from ..record import Part, parts_of
from ..records.adapter import Adapter, Amendment
from ..records.adapter_details import PAGE, AdapterDetails
from ..records.difference import ModuleDifference
from ..records.evaluation import Evaluation
from ..records.fused import ModuleFidelity
from ..records.lines import lines_of, value_text
from ..records.run import CurvePoint
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
_KINDS = {
    each.__name__: each for each in (Amendment, CurvePoint, Evaluation, ModuleDifference, ModuleFidelity)
}
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
        "columns_of": columns_of,
        "usual": [_column(part) for part in parts_of(Adapter).values() if part.about.usual],
        "states": _STATES,
        "verdicts": _VERDICTS,
        "severities": _SEVERITIES,
        "swatch": swatch,
    }
    return made


def columns_of(kind: str, names: str) -> list[dict[str, Any]]:
    """Return columns of a table of records, each with its head, its part, its class, and the text of its cells.

    Args:
        kind: name of the records' class.
        names: of the fields, with spaces between.
    """
    return [_column(parts_of(_KINDS[kind])[name]) for name in names.split()]


def _column(part: Part) -> dict[str, Any]:
    title, number = f"{part.title[:1].upper()}{part.title[1:]}", part.is_number

    def cell(row: Mapping[str, Any]) -> str:
        found = value_text(part, row[part.key], cell=True) or "–"
        return found.replace("-", "\N{MINUS SIGN}") if number else found

    return {
        "head": f">{title}" if number else title,
        "part": part,
        "class": Markup(' class="num"' if number else ' class="day"' if part.kind == "moment" else ""),
        "text": cell,
    }


def style() -> str:
    """Return the style sheet of pages and of the pictures in them."""
    return svg.style_sheet() + _resource("style.css")


def _resource(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Return what an expression of the template inserts; what is marked as HTML was made here."""
    return text.shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value
