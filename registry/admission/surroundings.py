"""Other files in an adapter's folder, which are not stored: judged by name, kind and first bytes, never loaded."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

DEPTH = 4
"""Folders inside each other that are looked into."""

LIMIT = 2_000
"""Entries that are looked at."""

_HEAD = 8
# What version control, hubs and desktops leave in every folder.
_TOOLS = frozenset({".git", ".cache", ".ipynb_checkpoints", ".DS_Store", ".gitattributes", ".gitignore"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the folder that is no folder itself.

    Attributes:
        path: relative to the adapter's folder, with slashes.
        size: bytes; 0 for what is no regular file.
        head: its first bytes; empty for what is no regular file.
        hidden: its name, or that of a folder it is in, begins with a dot.
    """

    path: str
    size: int
    head: bytes
    hidden: bool

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """What follows the last dot of the name, in lower case, with the dot."""
        return Path(self.name).suffix.lower()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lies in the folder.

    Attributes:
        root: the folder.
        entries: in the order of their paths.
    """

    root: Path = field(default_factory=Path)
    entries: tuple[Entry, ...] = ()

    def named(self, *names: str) -> Iterator[Entry]:
        """Yield the entries at the top of the folder that are called one of these."""
        return (entry for entry in self.entries if entry.path in names)


def look_around(root: Path) -> Surroundings:
    """Inspect the files of a folder; those that cannot be read are skipped, since they are not stored either."""
    found: list[Entry] = []
    for entry in _walk(root, "", DEPTH, hidden=False):
        found.append(entry)
        if len(found) == LIMIT:
            break
    return Surroundings(root, tuple(sorted(found, key=lambda entry: entry.path)))


def _walk(folder: Path, prefix: str, depth: int, *, hidden: bool) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as scanned:
            # A folder may hold millions of names.
            children = sorted(islice(scanned, LIMIT), key=lambda child: child.name)
    except OSError:
        return
    for child in children:
        if child.name in _TOOLS:
            continue
        out_of_sight = hidden or child.name.startswith(".")
        if child.is_dir(follow_symlinks=False):
            if depth:
                yield from _walk(
                    folder / child.name, f"{prefix}{child.name}/", depth - 1, hidden=out_of_sight
                )
        else:
            size, head = _peek(folder / child.name, follow=not out_of_sight)
            yield Entry(_plain(prefix + child.name), size, head, out_of_sight)


def _plain(path: str) -> str:
    """Return a path as it can be recorded and printed: a name may hold anything."""
    text = path.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _peek(path: Path, *, follow: bool) -> tuple[int, bytes]:
    """Return size and first bytes of a regular file; of anything else nothing, since opening it may have effects."""
    try:
        # Where links in sight lead was seen to when the folder was read; nobody looked at hidden ones.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError:
        return 0, b""
    try:
        found = os.fstat(fd)
        return (found.st_size, os.read(fd, _HEAD)) if stat.S_ISREG(found.st_mode) else (0, b"")
    except OSError:
        return 0, b""
    finally:
        os.close(fd)
