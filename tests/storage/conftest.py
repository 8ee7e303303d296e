"""Real servers of stores: each is started once, where a test asks for a store on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import azure_server
import gcs_server
import pytest
import s3_server
import sftp_server
from azure_backend import AzureBackend
from gcs_backend import GcsBackend
from s3_backend import S3Backend, file_system_of
from sftp_backend import SftpBackend


def needed(program: object, package: str) -> None:
    """Skip where a server's program or the package of its client is missing."""
    pytest.importorskip(package)
    if program is None:
        pytest.skip(f"there is no server for {package} here: run `make test`")


@pytest.fixture(scope="session")
def make_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], S3Backend]]:
    """Stores on SeaweedFS."""
    needed(binary := s3_server.find_server(), "s3fs")
    with (
        s3_server.running_server(str(binary), tmp_path_factory.mktemp("s3")) as server,
        closing(server.client()) as client,
    ):
        file_system = file_system_of(server)
        yield lambda: S3Backend(server, client, file_system)


@pytest.fixture(scope="session")
def make_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], GcsBackend]]:
    """Stores on fake-gcs-server."""
    needed(binary := gcs_server.find_server(), "gcsfs")
    assert binary is not None
    with gcs_server.running_server(binary, tmp_path_factory.mktemp("gcs")) as server:
        yield lambda: GcsBackend(server)


@pytest.fixture(scope="session")
def make_azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], AzureBackend]]:
    """Stores on Azurite."""
    needed(command := azure_server.find_server(), "adlfs")
    assert command is not None
    with (
        azure_server.running_server(command, tmp_path_factory.mktemp("azure")) as server,
        server.client() as container,
    ):
        yield lambda: AzureBackend(server, container)


@pytest.fixture(scope="session")
def make_sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], SftpBackend]]:
    """Stores on OpenSSH, or on asyncssh where that is not installed."""
    needed("", "sshfs")
    with sftp_server.running_server(tmp_path_factory.mktemp("sftp")) as server:
        yield lambda: SftpBackend(server)
