"""The contract of `BlobStore`, of bytes: what is written, and what is read again."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusery.storage.copying import Staging
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import (
    BlobCorruptError,
    BlobMissingError,
    MissingFileError,
    StorageError,
    UnsafePathError,
)
from fusery.storage.failures import AbsentBlobError, DigestMismatchError
from fusery.storage.interface import Blob
from fusery.storage.manifest import FileEntry

from .store_backend import HELLO, HELLO_DIGEST, LARGE, NOWHERE, Backend, file_with, name_of


class BytesContract:
    """Writing and reading."""

    # -- writing ---------------------------------------------------------------------------------------------------

    def test_bytes_lie_under_the_name_of_their_digest(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        assert blob == Blob(digest_bytes(HELLO), len(HELLO), 0)
        assert backend.read(name_of(blob.digest)) == HELLO

    @pytest.mark.parametrize(
        "data", [b"", b"x", b"\x00" * 4096, LARGE], ids=["empty", "one", "zeros", "large"]
    )
    def test_a_file_is_stored_byte_for_byte(self, backend: Backend, tmp_path: Path, data: bytes) -> None:
        blob = backend.store.put_file(file_with(tmp_path, data))
        assert blob == Blob(digest_bytes(data), len(data), 0)
        assert backend.read(name_of(blob.digest)) == data

    @pytest.mark.parametrize("data", [b"", LARGE], ids=["empty", "large"])
    def test_bytes_of_every_size_come_back(self, backend: Backend, data: bytes) -> None:
        blob = backend.store.put_bytes(data)
        assert backend.store.read_bytes(blob.digest, limit=len(data)) == data

    def test_a_write_leaves_nothing_but_the_blob(self, backend: Backend, tmp_path: Path) -> None:
        before = backend.names()
        blob = backend.store.put_file(file_with(tmp_path, LARGE))
        assert backend.names() - before == {name_of(blob.digest)}
        assert list(backend.store.leftovers()) == []

    def test_the_same_bytes_twice_are_one_blob(self, backend: Backend, tmp_path: Path) -> None:
        first = backend.store.put_bytes(HELLO)
        names = backend.names()
        assert backend.store.put_bytes(HELLO) == first
        assert backend.store.put_file(file_with(tmp_path, HELLO)) == first
        assert backend.names() == names

    def test_a_generation_is_part_of_the_name(self, backend: Backend) -> None:
        backend.store.put_bytes(HELLO, generation=3)
        assert backend.read(name_of(digest_bytes(HELLO), 3)) == HELLO
        assert backend.read(name_of(digest_bytes(HELLO))) is None

    def test_generations_do_not_touch_each_other(self, backend: Backend, tmp_path: Path) -> None:
        digest = backend.store.put_bytes(HELLO).digest
        backend.store.put_file(file_with(tmp_path, HELLO), generation=1)
        assert backend.store.delete(digest) == len(HELLO)
        assert backend.store.size(digest) is None
        assert backend.store.read_bytes(digest, generation=1, limit=100) == HELLO

    def test_a_file_that_is_as_expected_is_stored(self, backend: Backend, tmp_path: Path) -> None:
        expected = FileEntry("adapters.safetensors", len(LARGE), digest_bytes(LARGE))
        blob = backend.store.put_file(file_with(tmp_path, LARGE), expected=expected)
        assert backend.read(name_of(blob.digest)) == LARGE

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

    def test_a_staged_copy_takes_the_place_of_a_damaged_blob(self, backend: Backend, tmp_path: Path) -> None:
        backend.write(name_of(HELLO_DIGEST), b"jello, adapter\n")
        with Staging(backend.store.staging_folder or tmp_path) as staging:
            backend.store.put_staged(staging.copies({"a": file_with(tmp_path, HELLO)})["a"])
        assert backend.read(name_of(HELLO_DIGEST)) == HELLO
        assert len(list(backend.store.quarantined())) == 1

    @pytest.mark.parametrize("generation", [0, 2])
    def test_a_wrong_digest_is_refused_and_nothing_is_visible(
        self, backend: Backend, tmp_path: Path, generation: int
    ) -> None:
        before = backend.names()
        expected = FileEntry("f", len(HELLO), NOWHERE)
        with pytest.raises(DigestMismatchError) as caught:
            backend.store.put_file(file_with(tmp_path, HELLO), expected=expected, generation=generation)
        assert (caught.value.expected, caught.value.got) == (NOWHERE, digest_bytes(HELLO))
        assert backend.names() == before

    def test_a_wrong_size_is_refused_and_nothing_is_visible(self, backend: Backend, tmp_path: Path) -> None:
        before = backend.names()
        expected = FileEntry("f", len(HELLO) + 1, digest_bytes(HELLO))
        with pytest.raises(BlobCorruptError, match=r"expected 16 bytes, got 15 bytes"):
            backend.store.put_file(file_with(tmp_path, HELLO), expected=expected)
        assert backend.names() == before

    def test_a_wrong_file_is_refused_also_when_the_expected_blob_is_there(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        known = backend.store.put_bytes(HELLO)
        expected = FileEntry("f", known.size, known.digest)
        with pytest.raises(DigestMismatchError):
            backend.store.put_file(file_with(tmp_path, b"hello, ADAPTER\n"), expected=expected)
        assert backend.read(name_of(known.digest)) == HELLO

    def test_an_expected_blob_that_is_there_is_not_written_again(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        known = backend.store.put_bytes(HELLO)
        names = backend.names()
        expected = FileEntry("f", known.size, known.digest)
        assert backend.store.put_file(file_with(tmp_path, HELLO), expected=expected) == known
        assert backend.names() == names

    def test_a_damaged_blob_is_replaced_and_kept_aside(self, backend: Backend, tmp_path: Path) -> None:
        blob = backend.store.put_bytes(HELLO)
        backend.write(name_of(blob.digest), b"hello, ADAPTER\n")
        assert backend.store.put_file(file_with(tmp_path, HELLO)) == blob
        assert backend.read(name_of(blob.digest)) == HELLO
        kept = [name for name in backend.names() if name.startswith("quarantine/")]
        assert [backend.read(name) for name in kept] == [b"hello, ADAPTER\n"]

    def test_a_short_blob_is_replaced(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        backend.write(name_of(blob.digest), HELLO[:-1])
        assert backend.store.put_bytes(HELLO) == blob
        assert backend.read(name_of(blob.digest)) == HELLO

    def test_progress_adds_up_to_the_size(self, backend: Backend, tmp_path: Path) -> None:
        steps: list[int] = []
        backend.store.put_file(file_with(tmp_path, LARGE), progress=steps.append)
        assert sum(steps) == len(LARGE)
        assert all(step >= 0 for step in steps)

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

    def test_a_missing_source_is_named(self, backend: Backend, tmp_path: Path) -> None:
        with pytest.raises(MissingFileError, match=r"nothing\.bin"):
            backend.store.put_file(tmp_path / "nothing.bin")

    @pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
    def test_a_source_that_is_no_regular_file_is_refused(
        self, backend: Backend, tmp_path: Path, kind: str
    ) -> None:
        path = tmp_path / "source"
        if kind == "link":
            path.symlink_to(file_with(tmp_path, HELLO, "real"))
        elif kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)
        with pytest.raises(UnsafePathError):
            backend.store.put_file(path)
        assert backend.read(name_of(digest_bytes(HELLO))) is None

    def test_writers_of_the_same_blob_all_succeed(self, backend: Backend, tmp_path: Path) -> None:
        source = file_with(tmp_path, LARGE)
        barrier = threading.Barrier(8)

        def write(_number: int) -> Blob:
            barrier.wait()
            return backend.reopen().put_file(source)

        with ThreadPoolExecutor(8) as pool:
            blobs = set(pool.map(write, range(8)))
        assert blobs == {Blob(digest_bytes(LARGE), len(LARGE), 0)}
        assert backend.read(name_of(digest_bytes(LARGE))) == LARGE
        assert {name for name in backend.names() if name.startswith("blobs/")} == {
            name_of(digest_bytes(LARGE))
        }

    # -- reading ---------------------------------------------------------------------------------------------------

    def test_a_blob_written_by_somebody_else_is_read(self, backend: Backend) -> None:
        backend.write(name_of(digest_bytes(HELLO)), HELLO)
        assert backend.store.read_bytes(digest_bytes(HELLO), limit=100) == HELLO

    def test_a_second_store_sees_a_write_at_once(self, backend: Backend) -> None:
        second = backend.reopen()
        assert second.size(digest_bytes(HELLO)) is None
        assert list(second.blobs()) == []
        backend.store.put_bytes(HELLO)
        assert second.size(digest_bytes(HELLO)) == len(HELLO)
        assert [blob.digest for blob in second.blobs()] == [digest_bytes(HELLO)]
        backend.store.delete(digest_bytes(HELLO))
        assert second.size(digest_bytes(HELLO)) is None
        assert list(second.blobs()) == []

    def test_reading_what_is_not_there_names_it(self, backend: Backend) -> None:
        with pytest.raises(AbsentBlobError, match=NOWHERE) as caught:
            backend.store.read_bytes(NOWHERE, generation=4, limit=100)
        assert (caught.value.digest, caught.value.generation) == (NOWHERE, 4)
        assert isinstance(caught.value, BlobMissingError)

    def test_reading_is_bounded(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        with pytest.raises(StorageError, match="more than the 14"):
            backend.store.read_bytes(blob.digest, limit=len(HELLO) - 1)

    @pytest.mark.parametrize("damage", [b"hello, ADAPTER\n", HELLO[:-1], HELLO + b"x", b""])
    def test_damaged_bytes_are_never_handed_out(
        self, backend: Backend, tmp_path: Path, damage: bytes
    ) -> None:
        blob = backend.store.put_bytes(HELLO)
        backend.write(name_of(blob.digest), damage)
        with pytest.raises(DigestMismatchError) as caught:
            backend.store.read_bytes(blob.digest, limit=100)
        assert caught.value.got == digest_bytes(damage)
        destination = tmp_path / "out.bin"
        with pytest.raises(DigestMismatchError):
            backend.store.fetch(blob.digest, destination)
        assert list(tmp_path.iterdir()) == []

    def test_damaged_bytes_are_not_deleted_by_reading(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        backend.write(name_of(blob.digest), b"other")
        with pytest.raises(DigestMismatchError):
            backend.store.read_bytes(blob.digest, limit=100)
        assert backend.read(name_of(blob.digest)) == b"other"

    def test_fetch_gives_the_bytes_and_the_size(self, backend: Backend, tmp_path: Path) -> None:
        blob = backend.store.put_bytes(LARGE)
        assert backend.store.fetch(blob.digest, tmp_path / "out.bin") == len(LARGE)
        assert (tmp_path / "out.bin").read_bytes() == LARGE
        assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]

    def test_a_fetched_file_may_be_edited_without_harm(self, backend: Backend, tmp_path: Path) -> None:
        blob = backend.store.put_bytes(HELLO)
        backend.store.fetch(blob.digest, tmp_path / "out.bin")
        (tmp_path / "out.bin").write_bytes(b"edited")
        assert backend.read(name_of(blob.digest)) == HELLO

    def test_fetch_replaces_a_file_only_when_it_succeeds(self, backend: Backend, tmp_path: Path) -> None:
        destination = file_with(tmp_path, b"old", "out.bin")
        blob = backend.store.put_bytes(HELLO)
        backend.write(name_of(blob.digest), b"damaged")
        with pytest.raises(DigestMismatchError):
            backend.store.fetch(blob.digest, destination)
        assert destination.read_bytes() == b"old"
        backend.write(name_of(blob.digest), HELLO)
        backend.store.fetch(blob.digest, destination)
        assert destination.read_bytes() == HELLO

    def test_fetching_what_is_not_there_writes_nothing(self, backend: Backend, tmp_path: Path) -> None:
        with pytest.raises(AbsentBlobError):
            backend.store.fetch(NOWHERE, tmp_path / "out.bin")
        assert list(tmp_path.iterdir()) == []

    def test_fetching_into_a_folder_that_is_not_there_says_so(self, backend: Backend, tmp_path: Path) -> None:
        blob = backend.store.put_bytes(HELLO)
        with pytest.raises(MissingFileError):
            backend.store.fetch(blob.digest, tmp_path / "nowhere" / "out.bin")

    def test_fetch_knows_generations(self, backend: Backend, tmp_path: Path) -> None:
        digest = backend.store.put_bytes(HELLO, generation=7).digest
        with pytest.raises(AbsentBlobError):
            backend.store.fetch(digest, tmp_path / "out.bin")
        assert backend.store.fetch(digest, tmp_path / "out.bin", generation=7) == len(HELLO)

    def test_size_of_what_is_not_there_is_none(self, backend: Backend) -> None:
        assert backend.store.size(NOWHERE) is None

    def test_local_path_is_a_readable_file_or_none(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        path = backend.store.local_path(blob.digest)
        assert (path is not None) == backend.store.capabilities.local
        assert path is None or path.read_bytes() == HELLO
        assert backend.store.local_path(NOWHERE) is None
