"""What every server computes alike is what PEFT computes: held against PEFT's own arithmetic, module by module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models

from fusery.registry.adapters.peft_config import PeftConfig
from fusery.registry.adapters.peft_form import alpha_of
from fusery.registry.adapters.plain_form import PlainAdapter, matched_modules, read_plain
from fusery.registry.adapters.tensors import write_stored
from fusery.registry.documents import write_document
from fusery.registry.errors import BadInputError
from fusery.registry.models.architecture import read_architecture

RANKS = {"model.layers.1.self_attn.q_proj": 8, "model.layers.0.self_attn.v_proj": 2}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 6},
    "ranks": {"ranks": RANKS},
    "patterns": {"ranks": RANKS, "alpha_pattern": {r"^model\.layers\.[01]\..*q_proj": 24, "v_proj": 5}},
    "not whole": {"lora_alpha": 5.48},
    "nothing": {"lora_alpha": 0},
    "negative": {"lora_alpha": -8},
    "half": {"lora_alpha": 3, "dtype": "bfloat16", "alpha_pattern": {"v_proj": 2.7}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    return tiny_models.make_base(folder, dtype="float32", layers=2, hidden=64, intermediate=128)


def read(folder: Path) -> PlainAdapter:
    return read_plain(folder.name, {path.name: path for path in folder.iterdir()})


def write(adapter: PlainAdapter, folder: Path) -> Path:
    folder.mkdir()
    write_document(folder / "adapter_config.json", adapter.config("base"))
    write_stored(folder / "adapter_model.safetensors", adapter.tensors(), {"format": "pt"})
    return folder


def updates(folder: Path) -> dict[str, np.ndarray]:
    """What PEFT adds to each weight, by its own rules."""
    config = PeftConfig.model_validate_json((folder / "adapter_config.json").read_text())
    numbers = peft_folders.numbers(folder / "adapter_model.safetensors")
    stems = {name.removesuffix(".lora_A.weight") for name in numbers if name.endswith(".lora_A.weight")}
    return {
        stem: config.scale_of(stem.removeprefix(peft_folders.PREFIX))
        * numbers[f"{stem}.lora_B.weight"]
        @ numbers[f"{stem}.lora_A.weight"]
        for stem in stems
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_update_is_the_same(base: Path, tmp_path: Path, case: dict[str, Any]) -> None:
    original = peft_folders.make_peft(tmp_path / "peft", base, **case)
    plain = read(original)
    written = write(plain, tmp_path / "plain")
    expected, found = updates(original), updates(written)
    assert expected.keys() == found.keys()
    assert len(found) == matched_modules("x", plain, read_architecture(base)) == 4
    for stem, update in expected.items():
        assert np.abs(found[stem] - update).max() <= 2e-7 * np.abs(update).max()
    config = json.loads((written / "adapter_config.json").read_text())
    assert type(config["lora_alpha"]) is int
    assert config["lora_alpha"] > 0
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert not config["use_rslora"]
    shapes = {
        shape for _, shape, _ in tiny_models.read_tensors(written / "adapter_model.safetensors").values()
    }
    assert {min(shape) for shape in shapes} == {config["r"]}


def test_one_that_is_plain_keeps_its_bits(base: Path, tmp_path: Path) -> None:
    original = peft_folders.make_peft(tmp_path / "peft", base, dtype="bfloat16")
    written = write(read(original), tmp_path / "plain")
    name = "adapter_model.safetensors"
    assert tiny_models.read_tensors(written / name) == tiny_models.read_tensors(original / name)


def test_dora_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        read(peft_folders.make_peft(tmp_path / "peft", base, dora=True))
    assert caught.value.hint


def test_a_module_that_the_base_lacks_is_refused(base: Path, tmp_path: Path) -> None:
    wider = tiny_models.make_base(tmp_path / "wide", layers=3, hidden=128)
    plain = read(peft_folders.make_peft(tmp_path / "peft", wider))
    with pytest.raises(BadInputError):
        matched_modules("x", plain, read_architecture(base))


def test_a_pattern_of_layers_is_kept_where_layers_are(base: Path, tmp_path: Path) -> None:
    folder = peft_folders.make_peft(tmp_path / "peft", base)
    for layers, expected in ((None, None), ([0, 1], "layers")):
        peft_folders.edit_config(folder, layers_to_transform=layers, layers_pattern="layers")
        config = read(folder).config("base")
        assert (config["layers_to_transform"], config["layers_pattern"]) == (layers, expected)


def test_alpha_gives_the_scale_again() -> None:
    for scale, rank in ((0.5, 8), (0.3, 4), (20.0, 7), (2.0**60, 2), (1 / 3, 3)):
        alpha = alpha_of(scale, rank)
        assert alpha / rank == scale
        assert type(alpha) is (int if scale in (0.5, 20.0, 1 / 3) else float)
