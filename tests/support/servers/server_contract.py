"""What every store on a real server promises besides the contract of stores.

Import it as `from server_contract import HttpContract, ServerContract`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fault_proxy import Fault, always, fault_proxy, times

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StoreUnavailableError
from fusery.storage.interface import Blob
from fusery.storage.locate import open_store, open_tree
from fusery.storage.objects import AHEAD, PART
from fusery.storage.remote_calls import NoPlaceError
from fusery.testing.stores import HELLO, NOWHERE, StoreContract, check_tree, file_with, name_of

_UPLOADER = """
import json, os, signal, sys
from pathlib import Path
from fusery.storage.locate import open_store

store = open_store(sys.argv[1], options=json.loads(sys.argv[2]))
store.put_file(Path(sys.argv[3]), progress=lambda count: os.kill(os.getpid(), signal.SIGKILL))
"""


def kill_an_upload(backend: Any, source: Path) -> None:
    """Upload a file in another process, which is killed when its first part has arrived."""
    options = json.dumps(backend.server.options())
    command = [sys.executable, "-P", "-c", _UPLOADER, backend.url, options, str(source)]
    assert subprocess.run(command, check=False).returncode == -9
    assert list(backend.store.blobs()) == []


class ServerContract(StoreContract):
    large: ClassVar[bytes]
    """More than one request takes."""

    parts: ClassVar[int] = 2
    """How many requests it takes at least."""

    def test_the_backend_refuses_a_second_writer(self, backend: Any) -> None:
        assert backend.store.create_exclusive
        assert backend.names() == set()

    def test_a_large_file_goes_up_in_parts_and_comes_back(self, backend: Any, tmp_path: Path) -> None:
        steps: list[int] = []
        blob = backend.store.put_file(file_with(tmp_path, self.large), progress=steps.append)
        assert blob == Blob(digest_bytes(self.large), len(self.large))
        assert len(steps) >= self.parts and sum(steps) == len(self.large)
        assert backend.store.fetch(blob.digest, tmp_path / "out.bin") == len(self.large)
        assert (tmp_path / "out.bin").read_bytes() == self.large
        assert backend.names() == {name_of(blob.digest)}
        assert list(backend.store.leftovers()) == []

    def test_writers_of_one_large_blob_succeed(self, backend: Any, tmp_path: Path) -> None:
        source = file_with(tmp_path, self.large)
        with ThreadPoolExecutor(2) as pool:
            blobs = set(pool.map(lambda store: store.put_file(source), [backend.reopen(), backend.reopen()]))
        assert blobs == {Blob(digest_bytes(self.large), len(self.large))}
        assert backend.names() == {name_of(digest_bytes(self.large))}

    def test_a_folder_of_named_files(self, backend: Any, tmp_path: Path) -> None:
        check_tree(open_tree(f"{backend.url}/tree", options=backend.server.options()), tmp_path)


class HttpContract(ServerContract):
    write: ClassVar[tuple[str, str]] = ("PUT", "/blobs/")
    """The method of a request that writes a blob, and a part of its path."""

    read: ClassVar[tuple[str, str]] = ("GET", "/blobs/")
    missing: ClassVar[str] = ""
    """The URL of a store in a bucket that is not there."""

    def test_a_killed_upload_is_invisible_and_begins_anew(self, backend: Any, tmp_path: Path) -> None:
        data = os.urandom(1 << 20) * ((2 * AHEAD + 1) * (PART >> 20))
        source = file_with(tmp_path, data)
        kill_an_upload(backend, source)
        backend.store.put_file(source)
        assert backend.read(name_of(digest_bytes(data))) == data

    @pytest.mark.parametrize(
        "fault", [Fault.ERROR_500, Fault.ERROR_503, Fault.DROP, Fault.LOST, Fault.LOST_500]
    )
    def test_a_write_survives_a_fault(self, backend: Any, fault: Fault) -> None:
        with fault_proxy(backend.server.endpoint) as proxy:
            store = backend.at(proxy.endpoint)
            assert store.create_exclusive
            proxy.rule = times(2, *self.write, fault)
            blob = store.put_bytes(HELLO)
        assert backend.read(name_of(blob.digest)) == HELLO
        assert not [name for name in backend.names() if name.startswith("quarantine/")]

    @pytest.mark.parametrize("fault", [Fault.ERROR_503, Fault.DROP, Fault.HANG])
    def test_a_fault_that_stays_is_an_error_and_leaves_nothing(
        self, backend: Any, tmp_path: Path, fault: Fault, capfd: pytest.CaptureFixture[str]
    ) -> None:
        blob = backend.store.put_bytes(HELLO)
        with fault_proxy(backend.server.endpoint) as proxy:
            proxy.rule = always(*self.read, fault)
            with pytest.raises(StoreUnavailableError):
                backend.at(proxy.endpoint, 1.5).fetch(blob.digest, tmp_path / "out.bin")
            assert len(proxy.seen) < 40
        assert list(tmp_path.iterdir()) == []
        assert capfd.readouterr() == ("", "")

    def test_a_bucket_that_is_not_there_is_an_error(self, backend: Any, tmp_path: Path) -> None:
        source = file_with(tmp_path, self.large)
        with fault_proxy(backend.server.endpoint) as proxy:
            if not self.missing:  # SeaweedFS makes a bucket that is missing; this is what AWS answers.
                proxy.rule = lambda _method, _path: Fault.NO_BUCKET
                store = backend.at(proxy.endpoint)
            else:
                store = open_store(self.missing, options=backend.server.options())
            for attempt in (
                lambda: store.put_bytes(HELLO),
                lambda: store.put_file(source),
                lambda: store.size(NOWHERE),
                lambda: list(store.blobs()),
                store.identify,
            ):
                with pytest.raises(NoPlaceError):
                    attempt()
