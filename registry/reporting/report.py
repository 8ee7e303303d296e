"""Writing a report: facts, the page, and a file that is whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..documents import write_picture
from ..errors import AlreadyExistsError, BadInputError
from .facts import collect, explained
from .written import Written

if TYPE_CHECKING:
    from ..workspace import Workspace

ENDINGS = (".html", ".htm")


def report(
    workspace: Workspace,
    subject: str | None = None,
    *,
    html: Path | None = None,
    force: bool = False,
    audit: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Written:
    """Say what is on record, as a record and as one HTML page that needs nothing else.

    Args:
        workspace: the registry's parts.
        subject: a task, or an adapter or fused model by any reference; None for the whole registry.
        html: the file to write, `.html` or `.htm`.
        force: replace another file.
        audit: read all bytes as well, as `audit` does; otherwise the log and the records are checked.
        say: called with each progress message.

    Raises:
        UnknownReferenceError: the subject names nothing.
        BadInputError: the subject is a base model, or the file's ending is another.
        AlreadyExistsError: there is another file.
        RecordsDamagedError: the database was edited, and holds values that no report can show.
        StorageError: the file cannot be written.
    """
    place = None if html is None else _place(html, force=force)
    found = collect(workspace, subject, audit=audit, say=say)
    if place is None:
        return Written.of(found.document)
    from .page import page

    with explained(found.document["audit"]):
        data = page(found)
    write_picture(place, data, force=force)
    return Written.of(found.document, str(place), len(data))


def _place(html: Path, *, force: bool) -> Path:
    """Return where to write, before anything is done: an audit of all bytes may take an hour."""
    place = html.expanduser().absolute()
    if place.suffix.lower() not in ENDINGS:
        raise BadInputError(f"a report is called .html, not {place.name[:60]!r}", hint="--html report.html")
    if place.is_dir():
        raise AlreadyExistsError(f"{place} is a folder", hint="give the name of a file")
    if place.exists() and not force:
        raise AlreadyExistsError(
            f"there is a file {place} already", hint="give another name, or --force to replace it"
        )
    return place
