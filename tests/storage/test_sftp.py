"""The store on a real SFTP server: the contract, host keys, and connections that break."""

from __future__ import annotations

import importlib.util
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from contending_writers import ROUNDS, SEED, contend
from sftp_backend import SftpBackend
from sftp_server import SftpServer, running_server

from fusery.storage.backends.objects import PART
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StorageError, StoreDeniedError, StoreUnavailableError
from fusery.storage.interface import Blob
from fusery.storage.locate import open_store, open_tree
from fusery.storage.manifest import FileEntry
from fusery.storage.remote import SMALL
from fusery.testing.stores import HELLO, StoreContract, file_with, name_of
from fusery.testing.trees import check_tree

LARGE = os.urandom(1 << 20) * ((SMALL + 2 * PART >> 20) + 3)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sshfs") is None, reason="no sshfs: pip install 'fusery[sftp]'"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    with running_server(tmp_path_factory.mktemp("sftp")) as server:
        sys.stderr.write(f"\nSFTP server: {server.name}\n")
        yield server


@pytest.fixture
def backend(server: SftpServer) -> SftpBackend:
    return SftpBackend(server)


class TestSftpStore(StoreContract):
    pass


def test_the_backend_refuses_a_second_writer(backend: SftpBackend) -> None:
    assert backend.store.capabilities.create_exclusive
    assert backend.names() == set()


def test_it_says_that_an_interrupted_upload_begins_anew(backend: SftpBackend) -> None:
    assert backend.store.capabilities.interruption == "an interrupted upload begins anew"


def test_a_large_file_goes_up_in_parts_and_comes_back(backend: SftpBackend, tmp_path: Path) -> None:
    steps: list[int] = []
    blob = backend.store.put_file(file_with(tmp_path, LARGE), progress=steps.append)
    assert blob == Blob(digest_bytes(LARGE), len(LARGE))
    assert len(steps) > 2 and sum(steps) == len(LARGE)
    assert backend.store.fetch(blob.digest, tmp_path / "out.bin") == len(LARGE)
    assert (tmp_path / "out.bin").read_bytes() == LARGE
    assert backend.names() == {name_of(blob.digest)}


def test_a_blob_is_read_only(backend: SftpBackend) -> None:
    blob = backend.store.put_bytes(HELLO)
    assert stat.S_IMODE((backend.root / name_of(blob.digest)).stat().st_mode) == 0o444


def test_an_upload_that_is_killed_leaves_a_part_file_and_no_blob(
    backend: SftpBackend, tmp_path: Path
) -> None:
    code = (
        "import json, os, signal, sys\nfrom pathlib import Path\nfrom fusery.storage.locate import open_store, open_tree\n"
        "store = open_store(sys.argv[1], options=json.loads(sys.argv[2]))\n"
        "store.put_file(Path(sys.argv[3]), progress=lambda count: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    import json

    source = file_with(tmp_path, LARGE)
    command = [sys.executable, "-P", "-c", code, backend.url, json.dumps(backend.server.options()), source]
    assert subprocess.run(command, check=False).returncode == -9
    assert list(backend.store.blobs()) == []
    (leftover,) = backend.store.leftovers()
    assert leftover.name.startswith("tmp/") and leftover.size > 0
    assert backend.store.remove_leftover(leftover.name) == leftover.size
    assert backend.names() == set()


def test_writers_of_one_large_blob_succeed_beside_killed_and_slow_ones(
    backend: SftpBackend, tmp_path: Path
) -> None:
    contend(backend, backend.url, backend.server.options(), tmp_path, rounds=ROUNDS, seed=SEED)


def test_a_part_file_that_was_swept_is_written_anew(backend: SftpBackend, tmp_path: Path) -> None:
    steps: list[int] = []

    def sweep(count: int) -> None:
        if not steps:
            for path in (backend.root / "tmp").iterdir():
                path.unlink()
            (backend.root / "tmp").rmdir()
        steps.append(count)

    blob = backend.store.put_file(file_with(tmp_path, LARGE), progress=sweep)
    assert sum(steps) == len(LARGE)
    assert backend.names() == {name_of(blob.digest)}
    assert backend.read(name_of(blob.digest)) == LARGE


def test_part_files_that_are_always_swept_are_said_so(backend: SftpBackend, tmp_path: Path) -> None:
    data = LARGE[: SMALL + (3 << 20)]  # two parts are enough, and are sent again and again
    gone = open_tree(f"{backend.url}/tree", options=backend.server.options())
    entry = FileEntry("file.bin", len(data), digest_bytes(data))

    def sweep(_count: int) -> None:
        for path in backend.root.rglob("*.part"):
            path.unlink()

    with pytest.raises(StoreUnavailableError, match="are aborted before they are complete"):
        gone.put(file_with(tmp_path, data), entry, progress=sweep)


def test_a_connection_that_was_lost_is_made_again(server: SftpServer, tmp_path: Path) -> None:
    backend = SftpBackend(server)
    blob = backend.store.put_bytes(HELLO)
    drop_connections(backend)
    assert backend.store.read_bytes(blob.digest, limit=100) == HELLO


def drop_connections(backend: SftpBackend) -> None:
    """Cut the store's connection from below: the socket itself is shut."""
    import asyncio
    import socket

    pool = backend.store._fs._pool  # type: ignore[attr-defined]
    transport = pool._live[0]._transport

    async def cut() -> None:
        transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    asyncio.run_coroutine_threadsafe(cut(), backend.store._fs.loop).result(10)  # type: ignore[attr-defined]


def test_a_host_with_another_key_is_refused(backend: SftpBackend, tmp_path: Path) -> None:
    stranger = (backend.server.folder / "stranger.pub").read_text().split()[:2]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{backend.server.port} {' '.join(stranger)}\n")
    with pytest.raises(StoreDeniedError, match="HostKeyNotVerifiable"):
        backend.reopen(known_hosts=str(known)).put_bytes(HELLO)
    assert backend.names() == set()


def test_a_host_nobody_knows_is_refused_by_default(
    backend: SftpBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = backend.server.options()
    del options["known_hosts"]
    with pytest.raises(StoreDeniedError, match="HostKeyNotVerifiable"):
        open_store(backend.url, options=options).put_bytes(HELLO)


def test_a_user_without_a_key_is_refused(backend: SftpBackend) -> None:
    store = backend.reopen(client_keys=[str(backend.server.folder / "stranger")], agent_path=None)
    with pytest.raises(StoreDeniedError, match="refused permission"):
        store.put_bytes(HELLO)


def test_a_server_that_is_not_there_is_an_error(backend: SftpBackend) -> None:
    store = open_store("sftp://127.0.0.1:9/srv/fusery", options=backend.server.options())
    store._objects.calls.deadline = 1.0  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        store.identify()


def test_a_folder_that_may_not_be_written_is_said_so(backend: SftpBackend) -> None:
    store = open_store(
        f"sftp://127.0.0.1:{backend.server.port}/proc/fusery", options=backend.server.options()
    )
    with pytest.raises(StorageError):
        store.put_bytes(HELLO)


def test_a_folder_of_named_files(backend: SftpBackend, tmp_path: Path) -> None:
    check_tree(open_tree(f"{backend.url}/tree", options=backend.server.options()), tmp_path)
