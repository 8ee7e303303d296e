"""Where the bytes of a blob may be besides its own name: other generations, folders on record, folders of the user's.

Nothing that is found is trusted: a copy is one when its size and its digest are right.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import MissingFileError, StorageError

from .. import tables
from .report import Damage

if TYPE_CHECKING:
    from ..workspace import Workspace

_MOST_FILES = 1_000_000


@dataclass(frozen=True, slots=True)
class Copy:
    """Good bytes.

    Attributes:
        path: a file with them.
        source: where they come from, for people.
        generation: set if they are in the store under this generation already.
    """

    path: Path
    source: str
    generation: int | None = None


class Copies:
    """Looks for copies; the store and the user's folders are listed once, when they are first needed.

    Args:
        workspace: the registry's parts.
        folders: further folders to look in.
        scratch: a folder for what has to be fetched.

    Raises:
        MissingFileError: one of the folders is not there.
    """

    def __init__(self, workspace: Workspace, folders: Iterable[Path], scratch: Path) -> None:
        self._workspace = workspace
        self._folders = tuple(folders)
        self._scratch = scratch
        self._generations: dict[str, list[int]] | None = None
        self._by_size: dict[int, list[Path]] | None = None
        for folder in self._folders:
            if not folder.is_dir():
                raise MissingFileError(f"there is no folder {folder}", hint="--from takes a folder")

    def find(self, damage: Damage) -> Copy | None:
        """Return a copy of a blob, None if there is none anywhere."""
        for generation in self._others(damage):
            place = self._scratch / f"{damage.digest}.{generation}"
            try:
                self._workspace.store.fetch(damage.digest, place, generation=generation)
            except StorageError:
                continue
            return Copy(place, f"generation {generation} in the store", generation)
        for path, source in self._places(damage):
            if _is(path, damage):
                return Copy(path.resolve(), source)  # a hub's files are links to its blobs
        return None

    def _others(self, damage: Damage) -> list[int]:
        """Return the other generations of a blob, the newest first."""
        if self._generations is None:
            found: dict[str, list[int]] = defaultdict(list)
            for blob in self._workspace.store.blobs():
                found[blob.digest].append(blob.generation)
            self._generations = found
        others = set(self._generations.get(damage.digest, ()))
        if damage.state == "ready":
            others.discard(damage.generation)
        return sorted(others, reverse=True)

    def _places(self, damage: Damage) -> Iterator[tuple[Path, str]]:
        yield from self._on_record(damage.digest)
        if self._by_size is None:
            self._by_size = _index(self._folders)
        for path in self._by_size.get(damage.size, ()):
            yield path, str(path)

    def _on_record(self, digest: Digest) -> Iterator[tuple[Path, str]]:
        """Yield the files on this machine that once had these bytes: fused models, bases by reference, bundles."""
        files = tables.ManifestFile
        has = files.sha256 == digest
        fused, base, bundle = tables.Fused, tables.BaseModel, tables.Bundle
        with self._workspace.database.read() as session:
            kept = session.execute(
                select(fused.key, files.path).join(files, files.manifest_id == fused.manifest_id).where(has)
            ).all()
            referenced = session.execute(
                select(base.location, files.path)
                .join(files, files.manifest_id == base.manifest_id)
                .where(has, base.location.is_not(None))
            ).all()
            packed = session.execute(
                select(bundle.path, files.path)
                .join(files, files.manifest_id == bundle.manifest_id)
                .where(has)
            ).all()
        for key, name in kept:
            yield self._workspace.cache.entry(key) / name, f"the fused model {key[:12]} in the cache"
        for folder, name in [*referenced, *packed]:
            yield Path(str(folder)) / name, str(Path(str(folder)) / name)


def _is(path: Path, damage: Damage) -> bool:
    try:
        if not path.is_file() or path.stat().st_size != damage.size:
            return False
        return digest_file(path) == (damage.digest, damage.size)
    except (OSError, StorageError):
        return False


def _index(folders: Iterable[Path]) -> dict[int, list[Path]]:
    """Return the regular files of folders by their size; links are not followed."""
    found: dict[int, list[Path]] = defaultdict(list)
    number = 0
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                path = Path(root) / name
                if not path.is_symlink() and path.is_file():
                    found[path.stat().st_size].append(path)
                number += 1
                if number >= _MOST_FILES:
                    return found
    return found
