"""Two real SFTP servers: the password for one is never sent to the other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile.arena import Arena
from programs import free_port, running_program

from fusery.registry.bundles.delivery import place_at
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.errors import StorageError

pytest.importorskip("sshfs")
pytestmark = pytest.mark.timing

_SERVER = """
import asyncio, asyncssh, sys
from pathlib import Path
folder = Path(sys.argv[1])
key = asyncssh.generate_private_key("ssh-ed25519")
host = f"[127.0.0.1]:{sys.argv[2]}".encode()
(folder / "known_hosts").write_bytes(host + b" " + key.export_public_key())

class Asking(asyncssh.SSHServer):
    def password_auth_supported(self):
        return True
    def validate_password(self, username, password):
        with (folder / "passwords").open("a") as file:
            file.write(password + "\\n")
        return True

async def serve():
    await asyncssh.create_server(Asking, "127.0.0.1", int(sys.argv[2]), server_host_keys=[key], sftp_factory=True)
    (folder / "ready").touch()
    await asyncio.Event().wait()

asyncio.run(serve())
"""
PASSWORD = "canary7f3a9d-sftp"


@dataclass(frozen=True, slots=True)
class Server:
    folder: Path
    port: int

    @property
    def received(self) -> set[str]:
        path = self.folder / "passwords"
        return set(path.read_text().splitlines()) if path.exists() else set()

    def url(self, name: str) -> str:
        return f"sftp://127.0.0.1:{self.port}{self.folder}/{name}"


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    folder.mkdir()
    port = free_port()
    command = [sys.executable, "-P", "-c", _SERVER, str(folder), str(port)]
    with running_program(command, folder / "log", (folder / "ready").exists):
        yield Server(folder, port)


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    with running(tmp_path / "ours") as ours, running(tmp_path / "theirs") as theirs:
        (tmp_path / ".ssh").mkdir()
        hosts = "".join((server.folder / "known_hosts").read_text() for server in (ours, theirs))
        (tmp_path / ".ssh" / "known_hosts").write_text(hosts)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("FUSERY_STORE_URL", ours.url("store"))
        monkeypatch.setenv("FUSERY_STORE_OPTIONS", json.dumps(options(PASSWORD)))
        yield ours, theirs


def options(password: str) -> dict[str, object]:
    return {"username": "ann", "password": password, "client_keys": None, "agent_path": None}


def test_backup_and_restore_send_a_password_to_its_server_only(
    arena: Arena, servers: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = servers
    home = tmp_path / "home"
    assert arena.fusery("admin", "init", home=home).code == 0
    assert ours.received == {PASSWORD}
    for words, place in (("backup", home), ("restore", tmp_path / "new")):
        ran = arena.fusery("admin", words, theirs.url("saved"), home=place)
        assert ran.code == 2 and "refused permission" in ran.err, ran
        assert PASSWORD not in ran.out + ran.err
    assert theirs.received == set()
    assert arena.fusery("admin", "backup", ours.url("saved"), home=home).code == 0
    monkeypatch.setenv("FUSERY_OTHER_STORE_OPTIONS", json.dumps(options("for-them")))
    assert arena.fusery("admin", "backup", theirs.url("saved"), home=home).code == 0
    assert theirs.received == {"for-them"}


def test_bundle_sends_no_password(servers: tuple[Server, Server], tmp_path: Path) -> None:
    ours, theirs = servers
    settings = Settings(
        home=tmp_path / "home", store_url=ours.url("store"), store_options=options(PASSWORD), cache_dir=None
    )
    place_at(Workspace(settings), ours.url("bundle")).require_free(force=False)
    assert ours.received == {PASSWORD}
    with pytest.raises(StorageError):
        place_at(Workspace(settings), theirs.url("bundle")).require_free(force=False)
    assert theirs.received == set()
