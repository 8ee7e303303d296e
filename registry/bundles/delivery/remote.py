"""Places at a URL: built in the cache, then uploaded file by file, each read back; `fusery.json` comes last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.locate import display_url, open_tree
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.progress import tally

from ...documents import RECORD
from ...errors import BadInputError
from .place import Place, Progress

if TYPE_CHECKING:
    from ...workspace import Workspace


class RemoteFolder(Place):
    """The files under a URL.

    Many files cannot be renamed at once.  Readers look for `fusery.json`, which is removed first when an old bundle is
    replaced, and written last when the new one is complete.
    """

    single = False

    def __init__(self, workspace: Workspace, url: str) -> None:
        """Name the place; no request is made yet."""
        self._cache = workspace.cache
        self._tree = open_tree(self._folder_of(url), options=workspace.settings.options_at(url))
        self.text = display_url(url.rstrip("/"))
        self.name = self.text.rpartition("/")[2]

    def _folder_of(self, url: str) -> str:
        return url

    def refuse_ours(self, workspace: Workspace) -> None:
        """Refuse the registry's store, and what lies in it or around it."""
        own = display_url(workspace.store.url)
        if f"{self.text}/".startswith(f"{own}/") or f"{own}/".startswith(f"{self.text}/"):
            raise BadInputError(
                f"{self.text} is, holds or lies in the registry's store, and cannot be a bundle",
                hint="give another URL",
            )

    def require_free(self, force: bool) -> None:
        """Refuse a URL with files under it that are no bundle."""
        found = self._tree.sizes()
        if found and not force and RECORD not in found:
            raise self.taken()

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Yield an empty folder in the cache."""
        with self._cache.scratch() as scratch:
            folder = scratch / "bundle"
            folder.mkdir()
            yield folder

    def occupied(self) -> bool:
        """Tell whether there are files."""
        return bool(self._tree.sizes())

    def holds(self, manifest: Manifest) -> bool:
        """Compare sizes, then read everything back."""
        expected = {entry.path: entry.size for entry in manifest}
        return dict(self._tree.sizes()) == expected and all(self._tree.holds(entry) for entry in manifest)

    def publish(
        self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress | None = None
    ) -> None:
        """Take the old record away, upload, remove what is left of the old bundle, and write the record."""
        entries, told = {entry.path: entry for entry in manifest}, tally(progress, manifest.size)
        if replace:
            self._tree.remove(RECORD)
        for entry in _last(entries):
            if entry.path == RECORD and replace:
                for name in self._tree.sizes().keys() - entries.keys():
                    self._tree.remove(name)
            self._tree.put(folder / entry.path, entry, progress=told)


class RemoteFile(RemoteFolder):
    """One file at a URL."""

    single = True

    def _folder_of(self, url: str) -> str:
        folder, _, name = url.rstrip("/").rpartition("/")
        if not name or folder.endswith("/"):
            raise BadInputError(
                "the URL names no file", hint="give one with a name: s3://bucket/NAME.tar.zst"
            )
        return folder

    def require_free(self, force: bool) -> None:
        """Accept any file of that name: it is compared later."""

    def occupied(self) -> bool:
        """Tell whether there is a file of that name."""
        return self._tree.size(self.name) is not None

    def holds(self, manifest: Manifest) -> bool:
        """Read it back."""
        return self._tree.holds(self._named(manifest))

    def publish(
        self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress | None = None
    ) -> None:
        """Upload it; an object appears whole."""
        (entry,) = manifest
        told = tally(progress, manifest.size)
        self._tree.put(folder / entry.path, self._named(manifest), progress=told)

    def _named(self, manifest: Manifest) -> FileEntry:
        (entry,) = manifest
        return FileEntry(self.name, entry.size, entry.sha256)


def _last(entries: dict[str, FileEntry]) -> list[FileEntry]:
    """Return entries with the record at the end, and configurations before it: servers take what has one for whole."""
    return sorted(
        entries.values(),
        key=lambda entry: (entry.path == RECORD, entry.path.endswith("config.json"), entry.path),
    )
