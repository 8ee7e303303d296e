"""Real servers of stores: each is started once, where a test asks for a store on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import azure_server
import pytest
import s3_server
import sftp_server
from azure_server import AzureBackend
from fault_proxy import fault_proxy
from s3_server import GcsBackend, S3Backend, S3Server, file_system_of
from sftp_server import SftpBackend


def needed(program: object, package: str) -> None:
    pytest.importorskip(package)
    if program is None:
        pytest.skip(f"there is no server for {package} here: run `make test`")


@pytest.fixture(scope="session")
def make_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], S3Backend]]:
    needed(binary := s3_server.find_server(), "obstore")
    with (
        s3_server.running_server(str(binary), tmp_path_factory.mktemp("s3")) as server,
        closing(server.client()) as client,
    ):
        file_system = file_system_of(server)
        yield lambda: S3Backend(server, client, file_system)


@pytest.fixture(scope="session")
def make_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], GcsBackend]]:
    needed(binary := s3_server.find_server(), "obstore")
    with (
        s3_server.running_server(str(binary), tmp_path_factory.mktemp("gcs"), public=True) as server,
        closing(server.client()) as client,
        fault_proxy(server.endpoint) as proxy,
    ):
        proxy.google = True
        google = S3Server(proxy.endpoint, "gs")
        file_system = file_system_of(google)
        yield lambda: GcsBackend(google, client, file_system)


@pytest.fixture(scope="session")
def make_azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], AzureBackend]]:
    needed(command := azure_server.find_server(), "azure.storage.blob")
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


QUICK = (
    "test_the_backend_refuses_a_second_writer",
    "test_a_large_file_goes_up_in_parts_and_comes_back",
    "test_a_folder_of_named_files",
    "test_a_write_survives_a_fault",
    "test_a_fault_that_stays_is_an_error_and_leaves_nothing",
    "test_damaged_bytes_are_never_handed_out",
    "test_damaged_blob_is_replaced_and_kept",
    "test_quarantine_moves_a_damaged_blob",
    "test_delete_frees_the_bytes_once",
    "test_all_blobs_are_listed",
    "test_leftovers_are_listed_and_removed",
    "test_an_id_is_given_once_and_kept",
    "test_document_is_replaced_as_a_whole",
    "test_reading_is_bounded",
    "test_a_bucket_that_is_not_there_is_an_error",
)
"""Of the contract, what is quick on every server; all of it is quick on S3."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Make most of the contract slow on servers other than S3's."""
    on_server = item.path.stem in ("test_azure", "test_gcs", "test_sftp")
    name = getattr(item, "originalname", item.name)
    if on_server and getattr(item, "cls", None) and name not in QUICK:
        item.add_marker(pytest.mark.slow)
