"""Writing a report: facts, the page, and a file that is whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..documents import write_picture
from ..errors import AlreadyExistsError, BadInputError
from .facts import collect, explained
from .written import MadeReport, Written

if TYPE_CHECKING:
    from ..workspace import Workspace

ENDINGS = (".html", ".htm")


def report(
    workspace: Workspace,
    subject: str | None = None,
    *,
    page: bool = False,
    audit: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> MadeReport:
    """Say what is on record, as a record and as one HTML page that needs nothing else.

    Args:
        workspace: the registry's parts.
        subject: a task, or an adapter or fused model by any reference; None for the whole registry.
        page: make the page.
        audit: read all bytes as well, as `audit` does; otherwise the log and the records are checked.
        say: called with each progress message.

    Raises:
        UnknownReferenceError: the subject names nothing.
        BadInputError: the subject is a base model.
        RecordsDamagedError: the database was edited, and holds values that no report can show.
    """
    found = collect(workspace, subject, audit=audit, say=say)
    if not page:
        return MadeReport(Written.of(found.document), None)
    from .page import page as made

    with explained(found.document["audit"]):
        return MadeReport(Written.of(found.document), made(found).decode())


def write_page(report: MadeReport, place: Path, *, force: bool) -> Written:
    """Write the page of a report to a file, and return the report.

    Raises:
        AlreadyExistsError: there is another file.
        StorageError: it cannot be written.
    """
    data = str(report.page).encode()
    write_picture(place, data, force=force)
    return replace(report.written, path=str(place), bytes=len(data))


def page_file(html: Path, *, force: bool) -> Path:
    """Return the file for a page, before anything is done: an audit of all bytes may take an hour.

    Raises:
        BadInputError: its ending is another than `.html` or `.htm`.
        AlreadyExistsError: there is another file.
    """
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
