"""Walk an untrusted folder: list its files, and refuse links that lead out of it."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from .errors import MissingFileError, StoreDeniedError, UnsafePathError
from .failures import os_failures
from .manifest import safe_relative_path

MOST_FILES = 10_000
"""Files of a folder, and as many folders."""
MOST_BYTES = 16 << 40
DEEPEST = 8
"""Levels of folders."""


@dataclass(frozen=True, slots=True, order=True)
class SourceFile:
    """A regular file of a folder; `real` is its absolute path without symbolic links."""

    path: str
    real: Path
    size: int


def scan(root: Path) -> list[SourceFile]:
    """Return a folder's files, sorted, without hidden ones; links may end inside, or in the `blobs` of huggingface_hub's cache."""
    with os_failures(f"read {root}", near=root):
        top = _resolve_root(root)
        allowed = _allowed(top)
        files, folders = list[SourceFile](), 0
        for path, is_folder in _walk(top, top, DEEPEST):
            if is_folder:
                folders += 1
            else:
                files.append(_source_file(path, top, allowed))
            if max(folders, len(files)) > MOST_FILES:
                raise _wrong_folder(root, f"has more than {MOST_FILES:,} files")
    if sum(file.size for file in files) > MOST_BYTES:
        raise _wrong_folder(root, f"has more than {MOST_BYTES:,} bytes")
    seen: dict[str, str] = {}
    for file in files:
        # The file systems of a Mac know neither case nor Unicode forms.
        twin = seen.setdefault(unicodedata.normalize("NFC", file.path).casefold(), file.path)
        if twin != file.path:
            problem = f"{root} has both {twin!r} and {file.path!r}, which are one name on some systems"
            raise UnsafePathError(problem, hint="rename or remove one of them")
    return sorted(files)


def find_files(root: Path, names: Iterable[str]) -> list[SourceFile]:
    """Return those of a folder's files that have one of some paths, sorted, as `scan` does; nothing else is looked at."""
    with os_failures(f"read {root}", near=root):
        top = _resolve_root(root)
        paths = [top / name for name in names]
        # No link to a folder is entered.
        files = [path for path in paths if os.path.realpath(path.parent) == str(path.parent)]
        return sorted(
            _source_file(path, top, _allowed(top))
            for path in files
            if os.path.lexists(path) and not (path.is_dir() and not path.is_symlink())
        )


def _allowed(top: Path) -> tuple[Path, ...]:
    """Return the folders in which links of a folder may end."""
    for folder in top.parents:
        if folder.name == "snapshots" and folder.parent.name.startswith(("models--", "datasets--")):
            return (top, folder.parent / "blobs")
    return (top,)


def _resolve_root(root: Path) -> Path:
    try:
        top = Path(os.path.realpath(os.path.expanduser(root), strict=True))
    except FileNotFoundError as error:
        raise MissingFileError(f"folder not found: {root}", hint="check the path") from error
    if not top.is_dir():
        raise MissingFileError(f"{root} is not a folder", hint="name the folder that the file is in")
    return top


def _walk(folder: Path, top: Path, depth: int) -> Iterator[tuple[Path, bool]]:
    """Yield all names with whether each is a folder, which comes before what is in it; no link is entered."""
    with os.scandir(folder) as entries:
        # A folder may hold millions of names: no more of them are taken than may be there.
        children = list(islice(entries, 2 * MOST_FILES + 1))
    if len(children) > 2 * MOST_FILES:
        raise _wrong_folder(folder, f"has more than {2 * MOST_FILES:,} files")
    for entry in sorted(children, key=lambda entry: entry.name):
        if entry.name.startswith(".") or (folder.name == "wandb" and entry.is_symlink()):  # latest-run
            continue
        path, is_folder = folder / entry.name, entry.is_dir(follow_symlinks=False)
        if is_folder and depth <= 0:
            raise _wrong_folder(top, f"has folders below the level {DEEPEST}")
        yield path, is_folder
        if is_folder:
            yield from _walk(path, top, depth - 1)


def _wrong_folder(folder: Path, problem: str) -> UnsafePathError:
    return UnsafePathError(f"{folder} {problem}", hint="is this the right folder?")


def _source_file(path: Path, top: Path, allowed: tuple[Path, ...]) -> SourceFile:
    name = safe_relative_path(path.relative_to(top).as_posix())
    real, file_status = path, path.lstat()
    if stat.S_ISLNK(file_status.st_mode):
        real = _target(path, name, allowed)
        file_status = real.lstat()
    if not stat.S_ISREG(file_status.st_mode):
        raise UnsafePathError(f"{name} in {top} is not a regular file", hint="remove it")
    if not os.access(real, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise StoreDeniedError(f"cannot read {name} in {top}", hint=f"check the mode of {real}")
    return SourceFile(name, real, file_status.st_size)


def _target(path: Path, name: str, allowed: tuple[Path, ...]) -> Path:
    try:
        real = Path(os.path.realpath(path, strict=True))
    except PermissionError:
        raise
    except OSError as error:
        problem = f"{name} in {allowed[0]} is a link that leads to no file"
        raise MissingFileError(problem, hint="was the download finished?") from error
    if not any(real.is_relative_to(place) for place in allowed):
        problem = f"{name} in {allowed[0]} is a link to a file outside the folder"
        raise UnsafePathError(problem, hint="replace the link by the file itself")
    return real
