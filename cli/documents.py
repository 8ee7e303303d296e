"""What each command prints with `--json`, as types; and `fusery admin schema`, which prints their JSON Schemas."""

from __future__ import annotations

from functools import cache, reduce
from importlib import import_module
from operator import or_
from typing import Any

from .command import MADE, PRINTED, command
from .commands import TABLE, import_commands
from .groups import Group
from .session import Session

OTHERS_FORMAT = "another's format"
"""The document of a command whose form others have laid down, such as a JSON Schema or an attestation."""


@cache
def documents() -> tuple[str, ...]:
    """Return the commands that print a document, in the order of the help."""
    for modules, _ in TABLE.values():
        import_commands(modules)
    names = [name for name, made in MADE.items() if not isinstance(made, Group)]
    rows = [row for row in TABLE if row != "admin"]
    return tuple(name for row in rows for name in names if f"{name} ".startswith(f"{row} "))


def document_of(name: str) -> Any:
    """Return the type of what a command prints with `--json`; `object` where its form is another's."""
    from fusery.registry.api.operation import hints_of

    for row in [row for path, row in TABLE.items() if f"{name} ".startswith(f"{path} ")]:
        import_commands(row[0])
    printed = PRINTED.get(name, OTHERS_FORMAT)
    if isinstance(printed, str):
        return reduce(or_, map(_type, printed.split(" | ")))
    return hints_of(printed)["return"]


def _type(text: str) -> Any:
    if text == OTHERS_FORMAT:
        return object
    if text == "null":
        return None
    if text.startswith("["):
        return list[_type(text[1:-1])]  # type: ignore[misc]
    module, _, name = text.partition(":")
    if module.startswith("."):
        module = f"fusery.cli{module}"
    elif not module.startswith("fusery."):
        module = f"fusery.registry.{module}"
    return getattr(import_module(module), name)


@command("admin schema", words="[COMMAND]...")
def schema(session: Session, words: tuple[str, ...] = ()) -> None:
    """Print the JSON Schema of a command's --json output.

    COMMAND is one or two words. Without COMMAND, list the commands; with --json, print all schemas.

    Example: fusery admin schema alias list
    """
    from fusery.registry.api.schema import schema_of

    names, name = documents(), " ".join(words)
    if not words:
        document = {one: schema_of(document_of(one)) for one in names} if session.json else {}
        session.emit(document, names=names, human=lambda: session.print_lines(names))
        return
    if name not in names:
        from fusery.registry.errors import BadInputError

        message = f"there is no command {name[:60]!r} with a document of its own"
        raise BadInputError(message, hint="fusery admin schema")
    json_schema = schema_of(document_of(name))
    session.emit(json_schema, names=[name], human=lambda: session.document(json_schema))
