"""A bundle's folder while it is filled, and `fusery.json`, the machine-readable record in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest, digest_file
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.transfer import NOTES, Need, on_disk, require_rooms

from ..documents import BUNDLE_FORMAT, CHECKSUM, checksum_of, record_bytes, without_places
from ..errors import BadInputError
from .source import BundledAdapter, BundleSource, Files

FILE_MODE = 0o644
FOLDER_MODE = 0o755


class Sink(Protocol):
    """The folder or archive of a bundle."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file from memory."""

    def copy(self, files: Files, *, under: str = "", link: bool = False) -> None:
        """Copy files, and compare each with its manifest."""


class HashedFile:
    """A new file that is hashed while it is written; `require_room` refuses a number of bytes that the disk lacks."""

    def __init__(self, file: BinaryIO, require_room: Callable[[int], None] = lambda _: None) -> None:
        self._file, self._running, self.size = file, hashlib.sha256(), 0
        self.require_room = require_room

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes."""
        self._file.write(data)
        self._running.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def digest(self) -> Digest:
        """Return the digest of the written bytes."""
        return Digest(self._running.hexdigest())


class BundleFolder:
    """An empty folder that is being filled, and its manifest."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir() or any(root.iterdir()):
            raise BadInputError(f"{root} is not an empty folder")
        root.chmod(FOLDER_MODE)
        self.root = root
        self._entries: list[FileEntry] = []
        self._has_room = False

    def write(self, path: str, content: bytes) -> None:
        """Write a file from memory."""
        with self.create(path) as file:
            file.write(content)

    def copy(self, files: Files, *, under: str = "", link: bool = False) -> None:
        """Copy files, and compare each with its manifest."""
        if not link and not self._has_room:
            self.require_room(*(entry.size for entry in files.manifest))
        for entry in files.manifest:
            path = under + entry.path
            destination = self._prepare(path)
            source = files.paths[entry.path]
            if not copy_file(source, destination, link=link, expected=entry.sha256):
                destination.chmod(FILE_MODE)
            self._entries.append(FileEntry(path, entry.size, entry.sha256))

    def take(self, file: Path, path: str) -> None:
        """Move a file from the same file system into the bundle."""
        target = self._prepare(path)
        digest, size = digest_file(file)
        file.replace(target)
        target.chmod(FILE_MODE)
        self._entries.append(FileEntry(path, size, digest))

    @contextmanager
    def create(self, path: str) -> Iterator[HashedFile]:
        """Yield a new file for content that is too large for memory."""
        target = self._prepare(path)
        with target.open("xb") as file:
            hashed = HashedFile(file, self.require_room)
            yield hashed
        target.chmod(FILE_MODE)
        self._entries.append(FileEntry(path, hashed.size, hashed.digest()))

    def manifest(self) -> Manifest:
        """Return the manifest of the written files."""
        return Manifest.of(self._entries)

    def require_room(self, *sizes: int) -> None:
        """Refuse files that the disk has no room for; `copy` does so for its first files."""
        self._has_room = True
        held = on_disk(self.root)
        need = Need(self.root.parents[1], [*sizes, held + NOTES], taken=held)
        require_rooms([need], hint="give a place on another disk")

    def _prepare(self, path: str) -> Path:
        target = self.root / path
        for parent in reversed(target.relative_to(self.root).parents[:-1]):
            if not (self.root / parent).is_dir():
                (self.root / parent).mkdir()
                (self.root / parent).chmod(FOLDER_MODE)
        return target


def bundle_record(source: BundleSource, target: str, model: str | None) -> dict[str, Any]:
    """Return the document of `fusery.json`; `model` is the folder of the model's files, None if the bundle has none."""
    manifest = source.model.manifest if source.model is not None and model is not None else Manifest.of(())
    return {
        "format": BUNDLE_FORMAT,
        "name": source.name,
        "target": target,
        "model": model,
        "digest": manifest.digest if model is not None else None,
        "provenance": without_places(source.provenance),
        "files": [entry.to_dict() for entry in manifest],
        "adapters": [_adapter(adapter) for adapter in source.adapters],
    }


def _adapter(adapter: BundledAdapter) -> Mapping[str, Any]:
    return {
        "name": adapter.name,
        "names": list(adapter.names),
        "path": f"adapters/{adapter.name}",
        "digest": adapter.facts.get("digest"),
        "facts": without_places(adapter.facts),
        "files": [entry.to_dict() for entry in adapter.files.manifest],
    }


def sealed_bytes(record: Mapping[str, Any], others: Iterable[FileEntry]) -> bytes:
    """Return a document with a list of all other files of the bundle, and its own checksum; write it last."""
    whole = {**record, "contents": [entry.to_dict() for entry in Manifest.of(others)]}
    return record_bytes({**whole, CHECKSUM: checksum_of(whole)})
