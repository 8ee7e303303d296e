"""Read a backup: verify the digest of each file and the type of each value."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusery.storage.digest import parse_digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError, FormatError
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.jsonfile import MAX_DEPTH, parse_json
from fusery.storage.locate import display_url
from fusery.storage.room import Need, on_disk, require_rooms

from ..tables.values import from_json
from .catalogue import Amount, Catalogue, File
from .errors import BackupError
from .rows import Row

_ROW_BYTES, _ROW_VALUES = 64 << 20, 2_000_000
"""The maximum bytes and values of a row in another party's backup."""


class Backup:
    """A backup to restore.

    Args:
        place: the store of the backup.
        folder: a temporary folder for its files.
        own: whether it is the user's own, so that rows of any size are allowed.
        catalogue: the catalogue of an unpublished backup; None to read the published one.

    Raises:
        BackupError: the backup is missing or damaged.
    """

    def __init__(
        self, place: BlobStore, folder: Path, *, own: bool, catalogue: Catalogue | None = None
    ) -> None:
        self.place = place
        self._limits = (-1, sys.maxsize) if own else (_ROW_BYTES + 1, _ROW_VALUES)
        self.where = display_url(place.url)
        self._folder = folder
        catalogue = catalogue or Catalogue.read(place)
        if catalogue is None:
            raise BackupError(
                f"backup not found in {self.where}",
                hint="give the folder or URL that fusery backup wrote to",
            )
        self.catalogue = catalogue

    def need(self, *more: int) -> Need:
        """Return the disk space for its files and for `more` files of these sizes."""
        sizes = [file.size for file in self.catalogue.files]
        return Need(self._folder, [*sizes, *more], taken=on_disk(self._folder))

    def fetch(self) -> None:
        """Fetch and verify all files.

        Raises:
            BackupError: a file is missing, truncated or edited.
        """
        require_rooms([self.need()])
        for file in self.catalogue.files:
            try:
                self.place.fetch(file.sha256, self._folder / file.name, size=file.size)
            except BlobMissingError as error:
                raise self._broken(file, "is missing") from error
            except BlobCorruptError as error:
                raise self._broken(file, "is damaged: its digest differs") from error

    def rows(self, file: File) -> Iterator[Row]:
        """Yield the rows of a table for an insert.

        Raises:
            BackupError: a line is not a valid row.
        """
        for number, document in self._lines(file):
            if document.keys() != file.columns.keys():
                raise self._broken(file, f"has wrong columns in line {number}")
            try:
                yield {name: from_json(kind, document[name]) for name, kind in file.columns.items()}
            except ValueError as error:
                raise self._broken(file, f"has an invalid value in line {number}") from error

    def blobs(self) -> Iterator[tuple[Blob, bool]]:
        """Yield the blobs with their generations, and whether the backup has their bytes.

        Raises:
            BackupError: their number or size differs from the catalogue.
        """
        file = next(file for file in self.catalogue.tables if file.table == "blob")
        count = size = 0
        for row in self.rows(file):
            try:
                blob, stored = Blob(parse_digest(row["digest"]), row["size"], row["generation"]), row["state"]
            except (ValueError, LookupError) as error:
                raise self.refuse(file.name, "has an invalid blob") from error
            if stored != "absent":
                count, size = count + 1, size + blob.size
            yield blob, stored != "absent"
        if Amount(count, size) != self.catalogue.blobs:
            raise self.refuse(file.name, "has another number of blobs or bytes than backup.json")

    def _lines(self, file: File) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        with (self._folder / file.name).open("rb") as lines:
            while line := lines.readline(self._limits[0]):
                number += 1
                try:
                    # A row contains documents; each can be as deep as a file.
                    document = parse_json(line, file.name, most=self._limits[1], deepest=2 * MAX_DEPTH)
                except FormatError as error:
                    raise self._broken(file, f"has invalid JSON in line {number}") from error
                if not isinstance(document, dict):
                    raise self._broken(file, f"has no JSON object in line {number}")
                yield number, document
        if number != file.rows:
            raise self._broken(file, f"has {number} lines, but backup.json has {file.rows}")

    def _broken(self, file: File, problem: str) -> BackupError:
        return self.refuse(f"{file.name} (blob {file.sha256[:12]})", problem)

    def refuse(self, file: str, problem: str) -> BackupError:
        """Return the error for a problem with a file of the backup."""
        return BackupError(
            f"the file {file} of the backup in {self.where} {problem}",
            hint="nothing was restored; use another backup",
        )
