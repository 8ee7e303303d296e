"""The contract of `BlobStore`, of bytes, checked with raw accessors that bypass the store."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusery.storage.copying import Staging
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import BlobMissingError, MissingFileError, StorageError, UnsafePathError
from fusery.storage.failures import AbsentBlobError, DigestMismatchError
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.manifest import FileEntry

HELLO = b"hello, adapter\n"
HELLO_DIGEST = Digest("ce6d5ce77cb645348e95deb295455646e37bbacf85458a761750519982d2fdf3")
NOWHERE = digest_bytes(b"nowhere")
LARGE = os.urandom(1 << 20) * 3 + b"tail"


class Backend(ABC):
    """A store, and what is behind it."""

    store: BlobStore

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return an object's bytes without the store's help, None if it is not there."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Make or overwrite an object without the store's help."""

    @abstractmethod
    def names(self) -> set[str]:
        """Return the names of all objects without the store's help."""

    @abstractmethod
    def reopen(self) -> BlobStore:
        """Return a second, independent store on the same place."""


def name_of(digest: str, generation: int = 0) -> str:
    """The layout written out again, on purpose not taken from the code under test."""
    return f"blobs/sha256/{digest[:2]}/{digest}" + (f".g{generation}" if generation else "")


def file_with(folder: Path, data: bytes, name: str = "source.bin") -> Path:
    """Write a file, and return its path."""
    path = folder / name
    path.write_bytes(data)
    return path


_DAMAGED = b"hello, ADAPTER\n"


class BytesContract:
    """Writing and reading."""

    @pytest.mark.parametrize("data", [b"", HELLO, LARGE], ids=["empty", "hello", "large"])
    def test_bytes_lie_under_the_name_of_their_digest(
        self, backend: Backend, tmp_path: Path, data: bytes
    ) -> None:
        blob = Blob(digest_bytes(data), len(data), 0)
        assert backend.store.put_file(file_with(tmp_path, data)) == blob
        assert backend.read(name_of(blob.digest)) == data
        assert backend.store.read_bytes(blob.digest, limit=len(data)) == data
        for again in (backend.store.put_bytes(data), backend.store.put_file(file_with(tmp_path, data))):
            assert again == blob
        expected = FileEntry("adapters.safetensors", len(data), blob.digest)
        assert backend.store.put_file(file_with(tmp_path, data), expected=expected) == blob
        assert backend.names() == {name_of(blob.digest)}
        assert list(backend.store.leftovers()) == []

    def test_an_expected_file_is_stored(self, backend: Backend, tmp_path: Path) -> None:
        expected = FileEntry("adapters.safetensors", len(LARGE), digest_bytes(LARGE))
        steps: list[int] = []
        blob = backend.store.put_file(file_with(tmp_path, LARGE), expected=expected, progress=steps.append)
        assert backend.read(name_of(blob.digest)) == LARGE
        assert sum(steps) == len(LARGE) and min(steps) >= 0

    def test_generations_are_independent(self, backend: Backend, tmp_path: Path) -> None:
        digest = backend.store.put_bytes(HELLO, generation=3).digest
        assert backend.names() == {name_of(digest, 3)}
        with pytest.raises(AbsentBlobError):
            backend.store.fetch(digest, tmp_path / "out.bin")
        assert backend.store.fetch(digest, tmp_path / "out.bin", generation=3) == len(HELLO)
        backend.store.put_file(file_with(tmp_path, HELLO))
        assert backend.store.delete(digest) == len(HELLO)
        assert backend.store.size(digest) is None
        assert backend.store.read_bytes(digest, generation=3, limit=100) == HELLO

    @pytest.mark.parametrize("data", [b"", HELLO, LARGE], ids=["empty", "small", "large"])
    def test_a_staged_copy_is_stored(self, backend: Backend, tmp_path: Path, data: bytes) -> None:
        path = file_with(tmp_path, data)
        with Staging(backend.store.staging_folder or tmp_path) as staging:
            staged = staging.copies({"a": path})["a"]
            path.write_bytes(b"something else by now")
            blob = backend.store.put_staged(staged, generation=2)
            assert backend.store.put_staged(staged, generation=2) == blob
        assert blob == Blob(digest_bytes(data), len(data), 2)
        assert backend.read(name_of(blob.digest, 2)) == data
        assert list(backend.store.leftovers()) == []

    @pytest.mark.parametrize("is_stored", [False, True])
    def test_another_file_than_expected_is_refused(
        self, backend: Backend, tmp_path: Path, is_stored: bool
    ) -> None:
        if is_stored:
            backend.store.put_bytes(HELLO)
        before, got = backend.names(), digest_bytes(_DAMAGED)
        for entry, generation, wrong in (
            (FileEntry("f", len(HELLO), HELLO_DIGEST), 0, (HELLO_DIGEST, got)),
            (FileEntry("f", len(HELLO), NOWHERE), 2, (NOWHERE, got)),
            (FileEntry("f", len(HELLO) + 1, got), 0, ("16 bytes", "15 bytes")),
        ):
            with pytest.raises(DigestMismatchError) as caught:
                backend.store.put_file(file_with(tmp_path, _DAMAGED), expected=entry, generation=generation)
            assert (caught.value.expected, caught.value.got) == wrong
        assert backend.names() == before
        assert not is_stored or backend.read(name_of(HELLO_DIGEST)) == HELLO

    @pytest.mark.parametrize("damage", [_DAMAGED, HELLO[:-1]], ids=["flipped", "short"])
    def test_damaged_blob_is_replaced_and_kept(self, backend: Backend, tmp_path: Path, damage: bytes) -> None:
        source = file_with(tmp_path, HELLO)
        with Staging(backend.store.staging_folder or tmp_path) as staging:
            staged = staging.copies({"a": source})["a"]
            puts: tuple[Callable[[], Blob], ...] = (
                lambda: backend.store.put_file(source),
                lambda: backend.store.put_bytes(HELLO),
                lambda: backend.store.put_staged(staged),
            )
            for number, put in enumerate(puts, 1):
                backend.write(name_of(HELLO_DIGEST), damage)
                assert put().digest == HELLO_DIGEST
                assert backend.read(name_of(HELLO_DIGEST)) == HELLO
                kept = [name for name in backend.names() if name.startswith("quarantine/")]
                assert [backend.read(name) for name in kept] == [damage] * number

    def test_an_interrupted_write_leaves_no_blob(self, backend: Backend, tmp_path: Path) -> None:
        def interrupt(_count: int) -> None:
            raise KeyboardInterrupt

        source = file_with(tmp_path, LARGE)
        with pytest.raises(KeyboardInterrupt):
            backend.store.put_file(source, progress=interrupt)
        # A backend may notice only after the last byte; what is visible is whole in any case.
        assert backend.read(name_of(digest_bytes(LARGE))) in (None, LARGE)
        backend.store.put_file(source)
        assert backend.read(name_of(digest_bytes(LARGE))) == LARGE

    def test_a_source_that_is_no_regular_file_is_refused(self, backend: Backend, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(file_with(tmp_path, HELLO, "real"))
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for name in ("link", "folder", "pipe", "nothing"):
            with pytest.raises(MissingFileError if name == "nothing" else UnsafePathError, match=name):
                backend.store.put_file(tmp_path / name)
        assert backend.names() == set()

    def test_writers_of_the_same_blob_all_succeed(self, backend: Backend, tmp_path: Path) -> None:
        source = file_with(tmp_path, LARGE)
        barrier = threading.Barrier(8)

        def write(_number: int) -> Blob:
            barrier.wait()
            return backend.reopen().put_file(source)

        with ThreadPoolExecutor(8) as pool:
            blobs = set(pool.map(write, range(8)))
        assert blobs == {Blob(digest_bytes(LARGE), len(LARGE), 0)}
        name = name_of(digest_bytes(LARGE))
        assert backend.read(name) == LARGE
        assert {other for other in backend.names() if other.startswith("blobs/")} == {name}

    def test_a_second_store_sees_a_write_at_once(self, backend: Backend) -> None:
        second = backend.reopen()
        for is_present in (False, True, False):
            if is_present:
                backend.write(name_of(HELLO_DIGEST), HELLO)
                assert backend.store.read_bytes(HELLO_DIGEST, limit=100) == HELLO
            else:
                backend.store.delete(HELLO_DIGEST)
            assert second.size(HELLO_DIGEST) == (len(HELLO) if is_present else None)
            assert [blob.digest for blob in second.blobs()] == [HELLO_DIGEST] * is_present

    def test_reading_a_missing_file_names_it(self, backend: Backend, tmp_path: Path) -> None:
        with pytest.raises(AbsentBlobError, match=NOWHERE) as caught:
            backend.store.read_bytes(NOWHERE, generation=4, limit=100)
        assert (caught.value.digest, caught.value.generation) == (NOWHERE, 4)
        assert isinstance(caught.value, BlobMissingError)
        with pytest.raises(AbsentBlobError):
            backend.store.fetch(NOWHERE, tmp_path / "out.bin")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(AbsentBlobError):
            backend.store.verify(NOWHERE, 7)
        assert backend.store.size(NOWHERE) is None

    def test_reading_is_bounded(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        with pytest.raises(StorageError, match="more than the 14"):
            backend.store.read_bytes(blob.digest, limit=len(HELLO) - 1)

    def test_damaged_bytes_are_never_handed_out(self, backend: Backend, tmp_path: Path) -> None:
        blob = backend.store.put_bytes(HELLO)
        destination = file_with(tmp_path, b"old", "out.bin")
        for damage in (_DAMAGED, HELLO[:-1], HELLO + b"x", b""):
            backend.write(name_of(blob.digest), damage)
            with pytest.raises(DigestMismatchError) as caught:
                backend.store.read_bytes(blob.digest, limit=100)
            assert caught.value.got == digest_bytes(damage)
            with pytest.raises(DigestMismatchError):
                backend.store.fetch(blob.digest, destination)
            assert (destination.read_bytes(), len(list(tmp_path.iterdir()))) == (b"old", 1)
            assert backend.read(name_of(blob.digest)) == damage

    def test_fetch_gives_a_copy_of_the_bytes(self, backend: Backend, tmp_path: Path) -> None:
        blob = backend.store.put_bytes(LARGE)
        out = file_with(tmp_path, b"old", "out.bin")
        assert backend.store.fetch(blob.digest, out) == len(LARGE)
        assert out.read_bytes() == LARGE
        assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]
        out.write_bytes(b"edited")
        assert backend.read(name_of(blob.digest)) == LARGE
        with pytest.raises(MissingFileError):
            backend.store.fetch(blob.digest, tmp_path / "nowhere" / "out.bin")

    def test_local_path_is_a_readable_file_or_none(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        path = backend.store.local_path(blob.digest)
        assert (path is not None) == backend.store.is_local
        assert path is None or path.read_bytes() == HELLO
        assert backend.store.local_path(NOWHERE) is None
