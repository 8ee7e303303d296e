"""The objects under one prefix of any fsspec file system whose `pipe_file` writes an object whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

from .copying import Progress
from .interface import Leftover
from .remote_calls import FailureKind, NoPlaceError, RemoteCalls, RemoteError, age
from .transfer import in_order

PART = 16 << 20
"""Bytes of a part of an upload."""

READ = 8 << 20
"""Bytes of one ranged read."""

AHEAD = 4
"""Parts under way at a time, up or down: with `PART`, the memory that a transfer takes."""

_IN_MEMORY = threading.Lock()

_STAMPS = ("LastModified", "updated", "last_modified", "mtime", "created")


class Objects:
    """The objects under a prefix of our own."""

    in_parts = False
    """Whether `upload` needs no more memory than some parts."""

    def __init__(self, prefix: str, calls: RemoteCalls) -> None:
        """Look at the objects below `prefix`: bucket and folder, without a slash at either end."""
        self.prefix, self.calls = prefix, calls

    def key(self, name: str) -> str:
        """Return the file system's path of an object."""
        return f"{self.prefix}/{name}"

    def size(self, name: str) -> int | None:
        """Return an object's size in bytes, None if it is not there."""
        try:
            info = self.calls.run("info", self.key(name))
        except RemoteError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def read(self, name: str, limit: int) -> bytes:
        """Return the first `limit` bytes of an object; raises RemoteError if it is not there."""
        size = self.size(name)
        if size is None:
            raise RemoteError(FailureKind.MISSING)
        return b"".join(piece for _, piece in self.pieces(name, min(size, limit)))

    def pieces(self, name: str, size: int, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """Return an object's bytes from `first` on with how many were asked for, some pieces ahead; raises RemoteError."""
        # A size that a server made up is no list of spans that fits into memory.
        spans = range(first, size, READ)
        # Twice as many are kept as are under way.
        pieces = in_order(
            lambda start: self.read_range(name, start, min(start + READ, size)), spans, AHEAD // 2
        )
        for start, piece in zip(spans, pieces, strict=True):
            yield min(READ, size - start), piece

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return a range of an object."""
        return bytes(self.calls.run("cat_file", self.key(name), start=start, end=end))

    def write(self, name: str, data: bytes, *, exclusive: bool) -> bool:
        """Write an object in one request; return whether its name was free, or did not need to be."""
        mode = "create" if exclusive else "overwrite"
        # fsspec's memory looks first and writes then; what is in this process alone needs no more than a lock in it.
        with _IN_MEMORY if self.calls.file_system.protocol == "memory" else nullcontext():
            try:
                return self.is_free(lambda: self.calls.run("pipe_file", self.key(name), data, mode=mode))
            except RemoteError as error:
                raise NoPlaceError(self.calls.where, "bucket") from error

    def upload(
        self, name: str, parts: Iterable[bytes], size: int, *, exclusive: bool, progress: Progress
    ) -> bool:
        """Write parts of `part_size(size)` as an object, and none if they raise; return what `write` does."""
        is_new = self.write(name, b"".join(parts), exclusive=exclusive)
        if progress:
            progress(size)
        return is_new

    def part_size(self, size: int) -> int:
        """Return how many bytes each part of an upload of `size` bytes has, but the last."""
        return PART

    def move(self, name: str, target: str) -> None:
        """Give an object another name; raises RemoteError."""
        self.calls.run("cp_file", self.key(name), self.key(target))
        self.remove(name)

    def remove(self, name: str) -> int:
        """Remove an object and return the bytes freed: 0 if it was gone."""
        size = self.size(name)
        if size is None:
            return 0
        with suppress(RemoteError):
            self.calls.run("rm_file", self.key(name))
        return size

    def entries(self, folder: str) -> Iterator[Leftover]:
        """List the objects below a folder of the prefix, or all of them for an empty one, in no order."""
        try:
            listing = self.calls.run("find", self.key(folder).rstrip("/"), detail=True)
        except RemoteError:
            return
        for name, info in listing.items():
            if info["type"] == "file":
                stamp = next((info[key] for key in _STAMPS if info.get(key)), None)
                path = str(name).lstrip("/").removeprefix(self.key(""))
                yield Leftover(path, int(info["size"]), age(stamp))

    def is_free(self, write: Callable[[], Any]) -> bool:
        """Make a write; return False if the name was taken; raises RemoteError."""
        try:
            write()
        except RemoteError as error:
            if error.kind is FailureKind.EXISTS:
                return False
            raise
        return True
