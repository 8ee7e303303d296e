"""The local store when things go wrong for real: kills, full disks, refusals, races."""

from __future__ import annotations

import errno
import gc
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import OutOfSpaceError, StorageError, StoreDeniedError, StoreUnavailableError
from fusery.storage.interface import Blob
from fusery.storage.local import LocalStore
from fusery.testing.stores import HELLO, LARGE, file_with, name_of

CALLS = (
    "open", "close", "write", "readv", "fsync", "fdatasync", "fchmod", "link", "unlink", "mkdir", "rename", "replace",
    "lseek",
)  # fmt: skip
"""What the store asks of the operating system, by the names in `os`."""


class Trap:
    """Runs `spring` instead of the Nth call to the operating system, and notes every call before it."""

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
    """Whatever stands at a blob's name holds the bytes of its digest."""
    for path in (root / "blobs").rglob("*"):
        if path.is_file():
            assert digest_bytes(path.read_bytes()) == path.name.partition(".")[0]


def count_calls(monkeypatch: pytest.MonkeyPatch, root: Path, source: Path) -> list[str]:
    with monkeypatch.context() as patch:
        trap = Trap(patch, 0, lambda _name: None)
        LocalStore(root).put_file(source)
        return list(trap.calls)


def test_bytes_are_durable_before_their_name_and_the_name_before_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, tmp_path / "store", file_with(tmp_path, LARGE))
    last_write = max(index for index, name in enumerate(calls) if name == "write")
    link = calls.index("link")
    assert "fsync" in calls[last_write:link]
    assert calls[link + 1 :].count("fsync") == 2
    assert calls.index("fchmod") < link < calls.index("unlink")


def test_new_folders_are_durable_before_the_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = file_with(tmp_path, HELLO)
    calls = count_calls(monkeypatch, tmp_path / "store", source)
    made = calls.count("mkdir")
    assert made == 5  # the store, tmp, blobs, sha256 and the two digits
    assert calls[: calls.index("link")].count("fsync") == made + 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_a_failure_of_any_call_is_a_clean_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    source = file_with(tmp_path, LARGE)
    total = len(count_calls(monkeypatch, tmp_path / "dry", source))
    assert total > 20

    def fail(_name: str) -> None:
        raise OSError(code, os.strerror(code))

    for at in range(1, total + 1):
        root = tmp_path / f"store-{at}"
        with monkeypatch.context() as patch:
            trap = Trap(patch, at, fail)
            try:
                LocalStore(root).put_file(source)
            except StorageError:
                failed = True
            except OSError as error:
                # Only the closing of a file is left to itself: nothing hangs on it any more.
                assert trap.calls[at - 1] in ("close", "unlink"), (trap.calls[at - 1], error)
                failed = True
            else:
                failed = False
        require_whole(root)
        assert failed or LocalStore(root).read_bytes(digest_bytes(LARGE), limit=1 << 30) == LARGE
        blob = LocalStore(root).put_file(source)
        assert list(LocalStore(root).blobs()) == [blob]
        require_whole(root)


def test_a_kill_at_any_call_leaves_whole_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = file_with(tmp_path, LARGE)
    total = len(count_calls(monkeypatch, tmp_path / "dry", source))
    for at in range(1, total + 1):
        root = tmp_path / f"store-{at}"
        status = in_child(lambda at=at, root=root: die_at(monkeypatch, at, root, source))
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        require_whole(root)
        store = LocalStore(root)
        assert all(leftover.name.startswith("tmp/") for leftover in store.leftovers())
        blob = store.put_file(source)
        assert list(store.blobs()) == [blob]
        for leftover in store.leftovers():
            store.remove_leftover(leftover.name)
        names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        assert names == {name_of(blob.digest)}


def die_at(monkeypatch: pytest.MonkeyPatch, at: int, root: Path, source: Path) -> None:
    Trap(monkeypatch, at, lambda _name: os.kill(os.getpid(), signal.SIGKILL))
    LocalStore(root).put_file(source)


def fork(body: Callable[[], None]) -> int:
    """Start a process that runs `body` and return its pid: twenty times as fast as a new interpreter."""
    with warnings.catch_warnings():
        # Python 3.12 warns about threads that other tests have left; the child touches none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        gc.disable()  # a collection would touch, and so copy, all that the tests' own process holds
        try:
            body()
        finally:
            os._exit(0)
    return pid


def in_child(body: Callable[[], None]) -> int:
    """Run `body` in another process and return its wait status."""
    return os.waitpid(fork(body), 0)[1]


WRITER = """
import sys
from pathlib import Path
from fusery.storage.local import LocalStore
store, sources = LocalStore(Path(sys.argv[1])), [Path(name) for name in sys.argv[2:]]
print("ready", flush=True)
sys.stdin.readline()
for source in sources:
    store.put_file(source)
print("done", flush=True)
"""


def start_writer(root: Path, *sources: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", WRITER, str(root), *map(str, sources)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_kills_at_random_instants_leave_whole_blobs(tmp_path: Path) -> None:
    root = tmp_path / "store"
    sources = [file_with(tmp_path, os.urandom(3 << 20), f"{number}.bin") for number in range(3)]
    chance = random.Random(20261124)

    def store_all() -> None:
        for source in sources:
            LocalStore(root).put_file(source)

    start = time.monotonic()
    assert in_child(store_all) == 0
    whole_run = time.monotonic() - start
    killed = 0
    for _ in range(40):
        for blob in LocalStore(root).blobs():
            LocalStore(root).delete(blob.digest)
        writer = fork(store_all)
        time.sleep(chance.uniform(0.0, whole_run))
        os.kill(writer, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(writer, 0)[1])
        require_whole(root)
    assert killed > 0
    store = LocalStore(root)
    store_all()
    for leftover in store.leftovers():
        assert leftover.name.startswith("tmp/")
        store.remove_leftover(leftover.name)
    require_whole(root)
    assert len([path for path in root.rglob("*") if path.is_file()]) == len(sources)


def test_processes_that_race_for_the_same_blobs_all_succeed(tmp_path: Path) -> None:
    root = tmp_path / "store"
    sources = [file_with(tmp_path, os.urandom(1 << 18), f"{number}.bin") for number in range(12)]
    writers = [start_writer(root, *sources) for _ in range(8)]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert (writer.returncode, out) == (0, "done\n")
    require_whole(root)
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {name_of(digest_bytes(source.read_bytes())) for source in sources}


def test_processes_that_race_to_replace_a_damaged_blob_never_lose_it(tmp_path: Path) -> None:
    root = tmp_path / "store"
    source = file_with(tmp_path, LARGE)
    blob = LocalStore(root).put_file(source)
    path = root / name_of(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    writers = [start_writer(root, source) for _ in range(8)]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        assert path.exists()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert path.read_bytes() == LARGE
    assert b"damaged" in [kept.read_bytes() for kept in (root / "quarantine").iterdir()]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond `size`, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path: Path) -> None:
    store, source = LocalStore(tmp_path / "store"), file_with(tmp_path, LARGE)
    with files_of_at_most(1 << 20), pytest.raises(OutOfSpaceError, match=r"MB free") as caught:
        store.put_file(source)
    assert caught.value.hint is not None
    assert list(store.blobs()) == []
    assert list(store.leftovers()) == []
    assert store.put_file(source).digest == digest_bytes(LARGE)


def test_a_full_disk_does_not_spoil_a_fetch(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    blob = store.put_bytes(LARGE)
    target = tmp_path / "target"
    target.mkdir()
    with files_of_at_most(1 << 20), pytest.raises(OutOfSpaceError):
        store.fetch(blob.digest, target / "out.bin")
    assert list(target.iterdir()) == []


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user whom permissions bind: root is not."""
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
    """A temporary folder that `nobody` can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="fusery-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


def test_a_read_only_store_can_be_read_and_refuses_writes(open_tmp: Path) -> None:
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
                with pytest.raises(StoreDeniedError, match="permission denied") as caught:
                    write()
                assert str(store.root) in str(caught.value.hint)
    finally:
        for path in [store.root, *store.root.rglob("*")]:
            path.chmod(0o755)
    assert store.read_bytes(blob.digest, limit=100) == HELLO


def test_a_store_that_may_not_be_entered_is_denied_not_empty(open_tmp: Path) -> None:
    store = LocalStore(open_tmp / "store")
    blob = store.put_bytes(HELLO)
    store.root.chmod(0o000)
    try:
        with as_nobody():
            for read in (
                lambda: list(store.blobs()),
                lambda: store.size(blob.digest),
                lambda: store.local_path(blob.digest),
                lambda: store.identify(),
                lambda: list(store.leftovers()),
            ):
                with pytest.raises(StoreDeniedError):
                    read()
    finally:
        store.root.chmod(0o755)


def test_a_source_that_may_not_be_read_is_denied(open_tmp: Path) -> None:
    store, source = LocalStore(open_tmp / "store"), file_with(open_tmp, HELLO)
    source.chmod(0o000)
    with as_nobody(), pytest.raises(StoreDeniedError, match=r"source\.bin"):
        store.put_file(source)


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

    with pytest.raises(StoreUnavailableError, match="was removed while it was written"):
        store.put_file(source, progress=sweep)
    assert list(store.blobs()) == []
    assert store.put_file(source) == Blob(digest_bytes(LARGE), len(LARGE))
