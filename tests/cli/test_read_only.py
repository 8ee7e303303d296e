"""A registry on a file system that may only be read, whoever asks: what reads works, and what writes says so at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixture_types import Fusery
from mounts import mounted_read_only, read_only

from fusery.registry import Registry

from .conftest import snapshot

pytestmark = pytest.mark.timing

READS = (
    "list", "list --json", "show course_rec@1", "log course_rec", "lineage course_rec@1",
    "diff course_rec@1 course_rec@2", "diff course_rec@1 course_rec@2", "log", "base list", "base show tiny",
    "alias list", "log course_rec#prod", "alias rules list", "admin trust list", "admin token list --all", "deploy list",
    "lineage --down tiny", "show --fidelity course_rec@1", "admin cache list", "check first --base tiny", "identify first",
    "lineage --format slsa course_rec@1", "admin db check", "audit", "admin gc --dry-run", "doctor",
)  # fmt: skip
WRITES = (
    "admin init", "register first --base tiny --task other", "base add first --name other", "edit course_rec@1 --note x",
    "alias set course_rec@2 prod", "yank course_rec@1 --reason x", "materialize course_rec@1 bundle",
    "get course_rec@1 exported", "admin backup copy", "deploy record course_rec@1 there",
    "admin token create anna --role reader", "eval run course_rec@1", "eval withdraw course_rec@1 acc --reason x",
)  # fmt: skip


@pytest.fixture
def disk(stocked: Fusery, tmp_path: Path) -> Iterator[Path]:
    """A home of two adapters, one of them published, that nobody can write."""
    assert stocked("fuse", "course_rec@1", "--publish", "full", "-q").code == 0
    assert stocked("alias", "set", "course_rec@1", "prod", "-q").code == 0
    with read_only(tmp_path / "home") as folder:
        with pytest.raises(OSError):
            (folder / "probe").touch()
        yield folder


@pytest.mark.slow
@pytest.mark.usefixtures("disk")
def test_reading_works_and_writing_is_refused(stocked: Fusery, tmp_path: Path) -> None:
    before = snapshot(tmp_path / "home")
    for words in READS:
        ran = stocked(*words.split())
        assert ran.code == 0, (words, ran.out, ran.err)
    assert "course_rec_v2_20260201" in stocked("list").out
    assert snapshot(tmp_path / "home") == before
    for words in WRITES:
        ran = stocked(*words.split())
        assert (ran.code, ran.err.splitlines()[-2][:7]) == (2, "Error: "), (words, ran)
        assert any(part in ran.err for part in ("may only be read", "read-only", "holds no config.json")), ran
        assert "permission denied" not in ran.err
    assert not any((tmp_path / name).exists() for name in ("bundle", "exported"))


@pytest.mark.usefixtures("disk")
def test_a_model_that_is_at_hand_is_fused_and_another_is_not(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = stocked("fuse", "course_rec@1", "--json")
    assert (ran.code, ran.json["source"]) == (0, "cache")
    monkeypatch.setenv("FUSERY_CACHE_DIR", str(tmp_path / "cache"))
    ran = stocked("fuse", "course_rec@1", "--json")
    assert (ran.code, ran.json["source"]) == (0, "store")
    assert Path(ran.json["path"]).parent.parent == tmp_path / "cache"
    ran = stocked("fuse", "course_rec@2")
    assert ran.code == 2
    assert "fusery fuse course_rec_v2_20260201 --publish full" in ran.err
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


def test_what_somebody_else_writes_meanwhile_is_seen(stocked: Fusery, tmp_path: Path) -> None:
    """A registry that is open on a read-only mount shows what is written through the writable path."""
    there = tmp_path / "mounted"
    there.mkdir()
    with mounted_read_only(tmp_path / "home", there), Registry.open(there) as registry:
        assert len(registry.adapters.list()) == 2
        assert stocked("yank", "course_rec@1", "--reason", "worse", "-q").code == 0
        assert registry.adapters.show("course_rec@1")["yanked"]
