"""A real SFTP server for tests: OpenSSH's sshd where it is installed, else asyncssh's, in a process of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs import free_port, running_program
from storage_backends import FolderBackend

from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store


class SftpBackend(FolderBackend):
    def __init__(self, server: SftpServer) -> None:
        self.server = server
        self.root = server.folder / "data" / uuid.uuid4().hex
        self.url = f"sftp://127.0.0.1:{server.port}{self.root}"
        self.store = self.reopen()

    def reopen(self, **options: Any) -> BlobStore:
        return open_store(self.url, options={**self.server.options(), **options})


SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")

# Keys by the client's own library, so that no ssh-keygen is needed.
_KEYS = """
import asyncssh, sys
from pathlib import Path
folder = Path(sys.argv[1])
for name in ("host", "user", "stranger"):
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(folder / name)
    (folder / name).chmod(0o600)
    key.write_public_key(folder / f"{name}.pub")
"""

_SERVER = """
import asyncio, asyncssh, sys

async def serve(port, host_key, authorized):
    await asyncssh.listen(
        "127.0.0.1", port, server_host_keys=[host_key], authorized_client_keys=authorized, sftp_factory=True
    )
    await asyncio.Event().wait()

asyncio.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
"""


@dataclass(frozen=True, slots=True)
class SftpServer:
    name: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def options(self) -> dict[str, Any]:
        return {
            "username": getpass.getuser(),
            "client_keys": [str(self.folder / "user")],
            "known_hosts": str(self.folder / "known_hosts"),
            "config": [],
        }


@contextmanager
def running_server(folder: Path) -> Iterator[SftpServer]:
    subprocess.run([sys.executable, "-P", "-c", _KEYS, folder], check=True)
    (folder / "data").mkdir()
    port = free_port()
    host_key = (folder / "host.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
    command = _openssh(folder, port) if SSHD else _asyncssh(folder, port)
    with running_program(command, folder / "log", lambda: _greets(port)) as process:
        yield SftpServer("OpenSSH" if SSHD else "asyncssh", port, folder, process)


def _openssh(folder: Path, port: int) -> list[str]:
    assert SSHD is not None
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub", "PidFile": "none", "StrictModes": "no",
        "PasswordAuthentication": "no", "UsePAM": "no", "PermitRootLogin": "yes", "MaxStartups": "100",
        "Subsystem": "sftp internal-sftp",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    return [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]


def _asyncssh(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-P", "-c", _SERVER, str(port), str(folder / "host"), str(folder / "user.pub")]


def _greets(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
        return probe.recv(4) == b"SSH-"
