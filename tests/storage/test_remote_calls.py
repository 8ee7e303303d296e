"""Calls to a file system that fails: what is tried again, for how long, and what it is called in the end."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import (
    FuseryError,
    OutOfSpaceError,
    StorageError,
    StoreDeniedError,
    StoreUnavailableError,
)
from fusery.storage.remote import FsspecStore
from fusery.storage.remote_calls import (
    ATTEMPTS,
    FailureKind,
    NoPlaceError,
    RemoteCalls,
    RemoteError,
    age,
    classify,
    describe,
)

pytestmark = pytest.mark.timing

WHERE = "s3://bucket/prefix"
SECRET = "hunter2"


class Failing(MemoryFileSystem):  # type: ignore[misc]
    cachable = False

    def __init__(self, *failures: BaseException) -> None:
        super().__init__()
        self.failures = list(failures)
        self.calls = 0

    def cat_file(self, path: str, **options: object) -> bytes:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return b"content"


def refusal(name: str, status: int, code: str) -> Callable[[], BaseException]:
    """Return an error as obstore words it; without a status, it had no reply."""
    reply = (
        f" - Server returned non-2xx status code: {status} X: <Error><Code>{code}</Code>" if status else ""
    )
    return of_module("obstore.exceptions", name, f"Generic S3 error: Error performing PUT {SECRET}{reply}")


def of_module(module: str, name: str, *arguments: Any, **options: Any) -> Callable[[], BaseException]:
    return lambda: getattr(pytest.importorskip(module), name)(*arguments, **options)


TRANSIENT: dict[str, Callable[[], BaseException]] = {
    "busy (503)": lambda: OSError(errno.EBUSY, "slow down"),
    "reset": ConnectionResetError,
    "timeout": TimeoutError,
    "fsspec timeout": of_module("fsspec.exceptions", "FSTimeoutError"),
    "short body": of_module("aiohttp", "ClientPayloadError", "not enough data"),
    "no reply": refusal("GenericError", 0, ""),
    "slow down": refusal("GenericError", 503, "SlowDown"),
}
FINAL: dict[str, tuple[Callable[[], BaseException], FailureKind]] = {
    "exists": (FileExistsError, FailureKind.EXISTS),
    "taken": (refusal("AlreadyExistsError", 412, "PreconditionFailed"), FailureKind.EXISTS),
    "conflict": (refusal("GenericError", 409, "ConditionalRequestConflict"), FailureKind.EXISTS),
    "upload gone": (refusal("GenericError", 404, "NoSuchUpload"), FailureKind.MISSING),
    "blocks gone": (refusal("GenericError", 400, "InvalidBlockList"), FailureKind.MISSING),
    "forbidden": (refusal("GenericError", 403, "InvalidAccessKeyId"), FailureKind.DENIED),
    "not implemented": (refusal("GenericError", 501, "NotImplemented"), FailureKind.BROKEN),
    "other region": (
        of_module("obstore.exceptions", "GenericError", "an incorrectly configured region"),
        FailureKind.BROKEN,
    ),
    "missing": (FileNotFoundError, FailureKind.MISSING),
    "no key": (lambda: FileNotFoundError("x not found: <Code>NoSuchKey</Code>"), FailureKind.MISSING),
    "no bucket": (lambda: FileNotFoundError("x not found: <Code>NoSuchBucket</Code>"), FailureKind.BROKEN),
    "denied": (PermissionError, FailureKind.DENIED),
    "read-only": (lambda: OSError(errno.EROFS, "read-only"), FailureKind.DENIED),
    "no credentials": (of_module("botocore.exceptions", "NoCredentialsError"), FailureKind.DENIED),
    "full": (lambda: OSError(errno.ENOSPC, "no space"), FailureKind.FULL),
    "bad option": (
        of_module("obstore.exceptions", "UnknownConfigurationKeyError", SECRET),
        FailureKind.BROKEN,
    ),
    "panic": (type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"}), FailureKind.BROKEN),
    "bad endpoint": (lambda: ValueError(f"Invalid endpoint: {SECRET}"), FailureKind.BROKEN),
}


@pytest.mark.parametrize("name", sorted(TRANSIENT))
def test_what_may_pass_is_tried_again(name: str) -> None:
    make = TRANSIENT[name]
    assert classify(make()) is FailureKind.TRANSIENT
    file_system = Failing(make(), make())
    assert RemoteCalls(file_system, WHERE).run("cat_file", "x") == b"content"
    assert file_system.calls == 3


@pytest.mark.parametrize("name", sorted(FINAL))
def test_what_does_not_pass_is_not_tried_again(name: str) -> None:
    make, kind = FINAL[name]
    assert classify(make()) is kind
    file_system = Failing(make())
    with pytest.raises((RemoteError, StorageError)) as caught:
        RemoteCalls(file_system, WHERE).run("cat_file", "x")
    wanted = {
        FailureKind.EXISTS: RemoteError,
        FailureKind.MISSING: RemoteError,
        FailureKind.DENIED: StoreDeniedError,
        FailureKind.FULL: OutOfSpaceError,
        FailureKind.BROKEN: StoreUnavailableError,
    }
    assert type(caught.value) is (NoPlaceError if name == "no bucket" else wanted[kind])
    assert file_system.calls == 1
    if isinstance(caught.value, FuseryError):
        assert WHERE in caught.value.message
        assert SECRET not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: OSError(errno.EIO, SECRET), "OSError (EIO)"),
        (lambda: TimeoutError(SECRET), "TimeoutError"),
        (lambda: ValueError(SECRET), "ValueError"),
        (refusal("GenericError", 503, "SlowDown"), "SlowDown"),
        (of_module("obstore.exceptions", "GenericError", "X status code: 503 Y"), "GenericError (503)"),
    ],
)
def test_failures_are_named_without_their_text(make: Callable[[], BaseException], name: str) -> None:
    assert describe(make()) == name


def test_what_never_passes_is_given_up() -> None:
    failures = [OSError(errno.EBUSY, SECRET) for _ in range(100)]
    file_system = Failing(*failures)
    with pytest.raises(StoreUnavailableError) as caught:
        RemoteCalls(file_system, WHERE, deadline=2.0).run("cat_file", "x")
    assert 1 < file_system.calls <= ATTEMPTS
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EBUSY
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("error", [TypeError, KeyError, RuntimeError, AssertionError, KeyboardInterrupt])
def test_errors_of_our_own_are_not_dressed_up(error: type[BaseException]) -> None:
    file_system = Failing(error("bug"))
    with pytest.raises(error):
        RemoteCalls(file_system, WHERE).run("cat_file", "x")
    assert file_system.calls == 1


class Hanging(AsyncFileSystem):  # type: ignore[misc]
    cachable = False

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.calls = 0
        self.cancelled = threading.Event()

    async def _cat_file(self, path: str, **options: Any) -> bytes:
        self.calls += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"content"


def test_a_call_that_hangs_is_cancelled_at_the_deadline() -> None:
    file_system = Hanging()
    with pytest.raises(StoreUnavailableError):
        RemoteCalls(file_system, WHERE, deadline=3.0).run("cat_file", "x")
    assert file_system.cancelled.wait(120)
    assert file_system.calls == 1


def test_only_what_no_try_had_reached_is_progress() -> None:
    calls = RemoteCalls(Hanging(), WHERE, deadline=100.0)

    def moves(step: Callable[[], object]) -> bool:
        calls._progress_at = time.monotonic() - 90.0
        step()
        return calls._left() > 50.0

    reached = calls.mark()
    assert moves(calls.progressed)
    assert not moves(lambda: None)
    assert moves(lambda: reached(3))
    assert not moves(lambda: reached(3))
    assert moves(lambda: reached(4))


def test_ages() -> None:
    now = time.time()
    assert age(None) == 0.0
    assert age(now + 1000) == 0.0
    assert 90 <= age(now - 100) <= 200
    for text in ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00"):
        assert age(text) > 365 * 86400


class Faulty(MemoryFileSystem):  # type: ignore[misc]
    cachable = False

    def __init__(
        self,
        *,
        loses: bool = False,
        garbles: bool = False,
        conditional: bool = True,
        cuts: int = 0,
        flips: Iterable[bool] = (),
    ) -> None:
        super().__init__()
        self.loses, self.garbles, self.conditional, self.cuts = loses, garbles, conditional, cuts
        self.flips, self.position = list(flips), 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: object) -> None:
        if mode == "create" and not self.conditional:
            raise OSError(errno.EINVAL, "not implemented")
        if not self.loses:
            garbled = self.garbles and "/blobs/" in path
            super().pipe_file(path, b"?" * len(value) if garbled else value, mode=mode)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: object
    ) -> bytes:
        data = bytearray(super().cat_file(path, start, end))
        if self.flips and self.flips.pop(0):
            data[self.position % len(data)] ^= 1
            self.position += 1
        return bytes(data[: len(data) - self.cuts])


def store_on(file_system: Faulty) -> FsspecStore:
    name = uuid.uuid4().hex
    return FsspecStore(file_system, name, f"memory://{name}")


@pytest.mark.parametrize("faulty", [{"loses": True}, {"conditional": False, "garbles": True}])
def test_a_backend_that_does_not_keep_what_is_written_is_found_out(faulty: dict[str, Any]) -> None:
    store = store_on(Faulty(**faulty))
    with pytest.raises(StoreUnavailableError):
        store.put_bytes(b"x")
    assert list(store.blobs()) == []
    if "loses" in faulty:
        with pytest.raises(StoreUnavailableError):
            store.initialise("registry-one")


def test_a_reply_that_was_cut_is_not_taken_for_damage() -> None:
    store = store_on(Faulty(cuts=1))
    digest = digest_bytes(b"12345")
    name = f"/{store.url.removeprefix('memory://')}/blobs/sha256/{digest[:2]}/{digest}"
    MemoryFileSystem().pipe_file(name, b"12345")
    for attempt in (lambda: store.read_bytes(digest, limit=10), lambda: store.put_bytes(b"12345")):
        with pytest.raises(StoreUnavailableError):
            attempt()
    assert MemoryFileSystem().cat_file(name) == b"12345"
    assert list(store.quarantined()) == []


def test_a_bit_that_flips_once_on_the_way_costs_another_reading(tmp_path: Path) -> None:
    store = store_on(Faulty(flips=[True, False] * 3))
    blob = store.put_bytes(b"12345")
    assert store.read_bytes(blob.digest, limit=10) == b"12345"
    assert store.fetch(blob.digest, tmp_path / "out.bin") == 5
    assert (tmp_path / "out.bin").read_bytes() == b"12345"
    store.verify(blob.digest, 5)


def test_other_bytes_at_each_reading_are_an_error_and_no_damage() -> None:
    store = store_on(Faulty(flips=[True] * 20))
    blob = store.put_bytes(b"12345")
    for attempt in (lambda: store.verify(blob.digest, 5), lambda: store.quarantine(blob.digest)):
        with pytest.raises(StoreUnavailableError):
            attempt()
    assert [found.digest for found in store.blobs()] == [blob.digest]
