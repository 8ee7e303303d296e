"""Writers of one large blob at the same time: some killed before or beside the others, some slow."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ready_processes import CONTEXT

from fusery.storage.digest import digest_bytes
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.locate import open_store
from fusery.storage.remote import SMALL
from fusery.testing.stores import Backend, name_of

SOAK = bool(os.environ.get("FUSERY_SOAK"))
ROUNDS = 300 if SOAK else 3
SEED = random.randrange(1 << 32) if SOAK else 12


def contend(backend: Backend, url: str, options: dict[str, Any], folder: Path) -> None:
    """Let two live writers and often a third, which is killed, put one blob in each round; both must succeed."""
    chance = random.Random(SEED)
    stores = [backend.reopen() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for number in range(ROUNDS):
            data = chance.randbytes(1 << 16) + bytes(SMALL + chance.randrange(SMALL))
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
