"""Model cards from a template: this package's own, or one that a team brings.

Every value may come from outside, so in a card an inserted value becomes plain Markdown text by itself; `yaml`, `text` and
`prose` say how else.  A team's template runs in Jinja's sandbox, in a process of its own with limits, and can extend the
package's: `{% extends "model_card.md.j2" %}` and `{% block use %}…{% endblock %}`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.failures import os_failures

from ..errors import BadInputError
from .quoting import markdown_prose, markdown_start, markdown_text, yaml_string
from .rendering import resource

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from markupsafe import Markup

CARD = "model_card.md.j2"
ADAPTER_CARD = "hub_adapter_card.md.j2"
_LARGEST_TEMPLATE = 256 << 10
_LARGEST_CARD = 1 << 20
_MEMORY = 1 << 30
_SECONDS = 10
_OURS = (CARD, ADAPTER_CARD)
_FAILED = 3
"""Exit code of the process when the template is at fault; its standard output is the sentence."""


def render_card(values: Mapping[str, Any], template: Path | None, *, builtin: str = CARD) -> bytes:
    """Return a model card.

    Args:
        values: plain JSON values, as `card_values` returns them.
        template: a team's own; None for this package's.
        builtin: which of this package's.

    Raises:
        BadInputError: the template is too large, no UTF-8, wrong, too slow, or makes no card.
        StorageError: it cannot be read.
    """
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
        hint="docs/guides/deploy.md lists what a template is given",
    )


def _elsewhere(template: Path, source: bytes, values: Mapping[str, Any]) -> bytes:
    """Render in a process that can neither run for long nor take much memory, and is given no credentials."""
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        raise _refused(template, "it is not UTF-8 text") from error
    kept = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "SYSTEMROOT") if name in os.environ
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
            input=json.dumps({"template": text, "values": values}).encode(),
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            env=kept,
        )
    except subprocess.TimeoutExpired as error:
        raise _refused(template, f"it ran for more than {_SECONDS} seconds") from error
    if done.returncode == _FAILED:
        raise _refused(template, done.stdout.decode(errors="replace"))
    if done.returncode != 0:
        raise _refused(template, "it took too much memory or time")
    return done.stdout


def main() -> None:
    """Render what standard input says to standard output: the child of `_elsewhere`."""
    import resource as limits

    # Not everywhere can each of them be set; the parent's clock runs all the same.
    for name, most in (("RLIMIT_AS", _MEMORY), ("RLIMIT_CPU", _SECONDS)):
        try:
            limits.setrlimit(getattr(limits, name), (most, most))
        except (ValueError, OSError):
            continue
    given = json.load(sys.stdin.buffer)
    try:
        card = _render(given["template"], given["values"])
    except _template_errors() as error:
        sys.stdout.write(_sentence(error))
        sys.stdout.flush()
        os._exit(_FAILED)
    sys.stdout.buffer.write(card)


def _render(template: str, values: Mapping[str, Any]) -> bytes:
    parts, size = [], 0
    for part in _environment().from_string(template).generate(values):
        parts.append(part.encode())
        size += len(parts[-1])
        if size > _LARGEST_CARD:
            raise ValueError(f"the card has more than {_LARGEST_CARD >> 20} MiB")
    card = b"".join(parts)
    if not card.strip():
        raise ValueError("the card is empty")
    return card


def _template_errors() -> tuple[type[Exception], ...]:
    from jinja2 import TemplateError

    # What an expression of a template can raise: it is the template's fault, whichever it is.
    return (
        TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
        MemoryError,
    )


def _sentence(error: Exception) -> str:
    from jinja2 import TemplateSyntaxError

    line = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return f"{line}{said}"


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
