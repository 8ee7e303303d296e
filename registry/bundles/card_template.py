"""Model cards from a template: the built-in one, or a team's own.

Values may come from outside, so an inserted value is escaped to plain Markdown text by default; the filters `yaml`, `text`
and `prose` escape for other places.  A team's template runs in Jinja's sandbox, in a process of its own with limits, and
can extend the built-in one: `{% extends "model_card.md.j2" %}` and `{% block use %}…{% endblock %}`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.failures import os_failures

from ..errors import BadInputError
from ..runtime.templates.process import Limits, TemplateError, TemplateProcesses, TemplateRaised
from .rendering import markdown_prose, markdown_start, markdown_text, resource, yaml_string

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from markupsafe import Markup

CARD = "model_card.md.j2"
ADAPTER_CARD = "hub_adapter_card.md.j2"
_LARGEST_TEMPLATE = 256 << 10
_OURS = (CARD, ADAPTER_CARD)
LIMITS = Limits(characters=1 << 20)
"""Of a team's template: those of chat templates, and the length of a card."""


def render_card(values: Mapping[str, Any], template: Path | None, *, builtin: str = CARD) -> bytes:
    """Return a model card."""
    if template is None:
        return _environment().get_template(builtin).render(values).encode()
    with os_failures(f"read {template}", near=template.parent):
        source = template.read_bytes()
    if len(source) > _LARGEST_TEMPLATE:
        raise _refused(template, f"it has more than {_LARGEST_TEMPLATE >> 10} KiB")
    return _elsewhere(template, source, values)


def _refused(template: Path, why: str) -> BadInputError:
    return BadInputError(
        f"the template {template.name[:60]} makes no model card: {why}",
        hint="docs/guides/ship.md lists what a template is given",
    )


def _elsewhere(template: Path, source: bytes, values: Mapping[str, Any]) -> bytes:
    """Render in a process that can neither run for long nor take much memory, and is given no credentials."""
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        raise _refused(template, "it is not UTF-8 text") from error
    command = [sys.executable, "-P", "-W", "ignore", "-c", f"from {__name__} import main; main()"]
    try:
        with closing(TemplateProcesses(command, limits=LIMITS)) as processes:
            card = processes.render({"template": text, "values": values})
    except TemplateRaised as error:
        raise _refused(template, str(error)[:400]) from error
    except TemplateError as error:
        raise _refused(template, f"it {error}") from error
    if not card.strip():
        raise _refused(template, "the card is empty")
    try:
        return card.encode()
    except UnicodeEncodeError as error:
        raise _refused(template, "it makes half of a character") from error


def main() -> None:
    """Render one card; runs in the process that `_elsewhere` starts."""
    from ..runtime.templates.program import run

    environment = _environment()
    for name in _OURS:  # read while the clock does not run
        environment.get_template(name)
    run(lambda asked: environment.from_string(asked["template"]).generate(asked["values"]))


def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import FunctionLoader, StrictUndefined, Undefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from markupsafe import Markup

    def text(value: Any) -> Markup:
        return Markup(markdown_start(markdown_text(value)))

    def escaped(value: Any) -> Markup:
        if isinstance(value, Undefined):
            str(value)  # raises, with the name of what is missing
        return value if isinstance(value, Markup) else text(value)

    environment = ImmutableSandboxedEnvironment(
        loader=FunctionLoader(lambda name: resource(name).decode() if name in _OURS else None),
        undefined=StrictUndefined,
        finalize=escaped,
        autoescape=True,  # what a filter or a macro has made is marked, and is not escaped twice
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "yaml": lambda value: Markup(yaml_string(value)),
        "text": text,
        "prose": lambda value: Markup(markdown_prose(value)),
    }
    return environment
