"""From mlx-lm's form to PEFT's and back: the same tensors and the same scale."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.adapters.mlx_form import PlainAdapter, matched_modules, read_plain
from fusery.registry.adapters.peft_config import PeftConfig, targets
from fusery.registry.adapters.peft_form import alpha_of
from fusery.registry.adapters.render import render
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


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        "plain": tiny_models.make_base(root / "plain"),
        "tied": tiny_models.make_base(root / "tied", tied=True),
        "square": tiny_models.make_base(root / "square", vocab=320, hidden=320, intermediate=320, layers=1),
    }


def there(adapter: Path, base: Path, place: Path) -> Path:
    files = {path.name: path for path in adapter.iterdir()}
    render("peft", files, read_architecture(base), place)
    return place


KEYS = st.one_of(
    st.none(),
    st.lists(st.sampled_from(tiny_models.LINEAR), min_size=1, max_size=4, unique=True),
    st.just(["self_attn.q_proj", "model.layers.0.mlp.up_proj"]),
    st.just(["lm_head"]),
    st.just(["model.embed_tokens", "self_attn.v_proj"]),
)


@settings(max_examples=25, deadline=None)
@given(
    rank=st.integers(1, 9),
    scale=st.one_of(st.sampled_from([20.0, 2.0, 0.1, 1 / 3]), st.floats(1e-3, 1e3)),
    num_layers=st.sampled_from([-1, 1, 2, 4]),
    keys=KEYS,
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    kind=st.sampled_from(["lora", "dora"]),
)
def test_there_and_back_is_the_same(
    bases: dict[str, Path], rank: int, scale: float, num_layers: int, keys: Any, dtype: Any, kind: Any
) -> None:
    if kind == "dora" and keys and "model.embed_tokens" in keys:
        kind = "lora"
    with tempfile.TemporaryDirectory() as temp:
        adapter = tiny_models.make_adapter(
            Path(temp) / "mlx",
            bases["plain"],
            rank=rank,
            scale=scale,
            num_layers=num_layers,
            keys=keys,
            dtype=dtype,
            fine_tune_type=kind,
        )
        back = read_adapter_folder(there(adapter, bases["plain"], Path(temp) / "peft"))
        assert not back.remarks
        assert not back.problems
        assert tiny_models.read_tensors(back.files["adapters.safetensors"]) == tiny_models.read_tensors(
            adapter / "adapters.safetensors"
        )
        assert back.scale == pytest.approx(scale, rel=2e-16)
        assert (back.config.method, back.rank) == (kind, rank)


@given(st.floats(1e-6, 1e6), st.integers(1, 512))
def test_alpha_divided_by_the_rank_is_the_scale(scale: float, rank: int) -> None:
    assert alpha_of(scale, rank) / rank == pytest.approx(scale, rel=2.3e-16)


def config_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return document


@pytest.mark.parametrize(
    ("num_layers", "keys", "names", "layers"),
    [
        (-1, ["self_attn.q_proj"], ["q_proj"], None),
        (2, ["self_attn.q_proj", "mlp.up_proj"], ["q_proj", "up_proj"], [2, 3]),
        (-1, ["lm_head"], ["lm_head"], None),
        (1, ["lm_head", "mlp.up_proj"], ["lm_head", "up_proj"], [3]),
        (
            1,
            ["self_attn.q_proj", "model.layers.0.mlp.up_proj"],
            ["model.layers.0.mlp.up_proj", "model.layers.3.self_attn.q_proj"],
            None,
        ),
    ],
)
def test_the_modules_are_named_shortly_and_exactly(
    bases: dict[str, Path], tmp_path: Path, num_layers: int, keys: Any, names: Any, layers: Any
) -> None:
    adapter = tiny_models.make_adapter(tmp_path / "mlx", bases["plain"], num_layers=num_layers, keys=keys)
    peft = there(adapter, bases["plain"], tmp_path / "peft")
    config = config_of(peft)
    assert (config["target_modules"], config["layers_to_transform"]) == (names, layers)
    # No path of the machine goes along.
    assert config["base_model_name_or_path"] == "plain" and str(tmp_path) not in str(config)
    known = read_architecture(bases["plain"]).weights
    model = PeftConfig.model_validate(config)
    assert {path for path in known if targets(model, path)} == set(read_adapter_folder(peft).modules)


def test_a_square_embedding_is_told_by_its_name(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = tiny_models.make_adapter(
        tmp_path / "mlx", bases["square"], keys=["model.embed_tokens", "self_attn.q_proj"], num_layers=1
    )
    peft = there(adapter, bases["square"], tmp_path / "peft")
    names = tiny_models.read_tensors(peft / "adapter_model.safetensors").keys()
    assert {name.rpartition("layers.")[2] for name in names} == {
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.embed_tokens.lora_embedding_B",
        "0.self_attn.q_proj.lora_A.weight",
        "0.self_attn.q_proj.lora_B.weight",
    }


@pytest.mark.parametrize(
    ("base", "keys", "method", "kind"),
    [
        ("tied", ["model.embed_tokens"], "lora", "llama"),
        ("plain", ["model.embed_tokens"], "dora", "llama"),
        ("plain", None, "full", "llama"),
        ("plain", None, "lora", "gpt_neox"),  # whose modules have other names in transformers
    ],
)
def test_what_has_no_form_in_peft_is_refused(
    bases: dict[str, Path], tmp_path: Path, base: str, keys: Any, method: Any, kind: str
) -> None:
    folder = shutil.copytree(bases[base], tmp_path / "base")
    trained: Any = method if method == "dora" else "lora"
    adapter = tiny_models.make_adapter(tmp_path / "mlx", folder, keys=keys, fine_tune_type=trained)
    peft_folders.edit_config(adapter, fine_tune_type=method)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": kind}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError):
        there(adapter, folder, tmp_path / "peft")
