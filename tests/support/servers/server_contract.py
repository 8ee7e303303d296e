"""What every store on a real server promises besides the contract of stores.

Import it as `from server_contract import HttpContract, ServerContract`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fault_proxy import Fault, always, fault_proxy, times
from programs import CONTEXT

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StoreUnavailableError
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.locate import open_store, open_tree
from fusery.storage.objects import AHEAD, PART
from fusery.storage.remote_calls import NoPlaceError
from fusery.testing.stores import HELLO, NOWHERE, Backend, StoreContract, check_tree, file_with, name_of

SOAK = bool(os.environ.get("FUSERY_SOAK"))
ROUNDS = 300 if SOAK else 3
SEED = random.randrange(1 << 32) if SOAK else 12


def contend(backend: Backend, url: str, options: dict[str, Any], folder: Path) -> None:
    """Let two live writers and often a third, which is killed, put one blob in each round; both must succeed."""
    chance = random.Random(SEED)
    stores = [backend.reopen() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for number in range(ROUNDS):
            data = chance.randbytes(1 << 16) + bytes(PART + chance.randrange(PART))
            path = folder / f"contended-{number}"
            path.write_bytes(data)
            wanted = Blob(digest_bytes(data), len(data))
            killed = _killed(url, options, path, chance) if chance.random() < 0.4 else None
            paces = [_pace(chance) for _ in stores]
            done = list(pool.map(_put, stores, [path] * len(stores), paces))
            if killed is not None:
                killed()
            assert done == [wanted, wanted], f"seed {SEED}, round {number}: {done}"
            assert backend.read(name_of(wanted.digest)) == data, f"seed {SEED}, round {number}: other bytes"
            assert not [name for name in backend.names() if name.startswith("quarantine/")]
            path.unlink()
            stores[0].delete(wanted.digest)


def _put(store: BlobStore, path: Path, pace: Callable[[int], None]) -> Blob:
    pace(0)
    return store.put_file(path, progress=pace)


def _pace(chance: random.Random) -> Callable[[int], None]:
    """Return how a writer waits before it begins and after each part: not at all, or for a while."""
    longest = chance.choice([0.0, 0.02, 0.3])
    waits = iter([chance.random() * longest for _ in range(20)])
    return lambda _count: time.sleep(next(waits, 0.0))


def _killed(url: str, options: dict[str, Any], path: Path, chance: random.Random) -> Callable[[], None]:
    """Start a writer that is killed, already or in a while; return what is to be called at the end."""
    process = CONTEXT.Process(target=_victim, args=(url, options, path, chance.random() * 0.5), daemon=True)
    process.start()
    if chance.random() < 0.5:
        process.join()
    return process.join


def _victim(url: str, options: dict[str, Any], path: Path, pause: float) -> None:
    """Put a file; the system kills this process some time after a part has arrived, or else at the end."""

    def wait(_count: int) -> None:
        time.sleep(pause)
        if pause < 0.25:
            os.kill(os.getpid(), 9)

    open_store(url, options=options).put_file(path, progress=wait)
    os.kill(os.getpid(), 9)


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
    """On any server."""

    large: ClassVar[bytes]
    """More than one request takes."""

    parts: ClassVar[int] = 2
    """How many requests it takes at least."""

    def test_the_backend_refuses_a_second_writer(self, backend: Any) -> None:
        assert backend.store.capabilities.create_exclusive
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

    def test_writers_of_one_large_blob_succeed_beside_killed_and_slow_ones(
        self, backend: Any, tmp_path: Path
    ) -> None:
        contend(backend, backend.url, backend.server.options(), tmp_path)

    def test_a_folder_of_named_files(self, backend: Any, tmp_path: Path) -> None:
        check_tree(open_tree(f"{backend.url}/tree", options=backend.server.options()), tmp_path)


class HttpContract(ServerContract):
    """On a server behind HTTP, which a proxy can make fail."""

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
            assert store.capabilities.create_exclusive
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
