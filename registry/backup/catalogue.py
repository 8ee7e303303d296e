"""`backup.json`: what a backup consists of, with a digest for everything and one for itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest, digest_json, parse_digest
from fusery.storage.errors import FormatError
from fusery.storage.interface import BlobStore
from fusery.storage.jsonfile import parse_json
from fusery.storage.locate import display_url

from ..database import events
from ..record import Record, described
from ..wire import decode
from .errors import BackupError
from .rows import KINDS

NAME = "backup.json"
FORMAT = "fusery.backup.v1"
BLOBS = "blobs.ndjson"
"""The file that lists the blobs."""

MOST_BLOBS = 5_000_000
"""Blobs of a backup that are kept in memory while it is restored."""

_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,59}")
_REVISION = re.compile(r"(?!0000)[0-9]{4}")
_STORE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


@dataclass(frozen=True, slots=True)
class File(Record):
    """A file of a backup: lines of JSON, kept as a blob.

    Attributes:
        name: `TABLE.ndjson`, or that of the list of blobs.
        rows: lines.
        size: bytes.
        sha256: its digest, and its name in the store.
        columns: of a table: the kind of each column.
    """

    name: str
    rows: int
    size: int
    sha256: Digest
    columns: Mapping[str, str]

    @property
    def table(self) -> str:
        """The table that its rows are of."""
        return self.name.removesuffix(".ndjson")


@dataclass(frozen=True, slots=True)
class Position(Record):
    """The number and the hash of a log entry, which stands for all of the log up to it."""

    seq: int = described("its number")
    hash: str = described("its hash")

    @classmethod
    def newest(cls, session: Session) -> Position:
        """Return that of the newest entry of a log."""
        entry = events.last(session)
        return cls(entry.seq, entry.hash) if entry else cls(0, events.FIRST_PREVIOUS)


@dataclass(frozen=True, slots=True)
class Amount(Record):
    """How many there are of something, and the bytes of all of them."""

    count: int = described("how many")
    bytes: int = described("of all of them")


@dataclass(frozen=True, slots=True)
class Catalogue(Record):
    """What a backup consists of.

    Attributes:
        store: id of the registry's store.
        schema: revision of the database.
        made_at, made_by, tool: when, by whom and with which version.
        last_event: the newest entry of the log.
        blobs: how many there are, and their bytes.
        files: of the tables, in an order in which their rows can be inserted, and the list of blobs.
    """

    store: str
    schema: str
    made_at: str
    made_by: str
    tool: str
    last_event: Position
    blobs: Amount
    files: tuple[File, ...]
    format: str = FORMAT

    @property
    def tables(self) -> tuple[File, ...]:
        """The files of tables."""
        return tuple(file for file in self.files if file.name != BLOBS)

    def write(self, place: BlobStore) -> None:
        """Publish a backup whose files and blobs are all there: this is the moment from which it counts."""
        document = self.to_dict()
        signed = {**document, "sha256": digest_json(document)}
        place.write_document(NAME, json.dumps(signed, indent=1, ensure_ascii=True).encode("ascii") + b"\n")

    @classmethod
    def read(cls, place: BlobStore) -> Catalogue | None:
        """Return what a place holds, None if there is no backup.

        Raises:
            BackupError: `backup.json` is damaged or was changed.
        """
        data = place.read_document(NAME)
        if data is None:
            return None
        where = f"{NAME} in {display_url(place.url)}"
        try:
            document = parse_json(data, NAME)
            promised = document.pop("sha256")
            if document["format"] != FORMAT:
                raise BackupError(
                    f"{where} has the form {str(document['format'])[:40]!r}, this version reads {FORMAT}",
                    hint="upgrade fusery: pip install --upgrade fusery",
                )
            if digest_json(document) != promised:
                raise BackupError(f"{where} was changed after it was written", hint="use another backup")
            found: Catalogue = decode(cls, document)
            found._require_valid()
        except (FormatError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(f"{where} is damaged, or not from fusery", hint="use another backup") from error
        return found

    def _require_valid(self) -> None:
        names = [file.name for file in self.files]
        columns = [(name, kind) for file in self.files for name, kind in file.columns.items()]
        sizes = [self.blobs.bytes, *(number for file in self.files for number in (file.rows, file.size))]
        for file in self.files:
            parse_digest(file.sha256)
        valid = (
            len(set(names)) == len(names)
            and "blob.ndjson" in names
            and all(
                file.name == f"{file.table}.ndjson" and _TABLE.fullmatch(file.table) for file in self.files
            )
            and all(_TABLE.fullmatch(name) and kind in KINDS for name, kind in columns)
            and all(0 <= size < 2**63 for size in sizes)
            and 0 <= self.blobs.count <= MOST_BLOBS
            and _REVISION.fullmatch(self.schema)
            and _STORE.fullmatch(self.store)
        )
        if not valid:
            raise ValueError("not the catalogue of a backup")
