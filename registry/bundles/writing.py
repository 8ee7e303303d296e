"""A bundle's folder while it is filled."""

from __future__ import annotations

from pathlib import Path

from fusery.storage.copying import Method, copy_file
from fusery.storage.digest import digest_bytes
from fusery.storage.manifest import FileEntry, Manifest

from ..errors import BadInputError

FILE_MODE = 0o644
FOLDER_MODE = 0o755


class BundleFolder:
    """Writes files into an empty folder and keeps their manifest.

    Files get the same modes whatever the umask: they are read by another user in a container.
    """

    def __init__(self, root: Path) -> None:
        """Take an existing, empty folder.

        Raises:
            BadInputError: it is not that.
        """
        if not root.is_dir() or any(root.iterdir()):
            raise BadInputError(f"{root} is not an empty folder")
        root.chmod(FOLDER_MODE)
        self.root = root
        self._entries: list[FileEntry] = []

    def write(self, path: str, content: bytes) -> None:
        """Write a file that was made in memory."""
        target = self._prepare(path)
        with target.open("xb") as file:
            file.write(content)
        target.chmod(FILE_MODE)
        self._entries.append(FileEntry(path, len(content), digest_bytes(content)))

    def copy(self, folder: Path, manifest: Manifest, *, under: str = "", link: bool = False) -> None:
        """Copy the files of a manifest, checking each against it.

        Args:
            folder: where they are.
            manifest: which they are.
            under: folder of the bundle they go to, with a slash at its end, or nothing.
            link: make hard links to read-only files where that works.

        Raises:
            DigestMismatchError: a file is not what the manifest says.
            MissingFileError: a file is not there.
        """
        for entry in manifest:
            path = under + entry.path
            destination = self._prepare(path)
            method = copy_file(folder / entry.path, destination, link=link, expected=entry.sha256)
            if method is not Method.LINK:
                destination.chmod(FILE_MODE)
            self._entries.append(FileEntry(path, entry.size, entry.sha256))

    def manifest(self) -> Manifest:
        """Return what has been written."""
        return Manifest.of(self._entries)

    def _prepare(self, path: str) -> Path:
        target = self.root / path
        for parent in reversed(target.relative_to(self.root).parents[:-1]):
            if not (self.root / parent).is_dir():
                (self.root / parent).mkdir()
                (self.root / parent).chmod(FOLDER_MODE)
        return target
