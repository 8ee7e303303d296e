"""A cached model that is altered between two commands: through a mapping, and with all notes of the cache rewritten."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import pytest

from .conftest import Fusery, Ran

WEIGHTS = "model.safetensors"
FUSE = ("fuse", "course_rec@1", "--json")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache."""
    monkeypatch.setenv("FUSERY_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights(ran: Ran) -> Path:
    return Path(ran.json["path"]) / WEIGHTS


def test_a_model_that_is_altered_by_who_has_it_open(cache: Path, stocked: Fusery) -> None:
    first = weights(stocked(*FUSE))
    data = first.read_bytes()
    first.chmod(0o644)
    with first.open("r+b", buffering=0) as file:
        first.chmod(0o444)
        assert stocked(*FUSE).json["cached"] is True
        os.pwrite(file.fileno(), bytes([data[-1] ^ 1]), len(data) - 1)
        again = stocked(*FUSE)
        assert (again.code, again.json["cached"]) == (0, False)
        assert weights(again).read_bytes() == data


@pytest.mark.slow
def test_all_that_lies_in_the_cache_is_rewritten(cache: Path, stocked: Fusery, tmp_path: Path) -> None:
    """What is altered looks as if it had been hashed after that, as far as the cache folder says."""
    first = stocked(*FUSE)
    path = weights(first)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[::-1])
    path.chmod(0o444)
    now = path.stat()
    state = [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]
    for note in [*cache.glob("stamps/*.json"), *cache.glob("vouchers/*.json")]:
        document = json.loads(note.read_bytes())
        document["files"][WEIGHTS] = state
        note.write_text(json.dumps(document))
    ran = stocked("materialize", "course_rec@1", tmp_path / "out")
    assert (ran.code, (tmp_path / "out" / WEIGHTS).read_bytes()) == (0, data)
    assert weights(stocked(*FUSE)).read_bytes() == data


@pytest.mark.slow
def test_a_fused_model_with_a_voucher_that_is_wrong_is_neither_shipped_nor_served(
    cache: Path, stocked: Fusery, tmp_path: Path
) -> None:
    from fusery.storage.vouchers import Vouchers, folder_state

    found = stocked(*FUSE).json
    path = Path(found["path"])
    (path / WEIGHTS).chmod(0o644)
    with (path / WEIGHTS).open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[-1] ^= 1
    vouchers = Vouchers(tmp_path / "home" / f"private-{os.geteuid()}" / "vouchers")
    for words in (("materialize", "course_rec@1", tmp_path / "out"), ("serve", "course_rec@1", "--fused")):
        vouchers.note_all(found["key"], found["digest"], folder_state(path) or {})
        assert stocked(*FUSE).json["cached"] is True
        ran = stocked(*words)
        assert (ran.code, WEIGHTS in ran.err, "run the command again" in ran.err) == (2, True, True), ran.err
        assert not (tmp_path / "out").exists()
    assert stocked("materialize", "course_rec@1", tmp_path / "out").code == 0
    assert stocked("audit", "-q").code == 0
