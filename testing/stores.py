"""The contract of `BlobStore`, for every backend; a subclass of `StoreContract` gives the fixture `backend`, a `Backend`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import StorageError, StoreMismatchError
from fusery.storage.failures import DigestMismatchError
from fusery.storage.manifest import FileEntry
from fusery.storage.remote import SMALL, RemoteTree

from .store_bytes import (
    HELLO,
    HELLO_DIGEST,
    LARGE,
    NOWHERE,
    Backend,
    BytesContract,
    file_with,
    name_of,
)

__all__ = [
    "HELLO", "HELLO_DIGEST", "LARGE", "NOWHERE", "Backend", "StoreContract", "check_tree", "file_with", "name_of",
]  # fmt: skip


class StoreContract(BytesContract):
    """All that every backend promises: bytes; checking, taking away and listing; the store's id, and documents."""

    def test_one_flipped_bit_is_detected(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(LARGE)
        backend.store.verify(blob.digest, blob.size)
        for position in (0, len(LARGE) // 2, len(LARGE) - 1):
            damaged = bytearray(LARGE)
            damaged[position] ^= 1 << (position % 8)
            backend.write(name_of(blob.digest), bytes(damaged))
            with pytest.raises(DigestMismatchError) as caught:
                backend.store.verify(blob.digest, blob.size)
            assert caught.value.got == digest_bytes(bytes(damaged))

    def test_wrong_size_is_detected(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        for damage in (HELLO[:-1], HELLO + b"\n", b""):
            with pytest.raises(DigestMismatchError):
                backend.store.verify(blob.digest, len(damage))
        for damage in (HELLO[:-1], HELLO + b"\n", b""):
            backend.write(name_of(blob.digest), damage)
            with pytest.raises(DigestMismatchError) as caught:
                backend.store.verify(blob.digest, blob.size)
            assert (caught.value.expected, caught.value.got) == ("15 bytes", f"{len(damage)} bytes")

    def test_delete_frees_the_bytes_once(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        backend.store.put_bytes(HELLO, generation=1)
        assert backend.store.delete(blob.digest) == len(HELLO)
        assert backend.read(name_of(blob.digest)) is None
        assert backend.store.delete(blob.digest) == backend.store.delete(blob.digest, generation=2) == 0
        assert {(b.digest, b.generation) for b in backend.store.blobs()} == {(blob.digest, 1)}

    def test_quarantine_moves_a_damaged_blob(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO, generation=5)
        assert backend.store.quarantine(NOWHERE, generation=2) is None
        assert backend.store.quarantine(blob.digest, generation=5) is None, "a good one stays"
        assert backend.read(name_of(blob.digest, 5)) == HELLO
        backend.write(name_of(blob.digest, 5), b"damaged")
        name = backend.store.quarantine(blob.digest, generation=5)
        assert name is not None and name.startswith(f"quarantine/{blob.digest}.g5.")
        assert backend.read(name) == b"damaged"
        assert backend.read(name_of(blob.digest, 5)) is None
        assert [(kept.name, kept.size) for kept in backend.store.quarantined()] == [(name, 7)]
        assert backend.store.remove_leftover(name) == 7
        assert list(backend.store.quarantined()) == []

    def test_all_blobs_are_listed(self, backend: Backend) -> None:
        for listing in (backend.store.blobs, backend.store.leftovers, backend.store.quarantined):
            assert list(listing()) == []
        put = backend.store.put_bytes
        wanted = {put(bytes([number]) * number, generation=number % 3) for number in range(20)}
        assert set(backend.store.blobs()) == wanted

    def test_names_that_are_not_ours_are_passed_over(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(b"ours")
        strangers = [
            "blobs/sha256/ab/readme.txt", f"blobs/sha256/00/{HELLO_DIGEST}", f"blobs/sha256/ce/{HELLO_DIGEST}.g0",
            f"blobs/sha256/ce/{HELLO_DIGEST}.g01", f"blobs/sha256/ce/{HELLO_DIGEST}.part", f"blobs/sha256/{HELLO_DIGEST}",
            f"blobs/sha256/ce/{HELLO_DIGEST.upper()}", f"blobs/md5/ce/{HELLO_DIGEST}", "README.md",
        ]  # fmt: skip
        for stranger in strangers:
            backend.write(stranger, b"stranger")
        assert list(backend.store.blobs()) == [blob]
        assert list(backend.store.leftovers()) == []
        assert sorted(backend.store.strays()) == sorted(strangers)
        assert {backend.read(stranger) for stranger in strangers} == {b"stranger"}

    def test_store_names_are_not_strays(self, backend: Backend) -> None:
        backend.store.initialise("registry-one")
        backend.store.write_document("package.json", b"{}")
        blob = backend.store.put_bytes(HELLO, generation=2)
        backend.write(name_of(blob.digest, 2), b"damaged")
        assert backend.store.quarantine(blob.digest, generation=2) is not None
        backend.store.put_bytes(HELLO, generation=3)
        backend.write("tmp/0123456789abcdef.part", b"half a bl")
        assert list(backend.store.strays()) == []

    def test_leftovers_are_listed_and_removed(self, backend: Backend) -> None:
        backend.write("tmp/0123456789abcdef.part", b"half a bl")
        (leftover,) = backend.store.leftovers()
        assert (leftover.name, leftover.size) == ("tmp/0123456789abcdef.part", 9)
        assert 0 <= leftover.age_seconds < 600
        assert backend.store.remove_leftover(leftover.name) == 9
        assert list(backend.store.leftovers()) == []
        assert backend.store.remove_leftover(leftover.name) == 0

    def test_only_leftovers_are_removed_as_leftovers(self, backend: Backend) -> None:
        backend.store.initialise("registry-one")
        backend.store.put_bytes(HELLO)
        before = backend.names()
        above = ("tmp/../format.json", "tmp/", "tmp", "tmp/..", "../tmp/x", "/etc/passwd", "tmp/a/b", "")
        for name in ("format.json", name_of(HELLO_DIGEST), *above):
            with pytest.raises(ValueError, match="not the name of a leftover"):
                backend.store.remove_leftover(name)
        assert backend.names() == before

    def test_what_is_no_digest_never_becomes_a_name(self, backend: Backend) -> None:
        calls: list[Callable[[Digest], object]] = [backend.store.size, backend.store.delete]
        calls += [backend.store.local_path] if backend.store.is_local else []
        for digest in ("../../format.json", "ce", "", HELLO_DIGEST.upper(), HELLO_DIGEST + "\n"):
            for call in calls:
                with pytest.raises(ValueError, match="not a SHA-256 digest"):
                    call(Digest(digest))
        for generation in (-1, 10**9):
            with pytest.raises(ValueError, match="not a generation"):
                backend.store.put_bytes(HELLO, generation=generation)

    def test_an_id_is_given_once_and_kept(self, backend: Backend) -> None:
        assert backend.store.identify() is None
        backend.store.initialise("registry-one")
        backend.store.initialise("registry-one")
        assert json.loads(backend.read("format.json") or b"") == {"layout": 1, "store": "registry-one"}
        assert list(backend.store.leftovers()) == []
        with pytest.raises(StoreMismatchError, match="registry-one"):
            backend.reopen().initialise("registry-two")
        assert backend.store.identify() == backend.reopen().identify() == "registry-one"

    def test_an_unknown_or_damaged_format_is_refused(self, backend: Backend) -> None:
        for content in (
            b'{"layout":2,"store":"registry-one"}', b'{"layout":"1","store":"registry-one"}',
            b'{"layout":true,"store":"registry-one"}', b'{"layout":1}', b'{"layout":1,"store":"two words"}',
            b'{"layout":1,"store":"a","store":"b"}', b"[]", b"", b"\xff", b'{"layout":1,"st',
        ):  # fmt: skip
            backend.write("format.json", content)
            with pytest.raises(StoreMismatchError):
                backend.store.identify()
            with pytest.raises(StoreMismatchError):
                backend.store.initialise("registry-one")
            assert backend.read("format.json") == content

    def test_an_id_is_a_plain_word(self, backend: Backend) -> None:
        for store_id in ("", "two words", "../x", "a" * 129, 'a"b'):
            with pytest.raises(ValueError, match="not a store id"):
                backend.store.initialise(store_id)
        assert backend.names() == set()

    def test_of_many_first_users_one_names_the_store(self, backend: Backend) -> None:
        barrier = threading.Barrier(6)

        def claim(number: int) -> bool:
            store = backend.reopen()
            barrier.wait()
            try:
                store.initialise(f"registry-{number}")
            except StoreMismatchError:
                return False
            return True

        with ThreadPoolExecutor(6) as pool:
            winners = sum(pool.map(claim, range(6)))
        assert backend.reopen().identify() in {f"registry-{number}" for number in range(6)}
        assert winners == 1 or not backend.store.create_exclusive

    def test_the_url_names_no_secret_and_opens_the_same_store(self, backend: Backend) -> None:
        blob = backend.store.put_bytes(HELLO)
        assert "secret" not in backend.store.url
        assert backend.reopen().url == backend.store.url
        assert backend.reopen().size(blob.digest) == blob.size

    def test_document_is_replaced_as_a_whole(self, backend: Backend) -> None:
        assert backend.store.read_document("package.json") is None
        for data in (b"first, and longer", b"second", b"second"):
            backend.store.write_document("package.json", data)
            assert backend.reopen().read_document("package.json") == data
        assert backend.names() == {"package.json"}
        assert list(backend.store.blobs()) == []

    def test_a_document_has_a_plain_name_of_its_own(self, backend: Backend) -> None:
        for name in ("format.json", "../x.json", "blobs/x.json", "x", "", "X.json"):
            with pytest.raises(ValueError, match="not the name of a document"):
                backend.store.write_document(name, b"")
            with pytest.raises(ValueError, match="not the name of a document"):
                backend.store.read_document(name)

    def test_a_document_that_is_too_large_is_not_read(self, backend: Backend) -> None:
        backend.write("package.json", b" " * ((1 << 20) + 1))
        with pytest.raises(StorageError, match="too large"):
            backend.store.read_document("package.json")


_PARTS = os.urandom(1 << 20) * ((SMALL >> 20) + 3)
_FILES = {"model.bin": _PARTS, "README.md": b"hello", "a/b c/é.txt": b"deep", "empty": b""}


def check_tree(tree: RemoteTree, folder: Path) -> None:
    """Put files, read them back, exchange one, remove one."""
    assert dict(tree.sizes()) == {}
    entries = {name: _put(tree, folder, name, data) for name, data in _FILES.items()}
    assert dict(tree.sizes()) == {name: len(data) for name, data in _FILES.items()}
    assert all(tree.holds(entry) for entry in entries.values())
    assert tree.size("absent") is None and tree.size("empty") == 0

    other = _put(tree, folder, "README.md", b"HELLO")
    assert tree.holds(other) and not tree.holds(entries["README.md"])
    tree.remove("model.bin")
    tree.remove("model.bin")
    assert "model.bin" not in tree.sizes()

    with pytest.raises(StorageError):
        tree.put(file_with(folder, b"one thing", "liar"), FileEntry("liar", 9, digest_bytes(b"the other")))
    assert tree.size("liar") is None, "what is not as its entry says does not get there"


def _put(tree: RemoteTree, folder: Path, name: str, data: bytes) -> FileEntry:
    """Put a file with these bytes, and return its entry."""
    entry = FileEntry(name, len(data), digest_bytes(data))
    tree.put(file_with(folder, data), entry)
    return entry
