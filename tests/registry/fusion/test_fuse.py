"""Fusing through the registry: what is published, what is refused, what the cache answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import query_plans
import tiny_models
from sqlalchemy import update

from fusery.registry import Registry, Reporter, tables
from fusery.registry.errors import BadInputError, FidelityError, RebuildDiffersError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage import transfer
from fusery.storage.errors import MissingFileError, OutOfSpaceError

DOCUMENTED = {
    "key", "digest", "path", "cached", "precision", "quantization", "bytes", "seconds", "engine", "fidelity", "files",
}  # fmt: skip


@pytest.fixture(scope="session")
def small_update(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("quantised")
    base = tiny_models.make_base(folder / "tiny4", bits=4)
    return base, tiny_models.make_adapter(folder / "small", base, update=0.01)


@pytest.fixture
def losing(registry: Registry, small_update: tuple[Path, Path]) -> Registry:
    base, adapter = small_update
    registry.bases.add(base, name="tiny4")
    registry.adapters.register(adapter, base="tiny4", task="small")
    return registry


def spoil(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def tensors(folder: Path) -> dict[str, Any]:
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in tiny_models.read_tensors(path).items()
    }


def test_a_result_is_documented_loadable_and_cached(stocked: Registry, tiny_base: Path) -> None:
    import mlx_lm

    first = stocked.fused.fuse("course_rec@1")
    document = first.to_dict()
    assert document.keys() >= DOCUMENTED
    assert document["fidelity"].keys() >= {"verdict", "retained", "cosine", "relative_error", "modules"}
    assert (document["fidelity"]["verdict"], document["precision"]) == ("PASS", "keep")
    assert json.dumps(document)
    for file in first["files"]:
        path = first.path / file["path"]
        assert path.stat().st_size == file["size"]
        assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (first.path / name).read_bytes() == (tiny_base / name).read_bytes()
    assert mlx_lm.load(str(first.path))[0] is not None
    second = stocked.fused.fuse("course_rec@1")
    assert (first.cached, second.cached) == (False, True)
    assert document | {"cached": True, "source": "cache"} == second.to_dict()
    ours, theirs = tensors(first.path), tensors(stocked.fused.fuse("course_rec@2").path)
    assert ours.keys() == theirs.keys()
    assert any(ours[name] != theirs[name] for name in ours)


def test_a_lost_adapter_is_not_published_unless_loss_is_accepted(losing: Registry) -> None:
    with pytest.raises(FidelityError) as caught:
        losing.fused.fuse("small@1", FuseRequest("keep"))
    assert caught.value.exit_code == 1
    assert "--as auto" in str(caught.value.hint)
    assert losing.fused.list() == []
    assert losing.workspace.cache.entries() == []
    fused = losing.fused.fuse("small@1", FuseRequest("keep", accept_loss=True))
    assert fused["fidelity"]["verdict"] == "LOST"
    with pytest.raises(FidelityError):
        losing.fused.fuse("small@1", FuseRequest("keep"))


def test_auto_goes_on_to_what_keeps_it_and_remembers(losing: Registry) -> None:
    said: list[str] = []
    fused = losing.fused.fuse("small@1", reporter=Reporter(said.append))
    assert fused["precision"] == "mixed"
    assert fused["fidelity"]["retained"] > 0.9
    assert fused["fidelity"]["noise"] < 0.025
    assert any("trying the next" in line for line in said)
    assert [line for line in said if "fusery base calibrate tiny4" in line], "what a calibration would gain"
    said.clear()
    again = losing.fused.fuse("small@1", reporter=Reporter(said.append))
    assert again.cached
    assert not any(line.startswith("fusing") for line in said)


def test_calibration_in_recipes(registry: Registry, small_update: tuple[Path, Path], tmp_path: Path) -> None:
    """DoRA is rescaled, and rounded by no calibration."""
    base, _ = small_update
    registry.bases.add(base, name="tiny4")
    (tmp_path / "prompts.txt").write_text("the cat sat on the mat\n")
    registry.bases.calibrate("tiny4", prompts=tmp_path / "prompts.txt")
    for kind in ("dora", "lora"):
        made = tiny_models.make_adapter(tmp_path / kind, base, fine_tune_type=kind, update=0.02)
        registry.adapters.register(made, base="tiny4", task=kind)
        recipe = registry.fused.fuse(f"{kind}@1", FuseRequest("dither", accept_loss=True)).recipe
        assert bool(recipe.get("calibration")) is (kind == "lora")


def test_what_cannot_be_asked_for_is_refused(stocked: Registry) -> None:
    with pytest.raises(BadInputError) as caught:  # what else: test_request.py
        stocked.fused.fuse("course_rec@1", FuseRequest(scale=-0.0))
    assert "scale" in (caught.value.hint or "")
    with pytest.raises(UnknownReferenceError):
        stocked.fused.fuse("course_rec@9")
    stocked.adapters.yank("course_rec@2", reason="trained on the test set")
    with pytest.raises(BadInputError, match="trained on the test set"):
        stocked.fused.fuse("course_rec@2")
    assert stocked.upkeep.log(action="fused.made") == []


def test_two_tasks_with_the_same_bytes_share_a_model(stocked: Registry, tmp_path: Path) -> None:
    stocked.adapters.register(tmp_path / "first", base="tiny", task="other")
    first, second = stocked.fused.fuse("course_rec@1"), stocked.fused.fuse("other@1")
    assert (first["digest"], second.cached) == (second["digest"], True)
    rounded = stocked.fused.fuse("other@1", FuseRequest(rounding="once"))
    assert rounded["key"] == first["key"], "the rounding of LoRA is no choice"
    assert (first["adapter"], second["adapter"]) == (
        "course_rec_v1_20260115",
        stocked.adapters.show("other@1")["name"],
    )
    assert [row["key"] for row in stocked.adapters.show("other@1")["fused"]] == [first["key"]]
    bundle = stocked.bundles.materialize("other@1", tmp_path / "out")
    assert bundle.adapters == (second["adapter"],)
    text = (tmp_path / "out" / "fusery.json").read_text(encoding="utf-8")
    assert second["adapter"] in text
    assert "course_rec" not in text
    assert stocked.adapters.show("course_rec@1")["bundles"] == []


def test_a_damaged_or_evicted_entry_is_built_again(stocked: Registry) -> None:
    fused = stocked.fused.fuse("course_rec@1")
    spoil(fused.path / "model.safetensors")
    again = stocked.fused.fuse("course_rec@1")
    assert (again.cached, again["digest"]) == (False, fused["digest"])
    stocked.workspace.cache.remove(fused["key"])
    assert stocked.upkeep.audit().ok
    again = stocked.fused.fuse("course_rec@1")
    assert (again.cached, again["digest"]) == (False, fused["digest"])
    # A rebuild that differs from its record is an error.
    stocked.workspace.cache.remove(fused["key"])
    with stocked.workspace.database.write() as session:
        session.execute(update(tables.FusedRow).values(digest="0" * 64))
    with pytest.raises(RebuildDiffersError):
        stocked.fused.fuse("course_rec@1")


def test_base_by_reference(registry: Registry, tiny_base: Path, tmp_path: Path, make_adapter: Any) -> None:
    place = shutil.copytree(tiny_base, tmp_path / "tiny")
    registry.bases.add(place, reference=True)
    registry.adapters.register(make_adapter(seed=1), base="tiny", task="one")
    fused = registry.fused.fuse("one@1")
    assert fused["fidelity"]["verdict"] == "PASS"
    registry.workspace.cache.remove(fused["key"])
    shutil.rmtree(place)
    with pytest.raises(MissingFileError) as caught:
        registry.fused.fuse("one@1")
    assert "by reference" in caught.value.message


@pytest.mark.timing
def test_many_at_once_compute_it_once(stocked: Registry) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: stocked.fused.fuse("course_rec@1"), range(6)))
    assert len({result["digest"] for result in results}) == 1
    assert sum(not result.cached for result in results) == 1
    assert stocked.upkeep.audit().ok


def test_no_room_is_said_before_writing(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    # That the number is the true need is shown on a small disk: tests/cli/test_small_disk.py.
    found = os.statvfs("/")
    full = SimpleNamespace(f_frsize=found.f_frsize, f_bavail=1)
    monkeypatch.setattr(transfer, "os", SimpleNamespace(statvfs=lambda _: full))
    with pytest.raises(OutOfSpaceError) as caught:
        stocked.fused.fuse("course_rec@1")
    assert "FUSERY_CACHE_DIR" in str(caught.value.hint)


def test_the_cap_of_the_cache_spares_the_newest_and_what_has_an_alias(stocked: Registry) -> None:
    object.__setattr__(stocked.workspace.settings, "cache_limit", 1)
    keys = [stocked.fused.fuse(f"course_rec@{version}")["key"] for version in (1, 2)]
    assert [entry.key for entry in stocked.workspace.cache.entries()] == keys[1:]
    stocked.aliases.set("prod", "course_rec@2")
    stocked.fused.fuse("course_rec@1")
    assert {entry.key for entry in stocked.workspace.cache.entries()} == set(keys)


def test_rounding_of_dora(registry: Registry, tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    registry.bases.add(tiny_base, name="tiny")
    registry.adapters.register(make_adapter(fine_tune_type="dora"), base="tiny", task="dora")
    best, theirs = registry.fused.fuse("dora@1"), registry.fused.fuse("dora@1", FuseRequest(precision="keep"))
    assert best["format"] == "keep, rounded once"
    assert theirs["format"] == "keep"
    assert best["fidelity"]["relative_error"] < theirs["fidelity"]["relative_error"]
    assert {tensor[0] for tensor in tensors(best.path).values()} == {"BF16"}
    assert "F32" in {tensor[0] for tensor in tensors(theirs.path).values()}  # so does `mlx_lm.fuse`
    asked = FuseRequest(precision="keep", rounding="once")
    assert registry.fused.fuse("dora@1", asked)["key"] == best["key"]
    assert registry.fused.fuse("dora@1", FuseRequest(rounding="mlx-lm"))["key"] == theirs["key"]


def test_a_base_that_sees_has_keys_of_its_own(registry: Registry, tmp_path: Path) -> None:
    """Its `vision_config` used to be lost, so what is recorded under the old key are other bytes."""
    keys = []
    for name, more in (("blind", {}), ("seeing", {"vision_config": {"depth": 1}})):
        base = tiny_models.make_base(tmp_path / name)
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, **more}))
        registry.bases.add(base, name=name)
        registry.adapters.register(
            tiny_models.make_adapter(tmp_path / f"a-{name}", base), base=name, task=name
        )
        keys.append(registry.fused.fuse(f"{name}@1")["engine"])
    assert keys == ["canonical-1", "canonical-2"]


BY_KEY = re.compile(r'FROM fused\s+WHERE fused\."?key"? = ')


def test_a_cold_fuse_asks_for_its_record_three_times(stocked: Registry) -> None:
    """Before the lease, after it, and where it is recorded."""
    for reference, publish in (("course_rec@1", "recipe"), ("course_rec@2", "full")):
        with query_plans.recorded() as cold:
            made = stocked.fused.fuse(reference, publish=publish)
        assert made.source == "computed"
        assert len([query for query in cold if BY_KEY.search(query.statement)]) == 3
        with query_plans.recorded() as warm:
            assert stocked.fused.fuse(reference, publish=publish).cached
        assert len([query for query in warm if BY_KEY.search(query.statement)]) == 1
