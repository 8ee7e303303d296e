"""The destinations of bundles: folders and files on this machine or at a URL, and services of single targets."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sqlalchemy import select

from fusery.storage.digest import digest_file
from fusery.storage.errors import StoreDeniedError
from fusery.storage.failures import os_failures
from fusery.storage.locate import display_url, local_path, open_tree
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.processes import process_tag, sweep_temporary
from fusery.storage.progress import tally
from fusery.storage.publishing import link_exclusive, publish_folder, sync_file, sync_folder

from .. import tables
from ..documents import RECORD
from ..errors import AlreadyExistsError, BadInputError
from ..parts import part
from ..workspace.homes import require_path
from .target import own_targets

if TYPE_CHECKING:
    from fusery.storage.cache import FusedCache

    from ..workspace.workspace import Workspace


Progress = Callable[[int, int], None] | None  # called with the bytes done and the total


class Place(ABC):
    """A destination; `text` is its canonical spelling without secrets."""

    text: str
    name: str
    _cache: FusedCache

    def refuse_ours(self, workspace: Workspace) -> None:  # noqa: B027 - a service has no files of the registry
        """Refuse a place that contains, or is inside, files of the registry."""

    @abstractmethod
    def require_free(self, force: bool) -> None:
        """Refuse an occupied place that is no bundle, before a fuse; a bundle there is compared later."""

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Yield an empty temporary folder to build the bundle in."""
        with self._cache.scratch() as scratch:
            folder = scratch / "bundle"
            folder.mkdir()
            yield folder

    @abstractmethod
    def occupied(self) -> bool:
        """Return whether the place has files."""

    @abstractmethod
    def holds(self, manifest: Manifest) -> bool:
        """Return whether the place has exactly the files of a manifest; every byte is read."""

    @abstractmethod
    def publish(self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress = None) -> None:
        """Write the built bundle to the place, durably."""

    def deliver(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        force: bool,
        prepare: Callable[[], None],
        progress: Progress = None,
    ) -> bool:
        """Publish a built bundle, after `prepare()`; return whether the place had the same files, and then leave them."""
        existed = self.occupied() and self.holds(manifest)
        if not existed:
            if self.occupied() and not force:
                raise self.taken()
            prepare()
            self.publish(folder, manifest, replace=force, progress=progress)
        return existed

    def taken(self) -> AlreadyExistsError:
        """Return the error of an occupied place."""
        hint = "give another destination, or --force to replace it"
        return AlreadyExistsError(f"{self.text} is not empty", hint=hint)


class LocalFolder(Place):
    """A folder that is replaced as a whole, or with `single` a file; `path` is absolute, without `..` and links."""

    def __init__(self, destination: Path, *, single: bool = False) -> None:
        with os_failures(f"look at {destination}", near=Path("/")):
            self.path = destination.expanduser().resolve()
        self.text, self.name, self._single = str(self.path), self.path.name, single

    def refuse_ours(self, workspace: Workspace) -> None:
        """Refuse the registry's own folders, bases, and the current folder."""
        guarded = {"the registry's home": workspace.settings.home, "the cache": workspace.settings.cache}
        if (database := workspace.database.path) is not None:
            guarded["the database's folder"] = database.parent
        if workspace.store.is_local:
            guarded["the store"] = Path(url2pathname(urlsplit(workspace.store.url).path))
        base = tables.BaseModelRow
        with workspace.database.read() as session:
            for row in session.scalars(select(base).where(base.location.is_not(None))):
                guarded[f"the base {row.name}"] = Path(str(row.location))
        for what, folder in guarded.items():
            real = folder.resolve()
            if self.path == real or self.path in real.parents or real in self.path.parents:
                message = f"{self.path} is, contains or is inside {what}, and cannot be a bundle"
                raise BadInputError(message, hint="give another folder")
        if self.path == Path.cwd() or self.path in Path.cwd().parents:
            message = f"{self.path} is or contains the current folder, and cannot be a bundle"
            raise BadInputError(message, hint="give the name of a new folder")

    def require_free(self, force: bool) -> None:
        """Refuse a file for a folder and the reverse, a folder that is no bundle, and a read-only parent."""
        if self._single and self.path.is_dir():
            raise AlreadyExistsError(f"{self.path} is a folder", hint="give the name of a file")
        if not self._single:
            if os.path.lexists(self.path) and not self.path.is_dir():
                raise AlreadyExistsError(f"{self.path} is a file", hint="give a folder that does not exist")
            if self.occupied() and not force and not (self.path / RECORD).is_file():
                raise self.taken()
        parent = next(folder for folder in self.path.parents if folder.exists())
        if not parent.is_dir():
            raise BadInputError(f"{parent} is a file and cannot hold a folder", hint="give another folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            hint = "give a folder that you may write"
            raise StoreDeniedError(f"{parent} may not be written by this user", hint=hint)

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Yield an empty folder on the same file system; remove those of killed commands."""
        with os_failures(f"write {self.path}", near=self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{self.name}.fusery-"
        sweep_temporary(self.path.parent, prefix)
        with (
            os_failures(f"write {self.path}", near=self.path.parent),
            tempfile.TemporaryDirectory(
                prefix=f"{prefix}{process_tag()}-", dir=self.path.parent, ignore_cleanup_errors=True
            ) as folder,
        ):
            inner = Path(folder) / "bundle"
            inner.mkdir()
            yield inner

    def occupied(self) -> bool:
        """Return whether there is a file, or a folder that is not empty."""
        if self._single:
            return os.path.lexists(self.path)
        return self.path.is_dir() and any(self.path.iterdir())

    def holds(self, manifest: Manifest) -> bool:
        """Return whether the files are exactly those of a manifest; a single one may have another name."""
        if self._single:
            (entry,) = manifest
            return self.path.is_file() and digest_file(self.path) == (entry.sha256, entry.size)
        paths = (path for path in self.path.rglob("*") if not path.is_dir())
        files = {path.relative_to(self.path).as_posix(): path for path in paths}
        return files.keys() == {entry.path for entry in manifest} and all(
            digest_file(files[entry.path]) == (entry.sha256, entry.size) for entry in manifest
        )

    def publish(self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress = None) -> None:
        """Sync the files to the disk, then rename the folder."""
        with os_failures(f"write {self.path}", near=self.path.parent):
            sync_tree(folder)
            if not self._single:
                # An empty folder is replaced without --force.
                publish_folder(folder, self.path, replace=replace or self.path.is_dir())
                return
            (entry,) = manifest
            try:
                if replace:
                    (folder / entry.path).replace(self.path)
                else:
                    link_exclusive(folder / entry.path, self.path)
            except FileExistsError as error:
                raise self.taken() from error
            sync_folder(self.path.parent)


def sync_tree(folder: Path) -> None:
    """Sync a bundle to the disk before its name and its record: unlike the cache, it cannot be rebuilt."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                sync_file(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


class RemoteFolder(Place):
    """The files under a URL, or with `single` one file; a replaced `fusery.json` is removed first and written last."""

    def __init__(self, workspace: Workspace, url: str, *, single: bool = False) -> None:
        self._cache, self._single = workspace.cache, single
        folder, _, name = url.rstrip("/").rpartition("/")
        if single and (not name or folder.endswith("/")):
            hint = "give one with a name: s3://bucket/NAME.tar.zst"
            raise BadInputError("the URL names no file", hint=hint)
        self._tree = open_tree(folder if single else url, options=workspace.settings.options_at(url))
        self.text = display_url(url.rstrip("/"))
        self.name = self.text.rpartition("/")[2]

    def refuse_ours(self, workspace: Workspace) -> None:
        """Refuse the registry's store, and URLs that contain it or are inside it."""
        own = display_url(workspace.store.url)
        if f"{self.text}/".startswith(f"{own}/") or f"{own}/".startswith(f"{self.text}/"):
            message = f"{self.text} is, contains or is inside the registry's store, and cannot be a bundle"
            raise BadInputError(message, hint="give another URL")

    def require_free(self, force: bool) -> None:
        """Refuse a URL with files that are no bundle."""
        if not (self._single or force) and (sizes := self._tree.sizes()) and RECORD not in sizes:
            raise self.taken()

    def occupied(self) -> bool:
        """Return whether there are files."""
        return self._tree.size(self.name) is not None if self._single else bool(self._tree.sizes())

    def holds(self, manifest: Manifest) -> bool:
        """Compare sizes, then read everything back."""
        if self._single:
            return self._tree.holds(self._named(manifest))
        expected = {entry.path: entry.size for entry in manifest}
        return dict(self._tree.sizes()) == expected and all(self._tree.holds(entry) for entry in manifest)

    def publish(self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress = None) -> None:
        """Remove the old record, upload the files, remove other files of the old bundle, and write the record."""
        entries, report = {entry.path: entry for entry in manifest}, tally(progress, manifest.size)
        if self._single:
            (path,) = entries
            self._tree.put(folder / path, self._named(manifest), progress=report)
            return
        if replace:
            self._tree.remove(RECORD)
        # The record is last, after configurations: for servers, a folder with one is complete.
        for path in sorted(entries, key=lambda path: (path == RECORD, path.endswith("config.json"), path)):
            if path == RECORD and replace:
                for name in self._tree.sizes().keys() - entries.keys():
                    self._tree.remove(name)
            self._tree.put(folder / path, entries[path], progress=report)

    def _named(self, manifest: Manifest) -> FileEntry:
        (entry,) = manifest
        return FileEntry(self.name, entry.size, entry.sha256)


def place_at(
    workspace: Workspace, destination: str | Path, *, single: bool = False, target: str | None = None
) -> Place:
    """Return the place of a path or a URL, without a request or a write."""
    scheme = str(destination).partition("://")[0].lower() if isinstance(destination, str) else ""
    for name, facts in own_targets().items():
        if facts.service and facts.service[0] == scheme:
            if target != name:
                raise BadInputError(f"{scheme}:// takes the target {name}", hint=f"--target {name}")
            return cast("Place", part(facts.service[1])(workspace, destination))
    if isinstance(destination, Path):
        require_path(destination)
    path = destination if isinstance(destination, Path) else local_path(destination)
    if path is not None:
        return LocalFolder(path, single=single)
    return RemoteFolder(workspace, str(destination), single=single)
