"""What a folder of files at a URL has to do on every backend."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StorageError
from fusery.storage.manifest import FileEntry
from fusery.storage.remote import SMALL
from fusery.storage.tree import RemoteTree

LARGE = os.urandom(1 << 20) * ((SMALL >> 20) + 3)
FILES = {"model.bin": LARGE, "README.md": b"hello", "a/b c/é.txt": b"deep", "empty": b""}


def check_tree(tree: RemoteTree, folder: Path) -> None:
    """Put files, read them back, exchange one, remove one."""
    assert dict(tree.sizes()) == {}
    entries = {name: put(tree, folder, name, data) for name, data in FILES.items()}
    assert dict(tree.sizes()) == {name: len(data) for name, data in FILES.items()}
    assert all(tree.holds(entry) for entry in entries.values())
    assert tree.size("absent") is None and tree.size("empty") == 0

    other = put(tree, folder, "README.md", b"HELLO")
    assert tree.holds(other) and not tree.holds(entries["README.md"])
    tree.remove("model.bin")
    tree.remove("model.bin")
    assert "model.bin" not in tree.sizes()

    with pytest.raises(StorageError):
        tree.put(written(folder, "liar", b"one thing"), FileEntry("liar", 9, digest_bytes(b"the other")))
    assert tree.size("liar") is None, "what is not as its entry says does not get there"


def put(tree: RemoteTree, folder: Path, name: str, data: bytes) -> FileEntry:
    """Put a file with these bytes, and return what it is listed as."""
    entry = FileEntry(name, len(data), digest_bytes(data))
    tree.put(written(folder, "source", data), entry)
    return entry


def written(folder: Path, name: str, data: bytes) -> Path:
    """Write a file, and return its path."""
    path = folder / name
    path.write_bytes(data)
    return path
