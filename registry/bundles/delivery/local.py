"""Places on this machine: which folders may not be one, what is there already, and a place beside it to build in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sqlalchemy import select

from fusery.storage.digest import digest_file
from fusery.storage.errors import StoreDeniedError
from fusery.storage.failures import os_failures
from fusery.storage.manifest import Manifest
from fusery.storage.publishing import link_exclusive, publish_folder, sync_file, sync_folder
from fusery.storage.stamps import is_tag_dead, process_tag

from ... import tables
from ...documents import RECORD
from ...errors import AlreadyExistsError, BadInputError
from .place import Place, Progress

if TYPE_CHECKING:
    from ...workspace import Workspace


class LocalPlace(Place):
    """A path: absolute, without `..` and links.

    Attributes:
        path: the place.
    """

    def __init__(self, destination: Path) -> None:
        """Name the place; nothing is written."""
        with os_failures(f"look at {destination}", near=Path("/")):
            self.path = destination.expanduser().resolve()
        self.text, self.name = str(self.path), self.path.name

    def refuse_ours(self, workspace: Workspace) -> None:
        """Refuse a place that holds, or is part of: the registry, a base, the current folder."""
        guarded = {"the registry's home": workspace.settings.home, "the cache": workspace.settings.cache}
        if (database := workspace.database.path) is not None:
            guarded["the database's folder"] = database.parent
        if workspace.store.capabilities.local:
            guarded["the store"] = Path(url2pathname(urlsplit(workspace.store.url).path))
        base = tables.BaseModel
        with workspace.database.read() as session:
            for found in session.scalars(select(base).where(base.location.is_not(None))):
                guarded[f"the base {found.name}"] = Path(str(found.location))
        for what, folder in guarded.items():
            real = folder.resolve()
            if self.path == real or self.path in real.parents or real in self.path.parents:
                raise BadInputError(
                    f"{self.path} is, holds or lies in {what}, and cannot be a bundle",
                    hint="give another folder",
                )
        here = Path.cwd()
        if self.path == here or self.path in here.parents:
            raise BadInputError(
                f"{self.path} is, or holds, the current folder, and cannot be a bundle",
                hint="give the name of a new folder",
            )

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Yield an empty folder on the same file system; sweep those that killed commands left there."""
        with os_failures(f"write {self.path}", near=self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{self.name}.fusery-"
        for stale in self.path.parent.glob(f"{prefix}*"):
            # What made it is in its name; the rest of that is random.
            if is_tag_dead(stale.name.removeprefix(prefix).rpartition("-")[0]):
                shutil.rmtree(stale, ignore_errors=True)
        with (
            os_failures(f"write {self.path}", near=self.path.parent),
            tempfile.TemporaryDirectory(
                prefix=f"{prefix}{process_tag()}-", dir=self.path.parent, ignore_cleanup_errors=True
            ) as folder,
        ):
            inner = Path(folder) / "bundle"
            inner.mkdir()
            yield inner

    def _require_writable(self) -> None:
        parent = next(folder for folder in self.path.parents if folder.exists())
        if not parent.is_dir():
            raise BadInputError(f"{parent} is a file and cannot hold a folder", hint="give another folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StoreDeniedError(
                f"{parent} may not be written by this user", hint="give a folder that you may write"
            )


class LocalFolder(LocalPlace):
    """A folder that is replaced as a whole."""

    single = False

    def require_free(self, force: bool) -> None:
        """Refuse a file, and a folder with something in it that is no bundle."""
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise AlreadyExistsError(f"{self.path} is a file", hint="give a folder that does not exist yet")
        if self.occupied() and not force and not (self.path / RECORD).is_file():
            raise self.taken()
        self._require_writable()

    def occupied(self) -> bool:
        """Tell whether there is a folder with something in it."""
        return self.path.is_dir() and any(self.path.iterdir())

    def holds(self, manifest: Manifest) -> bool:
        """Tell whether the folder holds exactly the files of a manifest."""
        return folder_holds(self.path, manifest)

    def publish(
        self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress | None = None
    ) -> None:
        """Bring the files to the disk, then give the folder its name."""
        with os_failures(f"write {self.path}", near=self.path.parent):
            sync_tree(folder)
            # An empty folder, which somebody may have made for this, gives way without being asked.
            publish_folder(folder, self.path, replace=replace or self.path.is_dir())


class LocalFile(LocalPlace):
    """A file."""

    single = True

    def require_free(self, force: bool) -> None:
        """Refuse a folder; a file may be this very bundle, and is compared later."""
        if self.path.is_dir():
            raise AlreadyExistsError(f"{self.path} is a folder", hint="give the name of a file")
        self._require_writable()

    def occupied(self) -> bool:
        """Tell whether there is a file."""
        return os.path.lexists(self.path)

    def holds(self, manifest: Manifest) -> bool:
        """Tell whether it is the one file of a manifest."""
        return self.path.is_file() and [digest_file(self.path)] == [
            (entry.sha256, entry.size) for entry in manifest
        ]

    def publish(
        self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress | None = None
    ) -> None:
        """Bring the file to the disk, then give it its name."""
        (entry,) = manifest
        with os_failures(f"write {self.path}", near=self.path.parent):
            sync_tree(folder)
            try:
                if replace:
                    (folder / entry.path).replace(self.path)
                else:
                    link_exclusive(folder / entry.path, self.path)
            except FileExistsError as error:
                raise self.taken() from error
            sync_folder(self.path.parent)


def folder_holds(folder: Path, manifest: Manifest) -> bool:
    """Tell whether a folder holds exactly the files of a manifest."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return present == {entry.path for entry in manifest} and all(
        digest_file(folder / entry.path) == (entry.sha256, entry.size) for entry in manifest
    )


def sync_tree(folder: Path) -> None:
    """Bring a bundle to the disk before its name and its record are: unlike the cache, nobody could rebuild it."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                sync_file(descriptor)
            finally:
                os.close(descriptor)
        else:
            sync_folder(path)
    sync_folder(folder)
