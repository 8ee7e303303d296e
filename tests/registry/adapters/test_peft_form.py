"""From mlx-lm's form to PEFT's and back: the same tensors and the same scale."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import peft_folders
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.adapters.peft_config import PeftConfig, targets
from fusery.registry.adapters.peft_form import alpha_of
from fusery.registry.adapters.render import render_peft
from fusery.registry.errors import BadInputError
from fusery.registry.models.architecture import read_architecture


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
    render_peft(files, read_architecture(base), place)
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
