"""What the safetensors library makes of the same files, and a table of it: `python -m hostile.library`.

Import it as `from hostile import library`.
"""
# ruff: noqa: T201 -- a command of its own

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hostile import headers
from safetensors import SafetensorError, safe_open

from fusery.storage.errors import FormatError
from fusery.storage.safetensors import read_header

KINDS = {
    "forbidden": headers.FORBIDDEN,
    "beyond use": headers.BEYOND,
    "sound": {name: lambda data=data: data for name, (data, _) in headers.SOUND.items()},
}


@dataclass(frozen=True, slots=True)
class Row:
    """What becomes of one file.

    Attributes:
        name: of the file.
        kind: `forbidden` by the format, `beyond use`, or `sound`.
        ours: fusery accepts it.
        library: the library accepts it.
    """

    name: str
    kind: str
    ours: bool
    library: bool


def compare(folder: Path) -> list[Row]:
    """Show every file to both readers, through a file in `folder`."""
    path = folder / "model.safetensors"
    rows = []
    for kind, corpus in KINDS.items():
        for name, make in corpus.items():
            path.write_bytes(make())
            rows.append(Row(name, kind, _ours(path), _library(path)))
    return rows


def _ours(path: Path) -> bool:
    try:
        read_header(path)
    except FormatError:
        return False
    return True


def _library(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy"):
            return True
    except SafetensorError:
        return False


def main() -> None:
    """Print the files on which the readers differ, and the counts."""
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder))
    print(f"| file | kind | fusery | safetensors {version('safetensors')} |\n| --- | --- | --- | --- |")
    word = {True: "accepts", False: "refuses"}
    for row in rows:
        if row.ours != row.library:
            print(f"| {row.name} | {row.kind} | {word[row.ours]} | {word[row.library]} |")
    for kind in KINDS:
        some = [row for row in rows if row.kind == kind]
        ours, library = sum(row.ours for row in some), sum(row.library for row in some)
        print(
            f"\n{kind}: {len(some)} files, of which fusery accepts {ours} and the library {library}", end=""
        )
    print()


if __name__ == "__main__":
    main()
