"""The container of a package: a folder or any store with `package.json`, members and blobs.

    package.json        the contents, replaced atomically at the end: interruptions leave the previous ones
    blobs/sha256/...    the members and the files of records, by digest

Members are JSON lines: `documents/KIND.ndjson` (one document per record, with its log entries and signatures), and in a
backup `rows/TABLE.ndjson` (the exact rows).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest, canonical_json, digest_json
from fusery.storage.errors import BlobCorruptError, BlobMissingError, FormatError
from fusery.storage.interface import BlobStore
from fusery.storage.jsonfile import MAX_DEPTH, count_values, holds_more_than, parse_json
from fusery.storage.locate import display_url
from fusery.storage.manifest import FileEntry
from fusery.storage.transfer import Need, on_disk, require_rooms

from ..database import events
from ..errors import RegistryError
from ..record import Record, described
from ..wire import decode
from .documents import FORMAT

NAME = "package.json"
MOST_BLOBS = 5_000_000  # maximum number of blobs in a package: readers keep their list in memory

_LINE_BYTES, _LINE_VALUES = 64 << 20, 2_000_000  # most bytes and values of a line in a foreign package

MOST_VALUES = 20_000_000  # most values in all lines of a foreign package, which are held in memory

_MEMBER = re.compile(r"(documents|rows)/[a-z_][a-z0-9_]{0,59}\.ndjson")
_COLUMN = re.compile(r"[a-z_][a-z0-9_]{0,59}")
_REVISION = re.compile(r"(?!0000)[0-9]{4}|")
_REGISTRY = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


class BackupError(RegistryError):
    """A package or backup is missing, incomplete, damaged or edited."""

    code = "bad_backup"


class Position(Record, kw_only=False):
    """A position in the log: the number and hash of an entry."""

    seq: int = described("number of the entry")
    hash: str = described("hash of the entry, which covers all entries before it")

    @classmethod
    def newest(cls, session: Session) -> Position:
        """Return that of the newest entry of a log."""
        entry = events.last(session)
        return cls(entry.seq, entry.hash) if entry else cls(0, events.FIRST_PREVIOUS)


class Amount(Record, kw_only=False):
    """A number of blobs, and their total size."""

    count: int = described("number of blobs")
    bytes: int = described("total size in bytes")


class Member(Record, kw_only=False):
    """A member of a package: a file of JSON lines; `columns` has the kind of each column of the rows of a table."""

    name: str
    lines: int
    size: int
    sha256: Digest
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The kind of its documents, or the table of its rows."""
        return Path(self.name).stem


class Contents(Record, kw_only=False):
    """`package.json`; each member comes after those that it refers to, and `schema` is empty if there are no rows."""

    registry: str
    made_at: str
    made_by: str
    last_event: Position
    blobs: Amount
    members: tuple[Member, ...]
    schema: str = ""
    tool: str = field(default_factory=lambda: f"fusery {version('fusery')}")
    format: str = FORMAT

    def within(self, folder: str) -> tuple[Member, ...]:
        """Return the members in a folder, such as `documents` or `rows`."""
        return tuple(member for member in self.members if member.name.startswith(f"{folder}/"))

    def publish(self, place: BlobStore) -> None:
        """Write `package.json`, after all members and blobs are stored."""
        document = self.to_dict()
        signed = {**document, "sha256": digest_json(document)}
        place.write_document(NAME, json.dumps(signed, indent=1, ensure_ascii=True).encode("ascii") + b"\n")

    @classmethod
    def read(cls, place: BlobStore) -> Contents | None:
        """Read the contents of the package in a store; return None if it has none."""
        if not (data := place.read_document(NAME)):
            return None
        where = f"{NAME} in {display_url(place.url)}"
        try:
            document = parse_json(data, NAME)
            promised = document.pop("sha256")
            if document["format"] != FORMAT:
                problem = f"unknown format of {where}: {str(document['format'])[:40]!r} (expected {FORMAT})"
                raise BackupError(problem, hint="upgrade fusery: pip install --upgrade fusery")
            if digest_json(document) != promised:
                raise BackupError(f"{where} was edited: its digest differs", hint="use another backup")
            contents: Contents = decode(cls, document)
            contents._require_valid()
        except (FormatError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"{where} is damaged, or not a package of fusery"
            raise BackupError(problem, hint="use another backup") from error
        return contents

    def _require_valid(self) -> None:
        names = [member.name for member in self.members]
        sizes = [self.blobs.bytes, *(size for member in self.members for size in (member.lines, member.size))]
        valid = (
            len(set(names)) == len(names)
            and all(_MEMBER.fullmatch(name) for name in names)
            and all(_COLUMN.fullmatch(name) for member in self.members for name in member.columns)
            and all(0 <= size < 2**63 for size in sizes)
            and 0 <= self.blobs.count <= MOST_BLOBS
            and _REVISION.fullmatch(self.schema)
            and _REGISTRY.fullmatch(self.registry)
        )
        if not valid:
            raise ValueError("invalid contents")


def write_member(
    folder: Path, name: str, documents: Iterable[Any], columns: Mapping[str, str] | None = None
) -> Member:
    """Write documents as JSON lines to `folder/name`, and return the member."""
    running, size, count = hashlib.sha256(), 0, 0
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for document in documents:
            line = canonical_json(document) + b"\n"
            file.write(line)
            running.update(line)
            size, count = size + len(line), count + 1
    return Member(name, count, size, Digest(running.hexdigest()), columns or {})


def store_members(place: BlobStore, folder: Path, contents: Contents) -> None:
    """Store the members that `write_member` wrote to a folder."""
    for member in contents.members:
        place.put_file(folder / member.name, expected=FileEntry(member.name, member.size, member.sha256))


class Container:
    """A package to read.  All its blobs have generation 0 in `place`."""

    def __init__(
        self, place: BlobStore, folder: Path, *, own: bool = False, contents: Contents | None = None
    ) -> None:
        self.place, self.where = place, display_url(place.url)
        self._limits = (-1, sys.maxsize) if own else (_LINE_BYTES + 1, _LINE_VALUES)
        self._own, self._left = own, sys.maxsize if own else MOST_VALUES
        self._folder = folder
        contents = contents or Contents.read(place)
        if contents is None:
            hint = "give the folder or URL that fusery admin backup wrote to"
            raise BackupError(f"backup not found in {self.where}", hint=hint)
        self.contents = contents

    def need(self, members: Iterable[Member], *more: int) -> Need:
        """Return the disk space for members and for `more` files of these sizes."""
        sizes = [member.size for member in members]
        return Need(self._folder, [*sizes, *more], taken=on_disk(self._folder))

    def fetch(self, members: Iterable[Member]) -> None:
        """Fetch and verify members, before `lines` reads them."""
        members = list(members)
        require_rooms([self.need(members)])
        for member in members:
            path = self._folder / member.name
            path.parent.mkdir(exist_ok=True)
            try:
                self.place.fetch(member.sha256, path, size=member.size)
            except BlobMissingError as error:
                raise self.broken(member, "is missing") from error
            except BlobCorruptError as error:
                raise self.broken(member, "is damaged: its digest differs") from error

    def lines(self, member: Member) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the numbers and documents of the lines of a member that was fetched."""
        number = 0
        with (self._folder / member.name).open("rb") as lines:
            while line := lines.readline(self._limits[0]):
                number += 1
                if holds_more_than(line, self._left):
                    raise self.broken(member, f"exceeds {MOST_VALUES:,} values in line {number}")
                try:
                    # A row contains documents; each can be as deep as a file.
                    document = parse_json(line, member.name, most=self._limits[1], deepest=2 * MAX_DEPTH)
                except FormatError as error:
                    raise self.broken(member, f"has invalid JSON in line {number}") from error
                if not isinstance(document, dict):
                    raise self.broken(member, f"has no JSON object in line {number}")
                self._left -= 0 if self._own else count_values(document)
                yield number, document
        if number != member.lines:
            raise self.broken(member, f"has {number} lines, but {NAME} has {member.lines}")

    def broken(self, member: Member, problem: str) -> BackupError:
        """Return the error for a problem with a member."""
        return self.refuse(f"{member.name} (blob {member.sha256[:12]})", problem)

    def refuse(self, file: str, problem: str) -> BackupError:
        """Return the error for a problem with a file of the package."""
        hint = "nothing was restored; use another backup"
        return BackupError(f"the file {file} of the package in {self.where} {problem}", hint=hint)
