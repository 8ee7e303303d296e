"""The catalogue of a backup, `backup.json`, with the digests of all files and of itself."""

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
"""The maximum number of blobs in a backup: a restore keeps their list in memory."""

_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,59}")
_REVISION = re.compile(r"(?!0000)[0-9]{4}")
_STORE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


@dataclass(frozen=True, slots=True)
class File(Record):
    """A file of a backup: JSON lines, stored as a blob.

    Attributes:
        name: `TABLE.ndjson`, or `blobs.ndjson`.
        rows: number of lines.
        size: size in bytes.
        sha256: its digest, and its name in the store.
        columns: kind of each column of the table.
    """

    name: str
    rows: int
    size: int
    sha256: Digest
    columns: Mapping[str, str]

    @property
    def table(self) -> str:
        """The name of its table."""
        return self.name.removesuffix(".ndjson")


@dataclass(frozen=True, slots=True)
class Position(Record):
    """A position in the log: the number and hash of an entry."""

    seq: int = described("number of the entry")
    hash: str = described("hash of the entry, which covers all entries before it")

    @classmethod
    def newest(cls, session: Session) -> Position:
        """Return that of the newest entry of a log."""
        entry = events.last(session)
        return cls(entry.seq, entry.hash) if entry else cls(0, events.FIRST_PREVIOUS)


@dataclass(frozen=True, slots=True)
class Amount(Record):
    """A number of blobs, and their total size."""

    count: int = described("number of blobs")
    bytes: int = described("total size in bytes")


@dataclass(frozen=True, slots=True)
class Catalogue(Record):
    """The catalogue of a backup.

    Attributes:
        store: id of the registry's store.
        schema: schema revision of the database.
        made_at, made_by, tool: when, by whom and with which version it was made.
        last_event: the newest log entry.
        blobs: number and size of the blobs.
        files: files of the tables in the order for inserts, and the list of blobs.
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
        """Publish the catalogue after all files and blobs are stored."""
        document = self.to_dict()
        signed = {**document, "sha256": digest_json(document)}
        place.write_document(NAME, json.dumps(signed, indent=1, ensure_ascii=True).encode("ascii") + b"\n")

    @classmethod
    def read(cls, place: BlobStore) -> Catalogue | None:
        """Read the catalogue of a backup; return None if there is no backup.

        Raises:
            BackupError: `backup.json` is damaged or edited.
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
                    f"unknown format of {where}: {str(document['format'])[:40]!r} (expected {FORMAT})",
                    hint="upgrade fusery: pip install --upgrade fusery",
                )
            if digest_json(document) != promised:
                raise BackupError(f"{where} was edited: its digest differs", hint="use another backup")
            found: Catalogue = decode(cls, document)
            found._require_valid()
        except (FormatError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(
                f"{where} is damaged, or not a backup of fusery", hint="use another backup"
            ) from error
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
            raise ValueError("invalid catalogue")
