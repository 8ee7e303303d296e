"""Write documents to a file instead of the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fusery.registry.parsing import plural
from fusery.registry.record import Record, described

from .session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenDocument(Record):
    """A written document."""

    path: Path = described("path of the file")
    format: str = described("format of the document")
    bytes: int = described("size of the file in bytes")


def write_document(
    session: Session, place: Path, text: str | Iterable[str], *, form: str, force: bool
) -> None:
    """Write a file, whole or not at all, and say so; the very same file is left as it is.

    A text in pieces is never in memory as a whole.

    Raises:
        AlreadyExistsError: another file is there already, and `force` is not given.
        StorageError: it cannot be written.
    """
    from fusery.registry.documents import write_picture, write_pieces
    from fusery.registry.errors import AlreadyExistsError

    if place.is_dir():
        raise AlreadyExistsError(f"{place} is a folder", hint="give the name of a file")
    if isinstance(text, str):
        data = text.encode()
        size = len(data)
        write_picture(place, data, force=force)
    else:
        size = write_pieces(place, (piece.encode() for piece in text), force=force)
    session.emit(
        WrittenDocument(path=place, format=form, bytes=size),
        names=[str(place)],
        human=lambda: session.print(f"Wrote {place}: {form}, {plural(size, 'byte')}."),
    )
