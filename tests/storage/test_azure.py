"""The store on Azurite: the contract, and uploads in blocks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from azure_server import KEY, AzureBackend
from fault_proxy import fault_proxy
from server_contract import HttpContract

from fusery.storage.errors import StoreDeniedError
from fusery.storage.locate import open_store
from fusery.storage.objects import AHEAD, PART
from fusery.testing.stores import HELLO, file_with, name_of

LARGE = os.urandom(1 << 20) * ((AHEAD + 1) * (PART >> 20) + 3)

pytestmark = [
    pytest.mark.timing,
]


@pytest.fixture
def backend(make_azure: Callable[[], AzureBackend]) -> AzureBackend:
    return make_azure()


class TestAzureStore(HttpContract):
    large, parts, missing = LARGE, AHEAD + 2, "az://no-such-container/x"


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
        assert store.create_exclusive
        proxy.rule = overtake
        steps: list[int] = []
        blob = store.put_file(source, progress=steps.append)
    assert sum(steps) == blob.size
    assert backend.read(name_of(blob.digest)) == source.read_bytes()


def test_a_wrong_key_is_denied_without_repeating_it(backend: AzureBackend) -> None:
    wrong = "c2VjcmV0LWNhbmFyeS1rZXk="
    options = {"connection_string": str(backend.server.options()["connection_string"]).replace(KEY, wrong)}
    with pytest.raises(StoreDeniedError) as caught:
        open_store(backend.url, options=options).put_bytes(HELLO)
    assert wrong not in f"{caught.value} {caught.value.hint}"
