"""Templates of bundles, and the escaping of text from outside for the place where a template inserts it.

Text from outside is never compiled as a template.  Every value that a template inserts is escaped here, or has been checked
against a pattern.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_MARKUP = re.compile(r"[\\`*\[\]|$~#!{}]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LEADING = re.compile(r"[-+=](?=[-+=\s]|$)|[0-9]+(?=[.)](\s|$))")
"""What makes a list, a rule or a heading of a line that it begins."""
CARD_LIMIT = 400
"""Characters of one value that the model card shows; `fusery.json` has all of it."""


def yaml_string(value: Any) -> str:
    """Return a text as a YAML double-quoted scalar: one line of printable ASCII that reads back as exactly that text.

    JSON's form will not do: its pairs of surrogates are two characters to YAML, and it leaves DEL as it is.
    """
    return '"' + "".join(_yaml_character(character) for character in str(value)) + '"'


def _yaml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if " " <= character <= "~" else _escape(character)


def _escape(character: str) -> str:
    # Python's escapes (\n, \x7f, \u2028, \U0001f600) are YAML's as well.
    return character.encode("unicode_escape").decode()


def markdown_text(value: Any) -> str:
    """Return a value as Markdown that shows as plain text in one table cell, whatever characters it has.

    What cannot be printed is shown as an escape, so that a line break or a change of writing direction is seen and
    not obeyed; lists and objects are shown as JSON; None is a dash.
    """
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    if len(text) > CARD_LIMIT:
        text = text[: CARD_LIMIT - 1] + "…"
    return _markdown_line(text)


def _markdown_line(text: str) -> str:
    visible = "".join(c if c.isprintable() else _escape(c) for c in text)
    escaped = _MARKUP.sub(lambda match: "\\" + match[0], visible)
    return re.sub("[&<>]", lambda match: _ENTITIES[match[0]], escaped)


def markdown_prose(value: Any, limit: int = 4000) -> str:
    """Return a text of several lines as Markdown paragraphs that show as plain text, whatever characters they have."""
    text = str(value)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    lines = (markdown_start(_markdown_line(line.strip())) for line in text.split("\n"))
    return "\n\n".join(line for line in lines if line)


def markdown_start(text: str) -> str:
    """Return Markdown that shows as plain text also where it begins a line."""
    if (found := _LEADING.match(text)) is None:
        return text
    number = found[0] if found[0].isdigit() else ""
    return f"{number}\\{text[len(number) :]}"


def render(template: str, /, *, part: str = "registry.bundles", **values: Any) -> bytes:
    """Render a template of a part of fusery; a missing value is an error."""
    return _environment(part).get_template(template).render(values).encode()


def resource(name: str, part: str = "registry.bundles") -> bytes:
    """Return a file of `templates/` as it is."""
    return files("fusery").joinpath(*part.split("."), "templates", name).read_bytes()


def server_files() -> dict[str, bytes]:
    """Return the model server, its program and its pinned requirements: path and content, sorted."""
    modules = {"__init__.py": b"", "registry/__init__.py": b""}
    for part in ("model_server", "registry/runtime"):
        found = _modules(files("fusery").joinpath(*part.split("/")))
        modules |= {f"{part}/{name}": found[name] for name in found if not name.startswith("local/")}
    return {
        "requirements.txt": resource("requirements.txt"),
        "server.py": resource("server.py.txt"),
        **{f"serving/{name}": modules[name] for name in sorted(modules)},
    }


def _modules(folder: Traversable, under: str = "") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found |= _modules(entry, f"{under}{entry.name}/")
        elif entry.name.endswith(".py"):
            found[under + entry.name] = entry.read_bytes()
    return found


@cache
def _environment(part: str) -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(  # Markdown and Dockerfiles: HTML escapes would not help.
        loader=FunctionLoader(lambda name: resource(name, part).decode()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"yaml": yaml_string, "text": markdown_text}
    return environment
