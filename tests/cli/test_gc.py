"""`fusery admin gc`, `cache` and `audit --repair` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from fusery.registry.errors import BadInputError
from fusery.registry.parsing import parse_duration, parse_size
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace

from .conftest import require_refusals

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"


def litter(tmp_path: Path, data: bytes = b"garbage") -> None:
    """Leave a blob that nothing refers to, as a command that was refused in the end."""
    from fusery.registry.records.deposit import Deposit

    workspace = Workspace(Settings.load(tmp_path / "home"))
    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    deposit.put({"file": data})
    deposit.abandon()
    workspace.close()


def test_gc_removes_unreferenced_blobs(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = (
        ("--registry none admin gc", "no registry"),
        ("admin gc --grace soon", "soon"),
        ("admin cache pin course_rec@1", "fusery fuse"),
    )
    require_refusals(stocked, *cases)
    litter(tmp_path)
    assert "Would remove 1, 7 B" in stocked("admin", "gc", "--dry-run", "--grace", "0").out
    assert "Removed 0" in stocked("admin", "gc").out, "it is young"
    plan = stocked("admin", "gc", "--dry-run", "--grace", "0", "--json").json
    done = stocked("admin", "gc", "-y", "--grace", "0s", "--json").json
    assert plan["dry_run"] and {**plan, "dry_run": False} == done
    assert (done["removed"], done["freed_bytes"], done["items"][0]["kind"]) == (1, 7, "blob")
    assert done["kept"] == done["live"] > 4
    files = [path for path in (tmp_path / "home" / "store").rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in files if path.name != "format.json"]
    assert (len(sizes), sum(sizes)) == (done["live"], done["live_bytes"])
    litter(tmp_path)
    asked: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("fusery.cli.collect.is_interactive", lambda: True)
        patch.setattr("click.confirm", lambda text, **_: asked.append(text))
        refused = stocked("admin", "gc", "--grace", "0")
    assert refused.code == 1
    assert "1 from the store, 7 B" in asked[0]
    [line] = stocked("admin", "gc", "-q", "--grace", "0").out.splitlines()
    assert len(line) == 64
    assert stocked("audit").code == 0


@pytest.fixture
def fused(stocked: Fusery) -> Fusery:
    for reference in ("course_rec@1", "course_rec@2"):
        assert stocked("fuse", reference, "--as", "keep", "--accept-loss").code == 0
    return stocked


def test_prune_takes_the_oldest_first(fused: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    document = fused("admin", "cache", "list", "--json").json
    first, second = document["entries"]
    assert (first["adapter"], second["adapter"]) == (FIRST, SECOND)
    assert document["bytes"] == first["bytes"] + second["bytes"]
    assert FIRST in fused("admin", "cache", "list").out
    assert fused("admin", "cache", "list", "-q").out.split()[0] == first["key"]
    assert fused("admin", "cache", "prune", "--json").json["removed"] == 0
    plan = fused("admin", "cache", "prune", str(second["bytes"]), "--dry-run", "--json").json
    done = fused("admin", "cache", "prune", str(second["bytes"]), "--json").json
    assert {**plan, "dry_run": False} == done
    assert (done["removed"], done["freed_bytes"], done["kept"]) == (1, first["bytes"], 1)
    assert done["items"][0]["key"] == first["key"]
    assert fused("audit").code == 0
    asked: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("fusery.cli.collect.is_interactive", lambda: True)
        patch.setattr("click.confirm", lambda text, **_: asked.append(text))
        assert fused("admin", "cache", "prune", "0").code == 1
    assert "1 from the cache" in asked[0]
    monkeypatch.setenv("FUSERY_CACHE_LIMIT", "0")
    assert fused("admin", "cache", "prune", "--json").json["removed"] == 1, "the setting is the limit"


def test_explain(fused: Fusery, tmp_path: Path) -> None:
    words = ("admin", "cache", "explain", "course_rec@1", "--as", "keep")
    [hit] = fused(*words, "--json").json["models"]
    assert (hit["status"], hit["asked"], hit["missing"]) == ("hit", True, [])
    assert (hit["inputs"]["adapter"]["name"], hit["inputs"]["recipe"]["precision"]) == (FIRST, "keep")
    asked, other = fused(*words, "-o", "scale=3", "--json").json["models"]
    assert (asked["status"], asked["asked"]) == ("miss", True)
    assert (other["status"], other["asked"], other["differs"]) == ("hit", False, ["scale"])
    assert "scale" in fused(*words, "-o", "scale=3").out
    fused("admin", "cache", "prune", "0")
    [miss] = fused(*words, "--json").json["models"]
    assert (miss["status"], miss["key"], miss["here"]) == ("miss", hit["key"], None)
    [by_key] = fused("admin", "cache", "explain", hit["key"][:16], "--json").json["models"]
    assert (by_key["key"], by_key["status"]) == (hit["key"], "miss")
    files = fused("show", "course_rec@1", "--json").json["files"]
    [digest] = [file["sha256"] for file in files if "safe" in file["path"]]
    next((tmp_path / "home" / "store").rglob(digest)).unlink()
    [model] = fused(*words, "--json").json["models"]
    assert model["missing"] == ["adapters.safetensors"]
    assert "adapters.safetensors" in fused("admin", "cache", "explain", model["key"]).out


def test_durations_and_sizes() -> None:
    durations = {"0": 0, "90": 90, "90s": 90, "15m": 900, "24h": 86400, "1.5 d": 129600}
    assert {text: parse_duration(text) for text in durations} == durations
    sizes = {"0": 0, "12": 12, "5kB": 5000, "1.5GiB": 3 << 29, "2T": 2 * 10**12, "7b": 7}
    assert {text: parse_size(text) for text in sizes} == sizes
    for text in ("", "-1", "1e9", "ten", "5 parsecs", "1_000", "٣"):
        for parse in (parse_size, parse_duration):
            with pytest.raises(BadInputError):
                parse(text)
