"""The page of a report: one HTML document that asks for nothing, from the facts and from nothing else.

Every text in the facts may come from outside.  The template escapes them all by itself, characters that hide or reorder
text are shown as escapes, and the page's own policy forbids scripts and requests, should anything slip through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..charts.curves import curves_chart
from ..charts.heat_map_svg import heat_map_picture
from ..charts.losses import versions_chart
from ..charts.timeline import timeline
from ..provenance import svg as lineage_svg
from .environment import environment, style
from .facts import Facts

if TYPE_CHECKING:
    from jinja2 import Environment


def page(facts: Facts) -> bytes:
    """Return the document, as UTF-8; the same facts give the same bytes."""
    document = facts.document
    pictures = {
        section["task"]: _pictures(f"t{at}", section, facts)
        for at, section in enumerate(document["tasks"], 1)
    }
    values = {
        **document,
        "style": Markup(style()),
        "pictures": pictures,
        "title": document["subject"] or "Adapter registry",
    }
    return _environment().get_template("page.html.j2").render(values).encode()


def _pictures(key: str, section: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """Return the pictures of a task, None for those of which nothing is known."""
    graph = facts.graphs[section["task"]]
    alone = len(graph.nodes) < 2 or len(graph.nodes) > _MOST_DRAWN
    return {
        "versions": twice(versions_chart, f"{key}-versions-picture", section),
        "curves": twice(curves_chart, f"{key}-curves-picture", section),
        "aliases": twice(timeline, f"{key}-aliases-picture", section),
        "maps": [
            twice(heat_map_picture, f"{key}-map{at}-picture", view)
            for at, view in enumerate(section["maps"], 1)
        ],
        "lineage_more": graph.more,
        # It escapes what it draws itself.
        "lineage": None
        if alone
        else tuple(Markup(lineage_svg(graph, width=width)) for width in (_LINEAGE, PHONE)),
    }


def twice(
    draw: Callable[..., Markup | None], key: str, facts: Mapping[str, Any]
) -> tuple[Markup, Markup] | None:
    """Return a picture for a desktop and for paper, and the same for a phone: one that is scaled down has letters too small."""
    wide, narrow = draw(key, facts), draw(f"{key}-phone", facts, PHONE)
    return None if wide is None or narrow is None else (wide, narrow)


PHONE = 356
"""Pixels across that a phone has for a picture."""

_LINEAGE = 1060


_MOST_DRAWN = 120
"""Things in a picture of lineage: one step of the way may lead to more than was asked for."""


@cache
def _environment() -> Environment:
    return environment()
