"""Adapters of models that see, which PEFT and mlx-lm name otherwise: computed by both libraries, on models of transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapters_by_class
import numpy as np
import pytest
import tiny_models
from both_libraries import apart, by_mlx, by_peft, fused
from peft_folders import edit_config, numbers, real_peft

from fusery.registry import Registry
from fusery.registry.adapters.files import CONFIG
from fusery.registry.adapters.files import PEFT_WEIGHTS as WEIGHTS
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.adapters.peft_form import write_peft
from fusery.registry.errors import BadInputError
from fusery.registry.models.architecture import Architecture
from fusery.registry.models.language_model import ALIKE
from fusery.registry.records.base_files import base_folder
from fusery.registry.records.bases import recorded_architecture
from fusery.registry.records.references import resolve_base
from fusery.storage.digest import digest_file
from fusery.storage.jsonfile import read_object

pytest.importorskip("mlx_lm")

LANGUAGE = r".*language_model.*\.(q_proj|v_proj|up_proj|in_proj_qkv)"
"""What Unsloth writes, in short: only modules of the language model."""


@pytest.fixture(scope="module")
def bases(module_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the folder of a model of one class, which is made and added once."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            real_peft("tiny", kind, "null", folder)  # skips where PEFT is not
            module_registry.bases.add(folder, name=kind)
            made[kind] = folder
        return made[kind]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(ALIKE))
def test_a_fused_model_answers_as_peft_does(
    kind: str, module_registry: Registry, bases: Any, tmp_path: Path
) -> None:
    base = bases(kind)
    real_peft(
        "train",
        base,
        json.dumps({"r": 4, "lora_alpha": 16, "target_modules": LANGUAGE, "use_dora": True}),
        tmp_path / "adapter",
    )
    expected = by_peft(base, tmp_path / "adapter", tmp_path)
    added = module_registry.adapters.register(tmp_path / "adapter", base=kind, task=f"{kind}-peft")
    assert not {each["code"] for each in added["findings"] if each["severity"] != "info"}
    found = by_mlx(fused(module_registry, added.name), tmp_path)
    assert apart(found, expected) < 1e-4
    with base_folder(module_registry.workspace, kind) as folder:
        assert apart(found, by_mlx(folder, tmp_path)) > 1e-3, "nothing was learned"


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(ALIKE))
def test_peft_answers_as_a_fused_model_does(
    kind: str, module_registry: Registry, bases: Any, tmp_path: Path
) -> None:
    """Of an adapter that has all that mlx-lm's trainer adapts when nothing is said; the tower has modules of the same names."""
    base = bases(kind)
    with base_folder(module_registry.workspace, kind) as folder:
        adapter = adapters_by_class.make_adapter(tmp_path / "adapter", folder, rank=2, scale=2.0, update=0.3)
    added = module_registry.adapters.register(adapter, base=kind, task=f"{kind}-mlx")
    out = Path(module_registry.exchange.export(added.name, tmp_path / "out", form="peft").path)
    found = by_mlx(fused(module_registry, added.name), tmp_path)
    assert apart(found, by_peft(base, out, tmp_path)) < 1e-4
    # And back it is the same.
    edit_config(out, base_model_name_or_path=kind)
    module_registry.adapters.register(out, base=kind, task=f"{kind}-back")
    difference = module_registry.adapters.diff(f"{kind}-mlx@1", f"{kind}-back@1", weights=True)
    assert min(module["cosine"] for module in difference["modules"]) > 0.999999


def renamed(adapter: Path, out: Path, change: Callable[[str], str]) -> Path:
    """Write an adapter whose modules have other names."""
    out.mkdir()
    tensors = numbers(adapter / WEIGHTS)
    tiny_models.write_tensors(
        out / WEIGHTS,
        {change(name): ("F32", value.astype(np.float32)) for name, value in tensors.items()},
        {"format": "pt"},
    )
    config = read_object(adapter / CONFIG)
    config["target_modules"] = sorted({name.split(".")[-3] for name in tensors})
    (out / CONFIG).write_text(json.dumps(config))
    return out


def test_names_of_other_years_are_the_same_modules(
    module_registry: Registry, bases: Any, tmp_path: Path
) -> None:
    """transformers before 4.52 had the language model elsewhere, and PEFT's files of those days say so."""
    adapter = exported(module_registry, bases("qwen2_vl"), tmp_path)
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


def test_one_module_under_two_names_is_refused(module_registry: Registry, bases: Any, tmp_path: Path) -> None:
    adapter = exported(module_registry, bases("qwen2_vl"), tmp_path)
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
    old: str, module_registry: Registry, bases: Any, tmp_path: Path
) -> None:
    """What it promises is looked for, and what it leaves out is not missed, by the names of that day."""
    adapter = exported(module_registry, bases("qwen2_vl"), tmp_path)

    def check(folder: Path, **config: Any) -> set[str]:
        edit_config(folder, **config)
        found = module_registry.adapters.check(folder, base="qwen2_vl", task="old")
        return {finding.code for finding in found if finding.severity == "error"}

    whole = renamed(adapter, tmp_path / "whole", lambda name: name.replace("model.language_model.", old))
    every = [f"{old}layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")]
    assert check(whole, target_modules=every) == set()
    tensors = tiny_models.read_tensors(whole / WEIGHTS)
    kept = {
        name: (kind, np.frombuffer(data, np.float32).reshape(shape))
        for name, (kind, shape, data) in tensors.items()
        if "layers.1" in name
    }
    (whole / WEIGHTS).unlink()
    tiny_models.write_tensors(whole / WEIGHTS, kept, {"format": "pt"})
    assert check(whole, target_modules=every) == {"peft_modules_missing"}
    left = {"target_modules": ["q_proj", "v_proj"], "exclude_modules": re.escape(f"{old}layers.0.") + ".*"}
    assert check(whole, **left) == set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2_vl", "gemma3"])
def test_peft_s_copy_of_the_embedding_is_left_out(
    kind: str, module_registry: Registry, bases: Any, tmp_path: Path
) -> None:
    base = bases(kind)
    words = {"r": 4, "target_modules": LANGUAGE}
    real_peft("train", base, json.dumps(words), tmp_path / "adapter")
    real_peft("copied", base, tmp_path / "adapter", tmp_path / "copied")
    assert any("embed_tokens" in name for name in tiny_models.read_tensors(tmp_path / "copied" / WEIGHTS))
    edit_config(tmp_path / "copied", base_model_name_or_path=kind)
    found = module_registry.adapters.check(tmp_path / "copied", base=kind, task="copied")
    assert [finding.code for finding in found if finding.severity == "error"] == []
    assert "peft_copies" in {finding.code for finding in found}


def test_what_sees_is_not_adapted(module_registry: Registry, bases: Any, tmp_path: Path) -> None:
    adapter = exported(module_registry, bases("qwen2_vl"), tmp_path)
    folder = renamed(
        adapter,
        tmp_path / "sees",
        lambda name: name.replace(
            "model.language_model.layers.0.self_attn.q_proj", "model.visual.blocks.0.attn.qkv"
        ),
    )
    found = module_registry.adapters.check(folder, base="qwen2_vl", task="sees")
    (unknown,) = [finding for finding in found if finding.code == "unknown_module"]
    assert "model.visual.blocks.0.attn.qkv" in unknown.message


def test_a_class_that_is_not_known_is_not_written_for_peft(
    module_registry: Registry, bases: Any, tmp_path: Path
) -> None:
    base = bases("qwen2_vl")
    adapter = exported(module_registry, base, tmp_path)
    read = read_adapter_folder(adapter, base=recorded(module_registry, "qwen2_vl"))
    unknown = replace(recorded(module_registry, "qwen2_vl"), config={"model_type": "kimi_vl"})
    with pytest.raises(BadInputError, match="kimi_vl"):
        write_peft(read.files, unknown, tmp_path / "out")


def recorded(registry: Registry, name: str) -> Architecture:
    with registry.workspace.database.read() as session:
        return recorded_architecture(resolve_base(session, name))


def exported(registry: Registry, base: Path, tmp_path: Path) -> Path:
    """Return a small adapter in PEFT's form, on a base that is on record under its folder's task."""
    modules = [
        f"language_model.model.layers.{layer}.self_attn.{name}"
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
    ]
    weights = recorded(registry, "qwen2_vl").weights
    random = np.random.default_rng(5)
    tensors = {}
    for path in modules:
        out, into = weights[path].shape
        tensors[f"{path}.lora_a"] = ("F32", random.standard_normal((into, 4)).astype(np.float32))
        tensors[f"{path}.lora_b"] = ("F32", random.standard_normal((4, out)).astype(np.float32))
    folder = tmp_path / "mlx"
    folder.mkdir()
    tiny_models.write_tensors(folder / "adapters.safetensors", tensors, None)
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": modules}
    config = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters}
    (folder / CONFIG).write_text(json.dumps(config))
    out = tmp_path / "peft"
    out.mkdir()
    write_peft(
        {name: folder / name for name in (CONFIG, "adapters.safetensors")},
        recorded(registry, "qwen2_vl"),
        out,
    )
    return out


def test_the_guide_names_the_classes() -> None:
    guide = Path(__file__).parents[3] / "docs/guides/formats.md"
    told = guide.read_text(encoding="utf-8").partition("The way to PEFT is known for ")[2].partition(":")[0]
    assert set(re.findall("`([^`]+)`", told)) == ALIKE
