"""Make the reference pages from the code.

They are the command line, the Python API, what commands print with `--json`, the findings of admission, the errors and
the settings; and in the guide to Python, the table of resources.

`python docs/make_reference.py` writes them; with `--check` it only says whether they are up to date.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import click

import fusery.cli
import fusery.integrations
import fusery.model_server
import fusery.registry
import fusery.research
import fusery.storage
import fusery.web
from fusery.cli.documents import document_of
from fusery.cli.documents import documents as printing_commands
from fusery.cli.fuse import KEYS
from fusery.cli.main import EVERYTHING, OTHER_ERRORS, cli
from fusery.registry import Registry
from fusery.registry.admission.rules import CODES, RULES, UNREADABLE
from fusery.registry.api.operation import hints_of
from fusery.registry.api.schema import schema_of
from fusery.registry.catalog.listing import SORTABLE
from fusery.registry.catalog.where_fields import FIELDS
from fusery.registry.record import About, Record, parts_of
from fusery.registry.records.adapter_details import AdapterDetails
from fusery.registry.workspace.settings import Settings, variable_of
from fusery.storage.errors import FuseryError
from fusery.web.answers import STATUS
from fusery.web.app import create_app
from fusery.web.auth import LocalAuth
from fusery.web.routes import document

FOLDER = Path(__file__).resolve().parent / "reference"
_DEFINES = re.compile(r"^class \w+Error\(", re.MULTILINE)
GUIDE = FOLDER.parent / "guides" / "python.md"
_TABLE = re.compile(r"^\| resource \|.*\n(?:\|.*\n)+", re.MULTILINE)
NOTE = "<!-- Made by docs/make_reference.py from the code; do not edit. -->\n"


def commands(group: click.Group, context: click.Context, path: str) -> Iterator[tuple[str, click.Context]]:
    """Yield every command below a group with its full name."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=f"{path} {name}", parent=None)
        for param in command.params:
            if isinstance(param, click.Option):
                param.hidden = False
        if isinstance(command, click.Group):
            yield from commands(command, inner, f"{path} {name}")
        else:
            yield f"{path} {name}", inner


def command_line() -> str:
    """Return the page of the command line: the help of every command."""
    context = click.Context(cli, info_name="fusery")
    context.meta[EVERYTHING] = True
    parts = [NOTE, "# Command line\n", "```text", cli.get_help(context), "```\n"]
    parts += ["## Keys of -o in commands that fuse\n", "| key | meaning |", "| --- | --- |"]
    parts += [f"| `{key}` | {_cell(text)}{_values(kind)} |" for key, (kind, text) in KEYS.items()]
    parts.append("")
    for name, inner in commands(cli, context, "fusery"):
        parts += [f"## {name}\n", "```text", inner.command.get_help(inner), "```\n"]
    return "\n".join(parts)


def _values(kind: click.ParamType[Any]) -> str:
    return (
        f" ({', '.join(f'`{choice}`' for choice in kind.choices)})" if isinstance(kind, click.Choice) else ""
    )


def findings() -> str:
    """Return the page of findings: each rule of admission, and what it can find."""
    intro = (
        f"`fusery register` and `fusery check` apply {len(RULES)} rules in this order; they can report "
        f"{len(CODES)} findings, and `fusery base add` those about the base.  An error prevents the registration; with `--strict`, a warning does, too.\n\n"
        "A finding that is *always* an error cannot be changed, one that is *always* info can only become an error.  Every other severity can be set "
        "in `config.toml` to `error`, `warning`, `info` or `off`:\n\n"
        '```toml\n[admission.severity]\npickle_file = "off"\nmodule_zero = "error"\n```\n'
    )
    parts = [NOTE, "# Findings\n", intro]
    groups = [("folder can be read", "The folder and its file names can be read.", UNREADABLE)]
    groups += [(rule.name, inspect.getdoc(rule.look) or "", rule.codes) for rule in RULES]
    told: set[str] = set()
    for name, text, codes in groups:
        parts += [f"## {name[0].upper()}{name[1:]}\n", f"{' '.join(text.split())}\n"]
        parts += [
            "| finding | severity | meaning | why it matters | what to do |",
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
    for package in (fusery.storage, fusery.registry, fusery.web):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            if _DEFINES.search(path.read_text(encoding="utf-8")):
                inner = path.relative_to(root).with_suffix("").parts
                importlib.import_module(".".join([package.__name__, *inner]))
    intro = (
        'With `--json` a command that fails prints `{"error": {"code", "message", "hint"}}`; `hint` may be null.  '
        "`code` is stable; the sentence in `message` is not.  `fusery server` returns the same document with an HTTP status.\n"
    )
    head = ["| code | exit code | HTTP status | meaning |", "| --- | --- | --- | --- |"]
    parts = [NOTE, "# Errors\n", intro, *head]
    rows = {kind.code: (kind.exit_code, _first(kind)) for kind in reversed([*_below(FuseryError)])}
    rows |= OTHER_ERRORS
    parts += [
        f"| `{code}` | {exit_code} | {STATUS.get(code, '–' if code in OTHER_ERRORS else 400)} | {_cell(text)} |"
        for code, (exit_code, text) in sorted(rows.items())
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
    parts += ["| environment | `config.toml` | default | |", "| --- | --- | --- | --- |"]
    about = dict(re.findall(r"^    (\w+): (.*)$", inspect.getdoc(Settings) or "", re.MULTILINE))
    for field in fields(Settings):
        default = "" if field.default in (MISSING, None, "") else f"`{field.default}`"
        if field.name == "home":
            default = "your account's folder for data: `~/.local/share/fusery` on Linux"
        parts.append(f"| `{variable_of(field.name)}` | `{field.name}` | {default} | {about[field.name]} |")
    parts += [
        "\n## Other variables\n",
        "These are read from the environment only: secrets, and settings of one command or server. All are optional.\n",
    ]
    parts += ["| environment | |", "| --- | --- |"]
    parts += [f"| `{name}` | {what} |" for name, what in sorted(OTHER_VARIABLES.items())]
    named = {variable_of(field.name) for field in fields(Settings)} | OTHER_VARIABLES.keys()
    for package in (
        fusery.cli,
        fusery.integrations,
        fusery.model_server,
        fusery.registry,
        fusery.research,
        fusery.storage,
        fusery.web,
    ):
        for path in Path(package.__path__[0]).rglob("*.py"):
            if (
                missing := set(re.findall(r'"(FUSERY_[A-Z_]*[A-Z])"', path.read_text(encoding="utf-8")))
                - named
            ):
                raise SystemExit(f"{path.name} reads {missing}, which OTHER_VARIABLES does not explain")
    return "\n".join([*parts, ""])


OTHER_VARIABLES = {
    "FUSERY_CA_FILE": "certificates to trust for a fusery server, in place of the system's",
    "FUSERY_CLUSTER": "the scheduler of a dask cluster that does bulk work, `tcp://host:8786`",
    "FUSERY_KEY_PASSPHRASE": "the passphrase of a signing key",
    "FUSERY_ONNX_PYTHON": "the Python interpreter with the packages of `fusery[onnx]`, if it is another one",
    "FUSERY_OTHER_STORE_OPTIONS": "options of the file system of a backup, as JSON",
    "FUSERY_PROXY_SECRET": "the secret that a proxy before `fusery server` sends in `X-Fusery-Proxy`",
    "FUSERY_SERVER": "in vLLM and Dynamo: the fusery server that adapters come from",
    "FUSERY_SERVED_AT": "in vLLM and Dynamo: the server's name in recorded deployments; `-` records none",
    "FUSERY_SERVED_BASE": "in vLLM and Dynamo: the base in the registry that the server has",
    "FUSERY_SERVED_FILES": "in vLLM and Dynamo: the folder for the adapters' files",
    "FUSERY_DYNAMO_ALIASES": "`pin`: Dynamo resolves an alias once, when it first loads it",
    "FUSERY_VLLM_ALIASES": "`pin`: vLLM resolves an alias once, when it first loads it",
    "FUSERY_SYNC_KEY": "the key of a live server, for `sync`",
    "FUSERY_SYNC_KEY_FILE": "the file that contains it",
    "FUSERY_TOKEN": "the token for a fusery server",
    "FUSERY_TOKEN_FILE": "the file that contains it",
    "FUSERY_WEBHOOK_PRIVATE": "`1`: webhooks may go to private networks",
    "FUSERY_WEBHOOK_SECRET": "the secret from which the keys of webhooks are derived",
    "FUSERY_WEBHOOK_SECRET_FILE": "the file that contains it",
}
"""What is no setting, by its variable."""


def documents() -> str:
    """Return the page of what commands print with `--json`: each command's record, and the keys of each record."""
    intro = (
        "`--json` prints one document on standard output; `fusery admin schema COMMAND` prints its JSON Schema, of which this page is "
        "made.  More keys may be added; those below keep their names and meaning.  Moments are ISO 8601 in UTC with offset, "
        "sizes are bytes, digests are SHA-256 in hexadecimal.  An unknown value is null; its key is present. "
        "Keys in *italics* are present only when they are requested.\n\n"
        'An error is a document, too, with the same exit code: `{"error": {"code", "message", "hint"}}`; '
        "[Errors](errors.md) lists the codes.\n"
    )
    parts = [NOTE, "# JSON\n", intro, "| command | prints |", "| --- | --- |"]
    commands = printing_commands()
    parts += [f"| `{command}` | {_kind(schema_of(document_of(command)))} |" for command in commands]
    records = records_of_documents()
    for name in sorted(records):
        parts += ["", f"## {name}\n", f"{records[name].get('description', '')}\n"]
        parts += ["| key | type | meaning |", "| --- | --- | --- |"]
        required = records[name].get("required", [])
        for key, value in records[name]["properties"].items():
            shown = f"`{key}`" if key in required else f"*`{key}`*"
            parts.append(f"| {shown} | {_kind(value)} | {_cell(value.get('description', ''))} |")
    return "\n".join([*parts, ""])


def records_of_documents() -> dict[str, dict[str, Any]]:
    """Return the schemas of the records that commands print, by name."""
    known: dict[str, dict[str, Any]] = {}
    for command in printing_commands():
        schema = schema_of(document_of(command))
        known |= schema.get("$defs", {})
        if "properties" in schema:
            known[schema["title"]] = schema
    return known


def operations() -> str:
    """Return the page of operations: what programs may request of a server, from its OpenAPI document."""
    app = create_app(Registry.open("nowhere"), LocalAuth("anna"))
    made = document(app, app.state.routes.made)
    intro = (
        "`registry.RESOURCE.OPERATION(...)` in Python is `/api/v1/RESOURCE/OPERATION` over HTTP: `GET` reads, `POST` changes and "
        "needs a token. Parameters are those of the [Python API](python.md), in the query or as one JSON object. Records are those of "
        "[JSON](json.md), with times to the microsecond. A list has at most 1,000 records; `limit` and `offset`, `after` or `before` "
        "request the others. `/api/v1/openapi.json` is the same for programs.\n"
    )
    parts = [NOTE, "# Operations\n", intro]
    records = records_of_documents()
    for path, methods in made["paths"].items():
        for method, entry in methods.items():
            name = path.removeprefix("/api/v1/")
            parts += [
                f"## {method.upper()} {name}\n" if "{" in name else f"## {name}\n",
                f"{entry['summary']}.\n",
            ]
            result = ", ".join(
                _result(kind, each, records) for kind, each in entry["responses"]["200"]["content"].items()
            )
            role = entry.get("description", "Open to everybody.")
            parts.append(f"`{method.upper()} {path}` returns {result}. {role}\n")
            parts += _parameters(entry, made["components"]["schemas"])
    return "\n".join(parts)


def _result(kind: str, content: Mapping[str, Any], known: Collection[str]) -> str:
    if kind != "application/json" or not content["schema"]:
        return f"`{kind}`"
    found = _kind(content["schema"])
    return re.sub(r"\[(\w+)\]\(#\w+\)", lambda each: _record_link(each[1], known), found)


def _record_link(name: str, known: Collection[str]) -> str:
    return f"[{name}](json.md#{name.lower()})" if name in known else f"`{name}`"


def _parameters(entry: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of an operation's parameters."""
    found = [
        (each["name"], each["schema"], bool(each.get("required")), each.get("description", ""))
        for each in entry.get("parameters", ())
    ]
    body = entry.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    model = shared[body["$ref"].rpartition("/")[2]] if "$ref" in body else {}
    needed = model.get("required", ())
    for name, each in model.get("properties", {}).items():
        found.append((name, each, name in needed, each.get("description", "")))
    if found:
        yield "| parameter | type | |\n| --- | --- | --- |"
        for name, schema, required, text in found:
            kind = _kind({key: each for key, each in schema.items() if key != "title"})
            yield f"| `{name}`{'' if required else ' (optional)'} | {kind} | {_cell(text)} |"
        yield ""


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type of a value in words, with links to the records."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "properties" in schema:
        return f"[{schema['title']}](#{schema['title'].lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(each)}`" for each in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"array of {_kind(schema.get('items', {}))}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"object of {_kind(inner)}" if isinstance(inner, dict) and inner else "object"
    if schema.get("format") == "date-time":
        return "moment"
    return str(schema.get("type", "any"))


def python() -> str:
    """Return the page of the Python API: each resource and its methods, from their docstrings."""
    intro = (
        "The names of `fusery`, and what each resource of a `Registry` does.  A *reference* is a text as the command line takes it, or "
        "a record; the records are those of [JSON](json.md), read by attributes.  [The guide](../guides/python.md) "
        "shows them at work.\n"
    )
    parts = [NOTE, "# Python\n", intro]
    for name in fusery.registry.__all__:
        kind = getattr(fusery.registry, name)
        if inspect.isclass(kind) and kind is not Registry:
            parts += [f"## {name}\n", f"{_paragraphs(kind)}\n", *_fields(kind)]
            if not issubclass(kind, Exception):
                parts += [f"```python\n{name}{_signature(kind)}\n```\n"]
    parts += ["## Registry\n", f"{_paragraphs(Registry)}\n", *_methods("registry", Registry)]
    for name, kind in resources().items():
        parts += [f"## registry.{name}\n", f"{_paragraphs(kind)}\n", *_methods(f"registry.{name}", kind)]
    return "\n".join(parts)


def _fields(kind: type) -> Iterator[str]:
    """Yield the list of a record's fields, of those that say what they mean."""
    parts = parts_of(kind) if issubclass(kind, Record) and is_dataclass(kind) else {}
    if rows := [f"- `{name}`: {part.about.text}" for name, part in parts.items() if part.about.text]:
        yield "\n".join(["*Attributes*", "", *rows, ""])


def adapter_fields() -> str:
    """Return the page of an adapter's fields: what can be shown, tested, sorted by, declared and amended."""
    intro = (
        "A *column* can be shown by `list --columns`. A *filter* can be tested by `--where`; the cell has the kind of its "
        "values. `--sort` takes *sorted* fields. A *declared* field is an option of `register`, an *amended* one of `edit`; "
        "*with a reason* means that `--reason` is required. `--where` also takes `tag.KEY`, and all three take `metric.NAME`.\n"
    )
    head = ["| field | meaning | column | filter | sorted | declared | amended |", f"|{' --- |' * 7}"]
    parts = parts_of(AdapterDetails)
    rows = []
    for name in dict.fromkeys([*parts, *FIELDS]):
        about = parts[name].about if name in parts else About()
        field = FIELDS.get(name)
        if about.column or field or about.declared:
            declared = about.declared is not None and not about.declared.later
            amended = "" if about.amendable == "no" else about.amendable
            cells = (
                about.text or f"any {name} that it has",
                "yes" if about.column else "",
                field.kind if field else "",
                "yes" if name in SORTABLE else "",
                "yes" if declared else "",
                amended,
            )
            rows.append(f"| `{name}` | {' | '.join(map(_cell, cells))} |")
    return "\n".join([NOTE, "# Fields of an adapter\n", intro, *head, *rows, ""])


def resources() -> dict[str, type]:
    """Return the kinds of a registry's resources by the attribute that has each."""
    hints = inspect.getsource(Registry.__init__)
    found = re.findall(r"self\.(\w+) = ([A-Z]\w+)\(workspace\b", hints)
    return {name: getattr(importlib.import_module(Registry.__module__), kind) for name, kind in found}


def guide() -> str:
    """Return the guide to Python with its table: each resource and the names of its methods."""
    kinds: dict[str, type] = {"registry": Registry}
    kinds |= {f"registry.{name}": kind for name, kind in resources().items()}
    rows = ["| resource | methods |", "| --- | --- |"]
    for owner, kind in kinds.items():
        rows.append(f"| `{owner}` | {', '.join(f'`{name}`' for name, _ in _functions(kind))} |")
    text = GUIDE.read_text(encoding="utf-8")
    [before, after] = _TABLE.split(text)
    return before + "\n".join([*rows, ""]) + after


def _methods(owner: str, kind: type) -> Iterator[str]:
    for name, function in _functions(kind):
        yield f"### {owner}.{name}\n"
        yield f"```python\n{name}{_signature(function)}\n```\n"
        yield f"{_paragraphs(function)}\n"


def _functions(kind: type) -> Iterator[tuple[str, Any]]:
    for name, method in vars(kind).items():
        function = getattr(method, "__func__", method)
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function


def signature_of(function: Any) -> inspect.Signature:
    """Return a method's signature, with a parameter for each key of an unpacked `TypedDict`, but for those of `register`."""
    made, parameters = inspect.signature(function), list[inspect.Parameter]()
    for parameter in made.parameters.values():
        if (
            parameter.kind is not parameter.VAR_KEYWORD
            or "Unpack" not in str(parameter.annotation)
            or "Facts" in parameter.annotation
        ):
            parameters.append(parameter)
            continue
        [keywords] = get_args(hints_of(inspect.unwrap(function))[parameter.name])
        parameters += [
            inspect.Parameter(
                name, parameter.KEYWORD_ONLY, default=None, annotation=getattr(of, "__forward_arg__", of)
            )
            for name, of in keywords.__annotations__.items()
        ]
    return made.replace(parameters=parameters)


def _signature(function: Any) -> str:
    text = signature_of(function)
    parameters = [
        parameter for parameter in text.parameters.values() if parameter.name not in ("self", "cls")
    ]
    shown = [_parameter(parameter) for parameter in parameters]
    kinds = [parameter.kind for parameter in parameters]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        shown.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returned = str(text.return_annotation).replace("builtins.", "")
    back = "" if text.return_annotation in (text.empty, None, "None") else f" -> {returned}"
    line = f"({', '.join(shown)}){back}"
    if len(line) < 90:
        return line
    return "(\n    " + ",\n    ".join(shown) + f",\n){back}"


def _parameter(each: inspect.Parameter) -> str:
    stars = {each.VAR_KEYWORD: "**", each.VAR_POSITIONAL: "*"}.get(each.kind, "")
    default = (
        "" if each.default is each.empty else f" = {getattr(each.default, '__name__', repr(each.default))}"
    )
    return f"{stars}{each.name}: {each.annotation}{default}"


def _paragraphs(thing: Any) -> str:
    """Return a docstring as Markdown: what its sections list becomes a list."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(r"^(Args|Raises|Returns|Attributes|Yields):$", r"*\1*\n", text, flags=re.MULTILINE)
    while (joined := re.sub(r"^( {4}\w+(?:, \w+)*: .*)\n {8,}", r"\1 ", text, flags=re.MULTILINE)) != text:
        text = joined
    return re.sub(r"^ {4}(\w+(?:, \w+)*): ", r"- `\1`: ", text, flags=re.MULTILINE)


def main() -> int:
    """Write the pages, or say which are out of date."""
    pages = {
        FOLDER / "command-line.md": command_line(),
        FOLDER / "errors.md": errors(),
        FOLDER / "fields.md": adapter_fields(),
        FOLDER / "findings.md": findings(),
        FOLDER / "json.md": documents(),
        FOLDER / "operations.md": operations(),
        FOLDER / "python.md": python(),
        FOLDER / "settings.md": settings(),
        GUIDE: guide(),
    }
    stale = [path for path, text in pages.items() if not _is(path, text)]
    if "--check" in sys.argv[1:]:
        for path in stale:
            click.echo(f"docs/{path.parent.name}/{path.name} is out of date; run: make docs", err=True)
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")
        click.echo(f"wrote docs/{path.parent.name}/{path.name}")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
