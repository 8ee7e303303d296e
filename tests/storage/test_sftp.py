"""The store on a real SFTP server: the contract, host keys, and connections that break."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from server_contract import ServerContract, kill_an_upload
from sftp_server import SftpBackend

from fusery.storage.errors import StoreDeniedError
from fusery.storage.locate import open_store
from fusery.storage.objects import PART
from fusery.storage.remote import SMALL
from fusery.testing.stores import HELLO, file_with, name_of

LARGE = os.urandom(1 << 20) * ((SMALL + 2 * PART >> 20) + 3)

pytestmark = pytest.mark.timing


@pytest.fixture
def backend(make_sftp: Callable[[], SftpBackend]) -> SftpBackend:
    return make_sftp()


class TestSftpStore(ServerContract):
    large, parts = LARGE, 3


def test_a_blob_is_read_only(backend: SftpBackend) -> None:
    blob = backend.store.put_bytes(HELLO)
    assert stat.S_IMODE((backend.root / name_of(blob.digest)).stat().st_mode) == 0o444


def test_killed_upload_leaves_a_part_file(backend: SftpBackend, tmp_path: Path) -> None:
    kill_an_upload(backend, file_with(tmp_path, LARGE))
    (leftover,) = backend.store.leftovers()
    assert leftover.name.startswith("tmp/") and leftover.size > 0
    assert backend.store.remove_leftover(leftover.name) == leftover.size
    assert backend.names() == set()


def test_a_part_file_that_was_swept_is_written_anew(backend: SftpBackend, tmp_path: Path) -> None:
    steps: list[int] = []

    def sweep(count: int) -> None:
        if not steps:
            for path in (backend.root / "tmp").iterdir():
                path.unlink()
            (backend.root / "tmp").rmdir()
        steps.append(count)

    blob = backend.store.put_file(file_with(tmp_path, LARGE), progress=sweep)
    assert sum(steps) > len(LARGE)  # some parts are sent again
    assert backend.names() == {name_of(blob.digest)}
    assert backend.read(name_of(blob.digest)) == LARGE


def test_a_connection_that_was_lost_is_made_again(backend: SftpBackend) -> None:
    blob = backend.store.put_bytes(HELLO)
    drop_connections(backend)
    assert backend.store.read_bytes(blob.digest, limit=100) == HELLO


def drop_connections(backend: SftpBackend) -> None:
    pool = backend.store._fs._pool  # type: ignore[attr-defined]
    transport = pool._live[0]._transport

    async def cut() -> None:
        transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    asyncio.run_coroutine_threadsafe(cut(), backend.store._fs.loop).result(120)  # type: ignore[attr-defined]


def test_a_host_with_another_key_is_refused(backend: SftpBackend, tmp_path: Path) -> None:
    stranger = (backend.server.folder / "stranger.pub").read_text().split()[:2]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{backend.server.port} {' '.join(stranger)}\n")
    with pytest.raises(StoreDeniedError):
        backend.reopen(known_hosts=str(known)).put_bytes(HELLO)
    assert backend.names() == set()


def test_unknown_host_is_refused(
    backend: SftpBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = backend.server.options()
    del options["known_hosts"]
    with pytest.raises(StoreDeniedError):
        open_store(backend.url, options=options).put_bytes(HELLO)


def test_a_user_without_a_key_is_refused(backend: SftpBackend) -> None:
    store = backend.reopen(client_keys=[str(backend.server.folder / "stranger")], agent_path=None)
    with pytest.raises(StoreDeniedError):
        store.put_bytes(HELLO)
