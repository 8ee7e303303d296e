"""Configurations of other years in the words of today's mlx-lm; `tests/registry/test_usable.py` runs what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.adapters.mlx_config import lora_modules
from fusery.registry.adapters.render import render_mlx
from fusery.registry.adapters.todays_mlx import todays_config
from fusery.registry.models.architecture import read_architecture
from fusery.storage.safetensors import read_header


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapter", tiny_base, num_layers=1, keys=["self_attn.q_proj"])


def put(adapter: Path, changes: dict[str, Any], parameters: dict[str, Any], *left_out: str) -> dict[str, Any]:
    """Change a configuration and return it."""
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    config["lora_parameters"] |= parameters
    config = {key: value for key, value in {**config, **changes}.items() if key not in left_out}
    path.write_text(json.dumps(config))
    return config


def todays(adapter: Path, raw: dict[str, Any]) -> dict[str, Any]:
    modules, _ = lora_modules(read_header(adapter / "adapters.safetensors"))
    return todays_config(raw, modules)


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, {}),
        ({"num_layers": -1}, {"scale": 20}),
        ({"num_layers": 16, "unknown": {"a": [1]}}, {"scale": 1e-3, "dropout": 0.1, "alpha": 4}),
        ({"use_dora": False, "lora_layers": 4}, {}),
    ],
)
def test_what_mlx_lm_reads_stays_as_it_is(
    changes: dict[str, Any], parameters: dict[str, Any], adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    raw = put(adapter, changes, parameters)
    assert todays(adapter, raw) == raw
    files = read_adapter_folder(adapter).files
    assert render_mlx(files, read_architecture(tiny_base), tmp_path / "new") == files
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "parameters", "expected"),
    [
        ({"num_layers": "1"}, {}, {"num_layers": 1}),
        ({"num_layers": 1.0}, {}, {"num_layers": 1}),
        ({"fine_tune_type": None, "use_dora": True}, {}, {"fine_tune_type": "dora"}),
        ({"fine_tune_type": None}, {}, {"fine_tune_type": "lora"}),
        ({}, {"rank": "8", "scale": "20", "dropout": None}, {}),
        ({}, {"rank": 8.0, "scale": 20.0, "dropout": 1.0}, {}),
        ({}, {"rank": None}, {}),
    ],
)
def test_what_is_understood_is_said_plainly(
    changes: dict[str, Any], parameters: dict[str, Any], expected: dict[str, Any], adapter: Path
) -> None:
    found = todays(adapter, put(adapter, changes, parameters))
    assert {key: found[key] for key in expected} == expected
    said = {key: found["lora_parameters"][key] for key in ("rank", "scale", "dropout")}
    assert [(type(value), value) for value in said.values()] == [(int, 8), (float, 20.0), (float, 0.0)]
    assert not found.get("use_dora")


@pytest.mark.parametrize("changes", [{"num_layers": None}, {"num_layers": None, "lora_layers": 1}])
def test_the_tensors_say_which_layers(
    changes: dict[str, Any], adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    put(adapter, changes, {"keys": None})
    files = read_adapter_folder(adapter).files
    rendered = render_mlx(files, read_architecture(tiny_base), tmp_path / "new")
    config = json.loads(rendered["adapter_config.json"].read_text())
    assert (config["num_layers"], config["lora_parameters"]["keys"]) == (
        -1,
        ["model.layers.3.self_attn.q_proj"],
    )
    assert rendered["adapters.safetensors"].read_bytes() == files["adapters.safetensors"].read_bytes()
    assert {path.parent for path in rendered.values()} == {tmp_path / "new"}


def test_layers_beyond_the_number_are_named(tiny_base: Path, tmp_path: Path) -> None:
    """mlx-lm 0.19 to 0.21 adapted every layer for a positive number."""
    adapter = tiny_models.make_adapter(
        tmp_path / "adapter", tiny_base, num_layers=4, keys=["self_attn.q_proj"]
    )
    found = todays(adapter, put(adapter, {"num_layers": 3}, {}))
    assert (found["num_layers"], found["lora_parameters"]["keys"]) == (
        -1,
        [f"model.layers.{index}.self_attn.q_proj" for index in range(4)],
    )
    # Nor is a number needed where all are named from the root: mlx-lm adapts them whatever it says.
    for count, keys in ((4, ["self_attn.q_proj"]), (2, found["lora_parameters"]["keys"])):
        raw = put(adapter, {"num_layers": count}, {"keys": keys})
        assert todays(adapter, raw) == raw


def test_an_export_has_the_bytes_that_were_registered(
    adapter: Path, module_registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    put(adapter, {"lora_layers": 1}, {}, "num_layers")
    module_registry.bases.add(tiny_base, name="tiny")
    registered = module_registry.adapters.register(adapter, base="tiny", task="old")
    assert "layers_unsaid" in {finding["code"] for finding in registered["findings"]}
    exported = module_registry.exchange.export("old@1", tmp_path / "exported").path
    for name in ("adapter_config.json", "adapters.safetensors"):
        assert (exported / name).read_bytes() == (adapter / name).read_bytes()
