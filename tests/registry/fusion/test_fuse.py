"""Fusing through the registry: what is published, what is refused, what the cache answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import query_plans
import tiny_models
from sqlalchemy import func, select, update

from fusery.registry import Registry, Reporter, tables
from fusery.registry.errors import BadInputError, FidelityError, RebuildDiffersError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.fusion.known import Measured
from fusery.storage import room
from fusery.storage.errors import BlobCorruptError, MissingFileError, OutOfSpaceError

DOCUMENTED = {
    "key", "digest", "path", "cached", "precision", "quantization", "bytes", "seconds", "engine", "fidelity", "files",
}  # fmt: skip


@pytest.fixture(scope="session")
def small_update(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A 4-bit base, and an adapter whose update falls between the steps of its quantisation."""
    folder = tmp_path_factory.mktemp("quantised")
    base = tiny_models.make_base(folder / "tiny4", bits=4)
    return base, tiny_models.make_adapter(folder / "small", base, update=0.01)


@pytest.fixture
def losing(registry: Registry, small_update: tuple[Path, Path]) -> Registry:
    """A registry where `small@1` is lost when it is fused into its base's own format."""
    base, adapter = small_update
    registry.bases.add(base, name="tiny4")
    registry.adapters.register(adapter, base="tiny4", task="small")
    return registry


def tensors(folder: Path) -> dict[str, Any]:
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in tiny_models.read_tensors(path).items()
    }


def test_a_result_has_what_is_documented(stocked: Registry) -> None:
    document = stocked.fused.fuse("course_rec@1").to_dict()
    assert document.keys() >= DOCUMENTED
    assert document["fidelity"].keys() >= {"verdict", "retained", "cosine", "relative_error", "modules"}
    assert document["fidelity"]["verdict"] == "PASS"
    assert json.dumps(document)


def test_the_second_time_comes_from_the_cache(stocked: Registry) -> None:
    first, second = stocked.fused.fuse("course_rec@1"), stocked.fused.fuse("course_rec@1")
    assert (first.cached, second.cached) == (False, True)
    assert first.path == second.path
    assert first.to_dict() | {"cached": True, "source": "cache"} == second.to_dict()


def test_the_result_loads_in_mlx_lm(stocked: Registry) -> None:
    import mlx_lm

    model = mlx_lm.load(str(stocked.fused.fuse("course_rec@1").path))[0]
    assert model is not None


def test_the_files_are_read_only_and_as_recorded(stocked: Registry) -> None:
    fused = stocked.fused.fuse("course_rec@1")
    for file in fused["files"]:
        path = fused.path / file["path"]
        assert path.stat().st_size == file["size"]
        assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_companions_are_the_base_s_byte_for_byte(stocked: Registry, tiny_base: Path) -> None:
    path = stocked.fused.fuse("course_rec@1").path
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (path / name).read_bytes() == (tiny_base / name).read_bytes()


def test_a_lost_adapter_is_not_published(losing: Registry) -> None:
    with pytest.raises(FidelityError) as caught:
        losing.fused.fuse("small@1", FuseRequest("keep"))
    assert caught.value.exit_code == 1
    assert "--precision auto" in str(caught.value.hint)
    with losing.workspace.database.read() as session:
        assert session.scalar(select(func.count()).select_from(tables.Fused)) == 0
    assert losing.workspace.cache.entries() == []


def test_loss_can_be_accepted(losing: Registry) -> None:
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


def test_a_fuse_that_takes_long_says_so_before_it_begins(losing: Registry, tmp_path: Path) -> None:
    said: list[str] = []
    reporter = Reporter(said.append, lambda done, _: said.append(f"at {done}"))
    losing.fused.fuse("small@1", FuseRequest("dither"), reporter=reporter)
    assert not [line for line in said if "what keep takes" in line]
    (tmp_path / "prompts.txt").write_text("the cat sat on the mat\nthe dog lay under it\n")
    losing.bases.calibrate("tiny4", prompts=tmp_path / "prompts.txt")
    said.clear()
    losing.fused.fuse("small@1", FuseRequest("dither"), reporter=reporter)
    slow = next(number for number, line in enumerate(said) if "what keep takes" in line)
    assert slow < min(number for number, line in enumerate(said) if line.startswith("at "))
    said.clear()
    losing.fused.fuse("small@1", FuseRequest("keep", accept_loss=True), reporter=reporter)
    losing.fused.fuse("small@1", reporter=reporter)
    assert not [line for line in said if "base calibrate" in line], "there is one"
    assert not [line for line in said if "what keep takes" in line and line.startswith("dither")]


def test_a_calibration_makes_what_auto_takes_no_larger(registry: Registry, tmp_path: Path) -> None:
    """What is written beside the update grows with the shaping, and is heard less."""
    base = tiny_models.make_base(tmp_path / "base", bits=4, group_size=32)
    registry.bases.add(base, name="fine")
    (tmp_path / "prompts.txt").write_text("the cat sat on the mat\nthe dog lay under it\n")
    for seed in (1, 2):
        made = tiny_models.make_adapter(tmp_path / f"a{seed}", base, update=0.2, seed=seed)
        registry.adapters.register(made, base="fine", task=f"t{seed}")
    first = registry.fused.fuse("t1@1")
    assert first.recipe["bits"] == {"": 6}
    registry.bases.calibrate("fine", prompts=tmp_path / "prompts.txt")
    for task in ("t1", "t2"):
        shaped = registry.fused.fuse(f"{task}@1")
        assert shaped.recipe["bits"] == {"": 6}
        assert shaped.recipe["calibration"]
        assert shaped.bytes <= first.bytes


def test_only_what_a_calibration_shapes_has_it_in_its_recipe(
    registry: Registry, small_update: tuple[Path, Path], tmp_path: Path
) -> None:
    """DoRA is rescaled, and rounded by no calibration: neither its name nor its key says otherwise, and nobody is told to make one."""
    base, _ = small_update
    registry.bases.add(base, name="tiny4")
    for number, kind in enumerate(("dora", "lora")):
        made = tiny_models.make_adapter(tmp_path / kind, base, fine_tune_type=kind, update=0.02, seed=number)
        registry.adapters.register(made, base="tiny4", task=kind)
    said: dict[str, list[str]] = {"dora": [], "lora": []}
    for kind, lines in said.items():
        registry.fused.fuse(f"{kind}@1", reporter=Reporter(lines.append))
    told = {kind: any("base calibrate" in line for line in lines) for kind, lines in said.items()}
    assert told == {"dora": False, "lora": True}
    (tmp_path / "prompts.txt").write_text("the cat sat on the mat\n")
    registry.bases.calibrate("tiny4", prompts=tmp_path / "prompts.txt")
    recipes = {
        kind: registry.fused.fuse(f"{kind}@1", FuseRequest("dither", accept_loss=True)).recipe
        for kind in said
    }
    assert {kind: bool(recipe.get("calibration")) for kind, recipe in recipes.items()} == {
        "dora": False,
        "lora": True,
    }


def test_auto_names_the_limit_that_a_candidate_missed() -> None:
    """A candidate with the verdict PASS was not passed over for its verdict, so the message leaves it out."""
    asked = FuseRequest()
    missed = {
        "auto takes at most 2.5 % noise": Measured("PASS", 0.99, 0.031),
        "auto takes at most 3.5 % noise": Measured("PASS", 1.0, 0.036, 0.5, shaped=True),
        "the cosine is 0.08, where auto takes at least 0.1": Measured("PASS", 0.96, 0.014, 0.077),
        "auto takes 90 to 110 % of the update": Measured("PASS", 0.854, 0.018, 0.26),
    }
    missed_above = Measured("PASS", 1.15, 0.018, 0.26)
    for limit, measured in (*missed.items(), ("auto takes 90 to 110 % of the update", missed_above)):
        message = measured.passed_over(asked)
        assert not measured.passes(asked, strict=True)
        assert limit in message
        assert "PASS" not in message
    assert "mixed takes at most 2.5 % noise" in Measured("PASS", 0.99, 0.031).passed_over(
        FuseRequest("mixed")
    )
    least = FuseRequest(min_fidelity=0.995)
    for retained in (0.99, 1.01):
        message = Measured("PASS", retained, 0.031).passed_over(least)
        assert "--min-fidelity asks for 99.5 to 100.5 % of the update" in message
    lost = Measured("LOST", 0.2, 0.031).passed_over(asked)
    assert lost.startswith("LOST, ")
    assert "auto takes" not in lost


def test_auto_requires_closeness_low_noise_and_cosine() -> None:
    asked = FuseRequest()
    takes = {
        retained: Measured("PASS", retained, 0.018, 0.26).passes(asked, strict=True)
        for retained in (0.899, 0.9, 1.1, 1.101)
    }
    assert takes == {0.899: False, 0.9: True, 1.1: True, 1.101: False}
    shaped = [Measured("PASS", 1.0, noise, 0.5, shaped=True) for noise in (0.035, 0.036)]
    assert [each.passes(asked, strict=True) for each in shaped] == [True, False]
    clear = {
        cosine: Measured("PASS", 0.96, 0.014, cosine).passes(asked, strict=True)
        for cosine in (None, 0.1, 0.09)
    }
    assert clear == {None: True, 0.1: True, 0.09: False}
    assert Measured("PASS", 0.96, 0.014, 0.09).passes(asked, strict=False)


def test_auto_keeps_the_format_of_a_dense_base(stocked: Registry) -> None:
    assert stocked.fused.fuse("course_rec@1")["precision"] == "keep"


def test_a_minimum_can_be_asked_for(losing: Registry) -> None:
    retained = losing.fused.fuse("small@1", FuseRequest("dequantize"))["fidelity"]["retained"]
    assert 0.9 < retained < 1
    with pytest.raises(FidelityError) as caught:
        losing.fused.fuse("small@1", FuseRequest("dequantize", min_fidelity=1.0))
    assert "--min-fidelity asks for 100 to 100 % of the update" in caught.value.message


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_minimum_is_a_share(share: float, stocked: Registry) -> None:
    with pytest.raises(BadInputError):
        stocked.fused.fuse("course_rec@1", FuseRequest(min_fidelity=share))


@pytest.mark.parametrize("scale", [0.0, -0.0])
def test_scale_zero_is_refused(scale: float, stocked: Registry) -> None:
    with pytest.raises(BadInputError) as caught:
        stocked.fused.fuse("course_rec@1", FuseRequest(scale=scale))
    assert "--scale" in (caught.value.hint or "")
    assert stocked.upkeep.log(action="fused.made") == []


def test_the_same_bytes_under_two_tasks_have_one_model_and_two_names(
    stocked: Registry, tmp_path: Path
) -> None:
    stocked.adapters.register(tmp_path / "first", base="tiny", task="other")
    first, second = stocked.fused.fuse("course_rec@1"), stocked.fused.fuse("other@1")
    assert (first["digest"], second.cached) == (second["digest"], True)
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
    assert any(node["kind"] == "bundle" for node in stocked.provenance.lineage("other@1").to_dict()["nodes"])


def test_an_unknown_precision_is_refused(stocked: Registry) -> None:
    with pytest.raises(BadInputError):
        stocked.fused.fuse("course_rec@1", FuseRequest("half"))


def test_an_unknown_adapter_is_refused(stocked: Registry) -> None:
    with pytest.raises(UnknownReferenceError):
        stocked.fused.fuse("course_rec@9")


def test_a_yanked_adapter_is_not_fused(stocked: Registry) -> None:
    with stocked.workspace.database.write() as session:
        row = session.scalars(select(tables.Adapter).where(tables.Adapter.version == 1)).one()
        now = stocked.workspace.database.utcnow(session)
        session.add(tables.Yank(adapter_id=row.id, reason="trained on the test set", at=now, by="ann"))
    with pytest.raises(BadInputError, match="trained on the test set"):
        stocked.fused.fuse("course_rec@1")
    assert stocked.adapters.show("course_rec@1")["yanked"]


def test_a_damaged_entry_is_built_again(stocked: Registry) -> None:
    fused = stocked.fused.fuse("course_rec@1")
    path = fused.path / "model.safetensors"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    again = stocked.fused.fuse("course_rec@1")
    assert not again.cached
    assert again["digest"] == fused["digest"]
    assert stocked.upkeep.audit().ok


def test_an_evicted_entry_is_built_again_to_the_same_digest(stocked: Registry) -> None:
    fused = stocked.fused.fuse("course_rec@1")
    stocked.workspace.cache.remove(fused["key"])
    assert stocked.upkeep.audit().ok
    again = stocked.fused.fuse("course_rec@1")
    assert (again.cached, again["digest"]) == (False, fused["digest"])


def test_a_rebuild_that_differs_from_its_record_is_said(stocked: Registry) -> None:
    fused = stocked.fused.fuse("course_rec@1")
    stocked.workspace.cache.remove(fused["key"])
    with stocked.workspace.database.write() as session:
        session.execute(update(tables.Fused).values(digest="0" * 64))
    with pytest.raises(RebuildDiffersError):
        stocked.fused.fuse("course_rec@1")


def test_a_damaged_base_is_noticed_while_it_is_read(stocked: Registry) -> None:
    weights = next(
        file for file in stocked.bases.show("tiny")["files"] if file["path"] == "model.safetensors"
    )
    path = stocked.workspace.store.local_path(weights["sha256"])
    assert path is not None
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(BlobCorruptError):
        stocked.fused.fuse("course_rec@1")
    assert stocked.workspace.cache.entries() == []
    assert [problem.code for problem in stocked.upkeep.audit().problems] == ["blob_corrupt"]


def test_a_base_is_read_through_once_and_again_after_a_change(stocked: Registry) -> None:
    weights = next(
        file for file in stocked.bases.show("tiny")["files"] if file["path"] == "model.safetensors"
    )
    path = stocked.workspace.store.local_path(weights["sha256"])
    assert path is not None
    vouchers = stocked.workspace.vouchers
    assert not vouchers.hold(path, weights["sha256"])
    stocked.fused.fuse("course_rec@1")
    assert vouchers.hold(path, weights["sha256"])
    path.chmod(0o644)
    assert not vouchers.hold(path, weights["sha256"])


def test_a_base_by_reference_is_fused_where_it_lies(
    registry: Registry, tiny_base: Path, tmp_path: Path, make_adapter: Any
) -> None:
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


def test_many_at_once_compute_it_once(stocked: Registry) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: stocked.fused.fuse("course_rec@1"), range(6)))
    assert len({result["digest"] for result in results}) == 1
    assert sum(not result.cached for result in results) == 1
    assert stocked.upkeep.audit().ok


def test_two_versions_give_two_models(stocked: Registry) -> None:
    first, second = stocked.fused.fuse("course_rec@1").path, stocked.fused.fuse("course_rec@2").path
    ours, theirs = tensors(first), tensors(second)
    assert ours.keys() == theirs.keys()
    assert any(ours[name] != theirs[name] for name in ours)


def test_no_room_is_said_before_anything_is_written(
    stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That the number is the true need is shown on a small disk: tests/cli/test_small_disk.py.
    found = os.statvfs("/")
    full = SimpleNamespace(f_frsize=found.f_frsize, f_bavail=1)
    monkeypatch.setattr(room, "os", SimpleNamespace(statvfs=lambda _: full))
    with pytest.raises(OutOfSpaceError) as caught:
        stocked.fused.fuse("course_rec@1")
    assert "FUSERY_CACHE_DIR" in str(caught.value.hint)


def test_the_cap_of_the_cache_holds_but_for_the_newest(stocked: Registry) -> None:
    object.__setattr__(stocked.workspace.settings, "cache_limit", 1)
    first, second = stocked.fused.fuse("course_rec@1"), stocked.fused.fuse("course_rec@2")
    assert [entry.key for entry in stocked.workspace.cache.entries()] == [second["key"]]
    assert first["key"] != second["key"]


def test_what_has_an_alias_is_spared(stocked: Registry) -> None:
    object.__setattr__(stocked.workspace.settings, "cache_limit", 1)
    with stocked.workspace.database.write() as session:
        row = session.scalars(select(tables.Adapter).where(tables.Adapter.version == 1)).one()
        session.add(tables.Alias(task_id=row.task_id, name="prod", adapter_id=row.id))
    stocked.fused.fuse("course_rec#prod")
    stocked.fused.fuse("course_rec@2")
    assert len(stocked.workspace.cache.entries()) == 2


def test_auto_rounds_dora_once_and_keep_as_mlx_lm_does(
    registry: Registry, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
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


def test_a_rounding_is_one_that_there_is(stocked: Registry) -> None:
    with pytest.raises(BadInputError, match="unknown rounding 'twice'"):
        stocked.fused.fuse("course_rec@1", FuseRequest(rounding="twice"))


def test_of_lora_the_rounding_says_nothing(stocked: Registry) -> None:
    plain = stocked.fused.fuse("course_rec@1", FuseRequest(precision="keep"))
    assert stocked.fused.fuse("course_rec@1", FuseRequest(rounding="once"))["key"] == plain["key"]


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


@pytest.mark.parametrize("publish", ["recipe", "full"])
def test_a_cold_fuse_asks_for_its_record_three_times(stocked: Registry, publish: str) -> None:
    """Before the lease, after it, and where it is recorded."""
    with query_plans.recorded() as cold:
        made = stocked.fused.fuse("course_rec@1", publish=publish)
    assert made.source == "computed"
    assert len([query for query in cold if BY_KEY.search(query.statement)]) == 3
    with query_plans.recorded() as warm:
        assert stocked.fused.fuse("course_rec@1", publish=publish).cached
    assert len([query for query in warm if BY_KEY.search(query.statement)]) == 1


def test_of_several_formats_each_is_looked_up_three_times_at_most(losing: Registry) -> None:
    with query_plans.recorded() as cold:
        assert losing.fused.fuse("small@1").source == "computed"
    asked = Counter(str(query.parameters) for query in cold if BY_KEY.search(query.statement))
    assert len(asked) > 1
    assert max(asked.values()) == 3


def test_requantising_counts_the_matrices_that_stay_plain(registry: Registry, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "odd", hidden=192)
    registry.bases.add(base, name="odd")
    registry.adapters.register(tiny_models.make_adapter(tmp_path / "a", base), base="odd", task="odd")
    counts = {}
    for size in (128, 32):
        said: list[str] = []
        request = FuseRequest(quantize=4, group_size=size, accept_loss=True)
        registry.fused.fuse("odd@1", request, reporter=Reporter(said.append))
        counts[size] = [line for line in said if "matrices are not quantised" in line]
    assert counts[32] == []
    (line,) = counts[128]
    assert re.match(r"\d+ of \d+ matrices ", line)
    assert re.search(r"--group-size (64|32)$", line)


def test_degraded_requantised_model_names_a_finer_format(stocked: Registry) -> None:
    said: list[str] = []
    request = FuseRequest(quantize=2, accept_loss=True)
    fused = stocked.fused.fuse("course_rec@1", request, reporter=Reporter(said.append))
    assert fused.fidelity.verdict != "PASS"
    (line,) = [line for line in said if line.startswith(fused.fidelity.verdict)]
    assert "--formats" not in line
    assert line.endswith("--quantize 4 --group-size 32")


@pytest.mark.parametrize(("bits", "suggested"), [(3, False), (4, True)])
def test_calibration_is_suggested_from_4_bits(
    bits: int, suggested: bool, registry: Registry, tmp_path: Path
) -> None:
    base = tiny_models.make_base(tmp_path / "low", bits=bits)
    registry.bases.add(base, name="low")
    adapter = tiny_models.make_adapter(tmp_path / "a", base, update=0.01)
    registry.adapters.register(adapter, base="low", task="small")
    said: list[str] = []
    registry.fused.fuse("small@1", reporter=Reporter(said.append))
    assert any("base calibrate low" in line for line in said) == suggested
