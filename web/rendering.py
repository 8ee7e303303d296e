"""The templates of pages: texts are escaped by themselves, and what hides or reorders text is shown as escapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup, escape

from fusery.registry.charts import svg, text
from fusery.registry.charts.curves import swatch
from fusery.registry.engine.verdict import share_in_words
from fusery.registry.parsing import plural
from fusery.registry.provenance.drawing import STYLE
from fusery.registry.record import Part, parts_of
from fusery.registry.records.adapter import Adapter, Amendment
from fusery.registry.records.adapter_details import PAGE, AdapterDetails, CurvePoint, lines_of, value_text
from fusery.registry.records.evaluation import Evaluation
from fusery.registry.records.fused import ModuleFidelity
from fusery.registry.releases.rules import rule_words
from fusery.storage.secrets import masked

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")
_VERDICTS = {"PASS": "good", "UNSURE": "warn", "DEGRADED": "warn", "LOST": "bad"}
_KINDS = {kind.__name__: kind for kind in (Amendment, CurvePoint, Evaluation, ModuleFidelity)}
_SEVERITIES = {"error": "bad", "warning": "warn"}


@cache
def environment(base: str | None = None) -> Environment:
    """Return what renders pages, on another base template if one is given."""
    from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined

    own = {} if base is None else {"base.html.j2": base}
    made = Environment(
        loader=ChoiceLoader([DictLoader(own), FileSystemLoader(_TEMPLATES)]),
        undefined=StrictUndefined,
        finalize=_shown,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("number", "share", "short", "size", "when")
    made.filters |= {name: getattr(text, name) for name in names}
    made.filters |= {"plural": plural, "retained": share_in_words, "wanted": rule_words}
    made.filters |= {"segment": segment, "kept": escape}
    made.filters |= {"lines": lambda view: list(lines_of(AdapterDetails, PAGE, view, "–"))}
    made.globals |= {
        "columns_of": columns_of,
        "usual": [_column(part) for part in parts_of(Adapter).values() if part.about.usual],
        "verdicts": _VERDICTS,
        "severities": _SEVERITIES,
        "swatch": swatch,
    }
    return made


def columns_of(kind: str, names: str) -> list[dict[str, object]]:
    """Return columns of a table of records, each with its head, its part, its class, and the text of its cells."""
    return [_column(parts_of(_KINDS[kind])[name]) for name in names.split()]


def _column(part: Part) -> dict[str, object]:
    title, number = f"{part.title[:1].upper()}{part.title[1:]}", part.is_number

    def cell(row: Mapping[str, Any]) -> str:
        cell_text = value_text(part, row[part.key], cell=True) or "–"
        return cell_text.replace("-", "\N{MINUS SIGN}") if number else cell_text

    return {
        "head": f">{title}" if number else title,
        "part": part,
        "class": Markup(' class="num"' if number else ' class="day"' if part.kind == "moment" else ""),
        "text": cell,
    }


def style_sheet() -> str:
    """Return the style sheet of pages, and of the pictures in them."""
    own = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "web.css"))
    return svg.style_sheet() + own + STYLE


def presentable(value: Any) -> Any:
    """Return a value as JSON can have it, without passwords in URLs, and without infinity and bytes from an edited database."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {presentable(str(key)): presentable(entry_value) for key, entry_value in value.items()}
    if isinstance(value, list | tuple):
        return [presentable(element) for element in value]
    if isinstance(value, bytes):
        return repr(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Any) -> Any:
    """Return what an expression of the template inserts; what is marked as HTML was made here."""
    return text.shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def segment(text: object) -> Markup:
    """Return a text as one segment of a path; no text gets out of it."""
    quoted = quote(str(text), safe="")
    return Markup(quoted.replace(".", "%2E") if str(text) in (".", "..") else quoted)


def of_adapter(name: str) -> str:
    """Return the address of an adapter."""
    return f"/adapters/{segment(name)}"


def of_alias(alias: str) -> str:
    """Return the address of an alias, `TASK#NAME`."""
    task, _, name = alias.partition("#")
    return f"/aliases/{segment(task)}/{segment(name)}"
