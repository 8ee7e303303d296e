"""`fusery schema`: the JSON Schema of what a command prints with `--json`."""

from __future__ import annotations

from difflib import get_close_matches

import click

from .documents import DOCUMENTS, document_of
from .session import Session, command


@command("schema")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
def schema_command(session: Session, words: tuple[str, ...]) -> None:
    """Print the JSON Schema of what a command prints.

    COMMAND is one or two words, such as: fusery schema alias list. Without it, the commands are listed, and --json
    prints the schemas of all.
    """
    from fusery.registry.api.schema import schema_of

    if not words:
        names = list(DOCUMENTS)
        document = {name: schema_of(document_of(name)) for name in names} if session.json else {}

        def listed() -> None:
            for name in names:
                session.print(name)

        session.emit(document, names=names, human=listed)
        return
    name = " ".join(words)
    if name not in DOCUMENTS:
        from fusery.registry.errors import BadInputError

        within = [each for each in DOCUMENTS if each.startswith(f"{name} ")]
        close = within or get_close_matches(name, DOCUMENTS, n=3)
        raise BadInputError(
            f"there is no command {name[:60]!r} with a document of its own",
            hint=f"fusery schema {' or '.join(close)}" if close else "fusery schema",
        )
    schema = schema_of(document_of(name))
    session.emit(schema, names=[name], human=lambda: session.document(schema))
