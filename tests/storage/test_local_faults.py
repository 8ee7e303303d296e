"""The local store when things go wrong for real: kills, full disks, refusals, races."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StorageError, StoreDeniedError, StoreUnavailableError
from fusery.storage.interface import Blob
from fusery.storage.local import LocalStore
from fusery.testing.stores import HELLO, LARGE, file_with, name_of

pytestmark = pytest.mark.timing

CALLS = (
    "open", "close", "write", "readv", "fsync", "fdatasync", "fchmod", "link", "unlink", "mkdir", "rename", "replace",
    "lseek",
)  # fmt: skip
"""What the store asks of the operating system, by the names in `os`."""


class Trap:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, spring: Callable[[str], None]) -> None:
        self.calls: list[str] = []
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name), at, spring))

    def _wrap(
        self, name: str, real: Callable[..., object], at: int, spring: Callable[[str], None]
    ) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            self.calls.append(name)
            if len(self.calls) == at:
                spring(name)
            return real(*arguments, **options)

        return call


def require_whole(root: Path) -> None:
    for path in (root / "blobs").rglob("*"):
        if path.is_file():
            assert digest_bytes(path.read_bytes()) == path.name.partition(".")[0]


def count_calls(monkeypatch: pytest.MonkeyPatch, root: Path, source: Path) -> list[str]:
    with monkeypatch.context() as patch:
        trap = Trap(patch, 0, lambda _name: None)
        LocalStore(root).put_file(source)
        return list(trap.calls)


def test_order_of_flushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, tmp_path / "store", file_with(tmp_path, LARGE))
    last_write = max(index for index, name in enumerate(calls) if name == "write")
    link = calls.index("link")
    assert "fsync" in calls[last_write:link]
    assert calls[link + 1 :].count("fsync") == 2
    assert calls.index("fchmod") < link < calls.index("unlink")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_failure_of_any_call_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    source = file_with(tmp_path, LARGE)
    total = len(count_calls(monkeypatch, tmp_path / "dry", source))
    assert total > 20

    def fail(_name: str) -> None:
        raise OSError(code, os.strerror(code))

    for at in some_of(total):
        root = tmp_path / f"store-{at}"
        with monkeypatch.context() as patch:
            trap = Trap(patch, at, fail)
            try:
                LocalStore(root).put_file(source)
            except StorageError:
                failed = True
            except OSError as error:
                # A failed close or unlink may surface as OSError: the blob is complete by then.
                assert trap.calls[at - 1] in ("close", "unlink"), (trap.calls[at - 1], error)
                failed = True
            else:
                failed = False
        require_whole(root)
        assert failed or LocalStore(root).read_bytes(digest_bytes(LARGE), limit=1 << 30) == LARGE
        blob = LocalStore(root).put_file(source)
        assert list(LocalStore(root).blobs()) == [blob]
        require_whole(root)


def some_of(total: int) -> list[int]:
    calls = range(1, total + 1)
    return list(calls) if "FUSERY_SOAK" in os.environ else sorted(random.Random(1).sample(calls, 12))


def fork(body: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns about threads that other tests have left; the child touches none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        gc.disable()  # a collection would write to, and so copy, the memory of the parent
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return pid


def test_a_kill_at_any_call_leaves_whole_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = file_with(tmp_path, LARGE)

    def die(at: int, root: Path) -> None:
        Trap(monkeypatch, at, lambda _name: os.kill(os.getpid(), signal.SIGKILL))
        LocalStore(root).put_file(source)

    for at in some_of(len(count_calls(monkeypatch, tmp_path / "dry", source))):
        root = tmp_path / f"store-{at}"
        _, status = os.waitpid(fork(partial(die, at, root)), 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        require_whole(root)
        store = LocalStore(root)
        assert all(leftover.name.startswith("tmp/") for leftover in store.leftovers())
        blob = store.put_file(source)
        assert list(store.blobs()) == [blob]
        for leftover in store.leftovers():
            store.remove_leftover(leftover.name)
        assert files_in(root) == {name_of(blob.digest)}


def files_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def race(body: Callable[[], None]) -> list[int]:
    waiting, gate = os.pipe()

    def start() -> None:
        os.close(gate)
        os.read(waiting, 1)
        body()

    pids = [fork(start) for _ in range(6)]
    os.close(gate)
    os.close(waiting)
    return pids


def test_processes_that_race_to_replace_a_damaged_blob_never_lose_it(tmp_path: Path) -> None:
    root, source = tmp_path / "store", file_with(tmp_path, LARGE)
    path = root / name_of(LocalStore(root).put_file(source).digest)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    running = set(race(lambda: LocalStore(root).put_file(source) and None))
    while running:
        assert path.exists()
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            assert status == 0
            running -= {done}
    assert path.read_bytes() == LARGE
    assert b"damaged" in [kept.read_bytes() for kept in (root / "quarantine").iterdir()]


@contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fusery-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


def test_a_read_only_store_can_be_read_and_a_closed_one_is_denied(open_tmp: Path) -> None:
    store, source = LocalStore(open_tmp / "store"), file_with(open_tmp, LARGE)
    blob = store.put_bytes(HELLO)
    store.initialise("registry-one")
    for path in [store.root, *store.root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with as_nobody():
            assert store.read_bytes(blob.digest, limit=100) == HELLO
            assert list(store.blobs()) == [blob]
            assert store.identify() == "registry-one"
            store.verify(blob.digest, blob.size)
            assert store.put_bytes(HELLO) == blob
            for write in (
                lambda: store.put_file(source),
                lambda: store.put_bytes(b"new"),
                lambda: store.delete(blob.digest),
            ):
                with pytest.raises(StoreDeniedError) as caught:
                    write()
                assert str(store.root) in str(caught.value.hint)
        store.root.chmod(0o000)
        with as_nobody():
            for read in (
                lambda: list(store.blobs()),
                lambda: store.size(blob.digest),
                lambda: store.local_path(blob.digest),
                store.identify,
                lambda: list(store.leftovers()),
            ):
                with pytest.raises(StoreDeniedError):
                    read()
    finally:
        for path in [store.root, *store.root.rglob("*")]:
            path.chmod(0o755)


def test_a_file_where_the_store_should_be(tmp_path: Path) -> None:
    store = LocalStore(file_with(tmp_path, HELLO))
    assert store.size(digest_bytes(HELLO)) is None
    with pytest.raises(StorageError):
        store.put_bytes(HELLO)


def test_a_part_that_was_swept_too_early_is_an_error(tmp_path: Path) -> None:
    store, source = LocalStore(tmp_path / "store"), file_with(tmp_path, LARGE)

    def sweep(_count: int) -> None:
        for leftover in store.leftovers():
            store.remove_leftover(leftover.name)

    with pytest.raises(StoreUnavailableError):
        store.put_file(source, progress=sweep)
    assert list(store.blobs()) == []
    assert store.put_file(source) == Blob(digest_bytes(LARGE), len(LARGE))
