"""The configurations that trainers really write are taken without a false finding, each beside tiny weights that fit it.

`tests/data/trainer_configs/sources.json` says of each file which trainer made it, on which base, what was adapted, and
which finding is right for it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from peft_folders import make_peft, numbers

from fusery.registry import Registry

CONFIGS = Path(__file__).resolve().parents[2] / "data" / "trainer_configs"
SOURCES: Mapping[str, dict[str, Any]] = json.loads((CONFIGS / "sources.json").read_text(encoding="utf-8"))
# Models of the trainers' names, with four layers and random numbers.
BASES: Mapping[str, dict[str, Any]] = {
    "SmolLM2-135M-Instruct": {},
    "SmolLM2-135M-Instruct-4bit": {"bits": 4},
    "SmolLM2-135M-Instruct-bnb-4bit": {"layout": "hf", "seed": 1},
}


@pytest.fixture(scope="module")
def bases(module_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    made = {name: tiny_models.make_base(folder / name, **options) for name, options in BASES.items()}
    for name, path in made.items():
        module_registry.bases.add(path, name=name)
    return made


def make_full(folder: Path, base: Path, layers: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    starts = tuple(f"model.layers.{index}." for index in layers)
    tensors: dict[str, tiny_models.Raw] = {}
    for name, value in numbers(base / "model.safetensors").items():
        if name.startswith(starts):
            moved = value * (1 + 0.01 * random.standard_normal(value.shape))
            tensors[name] = ("BF16", tiny_models.encode(moved, "bfloat16"))
    tiny_models.write_tensors(folder / "adapters.safetensors", tensors, None)


def make(folder: Path, name: str, base: Path, seed: int) -> None:
    source, config = SOURCES[name], json.loads((CONFIGS / name).read_text(encoding="utf-8"))
    modules, layers = source["modules"], source["layers"]
    folder.mkdir()
    if "r" in config:
        extra = {"ranks": source.get("ranks"), "dora": config.get("use_dora", False), "seed": seed}
        make_peft(folder, base, modules=modules, layers=layers, rank=config["r"], **extra)
    elif config.get("fine_tune_type") == "full":
        make_full(folder, base, layers, seed)
    else:
        settings = config["lora_parameters"]
        tiny_models.make_adapter(
            folder,
            base,
            rank=settings["rank"],
            scale=settings["scale"],
            num_layers=len(layers),
            keys=[path for path in tiny_models.LINEAR if path.rpartition(".")[2] in modules],
            fine_tune_type="dora" if config.get("use_dora") else config.get("fine_tune_type", "lora"),
            seed=seed,
        )
    shutil.copyfile(CONFIGS / name, folder / "adapter_config.json")


def test_every_file_has_its_source() -> None:
    assert {path.name for path in CONFIGS.glob("*.json")} - {"sources.json"} == SOURCES.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_what_a_trainer_writes(
    module_registry: Registry, bases: Mapping[str, Path], tmp_path: Path, name: str
) -> None:
    source, number = SOURCES[name], list(SOURCES).index(name)
    folder = tmp_path / "adapter"
    make(folder, name, bases[source["base"]], seed=number)
    given = {"base": source["base"], "task": f"trainer_{number}"}
    expected = source.get("finds", {}).keys()
    refused = "error" in source.get("finds", {}).values()
    adapters = module_registry.adapters
    findings = adapters.check(folder, **given) if refused else adapters.register(folder, **given).findings
    found = {
        each.code: each.severity for each in findings if each.severity != "info" or each.code in expected
    }
    assert found.keys() == expected
    assert ("error" in found.values()) == refused
