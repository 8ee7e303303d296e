"""Single bits flipped at random places of stored files: each is found, named, and repaired where there is a copy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest

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


def test_each_flipped_bit_is_found_named_and_repaired(
    shelf: Registry, flip: Flip, tiny_base: Path, tmp_path: Path
) -> None:
    copies, home = (tiny_base, tmp_path / "a1", tmp_path / "a2"), shelf.workspace.settings.home
    names = {"base tiny", "adapter t_v1_20260115", "adapter t_v2_20260115"}
    for _ in range(500 if os.environ.get("FUSERY_SOAK") else 1):
        blobs = [path for path in (home / "store" / "blobs").rglob("*") if path.is_file()]
        cached = [path for each in shelf.workspace.cache.entries() for path in each.path.iterdir()]
        assert len(blobs) >= 5 and len(cached) >= 5
        good = {path: path.read_bytes() for path in (*blobs, *cached)}
        for path in good:
            flip(path)
        problems = shelf.upkeep.audit().problems
        assert {each.damage.digest for each in problems if each.damage and each.code == "blob_corrupt"} == {
            path.name for path in blobs
        }
        changed = [each for each in problems if each.code == "cache_changed"]
        assert all(any(f"{path} (" in each.message for each in changed) for path in cached)
        assert len(problems) == len(good)
        assert names <= {name for each in problems for name in each.dependants}
        report = shelf.upkeep.audit(repair=True, copies=copies)
        assert report.ok, [problem.to_dict() for problem in report.problems]
        assert {path: path.read_bytes() for path in good} == good
        put_aside = [*(home / "store" / "quarantine").iterdir()]
        assert put_aside
        for path in put_aside:  # so that ten thousand of them do not pile up
            path.unlink()
        shelf.workspace.cache.sweep(older_than=0)
