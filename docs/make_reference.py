"""Make the reference pages from the code: the command line, the findings of admission, and the settings.

`python docs/make_reference.py` writes them; with `--check` it only says whether they are up to date.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from fusery.cli.main import cli
from fusery.registry.admission.rules import RULES
from fusery.registry.settings import Settings

FOLDER = Path(__file__).resolve().parent / "reference"
NOTE = "<!-- Made by docs/make_reference.py from the code; do not edit. -->\n"


def commands(group: click.Group, context: click.Context, path: str) -> Iterator[tuple[str, click.Context]]:
    """Yield every command below a group with its full name."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=f"{path} {name}", parent=None)
        if isinstance(command, click.Group):
            yield from commands(command, inner, f"{path} {name}")
        else:
            yield f"{path} {name}", inner


def command_line() -> str:
    """Return the page of the command line: the help of every command."""
    context = click.Context(cli, info_name="fusery")
    parts = [NOTE, "# Command line\n", "```text", cli.get_help(context), "```\n"]
    for name, inner in commands(cli, context, "fusery"):
        parts += [f"## {name}\n", "```text", inner.command.get_help(inner), "```\n"]
    return "\n".join(parts)


def findings() -> str:
    """Return the page of findings: each rule of admission with what it looks for."""
    parts = [NOTE, "# Findings\n", "What `fusery register` and `fusery check` look at, in this order.\n"]
    parts += ["| rule | what holds, and the findings when it does not |", "| --- | --- |"]
    for rule in RULES:
        text = " ".join((inspect.getdoc(rule) or "").split())
        parts.append(f"| {rule.__name__.replace('_', ' ')} | {text} |")
    return "\n".join([*parts, ""])


def settings() -> str:
    """Return the page of settings."""
    parts = [NOTE, "# Settings\n", f"{(inspect.getdoc(Settings) or '').splitlines()[2]}\n"]
    parts += ["| environment | `config.toml` | type |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        kind = re.sub(
            r"<class '(?:\w+\.)*(\w+)'>|(?:\w+\.)*(\w+)", lambda m: m[1] or m[2], str(field.annotation)
        )
        parts.append(f"| `FUSERY_{name.upper()}` | `{name}` | `{kind.replace('|', 'or')}` |")
    return "\n".join([*parts, ""])


def main() -> int:
    """Write the pages, or say which are out of date."""
    pages = {"command-line.md": command_line(), "findings.md": findings(), "settings.md": settings()}
    stale = [name for name, text in pages.items() if not _is(FOLDER / name, text)]
    if "--check" in sys.argv[1:]:
        for name in stale:
            click.echo(f"docs/reference/{name} is out of date; run: make docs", err=True)
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(pages[name], encoding="utf-8")
        click.echo(f"wrote docs/reference/{name}")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
