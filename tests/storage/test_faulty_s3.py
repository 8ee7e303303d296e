"""A store whose S3 server is in trouble: never wrong data, and every operation succeeds or is an error."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_proxy import Fault, fault_proxy
from s3_backend import S3Backend

from fusery.storage.backends.objects import PART
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StorageError
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.remote_calls import DEADLINE
from fusery.testing.stores import file_with

pytestmark = pytest.mark.timing

COUNT = 2_000 if os.environ.get("FUSERY_SOAK") else 100


class Chaos:
    def __init__(self) -> None:
        self.met: Counter[Fault] = Counter()
        self._random = random.Random(COUNT)
        self._reads = 0
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        with self._lock:
            dice, faults = self._random.random(), list[Fault]()
            is_read = method == "GET" and "/blobs/" in path
            self._reads += is_read
            if is_read and self._reads % 20 == 0:
                faults = [Fault.FLIP_ANYWHERE]
            elif dice < 0.05:
                faults = [Fault.ERROR_500, Fault.ERROR_503, Fault.LOST_500]
            elif dice < 0.07:
                faults = [Fault.DROP, Fault.LOST, Fault.SHORT]
            elif dice < 0.12:
                faults = [Fault.SLOW]
            fault = self._random.choice(faults) if faults else None
            if fault is not None:
                self.met[fault] += 1
            return fault


class Run:
    def __init__(self, store: BlobStore, folder: Path) -> None:
        self.store, self.folder, self.random = store, folder, random.Random(COUNT)
        self.there: dict[Blob, bytes] = {}
        self.maybe: set[str] = set()

    def step(self, number: int) -> None:
        if number == 0:
            self.write(PART + 1, 0)
        elif not self.there or self.random.random() < 0.3:
            self.write(self.random.randrange(1, 200_000), number % 3)
        else:
            do = self.random.choice([self.read, self.read, self.read, self.verify, self.listing, self.delete])
            do(self.random.choice(sorted(self.there)))

    def write(self, size: int, generation: int) -> None:
        data = self.random.randbytes(size)
        self.maybe.add(digest_bytes(data))
        blob = self.store.put_file(file_with(self.folder, data), generation=generation)
        assert blob == Blob(digest_bytes(data), size, generation)
        self.there[blob] = data

    def read(self, blob: Blob) -> None:
        out = self.folder / "out.bin"
        out.unlink(missing_ok=True)
        assert self.store.fetch(blob.digest, out, generation=blob.generation) == blob.size
        assert out.read_bytes() == self.there[blob]

    def verify(self, blob: Blob) -> None:
        self.store.verify(blob.digest, blob.size, generation=blob.generation)

    def delete(self, blob: Blob) -> None:
        del self.there[blob]
        # A reply that was lost makes the second try find nothing.
        assert self.store.delete(blob.digest, generation=blob.generation) in (0, blob.size)

    def listing(self, _: Blob) -> None:
        found = set(self.store.blobs())
        assert set(self.there) <= found
        assert {blob.digest for blob in found} <= self.maybe


def test_a_faulty_server_never_yields_wrong_data(make_s3: Callable[[], S3Backend], tmp_path: Path) -> None:
    chaos, backend, failed = Chaos(), make_s3(), 0
    with fault_proxy(backend.server.endpoint) as proxy:
        proxy.rule = chaos
        run = Run(backend.at(proxy.endpoint, DEADLINE), tmp_path)
        for number in range(COUNT):
            try:
                run.step(number)
            except StorageError:
                failed += 1
                assert not list(tmp_path.glob("*.part"))
    assert sum(chaos.met.values()) > COUNT // 20
    assert chaos.met[Fault.FLIP_ANYWHERE] > 0
    assert failed < COUNT // 4
    # What was acknowledged is there, nothing good was put aside, and what is there is what somebody wrote.
    for blob, data in run.there.items():
        assert backend.store.read_bytes(blob.digest, generation=blob.generation, limit=len(data)) == data
    assert list(backend.store.quarantined()) == []
    for blob in backend.store.blobs():
        backend.store.verify(blob.digest, blob.size, generation=blob.generation)
