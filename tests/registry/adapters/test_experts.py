"""Experts that PEFT adapts as one parameter, and mlx-lm's switch layers."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import adapters_by_class
import numpy as np
import pytest
import tiny_architectures
from broken_adapters import Spoil
from peft_folders import edit_config, edit_tensors, make_experts, numbers

from fusery.registry import Registry
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.errors import BadInputError
from fusery.registry.models.architecture import read_architecture
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import manifest_of

pytest.importorskip("mlx_lm")


@pytest.fixture(scope="module")
def base(module_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return added_base(module_registry, tmp_path_factory.mktemp("bases"), "qwen3_moe")


_NUMBERS = count()


def added_base(registry: Registry, folder: Path, kind: str, **config: Any) -> Path:
    place = folder / f"base{next(_NUMBERS)}"
    tiny_architectures.make_architecture(place, kind, dtype="float32", config=config)
    registry.bases.add(place, name=place.name)
    return place


def errors(registry: Registry, folder: Path, base: str = "") -> dict[str, str]:
    base = base or read_object(folder / "adapter_config.json")["base_model_name_or_path"]
    found: dict[str, str] = {}
    for finding in registry.adapters.check(folder, base=base, task="one"):
        if finding.severity == "error":
            found[finding.code] = found.get(finding.code, "") + finding.message
    return found


def test_the_same_bytes_every_time(module_registry: Registry, base: Path, tmp_path: Path) -> None:
    folder = make_experts(tmp_path / "adapter", base)
    added = module_registry.adapters.register(folder, base=base.name, task="same")
    (recorded,) = module_registry.adapters.show(added.name)["renderings"]
    out = Path(module_registry.exchange.export(added.name, tmp_path / "out", form="mlx").path)
    weights, config = out / "adapters.safetensors", read_object(out / "adapter_config.json")
    assert (
        recorded["digest"]
        == manifest_of({path.name: path for path in (weights, out / "adapter_config.json")}).digest
    )
    assert config["lora_parameters"]["keys"][0] == "model.layers.0.mlp.switch_mlp.down_proj"
    assert module_registry.upkeep.audit().ok
    # From there to PEFT and back it is the same update, of twice the rank where two projections share a parameter.
    module_registry.adapters.register(out, base=base.name, task="two")
    peft = Path(module_registry.exchange.export("two@1", tmp_path / "peft", form="peft").path)
    again = Path(module_registry.exchange.export("two@1", tmp_path / "again", form="peft").path)
    assert (peft / "adapter_model.safetensors").read_bytes() == (
        again / "adapter_model.safetensors"
    ).read_bytes()
    assert read_object(peft / "adapter_config.json")["rank_pattern"] == {"mlp.experts.gate_up_proj": 4}
    module_registry.adapters.register(peft, base=base.name, task="three")
    difference = module_registry.adapters.diff("same@1", "three@1")
    assert min(module["cosine"] for module in difference["modules"]) > 0.999999


def test_wherever_it_goes_it_is_laid_on_its_base(
    module_registry: Registry, base: Path, tmp_path: Path
) -> None:
    """The other form is computed anew by audits, and where an adapter arrives: from the base that is there."""
    folder = make_experts(tmp_path / "adapter", base, seed=2)
    added = module_registry.adapters.register(folder, base=base.name, task="sent")
    module_registry.bundles.materialize(added.name, tmp_path / "hub", target="hub", content="adapters")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "hub" / weights).read_bytes() == (folder / weights).read_bytes()
    module_registry.exchange.push(added.name, tmp_path / "elsewhere")
    with Registry.open(tmp_path / "elsewhere") as other:
        there = other.adapters.show(added.name)
        assert there["renderings"] == module_registry.adapters.show(added.name)["renderings"]
        assert other.upkeep.audit(jobs=1).ok
        assert "switch_mlp.gate_proj" in there["target_modules"][1]


def test_factors_of_older_versions_are_turned_round(module_registry: Registry, tmp_path: Path) -> None:
    """Even where they are square, since the version tells; other versions: test_parts.py."""
    for name, width in (("oblong", 64), ("square", 32)):
        base = added_base(module_registry, tmp_path, "qwen3_moe", hidden_size=64, moe_intermediate_size=width)
        new = make_experts(tmp_path / f"new-{name}", base, parameters=["gate_up_proj"])
        old = make_experts(
            tmp_path / f"old-{name}", base, parameters=["gate_up_proj"], turned=True, peft_version="0.19.0"
        )
        read = [read_adapter_folder(folder, base=read_architecture(base)) for folder in (new, old)]
        ours = [numbers(folder.files["adapters.safetensors"]) for folder in read]
        assert ours[0].keys() == ours[1].keys()
        assert all((ours[0][key] == ours[1][key]).all() for key in ours[0])


def test_square_experts_of_no_known_version_are_refused(module_registry: Registry, tmp_path: Path) -> None:
    base = added_base(module_registry, tmp_path, "qwen3_moe", hidden_size=64, moe_intermediate_size=32)
    folder = make_experts(tmp_path / "one", base, parameters=["gate_up_proj"], peft_version=None)
    assert "peft_experts" in errors(module_registry, folder)
    # What is not square speaks for what is.
    assert not errors(module_registry, make_experts(tmp_path / "two", base, peft_version=None))


@pytest.mark.parametrize(("version", "told"), [("0.18.1", True), ("0.19.0", False), ("0.21.2", False)])
def test_gpt_oss_is_laid_out_as_its_class_says(
    version: str, told: bool, module_registry: Registry, tmp_path: Path
) -> None:
    """Which of two ways PEFT 0.19 went depends on the version of transformers, and that is on no record."""
    base = added_base(module_registry, tmp_path, "gpt_oss", hidden_size=64, intermediate_size=64)
    folder = make_experts(tmp_path / "one", base, parameters=["down_proj"], peft_version=version)
    assert ("peft_experts" not in errors(module_registry, folder)) is told
    assert not errors(module_registry, make_experts(tmp_path / "two", base, peft_version=version))


HOLDER = "base_model.model.model.layers.0.mlp.experts"


def without(*names: str) -> Spoil:
    return lambda folder: edit_tensors(folder, lambda raw: [raw.pop(name) for name in names])


def put(**tensors: tuple[int, ...]) -> Spoil:
    ones = {name: ("F32", np.ones(shape, np.float32)) for name, shape in tensors.items()}
    return lambda folder: edit_tensors(folder, lambda raw: raw.update(ones))


def configured(**changes: Any) -> Spoil:
    return lambda folder: edit_config(folder, **changes)


def with_a_norm(folder: Path) -> None:
    norm = "base_model.model.model.norm"
    put(**{f"{norm}.lora_A.weight": (2, 64), f"{norm}.lora_B.weight": (64, 2)})(folder)
    edit_config(folder, target_parameters=["gate_up_proj", "down_proj", "norm.weight"])


NESTED = f"{HOLDER}{'.base_layer' * 40}"
PAIRS = [f"{HOLDER}{nest}.lora_{part}.weight" for nest in ("", ".base_layer") for part in "AB"]
SPOILS: dict[str, tuple[str, Spoil]] = {
    "half of a pair": ("peft_experts", without(PAIRS[1])),
    "one of two parameters": ("peft_experts", without(*PAIRS[2:])),
    "a layer less": ("peft_modules_missing", without(*PAIRS)),
    "names that never end": (
        "peft_experts",
        put(**{f"{NESTED}.lora_A.weight": (8, 64), f"{NESTED}.lora_B.weight": (64, 8)}),
    ),
    "a parameter too much": ("peft_experts", configured(target_parameters=["down_proj"])),
    "no parameter": ("peft_rank_mismatch", configured(target_parameters=None)),
    "a rank that does not divide": ("peft_experts", configured(r=3)),
    "factors of other sides": ("peft_experts", put(**{f"{HOLDER}.lora_A.weight": (8, 48)})),
    "a magnitude": ("peft_experts", put(**{f"{HOLDER}.lora_magnitude_vector": (64,)})),
    "an expression": ("peft_experts", configured(rank_pattern={"(?=x)": 2})),
    "biases of experts": ("peft_experts", configured(target_parameters=["gate_up_proj_bias"])),
    "a text": ("config_invalid", configured(target_parameters="mlp.experts.down_proj")),
    "a norm": ("peft_experts", with_a_norm),
}


@pytest.mark.parametrize("name", SPOILS)
def test_what_does_not_belong_is_refused(
    name: str, module_registry: Registry, base: Path, tmp_path: Path
) -> None:
    code, spoil = SPOILS[name]
    folder = make_experts(tmp_path / "adapter", base)
    assert not errors(module_registry, folder)
    spoil(folder)
    found = errors(module_registry, folder)
    assert code in found
    assert all("\n" not in message and len(message) < 1000 for message in found.values())


@pytest.mark.parametrize("kind", ["llama4", "granitemoe", "deepseek_v2"])
def test_classes_that_are_not_known_are_refused_by_name(
    kind: str, module_registry: Registry, base: Path, tmp_path: Path
) -> None:
    tiny_architectures.make_architecture(tmp_path / kind, kind, dtype="float32")
    module_registry.bases.add(tmp_path / kind, name=kind)
    folder = make_experts(tmp_path / "adapter", base, base_model_name_or_path=kind)
    assert kind in errors(module_registry, folder, kind)["peft_experts"]


def test_switch_layers_of_a_class_that_is_not_known_stay_what_they_are(
    module_registry: Registry, tmp_path: Path
) -> None:
    base = added_base(module_registry, tmp_path, "granitemoe")
    keys = ["block_sparse_moe.switch_mlp.gate_proj"]
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, keys=keys)
    added = module_registry.adapters.register(adapter, base=base.name, task="unknown")
    with pytest.raises(BadInputError, match="granitemoe"):
        module_registry.exchange.export(added.name, tmp_path / "out", form="peft")


def test_servers_of_adapters_refuse_experts(module_registry: Registry, base: Path, tmp_path: Path) -> None:
    folder = make_experts(tmp_path / "adapter", base, seed=1)
    name = module_registry.adapters.register(folder, base=base.name, task="served").name
    for target in ("vllm", "ollama", "llamacpp"):
        with pytest.raises(BadInputError) as caught:
            module_registry.bundles.materialize(name, tmp_path / "out", target=target, content="adapters")
        assert caught.value.hint
