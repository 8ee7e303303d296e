"""The backend `shelf`: a store in memory, `shelf://NAME`, for tests and demonstrations.

A real one makes a file system of fsspec for its service, whose `pipe_file` writes an object whole or not at all, which takes
`mode="create"`, and which raises what Python raises for files: FileNotFoundError, PermissionError, ConnectionError ...
"""

from __future__ import annotations

from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem

from fusery.storage.locate import Protocol

PROTOCOL = Protocol("fusery-example", "pip install fusery-example", {}, maker="fusery_example.shelf")


class Shelf(MemoryFileSystem):
    """Objects of all shelves of a process."""

    protocol = "shelf"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]


def file_system(**options: Any) -> Shelf:
    """Return the file system; `options` are those of `PROTOCOL` and of FUSERY_STORE_OPTIONS."""
    return Shelf(**options)
