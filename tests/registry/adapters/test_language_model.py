"""Adapters of models that see, whose modules PEFT and mlx-lm name otherwise."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters_by_class
import pytest
import tiny_models
from peft_folders import edit_config, edit_tensors, real_peft

from fusery.registry import Registry
from fusery.registry.adapters import PEFT_WEIGHTS as WEIGHTS
from fusery.registry.adapters.peft_form import write_peft
from fusery.registry.models.architecture import Architecture
from fusery.registry.models.libraries import ALIKE, LAYOUTS
from fusery.registry.records.bases import base_folder, recorded_architecture
from fusery.registry.records.references import resolve_base
from fusery.storage.digest import digest_file

pytest.importorskip("mlx_lm")


@pytest.fixture(scope="module")
def base(module_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that sees."""
    folder = tmp_path_factory.mktemp("qwen2_vl")
    real_peft("tiny", "qwen2_vl", "null", folder)  # skips where PEFT is not
    module_registry.bases.add(folder, name="qwen2_vl")
    return folder


def renamed(adapter: Path, out: Path, change: Callable[[str], str]) -> Path:
    """Write an adapter whose modules have other names."""
    shutil.copytree(adapter, out)
    names = list(tiny_models.read_tensors(out / WEIGHTS))
    edit_tensors(out, lambda raw: raw.update({change(name): raw.pop(name) for name in names}))
    edit_config(out, target_modules=sorted({change(name).split(".")[-3] for name in names}))
    return out


def test_names_of_other_years_are_the_same_modules(
    module_registry: Registry, base: Path, tmp_path: Path
) -> None:
    """transformers before 4.52 had the language model elsewhere, and PEFT's files of those days say so."""
    adapter = exported(module_registry, base, tmp_path)
    digests = set()
    for number, old in enumerate(("model.language_model.", "language_model.model.", "model.")):
        folder = renamed(
            adapter,
            tmp_path / f"old{number}",
            lambda name, old=old: name.replace("model.language_model.", old),  # type: ignore[misc]
        )
        added = module_registry.adapters.register(folder, base="qwen2_vl", task=f"old{number}")
        mlx = module_registry.exchange.export(added.name, tmp_path / f"mlx{number}", form="mlx").path
        digests.add(digest_file(Path(mlx) / "adapters.safetensors"))
    assert len(digests) == 1


def test_one_module_under_two_names_is_refused(module_registry: Registry, base: Path, tmp_path: Path) -> None:
    adapter = exported(module_registry, base, tmp_path)
    folder = renamed(
        adapter,
        tmp_path / "twice",
        lambda name: name.replace(
            "model.language_model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.q_proj"
        ),
    )
    found = module_registry.adapters.check(folder, base="qwen2_vl", task="twice")
    assert "peft_unknown_tensor" in {finding.code for finding in found}


@pytest.mark.parametrize("old", ["model.", "language_model.model."])
def test_the_configuration_has_the_names_of_its_file(
    old: str, module_registry: Registry, base: Path, tmp_path: Path
) -> None:
    """What it promises is looked for, and what it leaves out is not missed, by the names of that day."""
    adapter = exported(module_registry, base, tmp_path)

    def check(folder: Path, **config: Any) -> set[str]:
        edit_config(folder, **config)
        found = module_registry.adapters.check(folder, base="qwen2_vl", task="old")
        return {finding.code for finding in found if finding.severity == "error"}

    whole = renamed(adapter, tmp_path / "whole", lambda name: name.replace("model.language_model.", old))
    every = [f"{old}layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")]
    assert check(whole, target_modules=every) == set()
    first = [name for name in tiny_models.read_tensors(whole / WEIGHTS) if "layers.0" in name]
    edit_tensors(whole, lambda raw: [raw.pop(name) for name in first])
    assert check(whole, target_modules=every) == {"peft_modules_missing"}
    left = {"target_modules": ["q_proj", "v_proj"], "exclude_modules": re.escape(f"{old}layers.0.") + ".*"}
    assert check(whole, **left) == set()


def test_what_sees_is_not_adapted(module_registry: Registry, base: Path, tmp_path: Path) -> None:
    adapter = exported(module_registry, base, tmp_path)
    own = "model.language_model.layers.0.self_attn.q_proj"
    for number, (other, hinted) in enumerate((
        ("model.visual.blocks.0.attn.qkv", "exclude_modules"),
        ("model.language_model.layers.0.mlp.experts.3.gate_proj", "merge_and_unload"),
    )):  # fmt: skip
        folder = renamed(adapter, tmp_path / str(number), lambda name, to=other: name.replace(own, to))
        found = module_registry.adapters.check(folder, base="qwen2_vl", task="sees")
        (unknown,) = [finding for finding in found if finding.code == "unknown_module"]
        assert hinted in unknown.hint


def recorded(registry: Registry, name: str) -> Architecture:
    with registry.workspace.database.read() as session:
        return recorded_architecture(resolve_base(session, name))


def exported(registry: Registry, base: Path, tmp_path: Path) -> Path:
    """Return a small adapter in PEFT's form, on a base that is on record under its folder's task."""
    keys = ["self_attn.q_proj", "self_attn.v_proj"]
    with base_folder(registry.workspace, "qwen2_vl") as folder:
        mlx = adapters_by_class.make_adapter(tmp_path / "mlx", folder, rank=4, scale=2.0, keys=keys)
    edit_config(mlx, model=None)
    out = tmp_path / "peft"
    out.mkdir()
    write_peft({path.name: path for path in mlx.iterdir()}, recorded(registry, "qwen2_vl"), out)
    return out


def test_the_guide_names_the_classes() -> None:
    guide = (Path(__file__).parents[3] / "docs/reference/formats.md").read_text(encoding="utf-8")
    for start, end, classes in (
        ("Conversion to PEFT supports ", ".\n", ALIKE),
        ("fusery maps them for ", "; others", LAYOUTS),
    ):
        told = guide.partition(start)[2].partition(end)[0]
        assert set(re.findall("`([^`]+)`", told)) == set(classes)
