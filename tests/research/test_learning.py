"""A calibration for one adapter: what its next fuse has, whom it serves, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models
from bad_adapters import both, even
from broken_adapters import edit_config
from kept_registries import KeptStates
from safetensors.numpy import load_file, save_file

pytest.importorskip("mlx_lm")

from fusery.registry import Registry, Reporter
from fusery.registry.errors import BadInputError, FusionUnsupportedError
from fusery.registry.exchange.checks import check_package
from fusery.registry.exchange.registries import package_of
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.records.calibrations import CalibrationReport
from fusery.registry.records.fused import Fused
from fusery.research import learned_scales
from fusery.research.learn import learn
from fusery.storage.digest import Digest

DITHER = FuseRequest("dither", accept_loss=True)


@pytest.fixture
def tmp_path(kept: KeptStates) -> Path:
    return kept.empty_place()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    line = "On day {} the ferry to the island leaves at {}, and it is full."
    path.write_text("\n".join(line.format(number, number % 12) for number in range(20)), encoding="utf-8")
    return path


@pytest.fixture
def calibrated(
    kept: KeptStates, sqlite_url: str, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """A registry with a calibrated base and two adapters."""
    monkeypatch.setattr(learned_scales, "BATCH", 48)
    monkeypatch.setattr(learned_scales, "RATE", 3e-3)

    def fill(registry: Registry) -> None:
        base = tiny_models.make_base(tmp_path / "base", bits=4, group_size=32, layers=1)
        registry.bases.add(base, name="four")
        for number, task in enumerate(("lessons", "others")):
            made = tiny_models.make_adapter(tmp_path / task, base, update=0.05, seed=number)
            registry.adapters.register(made, base="four", task=task)
        registry.bases.calibrate("four", prompts=texts)

    with kept.opened("calibrated", sqlite_url, fill) as (registry, _):
        yield registry


def learned(registry: Registry, texts: Path, adapter: str = "lessons@1", **more: Any) -> CalibrationReport:
    return learn(registry.workspace, "four", adapter, prompts=texts, steps=8, **more)


def rewritten(texts: Path, old: str, new: str) -> Path:
    path = texts.with_name(f"{new}.txt")
    path.write_text(texts.read_text().replace(old, new))
    return path


def parts(fused: Fused, part: str) -> dict[str, bytes]:
    found = tiny_models.read_tensors(Path(fused.path))
    return {name: data for name, (_, _, data) in found.items() if name.rpartition(".")[2] == part}


def test_the_next_fuse_has_what_was_learned_and_the_codes_that_it_had(
    calibrated: Registry, texts: Path, tmp_path: Path
) -> None:
    before = calibrated.fused.fuse("lessons@1", DITHER)
    made = learned(calibrated, texts)
    assert made.created and made.adapter == "lessons_v1_" + made.adapter.rpartition("_")[2]
    assert made.before is not None and made.after is not None and made.after < made.before
    after = calibrated.fused.fuse("lessons@1", DITHER)
    assert after.recipe["calibration"] == made.digest != before.recipe["calibration"]
    assert parts(after, "weight") == parts(before, "weight")
    changed = {name for name, data in parts(after, "scales").items() if data != parts(before, "scales")[name]}
    assert len(changed) >= 7
    assert after.bytes == before.bytes
    assert after.fidelity.retained == pytest.approx(1, abs=0.1)
    again = learned(calibrated, texts)
    assert not again.created and again.digest == made.digest and again.before is None
    # Other texts make another, which is taken from then on; to learn from the first ones again would be the same and no newer.
    other, said = learned(calibrated, rewritten(texts, "island", "mainland")), list[str]()
    last = learn(calibrated.workspace, "four", "lessons@1", prompts=texts, reporter=Reporter(said.append))
    assert other.created and (last.created, last.digest) == (False, made.digest)
    assert len(said) == 1 and "newer calibration" in said[0]
    newest = calibrated.fused.fuse("lessons@1", DITHER)
    assert newest.recipe["calibration"] == other.digest
    # Whoever has the calibration gets the same bytes.
    shutil.rmtree(after.path)
    rebuilt = calibrated.fused.fuse("lessons@1", FuseRequest(recipe=after.key, accept_loss=True))
    assert rebuilt.digest == after.digest
    shown = [each.digest for each in calibrated.bases.show("four").calibrations if each.adapter is not None]
    assert shown == [made.digest, other.digest]
    told = calibrated.upkeep.log(action="base.calibrated")
    assert ["adapter" in event.detail for event in told] == [False, True, True]
    assert calibrated.upkeep.audit().ok
    # It goes along with its adapter, and with no other.
    for adapter, expected in (
        ("others@1", [None]),
        ("lessons@1", [None, *[calibrated.adapters.show("lessons@1").digest] * 2]),
    ):
        with Registry.open(tmp_path / f"to-{adapter}") as there:
            there.init()
            calibrated.exchange.push(adapter, tmp_path / f"to-{adapter}")
            assert [each.adapter for each in there.bases.show("four").calibrations] == expected
            if len(expected) > 1:
                assert there.fused.fuse(adapter, DITHER).digest == newest.digest


def test_nobody_else_gets_it(calibrated: Registry, texts: Path, tmp_path: Path) -> None:
    asked = {
        "another adapter": ("others@1", DITHER),
        "another draw": ("lessons@1", FuseRequest("dither", seed=3, accept_loss=True)),
        "another scale": ("lessons@1", FuseRequest("dither", scale=0.5, accept_loss=True)),
        "a sum": ("lessons@1", FuseRequest("dither", extras=(("others@1", 0.5),), accept_loss=True)),
    }

    def calibrations() -> dict[str, object]:
        return {name: calibrated.fused.fuse(*each).recipe["calibration"] for name, each in asked.items()}

    plain = calibrations()
    made = learned(calibrated, texts)
    assert calibrations() == plain and made.digest not in plain.values()
    fused = calibrated.fused.fuse("lessons@1", DITHER)
    assert fused.recipe["calibration"] == made.digest
    with pytest.raises(FusionUnsupportedError):
        calibrated.fused.fuse("others@1", FuseRequest(recipe=fused.key, accept_loss=True))
    plain = {name: value for name, value in fused.recipe.items() if name != "fitted"}
    for recipe in ({**fused.recipe, "seed": 5}, plain):
        (tmp_path / "recipe.json").write_text(json.dumps(recipe))
        with pytest.raises(FusionUnsupportedError):
            calibrated.fused.fuse("lessons@1", FuseRequest(recipe=str(tmp_path / "recipe.json")))
    # What was learned with an older calibration gives way to a newer one, until it is learned anew.
    newer = calibrated.bases.calibrate("four", prompts=rewritten(texts, "ferry", "train"))
    assert calibrated.fused.fuse("lessons@1", DITHER).recipe["calibration"] == newer.digest
    anew = learned(calibrated, texts)
    assert anew.created and anew.digest != made.digest
    assert calibrated.fused.fuse("lessons@1", DITHER).recipe["calibration"] == anew.digest


def test_what_cannot_be_learned(calibrated: Registry, texts: Path, tmp_path: Path) -> None:
    def register(folder: Path, base: str) -> None:
        calibrated.adapters.register(folder, base=base, task=folder.name)

    for name, bits in (("dense", {}), ("eight", {"bits": 8, "group_size": 32})):
        base = tiny_models.make_base(tmp_path / f"base-{name}", layers=1, **bits)  # type: ignore[arg-type]
        calibrated.bases.add(base, name=name)
        register(tiny_models.make_adapter(tmp_path / name, base, update=0.05), name)
    whole = peft_folders.make_peft(tmp_path / "whole", tmp_path / "base") or tmp_path / "whole"
    tensors = load_file(whole / "adapter_model.safetensors")
    tensors["base_model.model.model.norm.weight"] = np.full(128, 1.5, np.float32)
    save_file(tensors, whole / "adapter_model.safetensors")
    edit_config(modules_to_save=["model.norm"])(whole)
    register(whole, "four")
    grouped = tiny_models.make_adapter(tmp_path / "grouped", tmp_path / "base", update=0.05)
    both(even(32), edit_config(use_qalora=True, qalora_group_size=32))(grouped)
    register(grouped, "four")
    few = tmp_path / "few.txt"
    few.write_text("One line only.\nAnd another.\n")
    for base_name, adapter, file in (
        ("dense", "dense@1", texts),
        ("four", "grouped@1", texts),
        ("eight", "eight@1", texts),
        ("four", "lessons@1", few),
        ("four", "whole@1", texts),
    ):
        with pytest.raises(BadInputError) as caught:
            learn(calibrated.workspace, base_name, adapter, prompts=file, steps=2)
        assert caught.value.hint


def test_what_makes_it_worse_is_not_kept(
    calibrated: Registry, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_scales, "RATE", 5.0)
    monkeypatch.setattr(learned_scales, "_FARTHEST", 9.0)
    with pytest.raises(BadInputError):
        learned(calibrated, texts)
    assert [each.adapter for each in calibrated.bases.show("four").calibrations] == [None]


def test_a_calibration_is_taken_with_its_adapter_and_for_no_other(
    calibrated: Registry, texts: Path, tmp_path: Path
) -> None:
    """Whoever sends one adapter could decide how another is fused."""
    learned(calibrated, texts)
    other = calibrated.adapters.show("others@1").digest
    package = package_of(calibrated.workspace, "lessons@1", fused=False)
    check_package(package)
    (own,) = [each for each in package.calibration if each.adapter is not None]
    with pytest.raises(BadInputError):
        check_package(replace(package, calibration=(replace(own, adapter=Digest(other)),)))
