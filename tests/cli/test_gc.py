"""`fusery gc`, `cache` and `audit --repair` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from fusery.registry.errors import BadInputError
from fusery.registry.parsing import parse_duration, parse_size
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace


def litter(tmp_path: Path, data: bytes = b"garbage") -> None:
    """Leave a blob that nothing refers to, as a command that was refused in the end."""
    from fusery.registry.records.deposit import Deposit

    workspace = Workspace(Settings.load(tmp_path / "home"))
    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    deposit.put({"file": data})
    deposit.abandon()
    workspace.close()


class TestGc:
    def test_the_document(self, stocked: Fusery, tmp_path: Path) -> None:
        litter(tmp_path)
        plan = stocked("gc", "--dry-run", "--grace", "0", "--json").json
        done = stocked("gc", "-y", "--grace", "0", "--json").json
        assert plan["dry_run"]
        assert {**plan, "dry_run": False} == done
        assert (done["removed"], done["freed_bytes"]) == (1, 7)
        assert done["kept"] == done["live"] > 4
        assert done["items"][0]["kind"] == "blob"
        again = stocked("gc", "--grace", "0", "--json").json
        assert (again["removed"], again["kept"]) == (0, done["kept"])
        assert stocked("audit").code == 0

    def test_the_files_in_the_store_are_the_live_ones(self, stocked: Fusery, tmp_path: Path) -> None:
        litter(tmp_path)
        done = stocked("gc", "--grace", "0", "--json").json
        files = [path for path in (tmp_path / "home" / "store").rglob("*") if path.is_file()]
        sizes = [path.stat().st_size for path in files if path.name != "format.json"]
        assert (len(sizes), sum(sizes)) == (done["live"], done["live_bytes"])

    def test_for_people(self, stocked: Fusery, tmp_path: Path) -> None:
        litter(tmp_path)
        assert "Would remove 1, 7 B" in stocked("gc", "--dry-run", "--grace", "0").out
        assert "Removed 0" in stocked("gc").out
        assert "Removed 1, 7 B" in stocked("gc", "--grace", "0s").out

    def test_quiet_prints_what_went(self, stocked: Fusery, tmp_path: Path) -> None:
        litter(tmp_path)
        [line] = stocked("gc", "-q", "--grace", "0").out.splitlines()
        assert len(line) == 64

    def test_without_a_registry(self, fusery: Fusery) -> None:
        ran = fusery("gc")
        assert (ran.code, "no registry" in ran.err) == (2, True)

    def test_a_duration_that_is_none(self, stocked: Fusery) -> None:
        ran = stocked("gc", "--grace", "soon")
        assert ran.code == 2
        assert "soon" in ran.err


class TestCache:
    @pytest.fixture
    def fused(self, stocked: Fusery) -> Fusery:
        for reference in ("course_rec@1", "course_rec@2"):
            assert stocked("fuse", reference, "--precision", "keep", "--accept-loss").code == 0
        return stocked

    def test_list(self, fused: Fusery) -> None:
        document = fused("cache", "list", "--json").json
        assert [entry["adapter"] for entry in document["entries"]] == [
            "course_rec_v1_20260115",
            "course_rec_v2_20260201",
        ]
        assert document["bytes"] == sum(entry["bytes"] for entry in document["entries"])
        assert "course_rec_v1_20260115" in fused("cache", "list").out
        assert len(fused("cache", "list", "-q").out.split()[0]) == 64

    def test_prune_takes_the_oldest_first(self, fused: Fusery) -> None:
        first, second = fused("cache", "list", "--json").json["entries"]
        plan = fused("cache", "prune", str(second["bytes"]), "--dry-run", "--json").json
        done = fused("cache", "prune", str(second["bytes"]), "--json").json
        assert {**plan, "dry_run": False} == done
        assert (done["removed"], done["freed_bytes"], done["kept"]) == (1, first["bytes"], 1)
        assert done["items"][0]["key"] == first["key"]
        assert fused("audit").code == 0
        assert not fused("fuse", "course_rec@1", "--precision", "keep", "--accept-loss", "--json").json[
            "cached"
        ]

    def test_without_a_size_the_setting_is_the_limit(
        self, fused: Fusery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert fused("cache", "prune", "--json").json["removed"] == 0
        monkeypatch.setenv("FUSERY_CACHE_LIMIT", "0")
        assert fused("cache", "prune", "--json").json["removed"] == 2

    def test_what_is_pinned_or_aliased_stays(self, fused: Fusery) -> None:
        assert fused("cache", "pin", "course_rec@1").code == 0
        assert fused("alias", "set", "course_rec@2", "prod").code == 0
        done = fused("cache", "prune", "0", "--json").json
        assert (done["removed"], done["kept"], done["fits"]) == (0, 2, False)
        first, second = fused("cache", "list", "--json").json["entries"]
        assert (first["pinned"], second["pinned"], second["aliases"]) == (True, False, ["course_rec#prod"])
        assert "pinned" in fused("cache", "list").out
        assert fused("cache", "unpin", first["key"][:12], "--json").json == [
            {"key": first["key"], "changed": True}
        ]
        assert fused("cache", "prune", "0", "--json").json["removed"] == 1

    def test_nothing_to_pin(self, stocked: Fusery) -> None:
        ran = stocked("cache", "pin", "course_rec@1")
        assert (ran.code, "fusery fuse course_rec@1" in ran.err) == (2, True)
        assert stocked("cache", "pin", "nothing@1").code == 2

    def test_explain_a_hit_and_a_miss(self, fused: Fusery) -> None:
        words = ("cache", "explain", "course_rec@1", "--precision", "keep", "--json")
        [hit] = fused(*words).json["models"]
        assert (hit["status"], hit["asked"], hit["missing"]) == ("hit", True, [])
        assert hit["inputs"]["adapter"]["name"] == "course_rec_v1_20260115"
        assert hit["inputs"]["recipe"]["precision"] == "keep"
        fused("cache", "prune", "0")
        [miss] = fused(*words).json["models"]
        assert (miss["status"], miss["key"], miss["here"]) == ("miss", hit["key"], None)
        [by_key] = fused("cache", "explain", hit["key"][:16], "--json").json["models"]
        assert (by_key["key"], by_key["status"]) == (hit["key"], "miss")

    def test_explain_what_keeps_a_request_from_a_model(self, fused: Fusery) -> None:
        models = fused(
            "cache", "explain", "course_rec@1", "--precision", "keep", "--scale", "3", "--json"
        ).json["models"]
        asked, other = models
        assert (asked["status"], asked["asked"]) == ("miss", True)
        assert (other["status"], other["asked"], other["differs"]) == ("hit", False, ["scale"])
        assert (
            "not what is asked for, by its"
            in fused("cache", "explain", "course_rec@1", "--precision", "keep", "--scale", "3").out
        )

    def test_explain_says_what_is_missing(self, fused: Fusery, tmp_path: Path) -> None:
        fused("cache", "prune", "0")
        [file] = [
            file for file in fused("show", "course_rec@1", "--json").json["files"] if "safe" in file["path"]
        ]
        next((tmp_path / "home" / "store").rglob(file["sha256"])).unlink()
        [model] = fused("cache", "explain", "course_rec@1", "--precision", "keep", "--json").json["models"]
        assert model["missing"] == ["adapters.safetensors"]
        assert "adapters.safetensors" in fused("cache", "explain", model["key"]).out

    def test_a_base_is_not_fused(self, stocked: Fusery) -> None:
        assert stocked("cache", "explain", "tiny").code == 2


class TestRepair:
    def test_exit_codes(self, stocked: Fusery, tmp_path: Path) -> None:
        stored = {
            file["path"]: next((tmp_path / "home" / "store").rglob(file["sha256"]))
            for file in stocked("show", "course_rec@1", "--json").json["files"]
        }
        assert stocked("audit", "--repair").code == 0
        stored["adapters.safetensors"].unlink()
        found = stocked("audit")
        assert (found.code, "needed by: adapter course_rec_v1_20260115" in found.out) == (1, True)
        assert stocked("audit", "--repair").code == 1
        mended = stocked("audit", "--repair", "--from", tmp_path / "first")
        assert mended.code == 0
        assert "1 repaired, no problems left." in mended.out
        assert stocked("audit").code == 0
        assert stocked("audit", "--from", tmp_path).code == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("24h", 86400), ("1.5 d", 129600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("12", 12), ("5kB", 5000), ("1.5GiB", 3 << 29), ("2T", 2 * 10**12), ("7b", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1e9", "ten", "5 parsecs", "1_000", "٣"])
def test_neither(text: str) -> None:
    with pytest.raises(BadInputError):
        parse_size(text)
    with pytest.raises(BadInputError):
        parse_duration(text)
