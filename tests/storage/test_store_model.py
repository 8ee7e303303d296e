"""A store against a dictionary: whatever is done to both, in any order, they agree."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from storage_backends import LocalBackend, MemoryBackend

from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.failures import AbsentBlobError, DigestMismatchError
from fusery.storage.interface import Blob
from fusery.storage.manifest import FileEntry
from fusery.testing.stores import Backend, name_of

# Few enough that the same bytes come again and again.
contents = st.sampled_from([b"", b"a", b"b", b"adapter" * 1000, bytes(range(256)), b"\x00" * 5000])
generations = st.sampled_from([0, 1, 12])


class StoreModel(RuleBasedStateMachine):
    backend: Backend

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fusery-model-"))
        self.backend = self.make_backend()
        self.blobs: dict[tuple[Digest, int], bytes] = {}
        self.damaged: dict[tuple[Digest, int], bytes] = {}
        self.quarantined = 0

    def make_backend(self) -> Backend:
        raise NotImplementedError

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def stored(self, key: tuple[Digest, int], data: bytes) -> None:
        if self.damaged.pop(key, None) is not None:
            self.quarantined += 1
        self.blobs[key] = data

    @rule(data=contents, generation=generations)
    def put_bytes(self, data: bytes, generation: int) -> None:
        blob = self.backend.store.put_bytes(data, generation=generation)
        assert blob == Blob(digest_bytes(data), len(data), generation)
        self.stored((blob.digest, generation), data)

    @rule(data=contents, generation=generations, told=st.booleans())
    def put_file(self, data: bytes, generation: int, told: bool) -> None:
        source = self.folder / "source"
        source.write_bytes(data)
        expected = FileEntry("x", len(data), digest_bytes(data)) if told else None
        self.backend.store.put_file(source, expected=expected, generation=generation)
        self.stored((digest_bytes(data), generation), data)

    @rule(data=contents, generation=generations)
    def read(self, data: bytes, generation: int) -> None:
        key, out, store = (digest_bytes(data), generation), self.folder / "out", self.backend.store
        out.unlink(missing_ok=True)
        if key in self.blobs:
            assert store.read_bytes(key[0], generation=generation, limit=1 << 20) == data
            assert store.fetch(key[0], out, generation=generation) == len(data)
            assert out.read_bytes() == data
            store.verify(key[0], len(data), generation=generation)
            return
        for attempt in (
            lambda: store.read_bytes(key[0], generation=generation, limit=1 << 20),
            lambda: store.fetch(key[0], out, generation=generation),
            lambda: store.verify(key[0], len(data), generation=generation),
        ):
            with pytest.raises(DigestMismatchError if key in self.damaged else AbsentBlobError):
                attempt()
        assert not out.exists()

    @rule(data=contents, generation=generations)
    def delete(self, data: bytes, generation: int) -> None:
        key = (digest_bytes(data), generation)
        there = self.blobs.pop(key, None)
        there = self.damaged.pop(key, there)
        assert self.backend.store.delete(key[0], generation=generation) == len(there or b"")

    @rule(data=contents, generation=generations)
    def quarantine(self, data: bytes, generation: int) -> None:
        key = (digest_bytes(data), generation)
        moved = self.backend.store.quarantine(key[0], generation=generation)
        assert (moved is not None) == (key in self.damaged)
        if self.damaged.pop(key, None) is not None:
            self.quarantined += 1

    @precondition(lambda self: self.blobs)
    @rule(choice=st.randoms(use_true_random=False), extra=st.booleans())
    def damage(self, choice: random.Random, extra: bool) -> None:
        key = choice.choice(sorted(self.blobs))
        data = self.blobs.pop(key)
        self.damaged[key] = data + b"?" if extra or not data else data[:-1] + bytes([data[-1] ^ 1])
        self.backend.write(name_of(*key), self.damaged[key])

    @rule()
    def reopen(self) -> None:
        self.backend.store = self.backend.reopen()

    @invariant()
    def the_listing_agrees(self) -> None:
        there = {**self.blobs, **self.damaged}
        assert {(b.digest, b.generation, b.size) for b in self.backend.store.blobs()} == {
            (digest, generation, len(data)) for (digest, generation), data in there.items()
        }

    @invariant()
    def the_bytes_agree(self) -> None:
        names = {name for name in self.backend.names() if name.startswith("blobs/")}
        there = {**self.blobs, **self.damaged}
        assert names == {name_of(*key) for key in there}
        assert all(self.backend.read(name_of(*key)) == data for key, data in there.items())

    @invariant()
    def nothing_is_lost_or_left(self) -> None:
        assert len(list(self.backend.store.quarantined())) == self.quarantined
        assert list(self.backend.store.leftovers()) == []


class LocalModel(StoreModel):
    def make_backend(self) -> Backend:
        return LocalBackend(self.folder / "store")


class MemoryModel(StoreModel):
    def make_backend(self) -> Backend:
        return MemoryBackend()

    def teardown(self) -> None:
        super().teardown()
        assert isinstance(self.backend, MemoryBackend)
        self.backend.clear()


TestLocalModel = LocalModel.TestCase
TestLocalModel.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
TestMemoryModel = MemoryModel.TestCase
TestMemoryModel.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["s3", "gcs", "azure", "sftp"])
def test_a_store_on_a_real_server_agrees_with_a_dictionary(kind: str, request: pytest.FixtureRequest) -> None:
    make: Callable[[], Backend] = request.getfixturevalue(f"make_{kind}")

    class ServerModel(StoreModel):
        def make_backend(self) -> Backend:
            return make()

    run_state_machine_as_test(
        ServerModel,
        settings=settings(max_examples=3, stateful_step_count=25, derandomize=True, deadline=None),
    )
