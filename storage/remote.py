"""Blobs in an object store, over any fsspec file system whose writes of a whole object are atomic.

Nothing here writes through `open()`: fsspec's file objects publish what they hold when they are closed, also when the
body raised.  Nothing is moved: an object store's move is a copy and a deletion.  What an interrupted request did is
never guessed but looked up: the name is the digest, so a second look decides.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractFileSystem

from .copying import Progress, Source, pump, reading
from .digest import Digest
from .errors import StorageError, StoreDeniedError, StoreUnavailableError
from .failures import AbsentBlobError, os_failures
from .interface import Blob, BlobStore, Capabilities, Leftover, require_expected
from .layout import (
    BLOBS,
    FORMAT_NAME,
    QUARANTINE,
    TMP,
    blob_name,
    format_document,
    parse_blob_name,
    quarantine_name,
)
from .manifest import FileEntry
from .remote_calls import DEADLINE, Kind, RemoteCalls, RemoteError, Watch, age

SMALL = 32 << 20
"""Bytes up to which a blob is uploaded from memory, in one request."""

PART = 16 << 20
"""Bytes of a part of a larger upload, and of one ranged read."""

MAX_PARTS = 9_000
"""Parts of one upload; S3 allows 10,000."""

ATTEMPTS = 3
"""How often a write starts again when a damaged blob had its name."""

_UPLOAD = re.compile(r"upload:(?P<name>blobs/sha256/[0-9a-f]{2}/[0-9a-f.g]{64,80}):(?P<id>[^\s]{1,1024})")


class FsspecStore(BlobStore):
    """A store under a prefix of an fsspec file system that nobody else uses."""

    def __init__(
        self, file_system: AbstractFileSystem, prefix: str, url: str, *, deadline: float = DEADLINE
    ) -> None:
        """Wrap a file system; nothing is written, and nothing is read yet.

        Args:
            file_system: made with `use_listings_cache=False` and `skip_instance_cache=True`.
            prefix: bucket and folder, without a slash at either end.
            url: the store's URL, without any secret.
            deadline: seconds without progress after which an operation is given up.
        """
        self.url = url
        self._prefix = prefix
        self._fs = file_system
        self._calls = RemoteCalls(file_system, url, deadline)

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do; the first time, a probe asks it."""
        try:
            exclusive = self._exclusive
        except StoreDeniedError:
            exclusive = False
        return Capabilities(create_exclusive=exclusive, local=False, durable=self._fs.protocol != "memory")

    @cached_property
    def _exclusive(self) -> bool:
        name = self._key(f"{TMP}/{uuid.uuid4().hex}.probe")
        self._write("pipe_file", name, b"probe")
        try:
            return not self._write("pipe_file", name, b"probe", mode="create")
        finally:
            self._remove(name)

    def put_file(
        self,
        path: Path,
        *,
        expected: FileEntry | None = None,
        generation: int = 0,
        progress: Progress | None = None,
    ) -> Blob:
        """Store the bytes of a file; see `BlobStore.put_file`.

        A file above `SMALL` is hashed first and then uploaded by its name.  If it changed in between, the upload is
        read back and taken away unless it matches; no caller was told of it by then.
        """
        with reading(path) as source:
            if source.size <= SMALL or not self._fs.async_impl:
                return self._put_from_memory(source, expected, generation, progress)
            with os_failures(f"read {path}", near=path):
                digest, size = pump(source.fd, None)
            source.require_unchanged()
            require_expected(path, expected, digest, size)
            blob = Blob(digest, size, generation)
            self._publish(blob, lambda mode: self._upload(source, blob, mode, progress))
            self._require_same_file(source, blob)
        return blob

    def put_bytes(self, data: bytes, *, generation: int = 0) -> Blob:
        """Store bytes that are in memory; see `BlobStore.put_bytes`."""
        blob = Blob(Digest(hashlib.sha256(data).hexdigest()), len(data), generation)
        name = self._name(blob.digest, generation)
        self._publish(blob, lambda mode: self._write("pipe_file", name, data, mode=mode))
        return blob

    def size(self, digest: Digest, *, generation: int = 0) -> int | None:
        """Return a blob's size in bytes as the backend reports it; see `BlobStore.size`."""
        return self._object_size(self._name(digest, generation))

    def local_path(self, digest: Digest, *, generation: int = 0) -> Path | None:
        """Return None: blobs are not files here."""
        return None

    def quarantine(self, digest: Digest, *, generation: int = 0) -> str | None:
        """Copy a damaged blob to `quarantine/` and delete it; see `BlobStore.quarantine`."""
        size = self.size(digest, generation=generation)
        if size is None or self._holds(Blob(digest, size, generation)):
            return None
        name = quarantine_name(digest, generation)
        try:
            self._calls.run("cp_file", self._name(digest, generation), self._key(name))
        except RemoteError:
            return None
        self._remove(self._name(digest, generation))
        return name

    def delete(self, digest: Digest, *, generation: int = 0) -> int:
        """Delete a blob; see `BlobStore.delete`."""
        return self._remove(self._name(digest, generation))

    def blobs(self) -> Iterator[Blob]:
        """List the blobs there are; see `BlobStore.blobs`."""
        for name, info in self._list(BLOBS):
            parsed = parse_blob_name(name)
            if parsed is not None:
                yield Blob(parsed[0], int(info["size"]), parsed[1])

    def quarantined(self) -> Iterator[Leftover]:
        """List what `quarantine` has put aside."""
        return self._aged(QUARANTINE)

    def leftovers(self) -> Iterator[Leftover]:
        """List probes and, on S3, unfinished uploads under this store's prefix."""
        yield from self._aged(TMP)
        if hasattr(self._fs, "list_multipart_uploads"):
            bucket, _, folder = self._key("").partition("/")
            for upload in self._calls.run("list_multipart_uploads", bucket):
                name = str(upload["Key"]).removeprefix(folder)
                if str(upload["Key"]).startswith(folder) and parse_blob_name(name):
                    yield Leftover(f"upload:{name}:{upload['UploadId']}", 0, age(upload["Initiated"]))

    def remove_leftover(self, name: str) -> int:
        """Remove what `leftovers` or `quarantined` listed; see `BlobStore.remove_leftover`."""
        upload = _UPLOAD.fullmatch(name)
        if upload:
            bucket, _, key = self._key(upload["name"]).partition("/")
            with suppress(RemoteError):
                self._calls.run("abort_mpu", bucket, key, upload["id"])
            return 0
        folder, _, rest = name.partition("/")
        if folder not in (TMP, QUARANTINE) or not re.fullmatch(r"[0-9a-z][0-9a-z.]{0,120}", rest):
            raise ValueError(f"not the name of a leftover: {name!r}")
        return self._remove(self._key(name))

    def initialise(self, store_id: str) -> None:
        """Give the store its id; see `BlobStore.initialise`.  The bucket must exist."""
        document = format_document(store_id)
        if self._check_identity(store_id):
            return
        self._write("pipe_file", self._key(FORMAT_NAME), document, mode=self._mode())
        if not self._check_identity(store_id):
            raise StoreUnavailableError(f"the store {self.url} does not keep what is written to it")

    def _read_format(self) -> bytes | None:
        try:
            return bytes(self._calls.run("cat_file", self._key(FORMAT_NAME)))
        except RemoteError:
            return None

    def _pour(self, digest: Digest, generation: int, sink: Callable[[bytes | memoryview], None]) -> None:
        name = self._name(digest, generation)
        size = self._object_size(name)
        if size is None:
            raise AbsentBlobError(digest, generation, self.url)
        for start in range(0, size, PART):
            end = min(start + PART, size)
            try:
                piece = self._calls.run("cat_file", name, start=start, end=end)
            except RemoteError as error:
                raise AbsentBlobError(digest, generation, self.url) from error
            if len(piece) != end - start:
                # Some servers ignore the range, others cut the reply short without a word.
                raise self._damage(digest, f"{end - start} bytes at {start}", f"{len(piece)} bytes")
            sink(piece)

    def _put_from_memory(
        self, source: Source, expected: FileEntry | None, generation: int, progress: Progress | None
    ) -> Blob:
        with os_failures(f"read {source.path}", near=source.path), os.fdopen(os.dup(source.fd), "rb") as file:
            data = file.read(source.size)
        source.require_unchanged()
        digest = Digest(hashlib.sha256(data).hexdigest())
        require_expected(source.path, expected, digest, len(data))
        blob = self.put_bytes(data, generation=generation)
        if progress:
            progress(len(data))
        return blob

    def _upload(self, source: Source, blob: Blob, mode: str, progress: Progress | None) -> bool:
        options: dict[str, Any] = {"mode": mode, "chunksize": max(PART, -(-blob.size // MAX_PARTS))}
        if "abfs" in self._fs.protocol:
            # adlfs has its own word for it here, and chooses the size of parts itself.
            options = {"overwrite": mode != "create"}
        name = self._name(blob.digest, blob.generation)
        watch = Watch(self._calls, progress, blob.size)
        is_new = self._write("put_file", str(source.path), name, callback=watch, **options)
        watch.tell_up_to(blob.size)
        return is_new

    def _publish(self, blob: Blob, upload: Callable[[str], bool]) -> None:
        """Write a blob unless it is there, and see that it is there; `upload` tells whether the name was free."""
        mode = self._mode()
        for _ in range(ATTEMPTS):
            found = self.size(blob.digest, generation=blob.generation)
            if found is None and upload(mode):
                found = self.size(blob.digest, generation=blob.generation)
                if found == blob.size:
                    return
            # There already, or written meanwhile: by somebody else, or by a request of ours whose reply was lost.
            if self._holds(blob):
                return
            self.quarantine(blob.digest, generation=blob.generation)
        raise StoreUnavailableError(f"the store {self.url} does not keep what is written to it")

    def _mode(self) -> str:
        return "create" if self._exclusive else "overwrite"

    def _write(self, method: str, *arguments: Any, **options: Any) -> bool:
        """Write an object; return whether its name was free."""
        try:
            self._calls.run(method, *arguments, **options)
        except RemoteError as error:
            if error.kind is Kind.EXISTS:
                return False
            raise StoreUnavailableError(
                f"the store {self.url} has no such bucket", hint="make the bucket, or correct the URL"
            ) from error
        return True

    def _require_same_file(self, source: Source, blob: Blob) -> None:
        with os_failures(f"read {source.path}", near=source.path):
            now = source.path.lstat()
        try:
            source.require_unchanged()
            if (now.st_dev, now.st_ino) != source.stamp[:2]:
                raise StorageError(
                    f"{source.path} was replaced while it was read", hint="run the command again"
                )
        except StorageError:
            self.quarantine(blob.digest, generation=blob.generation)
            raise

    def _object_size(self, key: str) -> int | None:
        try:
            info = self._calls.run("info", key)
        except RemoteError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def _remove(self, key: str) -> int:
        size = self._object_size(key)
        if size is None:
            return 0
        with suppress(RemoteError):
            self._calls.run("rm_file", key)
        return size

    def _list(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        start = self._key("")
        try:
            found = self._calls.run("find", self._key(folder), detail=True)
        except RemoteError:
            return
        for name, info in found.items():
            if info["type"] == "file":
                yield str(name).lstrip("/").removeprefix(start), info

    def _aged(self, folder: str) -> Iterator[Leftover]:
        for name, info in self._list(folder):
            stamps = (
                info.get(key) for key in ("LastModified", "updated", "last_modified", "mtime", "created")
            )
            yield Leftover(name, int(info["size"]), age(next((stamp for stamp in stamps if stamp), None)))

    def _name(self, digest: Digest, generation: int) -> str:
        return self._key(blob_name(digest, generation))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"
