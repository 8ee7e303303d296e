"""`backup.json`: what a backup consists of, with a digest for everything and one for itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusery.storage.digest import Digest, canonical_json, digest_json, parse_digest
from fusery.storage.errors import FormatError
from fusery.storage.interface import BlobStore
from fusery.storage.jsonfile import parse_json
from fusery.storage.locate import display_url

from ..record import Record
from .errors import BackupError
from .rows import KINDS

NAME = "backup.json"
FORMAT = "fusery.backup.v1"
BLOBS = "blobs.ndjson"
"""The file that lists the blobs."""

_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,59}")
_REVISION = re.compile(r"(?!0000)[0-9]{4}")
_STORE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_WIDEST = 2**63

MOST_BLOBS = 5_000_000
"""Blobs of a backup that are kept in mind while it is restored."""


@dataclass(frozen=True, slots=True)
class File:
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

    def to_dict(self) -> dict[str, Any]:
        """Return it as `backup.json` has it."""
        return {
            "name": self.name,
            "rows": self.rows,
            "size": self.size,
            "sha256": self.sha256,
            "columns": dict(self.columns),
        }


@dataclass(frozen=True, slots=True)
class Position(Record):
    """An entry of a log, which stands for all of the log up to it.

    Attributes:
        seq: its number.
        hash: its hash.
    """

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Amount(Record):
    """How much there is of something.

    Attributes:
        count: how many.
        bytes: of all of them.
    """

    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Catalogue:
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

    @property
    def tables(self) -> tuple[File, ...]:
        """The files of tables."""
        return tuple(file for file in self.files if file.name != BLOBS)

    @property
    def blob_list(self) -> File:
        """The file that lists the blobs."""
        return next(file for file in self.files if file.name == BLOBS)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values, without the digest of itself."""
        return {
            "format": FORMAT,
            "store": self.store,
            "schema": self.schema,
            "made_at": self.made_at,
            "made_by": self.made_by,
            "tool": self.tool,
            "last_event": self.last_event.to_dict(),
            "blobs": self.blobs.to_dict(),
            "files": [file.to_dict() for file in self.files],
        }

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
            return _catalogue(document)
        except (FormatError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(f"{where} is damaged, or not from fusery", hint="use another backup") from error


def _catalogue(document: dict[str, Any]) -> Catalogue:
    files = tuple(_file(entry) for entry in document["files"])
    names = [file.name for file in files]
    if len(set(names)) != len(names) or BLOBS not in names or not _REVISION.fullmatch(document["schema"]):
        raise ValueError("files are missing or named twice")
    if not _STORE.fullmatch(document["store"]):
        raise ValueError("not the id of a store")
    return Catalogue(
        store=document["store"],
        schema=document["schema"],
        made_at=str(document["made_at"])[:200],
        made_by=str(document["made_by"])[:200],
        tool=str(document["tool"])[:200],
        last_event=Position(_whole(document["last_event"]["seq"]), str(document["last_event"]["hash"])),
        blobs=Amount(_whole(document["blobs"]["count"], MOST_BLOBS), _whole(document["blobs"]["bytes"])),
        files=files,
    )


def _whole(value: Any, most: int = _WIDEST) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError("not a number of things")
    return value


def _file(entry: dict[str, Any]) -> File:
    name, columns = entry["name"], entry["columns"]
    if not _TABLE.fullmatch(name.removesuffix(".ndjson")) or not name.endswith(".ndjson"):
        raise ValueError("not the name of a table")
    for column, kind in columns.items():
        if not _TABLE.fullmatch(column) or kind not in KINDS:
            raise ValueError("not a column")
    return File(name, _whole(entry["rows"]), _whole(entry["size"]), parse_digest(entry["sha256"]), columns)


def line_of(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line."""
    return canonical_json(row) + b"\n"
