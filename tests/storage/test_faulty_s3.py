"""A store whose S3 server is in trouble: never wrong data, every operation succeeds or says what failed, in time."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from fault_proxy import Fault, fault_proxy
from s3_backend import S3Backend, file_system_of

from fusery.storage.backends.objects import PART
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StorageError
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.locate import PROTOCOLS
from fusery.storage.remote_calls import DEADLINE
from fusery.testing.stores import file_with

pytestmark = pytest.mark.timing

SOAK = bool(os.environ.get("FUSERY_SOAK"))

LIMIT = 60.0
"""Seconds in which a store in trouble has to be reported."""


class Chaos:
    """5 % of requests fail, 2 % lose their connection, 5 % are slow, and every nth read of a blob brings wrong bytes."""

    def __init__(self, seed: int, flip_every: int) -> None:
        self.random = random.Random(seed)
        self.flip_every = flip_every
        self.reads = 0
        self.met: Counter[Fault] = Counter()
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        with self._lock:
            return self._next(method, path)

    def _next(self, method: str, path: str) -> Fault | None:
        dice = self.random.random()
        fault = None
        is_read = method == "GET" and "/blobs/" in path
        self.reads += is_read
        if is_read and self.reads % self.flip_every == 0:
            fault = Fault.FLIP_ANYWHERE
        elif dice < 0.05:
            fault = self.random.choice([Fault.ERROR_500, Fault.ERROR_503, Fault.LOST_500])
        elif dice < 0.07:
            fault = self.random.choice([Fault.DROP, Fault.LOST, Fault.SHORT])
        elif dice < 0.12:
            fault = Fault.SLOW
        if fault is not None:
            self.met[fault] += 1
        return fault


class Run:
    """Operations against a store and a dictionary, and what became of them."""

    def __init__(self, store: BlobStore, folder: Path, seed: int) -> None:
        self.store = store
        self.folder = folder
        self.random = random.Random(seed)
        self.there: dict[Blob, bytes] = {}
        self.maybe: set[str] = set()
        self.counts: Counter[str] = Counter()

    def attempt(self, name: str, do: Callable[[], None]) -> None:
        try:
            do()
            self.counts[f"{name}: done"] += 1
        except StorageError as error:
            assert error.message
            self.counts[f"{name}: {type(error).__name__}"] += 1

    def write(self, size: int, generation: int) -> None:
        data = self.random.randbytes(size)
        self.maybe.add(digest_bytes(data))

        def put() -> None:
            source = file_with(self.folder, data)
            blob = self.store.put_file(source, generation=generation)
            assert blob == Blob(digest_bytes(data), size, generation)
            self.there[blob] = data

        self.attempt("put", put)

    def read(self) -> None:
        blob = self.random.choice(sorted(self.there))
        out = self.folder / "out.bin"

        def fetch() -> None:
            out.unlink(missing_ok=True)
            assert self.store.fetch(blob.digest, out, generation=blob.generation) == blob.size
            assert out.read_bytes() == self.there[blob]

        self.attempt("fetch", fetch)
        assert sorted(path.name for path in self.folder.iterdir() if path.suffix == ".part") == []

    def verify(self) -> None:
        blob = self.random.choice(sorted(self.there))
        self.attempt("verify", lambda: self.store.verify(blob.digest, blob.size, generation=blob.generation))

    def delete(self) -> None:
        blob = self.random.choice(sorted(self.there))
        del self.there[blob]
        self.attempt("delete", lambda: self.freed(blob))

    def freed(self, blob: Blob) -> None:
        # A reply that was lost makes the second try find nothing.
        assert self.store.delete(blob.digest, generation=blob.generation) in (0, blob.size)

    def listing(self) -> None:
        def look() -> None:
            found = set(self.store.blobs())
            assert set(self.there) <= found
            assert {blob.digest for blob in found} <= self.maybe

        self.attempt("list", look)


def operate(run: Run, operations: int, large: int) -> None:
    """Do operations by chance, so many of them writes in two parts."""
    for number in range(operations):
        if number % (operations // large) == 0:
            run.write(PART + 1 + number, 0)
        elif not run.there or run.random.random() < 0.3:
            run.write(run.random.randrange(1, 200_000), number % 3)
        else:
            run.random.choice([run.read, run.read, run.read, run.verify, run.listing, run.delete])()


@pytest.mark.parametrize(
    ("stores", "operations", "large", "flip_every"),
    [(1, 150, 1, 20), pytest.param(4, 400 if SOAK else 50, 1, 40, marks=pytest.mark.slow)],
)
def test_a_faulty_server_never_yields_wrong_data(
    make_s3: Callable[[], S3Backend],
    tmp_path: Path,
    stores: int,
    operations: int,
    large: int,
    flip_every: int,
) -> None:
    """Several stores at a time, since most of it is waiting."""
    chaos, backends, runs = Chaos(stores * operations, flip_every), [make_s3() for _ in range(stores)], []
    with fault_proxy(backends[0].server.endpoint) as proxy:
        proxy.rule = chaos
        for number, backend in enumerate(backends):
            folder = tmp_path / str(number)
            folder.mkdir()
            runs.append(Run(backend.at(proxy.endpoint, DEADLINE), folder, seed=operations + number))
        with ThreadPoolExecutor(stores) as pool:
            list(pool.map(lambda run: operate(run, operations, large), runs))
    counts = sum((run.counts for run in runs), Counter[str]())
    assert sum(chaos.met.values()) > stores * operations // 20
    assert chaos.met[Fault.FLIP_ANYWHERE] > 0
    done = sum(count for name, count in counts.items() if name.endswith(": done"))
    assert done > 0.9 * sum(counts.values()), counts
    for backend, run in zip(backends, runs, strict=True):
        require_what_was_acknowledged(backend, run)


def require_what_was_acknowledged(backend: S3Backend, run: Run) -> None:
    """What was acknowledged is there; nothing good was put aside; what is there is what somebody wrote."""
    for blob, data in run.there.items():
        assert backend.store.read_bytes(blob.digest, generation=blob.generation, limit=len(data)) == data
    assert list(backend.store.quarantined()) == []
    for blob in backend.store.blobs():
        backend.store.verify(blob.digest, blob.size, generation=blob.generation)


OPERATIONS: dict[str, Callable[[BlobStore, Blob, Path, Path], object]] = {
    "put": lambda store, _blob, _folder, _source: store.put_bytes(os.urandom(100)),
    "put in parts": lambda store, _blob, _folder, source: store.put_file(source),
    "fetch": lambda store, blob, folder, _source: store.fetch(blob.digest, folder / "out.bin"),
    "verify": lambda store, blob, _folder, _source: store.verify(blob.digest, blob.size),
    "list": lambda store, _blob, _folder, _source: list(store.blobs()),
    "leftovers": lambda store, _blob, _folder, _source: list(store.leftovers()),
    "delete": lambda store, blob, _folder, _source: store.delete(blob.digest),
    "quarantine": lambda store, blob, _folder, _source: store.quarantine(blob.digest),
    "initialise": lambda store, _blob, _folder, _source: store.initialise("registry-one"),
    "capabilities": lambda store, _blob, _folder, _source: store.capabilities,
}


@pytest.mark.slow
def test_a_store_in_trouble_is_reported_within_a_minute(
    make_s3: Callable[[], S3Backend], tmp_path: Path
) -> None:
    """Every operation in each kind of trouble, all at once: they wait.

    A silent server is waited for to the end, so that it is done in a third of the time.
    """
    source = file_with(tmp_path, os.urandom(1 << 20) * (PART >> 19))
    with ExitStack() as opened:
        backend = make_s3()
        blob = backend.store.put_bytes(b"here before")
        cases: list[tuple[Fault, float, str, BlobStore]] = []
        for fault in (Fault.HANG, Fault.ERROR_503, Fault.DROP):
            proxy = opened.enter_context(fault_proxy(backend.server.endpoint))
            proxy.rule = partial(_all_meet, fault)
            part = 1 / 3 if fault is Fault.HANG else 1.0
            # One client of botocore for all, which takes half a second to make, with room for all that they ask.
            client = file_system_of(
                replace(backend.server, endpoint=proxy.endpoint),
                read_timeout=part * PROTOCOLS["s3"].options["config_kwargs"]["read_timeout"],
                max_pool_connections=100,
            )
            deadline = part * DEADLINE
            cases += [(fault, deadline, name, backend.seen_by(client, deadline)) for name in OPERATIONS]

        def measure(case: tuple[Fault, float, str, BlobStore]) -> float:
            fault, _, name, store = case
            folder = tmp_path / f"{fault.name} {name}"
            folder.mkdir()
            began = time.monotonic()
            with pytest.raises(StorageError):
                OPERATIONS[name](store, blob, folder, source)
            return time.monotonic() - began

        with ThreadPoolExecutor(len(cases)) as pool:
            took = list(pool.map(measure, cases))
    for (fault, deadline, name, _), seconds in zip(cases, took, strict=True):
        assert seconds - deadline + DEADLINE < LIMIT, f"{fault.name}, {name}: {seconds:.1f} s"


def _all_meet(fault: Fault, _method: str, _path: str) -> Fault:
    return fault
