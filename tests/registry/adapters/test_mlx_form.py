"""From PEFT's form to mlx-lm's: every update is the same, exactly where that is said."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from peft_folders import PREFIX, make_peft

from fusery.registry import Registry
from fusery.registry.adapters.folder import AdapterFolder, read_adapter_folder
from fusery.registry.adapters.mlx_config import lora_modules, todays_config
from fusery.registry.adapters.render import render
from fusery.registry.adapters.tensors import StoredTensor, repeated
from fusery.registry.models.architecture import read_architecture
from fusery.storage.digest import digest_file
from fusery.storage.safetensors import read_header


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapter", tiny_base, num_layers=1, keys=["self_attn.q_proj"])


def put(adapter: Path, changes: dict[str, Any], parameters: dict[str, Any], *left_out: str) -> dict[str, Any]:
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
    assert render("mlx", files, read_architecture(tiny_base), tmp_path / "new") == files
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
    rendered = render("mlx", files, read_architecture(tiny_base), tmp_path / "new")
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
    assert "layers_undeclared" in {finding["code"] for finding in registered["findings"]}
    exported = module_registry.exchange.export("old@1", tmp_path / "exported").path
    for name in ("adapter_config.json", "adapters.safetensors"):
        assert (exported / name).read_bytes() == (adapter / name).read_bytes()


MODULES = [f"model.layers.{index}.{name}" for index in range(4) for name in tiny_models.LINEAR]
RANKS = st.dictionaries(st.sampled_from(MODULES), st.sampled_from([1, 2, 3, 8]), max_size=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("bases") / "tiny", dtype="float32")


def peft_updates(folder: Path) -> dict[str, np.ndarray]:
    """Return each module's update by PEFT's own formula, in float64; patterns here are plain module names."""
    tensors = peft_folders.numbers(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    updates = {}
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            path = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            rank = config["rank_pattern"].get(path, config["r"])
            alpha = config["alpha_pattern"].get(path, config["lora_alpha"])
            scale = alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank
            updates[path] = scale * (tensors[f"{PREFIX}{path}.lora_B.weight"] @ a)
    return updates


def mlx_updates(folder: AdapterFolder) -> dict[str, np.ndarray]:
    tensors = peft_folders.numbers(folder.files["adapters.safetensors"])
    scale = folder.scale
    assert scale is not None
    return {
        path: scale * (tensors[f"{path}.lora_a"] @ tensors[f"{path}.lora_b"]).T for path in folder.modules
    }


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / (np.abs(wanted).max() or 1))


@settings(max_examples=25, deadline=None)
@given(
    ranks=RANKS,
    alphas=st.dictionaries(st.sampled_from(MODULES), st.sampled_from([1, 2, 5, 16, 0.3]), max_size=4),
    alpha=st.sampled_from([8, 16, 6, 0.7]),
    rslora=st.booleans(),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    layers=st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)),
    seed=st.integers(0, 5),
)
def test_every_update_is_the_same(
    base: Path,
    ranks: dict[str, int],
    alphas: dict[str, float],
    alpha: float,
    rslora: bool,
    dtype: Any,
    layers: list[int] | None,
    seed: int,
) -> None:
    with tempfile.TemporaryDirectory() as temp:
        peft = make_peft(
            Path(temp) / "peft",
            base,
            modules=("q_proj", "down_proj", "o_proj"),
            layers=layers,
            ranks=ranks,
            dtype=dtype,
            seed=seed,
            alpha_pattern=alphas,
            lora_alpha=alpha,
            use_rslora=rslora,
        )
        folder = read_adapter_folder(peft)
        assert not folder.problems
        assert not folder.remarks
        wanted, found = peft_updates(peft), mlx_updates(folder)
        assert found.keys() == wanted.keys()
        # A rounding to float32 is 2^-24.
        assert max(error(found[path], wanted[path]) for path in wanted) < 1.3e-7


@pytest.mark.parametrize(("alpha", "other", "dtype"), [(16, 32, "BF16"), (3, 10, "F32")])
def test_factors_of_two_keep_sixteen_bits_and_others_do_not(
    base: Path, tmp_path: Path, alpha: int, other: int, dtype: str
) -> None:
    patterns = {"lora_alpha": alpha, "alpha_pattern": {"v_proj": other}}
    folder = read_adapter_folder(make_peft(tmp_path / "peft", base, dtype="bfloat16", **patterns))
    place = folder.files["adapters.safetensors"].parent
    assert folder.header is not None
    assert not folder.remarks
    assert {tensor.dtype for tensor in folder.header.tensors.values()} == {dtype}
    del folder  # and its rendering goes away with it
    assert not place.exists()


def test_the_same_folder_gives_the_same_bytes_for_ever() -> None:
    """The digests are on record in registries: another rendering of the same adapter must not come of a change here."""
    known = {
        "lora": (
            "86e904ff5649004a6a6676a66f365a4634b7d0db2b8bedf4f55b3330694046db",
            "022bfb57a85cb946582fce42ddf539bcad6460282eaea2f9b6d2c11361ea1204",
        ),
        "rslora_patterns": (
            "6ee2797af09ba08fe326e1551cdcce05bd2f258c417c5723702b4175a14b6374",
            "6a33e4656a035599d62a990a55cb386a1446812e129fa091bbc2a62ef4f21cc3",
        ),
        "dora": (
            "ad666e4973b964cd2593fa7cf4c20bfef87b277fcd84416e20c3c3d28442f104",
            "a541c44fa6fe237d6fdd9ccdc03642e1f3581d59d9327f3a3efd460bf322d17c",
        ),
    }
    for name, digests in known.items():
        folder = read_adapter_folder(peft_folders.REAL / name)
        found = [
            digest_file(folder.files[file])[0] for file in ("adapters.safetensors", "adapter_config.json")
        ]
        assert tuple(found) == digests, name


def test_columns_are_repeated_side_by_side() -> None:
    matrix, vector = (StoredTensor("F32", np.array(bits, np.uint32)) for bits in ([[1, 2], [3, 4]], [5, 6]))
    assert repeated(matrix, 2).bits.tolist() == [[1, 1, 2, 2], [3, 3, 4, 4]]
    assert repeated(matrix, 1) is matrix
    assert repeated(vector, 2) is vector
