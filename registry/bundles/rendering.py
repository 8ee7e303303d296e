"""Templates of bundles, escaping of inserted values, and a team's own template, in Jinja's sandbox and a process with limits."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.failures import os_failures

from ..errors import BadInputError
from ..runtime.templates.process import Limits, TemplateError, TemplateProcesses

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from markupsafe import Markup

CARD = "model_card.md.j2"
ADAPTER_CARD = "hub_adapter_card.md.j2"
_LARGEST_TEMPLATE = 256 << 10
LIMITS = Limits(characters=1 << 20)  # of a team's template

_MARKUP = re.compile(r"[\\`*\[\]|$~#!{}]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LEADING = re.compile(r"[-+=](?=[-+=\s]|$)|[0-9]+(?=[.)](\s|$))")
"""A beginning that makes a list, a rule or a heading of a line."""
CARD_LIMIT = 400  # characters of a value in the model card; `fusery.json` has all of it


def yaml_string(value: Any) -> str:
    """Return a text as a YAML double-quoted scalar of printable ASCII, without JSON's pairs of surrogates."""
    text = re.sub(r'["\\]', r"\\\g<0>", str(value))
    return '"' + "".join(char if " " <= char <= "~" else _escape(char) for char in text) + '"'


def _escape(character: str) -> str:
    # Python's escapes (\n, \x7f, \u2028, \U0001f600) are YAML's as well.
    return character.encode("unicode_escape").decode()


def markdown_text(value: Any) -> str:
    """Return a value as Markdown for one table cell: unprintable characters escaped, lists and objects as JSON, None as a dash."""
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


def markdown_prose(value: Any) -> str:
    """Return a text of several lines as Markdown paragraphs that show as plain text."""
    text = str(value)
    if len(text) > 4000:
        text = text[:3999] + "…"
    lines = (markdown_start(_markdown_line(line.strip())) for line in text.split("\n"))
    return "\n\n".join(line for line in lines if line)


def markdown_start(text: str) -> str:
    """Return Markdown that shows as plain text at the beginning of a line."""
    if (match := _LEADING.match(text)) is None:
        return text
    number = match[0] if match[0].isdigit() else ""
    return f"{number}\\{text[len(number) :]}"


def render(template: str, /, *, part: str = "registry.bundles", **values: Any) -> bytes:
    """Render a template of a part of fusery; a missing value is an error."""
    return _environment(part).get_template(template).render(values).encode()


def render_card(values: Mapping[str, Any], template: Path | None, *, builtin: str = CARD) -> bytes:
    """Render a model card, from a team's own template if there is one."""
    if template is None:
        return _card_environment().get_template(builtin).render(values).encode()
    with os_failures(f"read {template}", near=template.parent):
        source = template.read_bytes()
    try:
        if len(source) > _LARGEST_TEMPLATE:
            raise ValueError(f"it has more than {_LARGEST_TEMPLATE >> 10} KiB")
        # In a process with limits and without credentials.
        command = [sys.executable, "-P", "-W", "ignore", "-c", f"from {__name__} import main; main()"]
        with closing(TemplateProcesses(command, limits=LIMITS)) as processes:
            card = processes.render({"template": source.decode(), "values": values})
        if not card.strip():
            raise ValueError("the card is empty")
        return card.encode()
    except (TemplateError, ValueError) as error:
        message = f"the template {template.name[:60]} makes no model card: {str(error)[:400]}"
        raise BadInputError(message, hint="see docs/guides/ship.md") from error


def main() -> None:
    """Render one card; runs in the process that `render_card` starts."""
    from ..runtime.templates.program import run

    environment = _card_environment()
    for name in (CARD, ADAPTER_CARD):  # read while the clock does not run
        environment.get_template(name)
    run(lambda asked: environment.from_string(asked["template"]).generate(asked["values"]))


def resource(name: str, part: str = "registry.bundles") -> bytes:
    """Return the content of a file in `templates/`."""
    return files("fusery").joinpath(*part.split("."), "templates", name).read_bytes()


def server_files() -> dict[str, bytes]:
    """Return the model server, its program and its pinned requirements: path and content, sorted."""
    modules = {"__init__.py": b"", "registry/__init__.py": b""}
    for part in ("model_server", "registry/runtime"):
        modules |= _modules(files("fusery").joinpath(*part.split("/")), f"{part}/")
    return {
        "requirements.txt": resource("requirements.txt"),
        "server.py": resource("server.py.txt"),
        **{f"serving/{name}": modules[name] for name in sorted(modules)},
    }


def _modules(folder: Traversable, under: str) -> dict[str, bytes]:
    modules: dict[str, bytes] = {}
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "local":
            modules |= _modules(entry, f"{under}{entry.name}/")
        elif entry.name.endswith(".py"):
            modules[under + entry.name] = entry.read_bytes()
    return modules


def _options(load: Callable[[str], str | None]) -> Mapping[str, Any]:
    from jinja2 import FunctionLoader, StrictUndefined

    return {
        "loader": FunctionLoader(load),
        "undefined": StrictUndefined,
        "keep_trailing_newline": True,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }


@cache
def _environment(part: str) -> Environment:
    from jinja2 import Environment

    environment = Environment(**_options(lambda name: resource(name, part).decode()))
    environment.filters |= {"yaml": yaml_string, "text": markdown_text}
    return environment


def _card_environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import Undefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from markupsafe import Markup

    def text(value: Any) -> Markup:
        return Markup(markdown_start(markdown_text(value)))

    def escaped(value: Any) -> Markup:
        if isinstance(value, Undefined):
            str(value)  # raises, with the name of what is missing
        return value if isinstance(value, Markup) else text(value)

    environment = ImmutableSandboxedEnvironment(
        **_options(lambda name: resource(name).decode() if name in (CARD, ADAPTER_CARD) else None),
        finalize=escaped,
        autoescape=True,  # results of filters and macros are not escaped twice
    )
    environment.filters |= {
        "yaml": lambda value: Markup(yaml_string(value)),
        "text": text,
        "prose": lambda value: Markup(markdown_prose(value)),
    }
    return environment
