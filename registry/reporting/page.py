"""The page of a report: one HTML document that asks for nothing, from the facts and from nothing else.

Every text in the facts may come from outside.  The template escapes them all by itself, characters that hide or reorder
text are shown as escapes, and the page's own policy forbids scripts and requests, should anything slip through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..charts import svg, text
from ..charts.curves import curves_chart, swatch
from ..charts.heat_map_svg import heat_map_picture, touched
from ..charts.losses import versions_chart
from ..charts.timeline import timeline
from ..parsing import plural
from ..provenance import svg as lineage_svg
from .cells import cells
from .facts import Facts

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


def page(facts: Facts) -> bytes:
    """Return the document, as UTF-8; the same facts give the same bytes."""
    document = facts.document
    pictures = {
        section["task"]: _pictures(f"t{at}", section, facts)
        for at, section in enumerate(document["tasks"], 1)
    }
    values = {
        **document,
        "style": Markup(svg.style_sheet() + _resource("style.css")),
        "pictures": pictures,
        "title": document["subject"] or "Adapter registry",
    }
    return _environment().get_template("page.html.j2").render(values).encode()


def _pictures(key: str, section: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """Return the pictures of a task, None for those of which nothing is known."""
    graph = facts.graphs[section["task"]]
    alone = len(graph.nodes) < 2 or len(graph.nodes) > _MOST_DRAWN
    return {
        "versions": _twice(versions_chart, f"{key}-versions-picture", section),
        "curves": _twice(curves_chart, f"{key}-curves-picture", section),
        "aliases": _twice(timeline, f"{key}-aliases-picture", section),
        "maps": [
            _twice(heat_map_picture, f"{key}-map{at}-picture", view)
            for at, view in enumerate(section["maps"], 1)
        ],
        # It escapes what it draws itself.
        "lineage": None
        if alone
        else tuple(Markup(lineage_svg(graph, width=width)) for width in (_LINEAGE, _PHONE)),
    }


def _twice(
    draw: Callable[..., Markup | None], key: str, facts: Mapping[str, Any]
) -> tuple[Markup, Markup] | None:
    """Return a picture for a desktop and for paper, and the same for a phone: one that is scaled down has letters too small."""
    wide, narrow = draw(key, facts), draw(f"{key}-phone", facts, _PHONE)
    return None if wide is None or narrow is None else (wide, narrow)


_PHONE = 356
"""Pixels across that a phone has for a picture."""

_LINEAGE = 1060


_MOST_DRAWN = 120
"""Things in a picture of lineage: one step of the way may lead to more than was asked for."""


def _resource(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: _resource(name) if name in _TEMPLATES else None),
        undefined=StrictUndefined,
        finalize=_shown,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("change", "number", "share", "short", "size", "when")
    environment.filters |= {name: getattr(text, name) for name in names}
    environment.filters |= {"cells": cells, "plural": plural, "touched": touched}
    environment.filters |= {"version": lambda name, task: f"v{text.version_of(task, name)}"}
    environment.globals |= {
        "states": _STATES,
        "verdicts": _VERDICTS,
        "severities": _SEVERITIES,
        "swatch": swatch,
    }
    return environment


def _shown(value: Any) -> Any:
    """Return what an expression of the template inserts; what is marked as HTML was made here."""
    return text.shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value
