"""The store on a Google Cloud Storage server: the contract, and uploads in chunks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_proxy import Fault, always, fault_proxy
from gcs_server import GcsBackend
from server_contract import HttpContract

from fusery.storage.backends import PART
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StoreDeniedError
from fusery.testing.stores import HELLO, file_with, name_of

LARGE = os.urandom(1 << 20) * (2 * (PART >> 20) + 3)

pytestmark = [
    pytest.mark.timing,
    # gcsfs leaves the session of its HTTP client to the collector of garbage.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def backend(make_gcs: Callable[[], GcsBackend]) -> GcsBackend:
    return make_gcs()


class TestGcsStore(HttpContract):
    large, parts, missing = LARGE, 3, "gs://no-such-bucket/x"
    write, read = ("POST", "/upload/"), ("GET", "/o/")


@pytest.mark.parametrize("status", [404, 410])
def test_a_session_that_has_ended_is_begun_anew(backend: GcsBackend, tmp_path: Path, status: int) -> None:
    source = file_with(tmp_path, LARGE)
    with fault_proxy(backend.server.endpoint) as proxy:
        store = backend.at(proxy.endpoint)
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
    assert sum(steps) >= len(LARGE) and len(sent) > 3
    assert backend.read(name_of(blob.digest)) == LARGE


def test_a_refusal_is_denied(backend: GcsBackend) -> None:
    with fault_proxy(backend.server.endpoint) as proxy:
        proxy.rule = always("GET", "/o/", Fault.ERROR_403)
        with pytest.raises(StoreDeniedError):
            backend.at(proxy.endpoint).size(digest_bytes(HELLO))
