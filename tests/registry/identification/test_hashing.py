"""Digests in the background: nobody waits for a cancelled one, and whole files do not wait for tensors."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest

from fusery.registry.identification import hashing
from fusery.registry.identification.hashing import Hasher
from fusery.registry.inspection.views import View
from fusery.storage.digest import CHUNK, Digest

pytestmark = pytest.mark.timing

LARGE = 64 * CHUNK


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    with path.open("wb") as opened:
        opened.truncate(LARGE)
    return path


def test_digests_are_those_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"numbers" * 1000)
    hasher, view = Hasher(), View("a", "U8", (7000,), path, 0, 7000)
    told: list[int] = []
    hasher.tell(told.append)
    assert hasher.file(path).result() == hashlib.sha256(path.read_bytes()).hexdigest()
    ((found, digest),) = hasher.exact([view]).items()
    assert (found, len(digest.result()), sum(told)) == (view, 64, 7000)
    hasher.close()


def test_a_whole_file_that_nobody_wants_any_more_is_not_read_to_its_end(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []
    begun, stopped = threading.Event(), threading.Event()

    def slow(_: Path, check: object) -> tuple[Digest, int]:
        while len(pieces) < LARGE // CHUNK:
            pieces.append(CHUNK)
            begun.set()
            stopped.wait(10)
            assert callable(check)
            check()
        return Digest("0" * 64), LARGE

    monkeypatch.setattr(hashing, "digest_file", slow)
    hasher = Hasher()
    digest = hasher.file(file)
    assert begun.wait(10)
    hasher._stopped = True
    stopped.set()
    with pytest.raises(CancelledError):
        digest.result(timeout=60)
    hasher.close()
    assert len(pieces) == 1


def test_a_whole_file_does_not_wait_for_tensors(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def held(view: View, _: object) -> Digest:
        release.wait(30)
        return Digest(view.name)

    monkeypatch.setattr(hashing, "exact_digest", held)
    hasher = Hasher()
    tensors = hasher.exact(View(f"{number}", "U8", (8,), file, 0, 8) for number in range(50))
    try:
        assert len(hasher.file(file).result(timeout=20)) == 64
        assert not any(future.done() for future in tensors.values())
    finally:
        release.set()
        wait(tensors.values())
        hasher.close()
