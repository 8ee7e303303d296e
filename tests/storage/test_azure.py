"""The store on Azurite: the contract, and uploads in blocks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure_backend import AzureBackend
from azure_server import KEY, AzureServer, find_server, running_server
from contending_writers import ROUNDS, SEED, contend
from fault_proxy import Fault, always, fault_proxy, times

from fusery.storage.backends.objects import AHEAD, PART
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StoreDeniedError, StoreUnavailableError
from fusery.storage.interface import Blob
from fusery.storage.locate import open_store, open_tree
from fusery.testing.stores import HELLO, StoreContract, file_with, name_of
from fusery.testing.trees import check_tree

COMMAND = find_server()
LARGE = os.urandom(1 << 20) * ((AHEAD + 1) * (PART >> 20) + 3)

pytestmark = [
    pytest.mark.skipif(
        COMMAND is None, reason="no Azurite: `make test` fetches it; needs npm and the network once"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("adlfs") is None, reason="no adlfs: pip install 'fusery[azure]'"
    ),
    # adlfs leaves the session of its HTTP client to the collector of garbage.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    assert COMMAND is not None
    with running_server(COMMAND, tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(scope="module")
def container(server: AzureServer) -> Iterator[Any]:
    with server.client() as client:
        yield client


@pytest.fixture
def backend(server: AzureServer, container: Any) -> AzureBackend:
    return AzureBackend(server, container)


class TestAzureStore(StoreContract):
    pass


def test_the_backend_refuses_a_second_writer(backend: AzureBackend) -> None:
    assert backend.store.capabilities.create_exclusive
    assert backend.names() == set()


def test_a_large_file_goes_up_in_blocks_and_comes_back(backend: AzureBackend, tmp_path: Path) -> None:
    steps: list[int] = []
    blob = backend.store.put_file(file_with(tmp_path, LARGE), progress=steps.append)
    assert blob == Blob(digest_bytes(LARGE), len(LARGE))
    assert len(steps) == AHEAD + 2 and sum(steps) == len(LARGE)
    assert backend.store.fetch(blob.digest, tmp_path / "out.bin") == len(LARGE)
    assert (tmp_path / "out.bin").read_bytes() == LARGE
    assert backend.names() == {name_of(blob.digest)}


def test_two_writers_of_one_large_blob_both_succeed(backend: AzureBackend, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    source = file_with(tmp_path, LARGE)
    with ThreadPoolExecutor(2) as pool:
        blobs = set(pool.map(lambda _: backend.reopen().put_file(source), range(2)))
    assert blobs == {Blob(digest_bytes(LARGE), len(LARGE))}
    assert backend.read(name_of(digest_bytes(LARGE))) == LARGE


def test_writers_of_one_large_blob_succeed_beside_killed_and_slow_ones(
    backend: AzureBackend, tmp_path: Path
) -> None:
    contend(backend, backend.url, backend.server.options(), tmp_path, rounds=ROUNDS, seed=SEED)


def test_blocks_that_somebody_dropped_are_sent_again(backend: AzureBackend, tmp_path: Path) -> None:
    # Committing a blob drops all blocks that are not in it, and deleting it those that are.
    source = file_with(tmp_path, os.urandom(1 << 20) * ((PART >> 20) + 3))
    other = backend.reopen()
    with fault_proxy(backend.server.endpoint) as proxy:

        def overtake(method: str, path: str) -> None:
            if method == "PUT" and "comp=blocklist" in path:
                proxy.rule = lambda _method, _path: None
                other.delete(other.put_file(source).digest)

        store = backend.at(proxy.endpoint)
        assert store.capabilities.create_exclusive
        proxy.rule = overtake
        steps: list[int] = []
        blob = store.put_file(source, progress=steps.append)
    assert sum(steps) == blob.size
    assert backend.read(name_of(blob.digest)) == source.read_bytes()


UPLOADER = """
import json, os, signal, sys
from pathlib import Path
from fusery.storage.locate import open_store, open_tree

store = open_store(sys.argv[1], options=json.loads(sys.argv[2]))
store.put_file(Path(sys.argv[3]), progress=lambda count: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_blocks_of_an_upload_that_was_killed_are_not_sent_again(
    backend: AzureBackend, tmp_path: Path
) -> None:
    source = file_with(tmp_path, LARGE)
    options = json.dumps(backend.server.options())
    command = [sys.executable, "-P", "-c", UPLOADER, backend.url, options, str(source)]
    assert subprocess.run(command, check=False).returncode == -9
    assert list(backend.store.blobs()) == []
    with fault_proxy(backend.server.endpoint) as proxy:
        backend.at(proxy.endpoint).put_file(source)
        sent = [path for method, path in proxy.seen if method == "PUT" and "comp=block&" in f"{path}&"]
    assert 0 < len(sent) < AHEAD + 2
    assert backend.read(name_of(digest_bytes(LARGE))) == LARGE


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.ERROR_503, Fault.DROP, Fault.LOST, Fault.LOST_500])
def test_a_write_survives_a_fault(backend: AzureBackend, fault: Fault) -> None:
    with fault_proxy(backend.server.endpoint) as proxy:
        store = backend.at(proxy.endpoint)
        proxy.rule = times(2, "PUT", "/blobs/", fault)
        blob = store.put_bytes(HELLO)
    assert backend.read(name_of(blob.digest)) == HELLO


@pytest.mark.parametrize("fault", [Fault.ERROR_503, Fault.DROP, Fault.HANG])
def test_a_fault_that_stays_is_an_error(backend: AzureBackend, fault: Fault) -> None:
    blob = backend.store.put_bytes(HELLO)
    with fault_proxy(backend.server.endpoint) as proxy:
        proxy.rule = always("GET", "/blobs/", fault)
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            backend.at(proxy.endpoint, 1.5).read_bytes(blob.digest, limit=100)
        assert len(proxy.seen) < 20


def test_a_wrong_key_is_denied_without_repeating_it(backend: AzureBackend) -> None:
    wrong = "c2VjcmV0LWNhbmFyeS1rZXk="
    options = {"connection_string": str(backend.server.options()["connection_string"]).replace(KEY, wrong)}
    with pytest.raises(StoreDeniedError, match="refused permission") as caught:
        open_store(backend.url, options=options).put_bytes(HELLO)
    assert wrong not in f"{caught.value} {caught.value.hint}"


def test_a_container_that_is_not_there_is_an_error(backend: AzureBackend, tmp_path: Path) -> None:
    store = open_store("az://no-such-container/x", options=backend.server.options())
    source = file_with(tmp_path, bytes(PART + 1))
    for attempt in (
        lambda: store.put_bytes(HELLO),
        lambda: store.put_file(source),
        lambda: store.size(digest_bytes(HELLO)),
        lambda: list(store.blobs()),
        store.identify,
    ):
        with pytest.raises(StoreUnavailableError, match="has no such container"):
            attempt()


def test_a_folder_of_named_files(backend: AzureBackend, tmp_path: Path) -> None:
    check_tree(open_tree(f"{backend.url}/tree", options=backend.server.options()), tmp_path)
