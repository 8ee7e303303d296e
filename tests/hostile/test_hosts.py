"""Whose password goes where: two real SFTP servers, of which the user has a password for one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile.stage import CANARY, Stage
from programs import free_port

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
PASSWORD = f"{CANARY}-sftp"


@dataclass(frozen=True, slots=True)
class Server:
    folder: Path
    port: int

    @property
    def told(self) -> list[str]:
        path = self.folder / "passwords"
        return path.read_text().splitlines() if path.exists() else []

    def url(self, name: str) -> str:
        return f"sftp://127.0.0.1:{self.port}{self.folder}/{name}"


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    folder.mkdir()
    port = free_port()
    with subprocess.Popen([sys.executable, "-P", "-c", _SERVER, folder, str(port)]) as process:
        try:
            give_up = time.monotonic() + 240
            while not (folder / "ready").exists():
                assert process.poll() is None and time.monotonic() < give_up, "no SFTP server"
                time.sleep(0.05)
            yield Server(folder, port)
        finally:
            process.kill()


@pytest.fixture
def servers(stage: Stage) -> Iterator[tuple[Server, Server]]:
    with running(stage.folder / "ours") as ours, running(stage.folder / "theirs") as theirs:
        stage.allowed |= {ours.port, theirs.port}
        hosts = "".join((one.folder / "known_hosts").read_text() for one in (ours, theirs))
        (stage.folder / ".ssh").mkdir()
        (stage.folder / ".ssh" / "known_hosts").write_text(hosts)
        stage.environment["FUSERY_STORE_URL"] = ours.url("store")
        stage.environment["FUSERY_STORE_OPTIONS"] = json.dumps(options(PASSWORD))
        yield ours, theirs


def options(password: str) -> dict[str, object]:
    return {"username": "ann", "password": password, "client_keys": None, "agent_path": None}


@pytest.mark.parametrize("words", ["backup", "restore"])
def test_password_goes_to_its_server(stage: Stage, servers: tuple[Server, Server], words: str) -> None:
    ours, theirs = servers
    home = stage.folder / "far"
    assert stage.command("admin", "init", home=home).code == 0
    assert set(ours.told) == {PASSWORD}
    ran = stage.command(words, theirs.url("saved"), home=home)
    assert ran.code == 2, ran
    assert theirs.told == []
    assert CANARY not in ran.out + ran.err
    # The same server by the same name, and another one with what the user says is for it.
    if words == "backup":
        ran = stage.command("admin", "backup", ours.url("saved"), home=home)
        assert ran.code == 0, ran
        stage.environment["FUSERY_OTHER_STORE_OPTIONS"] = json.dumps(options("for-them"))
        ran = stage.command("admin", "backup", theirs.url("saved"), home=home)
        assert ran.code == 0, ran
        assert set(theirs.told) == {"for-them"}


def test_bundle_sends_no_password(
    stage: Stage, servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = servers
    settings = Settings(
        home=stage.home, store_url=ours.url("store"), store_options=options(PASSWORD), cache_dir=None
    )
    monkeypatch.setenv("HOME", str(stage.folder))
    place_at(Workspace(settings), ours.url("bundle")).require_free(force=False)
    assert ours.told == [PASSWORD]
    with pytest.raises(StorageError):
        place_at(Workspace(settings), theirs.url("bundle")).require_free(force=False)
    assert theirs.told == []
