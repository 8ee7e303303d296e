"""Read a backup: every file against its digest, every value as one of its column's kind."""

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
"""The most bytes, and values, of a row in another party's backup."""


class Backup:
    """A backup that is being restored.

    Args:
        place: the store that it is in.
        folder: for its files, while they are read.
        own: it is the user's own, and its rows may be of any size.
        catalogue: the catalogue of an unpublished backup; None to read the published one.

    Raises:
        BackupError: there is none, or it is damaged.
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
                f"there is no backup in {self.where}",
                hint="give the folder or URL that fusery backup wrote to",
            )
        self.catalogue = catalogue

    def need(self, *more: int) -> Need:
        """Return the room that its files take while it is read, with more files beside them."""
        sizes = [file.size for file in self.catalogue.files]
        return Need(self._folder, [*sizes, *more], taken=on_disk(self._folder))

    def fetch(self) -> None:
        """Get all files, verified.

        Raises:
            BackupError: one is missing, truncated or changed; it says which.
        """
        require_rooms([self.need()])
        for file in self.catalogue.files:
            try:
                self.place.fetch(file.sha256, self._folder / file.name, size=file.size)
            except BlobMissingError as error:
                raise self._broken(file, "is missing") from error
            except BlobCorruptError as error:
                raise self._broken(file, "is not what was written: its digest differs") from error

    def rows(self, file: File) -> Iterator[Row]:
        """Yield the rows of a table, ready to be inserted.

        Raises:
            BackupError: a line is not a row of it.
        """
        for number, document in self._lines(file):
            if document.keys() != file.columns.keys():
                raise self._broken(file, f"has other columns in line {number} than it should")
            try:
                yield {name: from_json(kind, document[name]) for name, kind in file.columns.items()}
            except ValueError as error:
                raise self._broken(file, f"has an invalid value in line {number}") from error

    def blobs(self) -> Iterator[tuple[Blob, bool]]:
        """Yield the blobs of the registry in their generations, and whether the backup has their bytes.

        Raises:
            BackupError: they are not as many, or as large, as the catalogue says.
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
            raise self.refuse(file.name, "does not have as many blobs or bytes as promised")

    def _lines(self, file: File) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        with (self._folder / file.name).open("rb") as lines:
            while line := lines.readline(self._limits[0]):
                number += 1
                try:
                    # A row holds documents, each as deep as a file may be.
                    document = parse_json(line, file.name, most=self._limits[1], deepest=2 * MAX_DEPTH)
                except FormatError as error:
                    raise self._broken(file, f"is not JSON in line {number}") from error
                if not isinstance(document, dict):
                    raise self._broken(file, f"has no object in line {number}")
                yield number, document
        if number != file.rows:
            raise self._broken(file, f"has {number} lines, {file.rows} are promised")

    def _broken(self, file: File, problem: str) -> BackupError:
        return self.refuse(f"{file.name} (blob {file.sha256[:12]})", problem)

    def refuse(self, file: str, problem: str) -> BackupError:
        """Return the refusal of a backup, for a problem of one of its files."""
        return BackupError(
            f"the file {file} of the backup in {self.where} {problem}",
            hint="nothing was restored; use another backup",
        )
