"""The store on a real S3 server: the contract, and what only an object store can do wrong."""

from __future__ import annotations

import os
import random
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fault_proxy import Fault, FaultProxy, always, fault_proxy, times
from s3_server import S3Backend
from server_contract import HttpContract

from fusery.storage import remote
from fusery.storage.copying import Staging
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import StorageError, StoreDeniedError, StoreUnavailableError
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.locate import open_store, open_tree
from fusery.storage.manifest import FileEntry
from fusery.storage.objects import AHEAD, PART
from fusery.storage.remote_calls import DEADLINE
from fusery.testing.stores import HELLO, file_with, name_of

MULTIPART = os.urandom(1 << 20) * ((PART >> 20) + 3)
MULTIPART_DIGEST = digest_bytes(MULTIPART)

pytestmark = pytest.mark.timing


@pytest.fixture
def backend(make_s3: Callable[[], S3Backend]) -> S3Backend:
    return make_s3()


@pytest.fixture
def proxy(backend: S3Backend) -> Iterator[FaultProxy]:
    with fault_proxy(backend.server.endpoint) as proxy:
        yield proxy


class TestS3Store(HttpContract):
    large = MULTIPART


def test_lost_reply_to_last_request_is_success(backend: S3Backend, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.rule = times(1, "POST", "uploadId=", Fault.LOST)
    blob = backend.at(proxy.endpoint).put_file(file_with(tmp_path, MULTIPART))
    assert blob.digest == MULTIPART_DIGEST
    assert backend.store.size(blob.digest) == len(MULTIPART)


def test_staged_copy_is_read_once(
    backend: S3Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Staging(tmp_path) as staging:
        staged = staging.copies({"a": file_with(tmp_path, MULTIPART)})["a"]
        # Hashed while it was copied and while it is sent, and not between.
        monkeypatch.setattr(remote, "pump", None)
        assert backend.store.put_staged(staged).digest == MULTIPART_DIGEST
    assert backend.read(name_of(MULTIPART_DIGEST)) == MULTIPART


def test_a_file_that_changes_while_it_is_sent_leaves_no_blob(backend: S3Backend, tmp_path: Path) -> None:
    # More parts than are read ahead.
    data = os.urandom(1 << 20) * ((AHEAD + 2) * (PART >> 20) + 3)
    source = file_with(tmp_path, data)

    def change(_count: int) -> None:
        with source.open("r+b") as file:
            file.seek(len(data) - 10)
            file.write(b"changed")

    with pytest.raises(StorageError):
        backend.store.put_file(source, progress=change)
    assert list(backend.store.blobs()) == []


@pytest.mark.parametrize("before", ["partNumber=2", "uploadId="])
def test_aborted_upload_begins_anew(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path, before: str
) -> None:
    method = "PUT" if before.startswith("part") else "POST"

    def abort(seen: str, path: str) -> None:
        if seen == method and before in path:
            proxy.rule = lambda _method, _path: None
            backend.abort_uploads()

    proxy.rule = abort
    assert backend.at(proxy.endpoint).put_file(file_with(tmp_path, MULTIPART)).digest == MULTIPART_DIGEST
    assert backend.read(name_of(MULTIPART_DIGEST)) == MULTIPART


def test_uploads_that_are_always_aborted_fail(backend: S3Backend, proxy: FaultProxy, tmp_path: Path) -> None:
    def abort(method: str, path: str) -> None:
        if method == "POST" and "uploadId=" in path:
            backend.abort_uploads()

    proxy.rule = abort
    with pytest.raises(StoreUnavailableError):
        backend.at(proxy.endpoint).put_file(file_with(tmp_path, MULTIPART))
    tree = open_tree(
        f"{backend.url}/tree", options=replace(backend.server, endpoint=proxy.endpoint).options()
    )
    with pytest.raises(StoreUnavailableError):
        tree.put(tmp_path / "source.bin", FileEntry("file.bin", len(MULTIPART), MULTIPART_DIGEST))


def test_a_transfer_needs_the_memory_of_some_parts(backend: S3Backend, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.touch()
    os.truncate(large, 16 * PART)
    tracemalloc.start()
    try:
        blob = backend.store.put_file(large)
        backend.store.fetch(blob.digest, tmp_path / "out.bin")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * PART, peak


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.ERROR_503, Fault.DROP, Fault.SHORT])
def test_a_read_survives_a_fault(backend: S3Backend, proxy: FaultProxy, tmp_path: Path, fault: Fault) -> None:
    blob = backend.store.put_bytes(HELLO)
    proxy.rule = times(2, "GET", "/blobs/", fault)
    store = backend.at(proxy.endpoint)
    assert store.fetch(blob.digest, tmp_path / "out.bin") == len(HELLO)
    assert (tmp_path / "out.bin").read_bytes() == HELLO


@pytest.mark.parametrize("fault", [Fault.ERROR_503, Fault.DROP, Fault.HANG])
def test_an_operation_that_is_never_answered_is_an_error(
    backend: S3Backend, proxy: FaultProxy, fault: Fault
) -> None:
    digest = backend.store.put_bytes(b"here before").digest
    proxy.rule = lambda _method, _path: fault
    store = backend.at(proxy.endpoint, 1.0)
    for operation in (
        lambda: store.put_bytes(HELLO),
        lambda: store.verify(digest, 11),
        lambda: list(store.blobs()),
        lambda: list(store.leftovers()),
        lambda: store.delete(digest),
        lambda: store.quarantine(digest),
        lambda: store.initialise("registry-one"),
        lambda: store.create_exclusive,
    ):
        with pytest.raises(StoreUnavailableError):
            operation()
    assert backend.read(name_of(digest_bytes(HELLO))) is None
    assert len(proxy.seen) < 200


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_refusal_in_the_middle_is_denied(backend: S3Backend, proxy: FaultProxy, method: str) -> None:
    blob = backend.store.put_bytes(HELLO)
    store = backend.at(proxy.endpoint)
    store.put_bytes(b"before")
    proxy.rule = always(method, "/blobs/", Fault.ERROR_403)
    with pytest.raises(StoreDeniedError):
        store.put_bytes(b"new") if method == "PUT" else store.read_bytes(blob.digest, limit=100)


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_credentials_are_said_so_without_repeating_them(backend: S3Backend, wrong: str) -> None:
    options = {**backend.server.options(), wrong: "not-to-be-shown"}
    store = open_store(backend.url, options=options)
    with pytest.raises(StoreDeniedError) as caught:
        store.put_bytes(HELLO)
    assert "not-to-be-shown" not in f"{caught.value} {caught.value.hint}"


def test_who_may_not_ask_for_the_bucket_may_still_ask_for_keys(backend: S3Backend, proxy: FaultProxy) -> None:
    proxy.rule = lambda _method, path: None if "/blobs/" in path else Fault.ERROR_403
    assert backend.at(proxy.endpoint).size(Digest("0" * 64)) is None


COUNT = 2_000 if os.environ.get("FUSERY_SOAK") else 100


class Chaos:
    def __init__(self) -> None:
        self.met: Counter[Fault] = Counter()
        self._random = random.Random(COUNT)
        self._reads = 0
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        with self._lock:
            dice, faults = self._random.random(), list[Fault]()
            is_read = method == "GET" and "/blobs/" in path
            self._reads += is_read
            if is_read and self._reads % 20 == 0:
                faults = [Fault.FLIP_ANYWHERE]
            elif dice < 0.05:
                faults = [Fault.ERROR_500, Fault.ERROR_503, Fault.LOST_500]
            elif dice < 0.07:
                faults = [Fault.DROP, Fault.LOST, Fault.SHORT]
            elif dice < 0.12:
                faults = [Fault.SLOW]
            fault = self._random.choice(faults) if faults else None
            if fault is not None:
                self.met[fault] += 1
            return fault


class Run:
    def __init__(self, store: BlobStore, folder: Path) -> None:
        self.store, self.folder, self.random = store, folder, random.Random(COUNT)
        self.there: dict[Blob, bytes] = {}
        self.maybe: set[str] = set()

    def step(self, number: int) -> None:
        if number == 0:
            self.write(PART + 1, 0)
        elif not self.there or self.random.random() < 0.3:
            self.write(self.random.randrange(1, 200_000), number % 3)
        else:
            do = self.random.choice([self.read, self.read, self.read, self.verify, self.listing, self.delete])
            do(self.random.choice(sorted(self.there)))

    def write(self, size: int, generation: int) -> None:
        data = self.random.randbytes(size)
        self.maybe.add(digest_bytes(data))
        blob = self.store.put_file(file_with(self.folder, data), generation=generation)
        assert blob == Blob(digest_bytes(data), size, generation)
        self.there[blob] = data

    def read(self, blob: Blob) -> None:
        out = self.folder / "out.bin"
        out.unlink(missing_ok=True)
        assert self.store.fetch(blob.digest, out, generation=blob.generation) == blob.size
        assert out.read_bytes() == self.there[blob]

    def verify(self, blob: Blob) -> None:
        self.store.verify(blob.digest, blob.size, generation=blob.generation)

    def delete(self, blob: Blob) -> None:
        del self.there[blob]
        # A reply that was lost makes the second try find nothing.
        assert self.store.delete(blob.digest, generation=blob.generation) in (0, blob.size)

    def listing(self, _: Blob) -> None:
        found = set(self.store.blobs())
        assert set(self.there) <= found
        assert {blob.digest for blob in found} <= self.maybe


def test_a_faulty_server_never_yields_wrong_data(make_s3: Callable[[], S3Backend], tmp_path: Path) -> None:
    chaos, backend, failed = Chaos(), make_s3(), 0
    with fault_proxy(backend.server.endpoint) as proxy:
        proxy.rule = chaos
        run = Run(backend.at(proxy.endpoint, DEADLINE), tmp_path)
        for number in range(COUNT):
            try:
                run.step(number)
            except StorageError:
                failed += 1
                assert not list(tmp_path.glob("*.part"))
    assert sum(chaos.met.values()) > COUNT // 20
    assert chaos.met[Fault.FLIP_ANYWHERE] > 0
    assert failed < COUNT // 4
    # What was acknowledged is there, nothing good was put aside, and what is there is what somebody wrote.
    for blob, data in run.there.items():
        assert backend.store.read_bytes(blob.digest, generation=blob.generation, limit=len(data)) == data
    assert list(backend.store.quarantined()) == []
    for blob in backend.store.blobs():
        backend.store.verify(blob.digest, blob.size, generation=blob.generation)
