"""The target `hub`: the fused model and the adapter, each with the card that the hub reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from bundle_cases import make_bundle, model_folder
from consumers import adapters_source
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file

from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.layout import LayoutError
from fusery.registry.bundles.targets import hub as target
from fusery.registry.errors import BadInputError


@pytest.fixture
def unfused(plain_source: BundleSource, tmp_path: Path) -> BundleSource:
    """One adapter in PEFT's format; the base is named, and not included."""
    base = model_folder(plain_source)
    folder = tiny_models.make_adapter(tmp_path / "course_rec_v1_20261124", base, seed=1)
    return adapters_source(base, tmp_path / "rendered", folder)


def written(source: BundleSource, folder: Path, **choices: Any) -> Path:
    folder.mkdir()
    make_bundle(source, "hub", folder, **choices)
    return folder


def test_an_adapter_keeps_its_numbers_and_names_its_base(unfused: BundleSource, tmp_path: Path) -> None:
    folder = written(unfused, tmp_path / "a", base_name="org/Base")
    layout = target.check(folder)
    assert (layout.adapters, layout.modules) == (1, 2 * 7)
    config = json.loads((folder / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == "org/Base"
    before = load_file(unfused.adapters[0].files.paths["adapter_model.safetensors"])
    after = load_file(folder / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("org/Base", "adapter")


def test_two_adapters_are_two_repositories(unfused: BundleSource, tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        written(replace(unfused, adapters=unfused.adapters * 2), tmp_path / "a")


def test_texts_stay_texts(unfused: BundleSource, evil_in_bundles: list[str], tmp_path: Path) -> None:
    for number, evil in enumerate(evil_in_bundles):
        facts = dict.fromkeys(("digest", "task", "dataset", "note", "licence", "parent", "method"), evil)
        unfused.adapters[0].facts.update(facts)  # type: ignore[attr-defined]
        unfused.provenance["base"]["name"] = evil
        folder = written(unfused, tmp_path / str(number))
        data = ModelCard((folder / "README.md").read_bytes().decode()).data.to_dict()
        assert data.get("base_model", "") == evil
        assert data["tags"] == ["fusery", "lora", *([evil] if evil else [])]
        config = json.loads((folder / "adapter_config.json").read_bytes())
        assert config["base_model_name_or_path"] == evil


def test_the_self_test_finds_an_adapter_that_does_nothing(unfused: BundleSource, tmp_path: Path) -> None:
    folder = written(unfused, tmp_path / "a")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({f"x.{name}": value for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(LayoutError):
        target.check(folder)
