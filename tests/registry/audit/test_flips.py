"""Single bits flipped at random places of stored files: each is found, named, and repaired where there is a copy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.digest import Digest

Flip = Callable[[Path], None]


@pytest.fixture
def shelf(
    sqlite_url: str, tiny_base: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> Iterator[Registry]:
    """A registry with a base, two adapters and a fused model, whose adapters' folders are still there."""
    with Registry(open_workspace(tmp_path / "home", sqlite_url)) as registry:
        registry.init()
        registry.bases.add(tiny_base, name="tiny")
        for seed in (1, 2):
            registry.adapters.register(
                make_adapter(f"a{seed}", seed=seed), base="tiny", task="t", date="20260115"
            )
        registry.fused.fuse("t@1", FuseRequest(precision="keep", accept_loss=True))
        yield registry


def stored_files(registry: Registry) -> dict[Path, tuple[str, str]]:
    """Return every stored file with the code that an audit has for it, and what it must name."""
    store, cache = registry.workspace.store, registry.workspace.cache
    expected: dict[Path, tuple[str, str]] = {}
    holders = [("base tiny", registry.bases.show("tiny")["files"])]
    holders += [
        (f"adapter {row['name']}", registry.adapters.show(row["name"])["files"])
        for row in registry.adapters.list()
    ]
    for name, files in holders:
        for file in files:
            path = store.local_path(Digest(file["sha256"]))
            assert path is not None
            expected.setdefault(path, ("blob_corrupt", name))
    for entry in cache.entries():
        files = [path for path in entry.path.rglob("*") if path.is_file()]
        expected |= dict.fromkeys(files, ("cache_changed", "adapter t_v1_20260115"))
    return expected


def flip_all(registry: Registry, flip: Flip, files: dict[Path, tuple[str, str]]) -> int:
    """Flip one bit in every stored file, and see that the audit finds each; return how many there were."""
    for path in files:
        flip(path)
    problems = registry.upkeep.audit().problems
    assert len(problems) == len(files)
    by_digest = {found.damage.digest: found for found in problems if found.damage}
    store = registry.workspace.settings.home / "store"
    for path, (code, name) in files.items():
        if store in path.parents:
            problem = by_digest[Digest(path.name)]
        else:
            [problem] = [found for found in problems if f"{path} has " in found.message]
        assert problem.code == code
        assert name in problem.dependants
    return len(files)


def check(registry: Registry, flip: Flip, copies: tuple[Path, ...], rounds: int) -> int:
    flipped = 0
    for number in range(rounds):
        files = stored_files(registry)
        good = {path: path.read_bytes() for path in files}
        flipped += flip_all(registry, flip, files)
        # Half of the time there are copies of everything, and the fused model is made again.
        report = registry.upkeep.audit(repair=True, copies=copies if number % 2 == 0 else ())
        if number % 2:
            assert not report.ok
            named = {name for problem in report.problems for name in problem.dependants}
            assert {"base tiny", "adapter t_v1_20260115", "adapter t_v2_20260115"} <= named
            report = registry.upkeep.audit(repair=True, copies=copies)
            registry.fused.fuse("t@1", FuseRequest(precision="keep", accept_loss=True))
        assert report.ok, [problem.to_dict() for problem in report.problems]
        assert {path: path.read_bytes() for path in good} == good
        put_aside = [*(registry.workspace.settings.home / "store" / "quarantine").iterdir()]
        assert put_aside
        for path in put_aside:  # so that ten thousand of them do not pile up
            path.unlink()
        registry.workspace.cache.sweep(older_than=0)
    return flipped


def test_each_flipped_bit_is_found_named_and_repaired(
    shelf: Registry, flip: Flip, tiny_base: Path, tmp_path: Path
) -> None:
    rounds = 500 if os.environ.get("FUSERY_SOAK") else 2
    assert check(shelf, flip, (tiny_base, tmp_path / "a1", tmp_path / "a2"), rounds) >= 10 * rounds
