"""Make the reference pages from the code: the command line, the findings of admission, the errors, and the settings.

`python docs/make_reference.py` writes them; with `--check` it only says whether they are up to date.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import fusery.registry
import fusery.storage
from fusery.cli.main import OTHER_ERRORS, cli
from fusery.registry.admission.rules import CODES, RULES, UNREADABLE
from fusery.registry.settings.settings import Settings
from fusery.storage.errors import FuseryError

FOLDER = Path(__file__).resolve().parent / "reference"
_DEFINES = re.compile(r"^class \w+Error\(", re.MULTILINE)
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
    """Return the page of findings: each rule of admission, and what it can find."""
    intro = (
        f"What `fusery register` and `fusery check` look at: {len(RULES)} rules in this order, which can find "
        f"{len(CODES)} things.  An error keeps the adapter out; with `--strict` a warning does, too.\n\n"
        "What is *always* an error cannot be read or recorded at all.  Every other severity can be set in `config.toml` "
        "to `error`, `warning`, `info` or `off`:\n\n"
        '```toml\n[admission.severity]\npickle_file = "off"\nmodule_zero = "error"\n```\n'
    )
    parts = [NOTE, "# Findings\n", intro]
    groups = [("folder can be read", "The folder can be read at all.", UNREADABLE)]
    groups += [(rule.name, inspect.getdoc(rule.look) or "", rule.codes) for rule in RULES]
    told: set[str] = set()
    for name, text, codes in groups:
        parts += [f"## {name[0].upper()}{name[1:]}\n", f"{' '.join(text.split())}\n"]
        parts += [
            "| finding | severity | what is the case | why it matters | what to do |",
            "| --- | --- | --- | --- | --- |",
        ]
        for code in codes:
            severity = f"always {code.severity}" if code.fixed else code.severity
            again = "see above" if code.name in told else ""
            what = (again, "", "") if again else (code.what, code.why, code.hint)
            parts.append(f"| `{code.name}` | {severity} | {' | '.join(map(_cell, what))} |")
            told.add(code.name)
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def errors() -> str:
    """Return the page of errors: every code that `--json` may show, its exit code, and what it means."""
    for package in (fusery.storage, fusery.registry):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            if _DEFINES.search(path.read_text(encoding="utf-8")):
                inner = path.relative_to(root).with_suffix("").parts
                importlib.import_module(".".join([package.__name__, *inner]))
    intro = (
        'With `--json` a command that fails prints `{"error": {"code", "message", "hint"}}`; `hint` is null where there is none.  '
        "`code` is stable; the sentence in `message` is not.\n"
    )
    parts = [NOTE, "# Errors\n", intro, "| code | exit code | what is the case |", "| --- | --- | --- |"]
    rows = {kind.code: (kind.exit_code, _first(kind)) for kind in _below(FuseryError)}
    rows |= OTHER_ERRORS
    parts += [
        f"| `{code}` | {exit_code} | {_cell(text)} |" for code, (exit_code, text) in sorted(rows.items())
    ]
    return "\n".join([*parts, ""])


def _below(kind: type[FuseryError]) -> Iterator[type[FuseryError]]:
    for inner in kind.__subclasses__():
        if "code" in vars(inner):
            yield inner
        yield from _below(inner)


def _first(kind: type[FuseryError]) -> str:
    text = (inspect.getdoc(kind) or "").partition("\n\n")[0]
    return " ".join(text.split())


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
    pages = {
        "command-line.md": command_line(),
        "errors.md": errors(),
        "findings.md": findings(),
        "settings.md": settings(),
    }
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
