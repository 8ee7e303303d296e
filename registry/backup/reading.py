"""Reading a backup: nothing of it is used before its digest and the kinds of its values are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fusery.storage.digest import Digest, parse_digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError, FormatError, UnsafePathError
from fusery.storage.interface import BlobStore
from fusery.storage.jsonfile import MAX_DEPTH, parse_json
from fusery.storage.layout import MAX_GENERATION
from fusery.storage.locate import display_url
from fusery.storage.manifest import safe_relative_path
from fusery.storage.room import Need, require_rooms

from ..tables import metadata
from ..tables.bounds import ROW_BYTES, ROW_VALUES
from ..tables.values import from_json
from .catalogue import NAME, Amount, Catalogue, File
from .errors import BackupError
from .rows import Row


def _one_name(value: str) -> str:
    if "/" in value:
        raise ValueError("not a name")
    return safe_relative_path(value)


def _require_told(file: File, row: Row) -> None:
    """Refuse a row without a value where there must be one, or of a blob in a generation that no store has."""
    table = metadata.tables.get(file.table)
    for name, value in row.items():
        if value is None and table is not None and name in table.columns and not table.columns[name].nullable:
            raise ValueError("no value")
    if file.table == "blob" and not 0 <= row["generation"] < MAX_GENERATION:
        raise ValueError("not a generation")


_CHECKS: Mapping[tuple[str, str], Callable[[str], str]] = {
    ("adapter", "name"): _one_name,
    ("adapter", "digest"): parse_digest,
    ("base_model", "digest"): parse_digest,
    ("base_name", "name"): safe_relative_path,
    ("blob", "digest"): parse_digest,
    ("fused", "key"): parse_digest,
    ("manifest", "digest"): parse_digest,
    ("manifest_file", "path"): safe_relative_path,
    ("manifest_file", "sha256"): parse_digest,
    ("task", "name"): _one_name,
}
"""What becomes a path or the name of a blob: that it is one was checked when it was recorded, but not by whom."""


class Backup:
    """A backup that is being restored.

    Args:
        place: the store that it is in.
        folder: for its files, while they are read.
        catalogue: the catalogue of an unpublished backup; None to read the published one.

    Raises:
        BackupError: there is none, or it is damaged.
    """

    def __init__(self, place: BlobStore, folder: Path, catalogue: Catalogue | None = None) -> None:
        self.place = place
        self.where = display_url(place.url)
        self._folder = folder
        catalogue = catalogue or Catalogue.read(place)
        if catalogue is None:
            raise BackupError(
                f"there is no backup in {self.where}",
                hint="give the folder or URL that fusery backup wrote to",
            )
        self.catalogue = catalogue

    def file(self, table: str) -> File:
        """Return the file of a table.

        Raises:
            BackupError: there is none.
        """
        for file in self.catalogue.tables:
            if file.table == table:
                return file
        raise self.refuse(NAME, f"names no file of the table {table}")

    def fetch(self) -> None:
        """Get all files, verified.

        Raises:
            BackupError: one is missing, truncated or changed; it says which.
        """
        require_rooms([Need(self._folder, [file.size for file in self.catalogue.files])])
        for file in self.catalogue.files:
            try:
                # Looked at before it is copied: what is there may be without end.
                size = self.place.size(file.sha256)
                if size is not None and size != file.size:
                    raise self._broken(file, f"has {size} bytes, {file.size} are promised")
                size = self.place.fetch(file.sha256, self._folder / file.name)
            except BlobMissingError as error:
                raise self._broken(file, "is missing") from error
            except BlobCorruptError as error:
                raise self._broken(file, "is not what was written: its digest differs") from error
            if size != file.size:
                raise self._broken(file, f"has {size} bytes, {file.size} are promised")

    def rows(self, file: File) -> Iterator[Row]:
        """Yield the rows of a table, ready to be inserted.

        Raises:
            BackupError: a line is not a row of it.
        """
        for number, document in self._lines(file):
            if document.keys() != file.columns.keys():
                raise self._broken(file, f"has other columns in line {number} than it should")
            try:
                row = {name: from_json(kind, document[name]) for name, kind in file.columns.items()}
                _require_told(file, row)
                for (table, name), check in _CHECKS.items():
                    if table == file.table:
                        check(row[name])
            except (ValueError, KeyError, TypeError, UnsafePathError) as error:
                raise self._broken(file, f"has a value in line {number} that is none") from error
            yield row

    def blobs(self) -> dict[Digest, int]:
        """Return the blobs with their sizes.

        Raises:
            BackupError: the list is not one.
        """
        found: dict[Digest, int] = {}
        file = self.catalogue.blob_list
        for number, document in self._lines(file):
            try:
                digest, size = parse_digest(document["digest"]), document["size"]
                if not isinstance(size, int) or not 0 <= size < 2**63:
                    raise ValueError("not a size")
            except (ValueError, KeyError, TypeError) as error:
                raise self._broken(file, f"has a value in line {number} that is none") from error
            found[digest] = size
        if Amount(len(found), sum(found.values())) != self.catalogue.blobs:
            raise self._broken(file, "does not have as many blobs or bytes as promised")
        return found

    def _lines(self, file: File) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        with (self._folder / file.name).open("rb") as lines:
            while line := lines.readline(ROW_BYTES + 1):
                number += 1
                try:
                    # A row holds documents, each as deep as a file may be.
                    document = parse_json(line, file.name, most=ROW_VALUES, deepest=2 * MAX_DEPTH)
                except FormatError as error:
                    raise self._broken(file, f"is not JSON in line {number}") from error
                if not isinstance(document, dict):
                    raise self._broken(file, f"has no object in line {number}")
                yield number, document
        if number != file.rows:
            raise self._broken(file, f"has {number} lines, {file.rows} are promised")

    def _broken(self, file: File, what: str) -> BackupError:
        return BackupError(
            f"the file {file.name} of the backup in {self.where} {what} (blob {file.sha256[:12]})",
            hint="nothing was restored; use another backup",
        )

    def refuse(self, file: str, what: str) -> BackupError:
        """Return the refusal of a file whose rows cannot be right."""
        return BackupError(
            f"the file {file} of the backup in {self.where} {what}",
            hint="nothing was restored; use another backup",
        )
