"""The cache of fused models: whole or not at all, checked before it is served, rebuilt when in doubt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusery.storage import verified_files
from fusery.storage.cache import FusedCache
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.failures import DigestMismatchError
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.verified_files import MAX_AGE, VerifiedFiles

pytestmark = pytest.mark.timing

KEY = digest_bytes(b"one fused artifact")
OTHER = digest_bytes(b"another")
FILES = {"config.json": b"{}", "model.safetensors": os.urandom(300_000), "extra/tokenizer.json": b"[]"}


def manifest_of(files: dict[str, bytes]) -> Manifest:
    return Manifest.of(FileEntry(path, len(data), digest_bytes(data)) for path, data in files.items())


MANIFEST = manifest_of(FILES)


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def publish(
    cache: FusedCache, key: Digest = KEY, files: dict[str, bytes] = FILES, *, hashed: bool = False
) -> Path:
    with cache.build(key, 1) as folder:
        fill(folder, files)
        return cache.publish(key, folder, manifest_of(files), hashed=hashed)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


@pytest.fixture
def cache(tmp_path: Path) -> FusedCache:
    return open_cache(tmp_path)


def open_cache(folder: Path, max_age: float = MAX_AGE) -> FusedCache:
    return FusedCache(folder / "cache", VerifiedFiles(folder / "private", max_age=max_age))


def note(cache: FusedCache, key: Digest = KEY) -> Path:
    return cache.root.with_name("private") / f"{key}.json"


def test_opening_a_cache_writes_nothing(cache: FusedCache) -> None:
    assert cache.lookup(KEY, MANIFEST) is None
    assert cache.entries() == []
    assert sum(entry.size for entry in cache.entries()) == 0
    assert cache.sweep() == 0
    assert not cache.root.exists()


@pytest.mark.parametrize("hashed", [False, True])
def test_what_is_published_is_found(cache: FusedCache, hashed: bool) -> None:
    path = publish(cache, hashed=hashed)
    assert path == cache.root / "fused" / KEY
    assert contents(path) == FILES
    assert cache.lookup(KEY, MANIFEST) == path
    assert list((cache.root / "tmp").iterdir()) == []
    assert {file.stat().st_mode & 0o777 for file in path.rglob("*") if file.is_file()} == {0o444}
    assert cache.lookup(KEY, manifest_of({**FILES, "config.json": b"[]"})) is None


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_build_that_fails_leaves_nothing(cache: FusedCache, failure: type[BaseException]) -> None:
    with pytest.raises(failure), cache.build(KEY, 1) as folder:
        fill(folder, FILES)
        raise failure
    assert contents(cache.root) == {}
    assert cache.lookup(KEY, MANIFEST) is None


@pytest.mark.parametrize(
    ("files", "got"),
    [
        ({**FILES, "config.json": b"[]"}, digest_bytes(b"[]")),
        ({**FILES, "config.json": b"{} "}, "3 bytes"),
        ({**FILES, "model-00002.safetensors": b"x"}, "model-00002.safetensors besides"),
        ({}, "config.json missing"),
    ],
    ids=["other bytes", "other size", "one more", "nothing"],
)
def test_publish_checks_the_manifest(cache: FusedCache, files: dict[str, bytes], got: str) -> None:
    with cache.build(KEY, 1) as folder:
        fill(folder, files)
        with pytest.raises(DigestMismatchError) as caught:
            cache.publish(KEY, folder, MANIFEST)
    assert caught.value.got == got
    assert contents(cache.root) == {}


def test_only_a_folder_of_the_cache_is_published(cache: FusedCache, tmp_path: Path) -> None:
    fill(tmp_path / "mine", FILES)
    with pytest.raises(ValueError, match="not made by build"):
        cache.publish(KEY, tmp_path / "mine", MANIFEST)
    assert contents(tmp_path / "mine") == FILES


def test_a_link_in_a_folder_is_not_published(cache: FusedCache, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"{}")
    with cache.build(KEY, 1) as folder:
        fill(folder, FILES)
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to(tmp_path / "target")
        with pytest.raises(DigestMismatchError):
            cache.publish(KEY, folder, MANIFEST)
    assert (tmp_path / "target").stat().st_mode & 0o222


def test_the_first_of_two_publishers_stays(cache: FusedCache) -> None:
    first = publish(cache)
    inode = (first / "model.safetensors").stat().st_ino
    assert publish(cache) == first
    assert (first / "model.safetensors").stat().st_ino == inode
    assert list((cache.root / "quarantine").iterdir()) == []
    assert list((cache.root / "tmp").iterdir()) == []


def test_a_damaged_entry_gives_way_to_a_new_one(cache: FusedCache) -> None:
    path = publish(cache)
    rewrite(path / "config.json", b"[]")
    assert publish(cache) == path
    assert contents(path) == FILES
    (kept,) = (cache.root / "quarantine").iterdir()
    assert contents(kept) == {**FILES, "config.json": b"[]"}


@pytest.mark.parametrize("key", ["", "..", "x/../../etc", KEY[:-1], KEY.upper(), f"{KEY}/x"])
def test_what_is_no_key_never_becomes_a_path(cache: FusedCache, key: str) -> None:
    for call in (cache.entry, cache.remove, cache.last_used):
        with pytest.raises(ValueError, match="not a SHA-256"):
            call(key)
    with pytest.raises(ValueError, match="not a SHA-256"), cache.build(key, 1):
        pass


def count_hashing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from fusery.storage import cache

    counted: list[int] = []
    real = cache.pump

    def counting(source: int, target: int | None) -> tuple[Digest, int]:
        counted.append(source)
        return real(source, target)

    monkeypatch.setattr(cache, "pump", counting)
    return counted


def test_a_hit_reads_no_file_through(cache: FusedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(cache, hashed=True)
    hashed = count_hashing(monkeypatch)
    for _ in range(3):
        assert open_cache(cache.root.parent).lookup(KEY, MANIFEST) is not None
    assert hashed == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "config.json").unlink(),
        lambda path: rewrite(path / "config.json", b"{"),
        lambda path: rewrite(path / "model.safetensors", FILES["model.safetensors"][::-1]),
        lambda path: (path / "model-00002.safetensors").write_bytes(b"x"),
        lambda path: ((path / "config.json").unlink(), (path / "config.json").symlink_to("/etc/hostname")),
        lambda path: ((path / "config.json").unlink(), os.mkfifo(path / "config.json")),
    ],
    ids=["missing", "short", "other bytes", "one more", "link", "pipe"],
)
def test_a_damaged_entry_is_not_served(cache: FusedCache, damage: object) -> None:
    assert callable(damage)
    damage(publish(cache))
    assert cache.lookup(KEY, MANIFEST) is None
    assert not cache.entry(KEY).exists()
    assert len(list((cache.root / "quarantine").iterdir())) == 1
    assert cache.lookup(KEY, MANIFEST) is None


def test_rewritten_file_is_hashed_again(cache: FusedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = publish(cache)
    rewrite(path / "config.json", FILES["config.json"])
    hashed = count_hashing(monkeypatch)
    assert cache.lookup(KEY, MANIFEST) == path
    assert len(hashed) == len(FILES)
    assert cache.lookup(KEY, MANIFEST) == path
    assert len(hashed) == len(FILES)


def test_without_boot_id_every_hit_is_hashed(cache: FusedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified_files, "boot_id", lambda: "")
    publish(cache)
    hashed = count_hashing(monkeypatch)
    cache.lookup(KEY, MANIFEST)
    cache.lookup(KEY, MANIFEST)
    assert len(hashed) == 2 * len(FILES)


@pytest.mark.parametrize(
    ("field", "value"),
    [("boot", "x"), ("digest", OTHER), ("hashed_at", time.time() + 1e6), ("hashed_at", 0), ("files", {})],
    ids=["boot", "digest", "in the future", "long ago", "files"],
)
def test_every_part_of_a_note_counts(
    cache: FusedCache, monkeypatch: pytest.MonkeyPatch, field: str, value: object
) -> None:
    publish(cache)
    path = note(cache)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    hashed = count_hashing(monkeypatch)
    assert cache.lookup(KEY, MANIFEST) is not None
    assert len(hashed) == len(FILES)


def fill_cache(cache: FusedCache) -> list[Digest]:
    keys = [digest_bytes(bytes([number])) for number in range(3)]
    for number, key in enumerate(keys):
        publish(cache, key, {"f": bytes(100 * (number + 1))})
        os.utime(cache.root / "used" / key, (1000.0 + number, 1000.0 + number))
    return keys


@pytest.mark.parametrize(
    ("limit", "spared", "removed", "fits"),
    [
        (600, [], [], True),
        (599, [], [0], True),
        (300, [], [0, 1], True),
        (0, [], [0, 1, 2], True),
        (599, [0], [1], True),
        (100, [1, 2], [0], False),
    ],
)
def test_eviction_takes_the_oldest(
    cache: FusedCache, limit: int, spared: list[int], removed: list[int], fits: bool
) -> None:
    keys = fill_cache(cache)
    plan = cache.evict(limit, {keys[number] for number in spared})
    assert [entry.key for entry in plan.remove] == [keys[number] for number in removed]
    assert (sum(entry.size for entry in plan.keep) <= limit) is fits
    assert sum(entry.size for entry in (*plan.keep, *plan.remove)) == 600
    assert plan.execute() == list(plan.remove)
    assert cache.entries() == list(plan.keep)
    assert {path.name for path in (cache.root / "used").iterdir()} == {entry.key for entry in plan.keep}


def test_what_was_used_since_the_plan_stays(cache: FusedCache) -> None:
    keys = fill_cache(cache)
    plan = cache.evict(0)
    cache.lookup(keys[1], manifest_of({"f": bytes(200)}))
    assert [entry.key for entry in cache.entries()] == [keys[0], keys[2], keys[1]]
    assert sum(entry.size for entry in plan.execute()) == 400
    assert [entry.key for entry in cache.entries()] == [keys[1]]


def test_removing_twice_is_fine_and_leaves_strangers_alone(cache: FusedCache) -> None:
    publish(cache)
    (cache.root / "fused" / "notes.txt").write_text("mine")
    assert [entry.key for entry in cache.entries()] == [KEY]
    assert cache.remove(KEY) == sum(map(len, FILES.values()))
    assert cache.remove(KEY) == 0
    cache.evict(0).execute()
    assert contents(cache.root) == {"fused/notes.txt": b"mine"}


BUILDER = """
import sys, time
from pathlib import Path
from fusery.storage.cache import FusedCache
from fusery.storage.verified_files import VerifiedFiles
with FusedCache(Path(sys.argv[1]), VerifiedFiles(Path("none"))).build(sys.argv[2], 3) as folder:
    (folder / "model.safetensors").write_bytes(b"half")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_killed_build_is_swept_and_a_living_one_is_not(cache: FusedCache) -> None:
    command = [sys.executable, "-P", "-c", BUILDER, str(cache.root), KEY]
    with (
        cache.build(KEY, 4) as living,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as builder,
    ):
        assert builder.stdout is not None
        folder = Path(builder.stdout.readline().strip())
        assert cache.sweep() == 0
        assert folder.is_dir()
        builder.kill()
        assert builder.wait() == -signal.SIGKILL
        assert cache.lookup(KEY, MANIFEST) is None
        assert cache.sweep() >= 4
        assert not folder.exists()
        assert living.is_dir()
        fill(living, FILES)
        cache.publish(KEY, living, MANIFEST)
    assert cache.lookup(KEY, MANIFEST) is not None
    assert list((cache.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("owner", ["", "another-boot pids 1", "garbage", None])
def test_what_nobody_can_tell_the_owner_of_goes_by_age(cache: FusedCache, owner: str | None) -> None:
    folder = cache.root / "tmp" / f"{KEY}.1.abc"
    folder.mkdir(parents=True)
    (folder / "f").write_bytes(b"12345")
    if owner is not None:
        folder.with_name(f"{folder.name}.owner").write_text(owner)
    assert cache.sweep(older_than=3600) == 0
    assert cache.sweep(older_than=-1) >= 5
    assert list((cache.root / "tmp").iterdir()) == []


def test_what_is_old_or_half_removed_is_swept(cache: FusedCache) -> None:
    path = publish(cache)
    rewrite(path / "config.json", b"[]")
    cache.lookup(KEY, MANIFEST)
    publish(cache, OTHER)
    fill(cache.root, {f"used/{KEY}": b"", f"tmp/{KEY}.trash.abc/f": b"12345"})
    note(cache).with_name(".0123456789abcdef0123456789abcdef.part").write_bytes(b"{")
    assert cache.sweep(older_than=3600) == 5
    assert len(list((cache.root / "quarantine").iterdir())) == 1
    cache.sweep(older_than=-1)
    left = contents(cache.root.parent).keys()
    entry = {f"cache/fused/{OTHER}/{name}" for name in FILES}
    assert left == {*entry, f"cache/used/{OTHER}", f"private/{KEY}.json", f"private/{OTHER}.json"}
    assert open_cache(cache.root.parent, max_age=-1).sweep() > 0
    assert cache.lookup(OTHER, MANIFEST) is not None
