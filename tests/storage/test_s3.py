"""The store on a real S3 server: the contract, and what only an object store can do wrong."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fault_proxy import Fault, FaultProxy, always, fault_proxy, times
from s3_backend import S3Backend
from server_contract import HttpContract, kill_an_upload

from fusery.storage import remote
from fusery.storage.backends.objects import AHEAD, PART
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import StorageError, StoreDeniedError, StoreUnavailableError
from fusery.storage.locate import open_store, open_tree
from fusery.storage.manifest import FileEntry
from fusery.storage.remote import SMALL
from fusery.storage.staging import Staging
from fusery.testing.stores import HELLO, file_with, name_of

MULTIPART = os.urandom(1 << 20) * ((SMALL >> 20) + 3)
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


def test_killed_upload_goes_on(backend: S3Backend, proxy: FaultProxy, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * (5 * (PART >> 20) + 3)
    source = file_with(tmp_path, data)
    kill_an_upload(backend, source)
    (leftover,) = backend.store.leftovers()
    assert leftover.name.startswith(f"upload:{name_of(digest_bytes(data))}:")
    assert leftover.age_seconds < 600
    steps: list[int] = []
    backend.at(proxy.endpoint).put_file(source, progress=steps.append)
    sent = [path for method, path in proxy.seen if method == "PUT" and "partNumber=" in path]
    assert 0 < len(sent) < 6
    assert sum(steps) == len(data)
    assert backend.read(name_of(digest_bytes(data))) == data
    assert list(backend.store.leftovers()) == []


def test_killed_upload_is_removed(
    backend: S3Backend, make_s3: Callable[[], S3Backend], tmp_path: Path
) -> None:
    kill_an_upload(backend, file_with(tmp_path, MULTIPART))
    assert list(make_s3().store.leftovers()) == []
    for leftover in backend.store.leftovers():
        backend.store.remove_leftover(leftover.name)
    assert list(backend.store.leftovers()) == []


def test_an_upload_that_another_writer_completes_is_success(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path
) -> None:
    # The other one takes the upload up when all parts but the last have arrived, and is quicker.
    source = file_with(tmp_path, MULTIPART)

    def overtake(method: str, path: str) -> None:
        if method == "POST" and "uploadId=" in path:
            proxy.rule = lambda _method, _path: None
            other.put_file(source)

    other = backend.reopen()
    proxy.rule = overtake
    steps: list[int] = []
    assert backend.at(proxy.endpoint).put_file(source, progress=steps.append).digest == MULTIPART_DIGEST
    assert sum(steps) == len(MULTIPART)
    assert backend.read(name_of(MULTIPART_DIGEST)) == MULTIPART
    assert list(backend.store.leftovers()) == []


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
        lambda: store.capabilities,
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
