"""What `auto` goes by: samples, what the log has of them, and what fits into a budget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from kept_registries import KeptStates
from tiny_architectures import make_architecture

from fusery.registry import FuseRequest, Registry, Reporter
from fusery.registry.errors import FidelityError
from fusery.registry.fusion.known import REFUSED, TRIED
from fusery.registry.records.fused import Fused


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("chosen")
    base = tiny_models.make_base(folder / "tiny4", bits=4, group_size=64)
    return base, tiny_models.make_adapter(folder / "adapter", base, update=0.05)


@pytest.fixture
def tmp_path(kept: KeptStates) -> Path:
    return kept.empty_place()


@pytest.fixture
def calibrated(
    kept: KeptStates, sqlite_url: str, folders: tuple[Path, Path], tmp_path: Path
) -> Iterator[Registry]:
    def fill(registry: Registry) -> None:
        add(registry, folders)
        (tmp_path / "prompts.txt").write_text("the cat sat on the mat\nthe dog lay under it\n")
        registry.bases.calibrate("tiny4", prompts=tmp_path / "prompts.txt")

    with kept.opened("calibrated", sqlite_url, fill) as (registry, _):
        yield registry


def add(registry: Registry, folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    registry.bases.add(base, name="tiny4")
    registry.adapters.register(adapter, base="tiny4", task="task")


def test_quiet_sample_is_shaped(calibrated: Registry, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Rounded to nearest, 6 bits have too little of this update, and 8 would be taken."""
    small = tiny_models.make_adapter(tmp_path / "small", folders[0], update=0.02)
    calibrated.adapters.register(small, base="tiny4", task="small")
    said: list[str] = []
    most = FuseRequest(min_fidelity=0.99)
    made = calibrated.fused.fuse("small@1", most, reporter=Reporter(said.append, verbose=True))
    assert (made.precision, made.recipe["bits"]) == ("mixed", {"": 6})
    assert (made.fidelity.retained or 0.0) > 0.99
    refused = [log.detail for log in calibrated.upkeep.log(action=TRIED)]
    assert [each["sampled"] for each in refused] == [True] * 3, "of keep, dither and 5 bits"
    loud = [line for line in said if "from an eighth of the rows, without the calibration)" in line]
    assert [line.split()[0] for line in loud] == ["dither,", "mixed,"]
    said.clear()
    assert calibrated.fused.fuse("small@1", most, reporter=Reporter(said.append, verbose=True)).cached
    assert set(loud) <= set(said), "also where the log has it"


def test_a_sample_decides_against_no_model_that_a_calibration_shapes(calibrated: Registry) -> None:
    """`auto` looks at an eighth of the rows, at random where that is too loud: not at what is written."""
    assert calibrated.fused.fuse("task@1").precision == "mixed"
    (sample,) = [
        log.detail for log in calibrated.upkeep.log(action=TRIED) if log.detail["precision"] == "dither"
    ]
    assert sample["sampled"]
    retained = sample["retained"]
    assert isinstance(retained, float)
    assert 0.9 < retained < 0.995
    request = FuseRequest("dither", min_fidelity=0.995)
    (row,) = [
        row
        for row in calibrated.fused.formats("task@1", FuseRequest(min_fidelity=0.995)).formats
        if row.precision == "dither"
    ]
    assert row.sampled
    shaped = calibrated.fused.fuse("task@1", request)
    assert (shaped.source, shaped.fidelity.verdict) == ("computed", "UNSURE")
    assert (shaped.fidelity.retained or 0.0) > 0.995


def test_a_sample_spares_auto_another_one_and_is_no_refusal(calibrated: Registry) -> None:
    calibrated.fused.fuse("task@1")
    logged = len(calibrated.upkeep.log(action=TRIED))
    assert calibrated.fused.fuse("task@1").cached
    assert len(calibrated.upkeep.log(action=TRIED)) == logged
    for precision, status in (("auto", "refused"), ("dither", "miss"), ("keep", "miss")):
        model = calibrated.fused.explain("task@1", FuseRequest(precision)).models[0]
        assert model.status == status, model.reason
    with pytest.raises(FidelityError):
        calibrated.fused.fuse("task@1", FuseRequest("keep"))
    assert calibrated.fused.explain("task@1", FuseRequest("keep")).models[0].status == "refused"
    assert len(calibrated.upkeep.log(action=TRIED)) == logged
    assert len(calibrated.upkeep.log(action=REFUSED)) == 1, "all of its rows were measured"


def size(model: Path) -> int:
    return (model / "model.safetensors").stat().st_size


@pytest.mark.parametrize(("mode", "group"), [("mxfp4", 32), ("nvfp4", 16)])
def test_budget_without_biases(sqlite_registry: Registry, tmp_path: Path, mode: str, group: int) -> None:
    """4 affine bits take more than those of mxfp4: what has no more bits than the base keeps its format."""
    base = make_architecture(tmp_path / "base", "llama", bits=4, mode=mode, group_size=group)
    sqlite_registry.bases.add(base, name="base")
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.05, num_layers=2)
    sqlite_registry.adapters.register(adapter, base="base", task="task")
    kept = sqlite_registry.fused.fuse("task@1", FuseRequest("keep", accept_loss=True))
    as_base = tiny_models.read_tensors(kept.path / "model.safetensors")
    mixed = {}
    for budget in (1.0, 1.04):
        request = FuseRequest("mixed", budget=budget, accept_loss=True)
        made = mixed[budget] = sqlite_registry.fused.fuse("task@1", request)
        assert size(made.path) <= budget * size(kept.path), budget
        tensors = tiny_models.read_tensors(made.path / "model.safetensors")
        for path in (path for path, wide in dict(made.recipe["bits"]).items() if wide == 0):
            assert f"{path}.biases" not in tensors
            assert tensors[f"{path}.weight"] == as_base[f"{path}.weight"]
    assert set(mixed[1.0].recipe["bits"].values()) == {0}
    assert {0, 4} <= set(mixed[1.04].recipe["bits"].values())
    assert mixed[1.04].format.startswith("mixed, own/")


def test_modules_with_more_bits_keep_them(sqlite_registry: Registry, tmp_path: Path) -> None:
    fine = "model.layers.1.self_attn.q_proj"
    base = tiny_models.make_base(
        tmp_path / "base", bits=4, layers=2, overrides={fine: {"bits": 8, "group_size": 64}}
    )
    sqlite_registry.bases.add(base, name="base")
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.05, num_layers=2)
    sqlite_registry.adapters.register(adapter, base="base", task="task")
    made = sqlite_registry.fused.fuse("task@1", FuseRequest("mixed", budget=1.05, accept_loss=True))
    kept = sqlite_registry.fused.fuse("task@1", FuseRequest("keep", accept_loss=True))
    assert made.recipe["bits"][fine] == 8
    assert 4 in made.recipe["bits"].values()
    shapes = [
        tiny_models.read_tensors(each.path / "model.safetensors")[f"{fine}.weight"][1]
        for each in (made, kept)
    ]
    assert shapes[0] == shapes[1]
    assert size(made.path) <= 1.05 * size(kept.path)


@pytest.fixture
def tight(sqlite_registry: Registry, folders: tuple[Path, Path]) -> Registry:
    """A registry with `task@1`, which `dither` alone keeps at the size of its base, with more noise than `auto` likes."""
    add(sqlite_registry, folders)
    return sqlite_registry


def asked(registry: Registry, request: FuseRequest) -> tuple[Fused, list[str]]:
    said: list[str] = []
    return registry.fused.fuse("task@1", request, reporter=Reporter(said.append)), said


def test_within_a_budget_what_passes_is_taken_before_what_does_not(tight: Registry) -> None:
    with pytest.raises(FidelityError):
        tight.fused.fuse("task@1", FuseRequest("mixed", budget=1.0))
    for budget, accept_loss in ((1.0, False), (1.05, True)):
        request = FuseRequest(budget=budget, accept_loss=accept_loss)
        made, said = asked(tight, request)
        assert (made.precision, made.fidelity.verdict) == ("dither", "UNSURE")
        assert any(line.endswith("trying the next format") for line in said), said
        logged = len(tight.upkeep.log(action=TRIED))
        again, said = asked(tight, request)
        assert (again.key, again.source) == (made.key, "cache")
        assert not [line for line in said if line.startswith("fusing")]
        assert len(tight.upkeep.log(action=TRIED)) == logged, "each was looked at once"
    # Where nothing passes, the last need only not be lost.
    with pytest.raises(FidelityError):
        tight.fused.fuse("task@1", FuseRequest(budget=1.05, min_fidelity=0.995))
    made, _ = asked(tight, FuseRequest("mixed", budget=1.05))
    assert (made.fidelity.verdict, (made.fidelity.retained or 0.0) < 0.9) == ("UNSURE", True)
    # Bits module by module are taken where they pass: less noise is beside them than beside what is dithered.
    made, _ = asked(tight, FuseRequest(budget=1.12))
    assert (made.precision, made.fidelity.verdict) == ("mixed", "UNSURE")
    assert made.key == asked(tight, FuseRequest("mixed", budget=1.12))[0].key


def test_what_a_calibration_shapes_is_not_given_up_for_its_sample(calibrated: Registry) -> None:
    """Rounded at random as the base's own size is sampled, it would be lost."""
    made, _ = asked(calibrated, FuseRequest(budget=1.0))
    assert (made.precision, made.fidelity.verdict) == ("mixed", "UNSURE")


def test_more_bits_on_a_coarse_base_can_overshoot(sqlite_registry: Registry, tmp_path: Path) -> None:
    """Half of the 3-bit grid lies between two points of the 5-bit one, where any update moves a weight by half a step."""
    base = tiny_models.make_base(tmp_path / "tiny3", bits=3, group_size=64)
    coarse, small = sqlite_registry, tiny_models.make_adapter(tmp_path / "small", base, update=0.01)
    coarse.bases.add(base, name="tiny3")
    coarse.adapters.register(small, base="tiny3", task="small")
    found = coarse.fused.formats("small@1")
    verdicts = {
        row.format: row.fidelity and (row.fidelity.verdict, row.fidelity.retained) for row in found.formats
    }
    five, six = (verdicts[f"mixed, {bits} bits where adapted"] for bits in (5, 6))
    assert five is not None and six is not None
    assert (five[0], (five[1] or 0.0) > 1.7) == ("LOST", True)
    assert (six[0], (six[1] or 1.0) < 0.3) == ("LOST", True)
    assert found.chosen == "mixed, 8 bits where adapted"

    recipe = coarse.fused.fuse("small@1", FuseRequest("mixed")).to_dict()["recipe"]
    assert isinstance(recipe, dict)
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({**recipe, "bits": {"": 5}}))
    with pytest.raises(FidelityError, match="overshoots: 19"):
        coarse.fused.fuse("small@1", FuseRequest(recipe=str(file)))
    said: list[str] = []
    made = coarse.fused.fuse(
        "small@1", FuseRequest(recipe=str(file), accept_loss=True), reporter=Reporter(said.append)
    )
    assert made.fidelity.verdict == "LOST"
    assert [line for line in said if line.endswith(f"fusery show {made.adapter} --fidelity --formats")]
    (refused,) = [log.detail for log in coarse.upkeep.log(action=REFUSED)]
    assert refused["verdict"] == "LOST"
