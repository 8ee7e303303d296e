"""A folder of files at a URL, which people and tools read by their names: where a bundle goes that is not for this machine.

Unlike a store, it holds whatever files it is given.  Nobody else is to write there at the same time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fsspec.spec import AbstractFileSystem

from .backends.objects import objects_for
from .copying import Progress, Source, reading
from .digest import Digest
from .errors import StoreUnavailableError
from .manifest import FileEntry
from .plugins import Plugin
from .remote import ATTEMPTS, SMALL
from .remote_calls import DEADLINE, RemoteCalls
from .remote_errors import RemoteError
from .sending import not_kept, read_parts


class RemoteTree:
    """The files under one prefix of an fsspec file system.

    Attributes:
        url: where it is, without any secret.
    """

    def __init__(
        self,
        file_system: AbstractFileSystem,
        prefix: str,
        url: str,
        *,
        deadline: float = DEADLINE,
        plugin: Plugin | None = None,
    ) -> None:
        """Wrap a file system that nobody else uses; the arguments are those of `FsspecStore`."""
        self.url = url
        self._objects = objects_for(file_system, prefix, RemoteCalls(file_system, url, deadline, plugin))

    def sizes(self) -> Mapping[str, int]:
        """Return the files there are and their sizes in bytes."""
        return {entry.name: entry.size for entry in self._objects.entries("")}

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if it is not there."""
        return self._objects.size(name)

    def put(self, path: Path, entry: FileEntry, *, progress: Progress | None = None) -> None:
        """Write a local file under the name that an entry gives, in place of what is there, and read it back.

        Args:
            path: the local file.
            entry: its name at the URL, its size and its digest.
            progress: called with the number of bytes of each piece that has arrived.

        Raises:
            StorageError: the file is not what the entry says.
            StoreUnavailableError: what arrived is not what was sent.
        """
        with reading(path) as source:
            if entry.size > SMALL:
                self._upload(source, entry, progress)
                return
            parts = read_parts(source, entry.sha256, SMALL)
            self._objects.write(entry.path, b"".join(parts), exclusive=False)
            if progress:
                progress(entry.size)
        if not self.holds(entry):
            raise not_kept(self.url, aborted=False)

    def _upload(self, source: Source, entry: FileEntry, progress: Progress | None) -> None:
        for _ in range(ATTEMPTS):
            parts = read_parts(source, entry.sha256, self._objects.part_size(entry.size))
            try:
                self._objects.upload(entry.path, parts, entry.size, exclusive=False, progress=progress)
                aborted = False
            except RemoteError:
                # Somebody else who writes this file has completed the upload that both took up; or it was aborted.
                aborted = True
            if self.holds(entry):
                return
            if not aborted:
                break
        raise not_kept(self.url, aborted=aborted)

    def holds(self, entry: FileEntry) -> bool:
        """Tell whether a file is there and has the bytes that an entry says; it is read to its end."""
        size = self._objects.size(entry.path)
        return size == entry.size and self._digest(entry.path, size) == entry.sha256

    def fetch(self, name: str, size: int, path: Path) -> None:
        """Write a file's bytes to a local path, which must not exist yet.

        Raises:
            StoreUnavailableError: it has not the size that was listed, or is gone.
        """
        read = 0
        try:
            with path.open("xb") as file:
                for _, piece in self._objects.pieces(name, size):
                    read += file.write(piece)
        except RemoteError as error:
            raise StoreUnavailableError(
                f"{self.url}/{name} cannot be read any more", hint="is it still being written? try again"
            ) from error
        if read != size:
            raise StoreUnavailableError(
                f"{self.url}/{name} changed while it was read", hint="is it still being written? try again"
            )

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is fine."""
        self._objects.remove(name)

    def _digest(self, name: str, size: int) -> Digest | None:
        running, read = hashlib.sha256(), 0
        try:
            for _, piece in self._objects.pieces(name, size):
                running.update(piece)
                read += len(piece)
        except RemoteError:
            return None
        return Digest(running.hexdigest()) if read == size else None
