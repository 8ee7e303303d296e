"""What a run was trained on: the three files that mlx-lm reads from a data folder, and one digest for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusery.storage.digest import digest_file
from fusery.storage.failures import os_failures
from fusery.storage.manifest import FileEntry, Manifest

NAMES = ("train.jsonl", "valid.jsonl", "test.jsonl")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a data folder: its entry in the manifest, and how many examples it has, one a line."""

    entry: FileEntry
    examples: int


@dataclass(frozen=True, slots=True)
class Data:
    """The files that are there, in the order train, valid, test."""

    files: tuple[DataFile, ...]

    @property
    def digest(self) -> str:
        """The digest of the manifest of the files: the same bytes have the same digest, wherever they lie."""
        return Manifest.of(file.entry for file in self.files).digest

    def examples(self, name: str = "train.jsonl") -> int | None:
        """Return how many examples a file has, or None if it is not there."""
        return next((file.examples for file in self.files if file.entry.path == name), None)


def read_data(folder: Path) -> Data | None:
    """Hash the files of a data folder and count their examples; None when there is no such folder or file.

    Raises:
        StoreDeniedError: a file may not be read.
    """
    files = []
    with os_failures(f"read {folder}", near=folder):
        for name in NAMES:
            path = folder / name
            if path.is_file():
                digest, size = digest_file(path)
                files.append(DataFile(FileEntry(name, size, digest), _lines(path)))
    return Data(tuple(files)) if files else None


def _lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")
