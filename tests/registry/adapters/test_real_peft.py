"""Against the real PEFT: both libraries make the same model of an adapter, in whichever form it began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models
from peft_folders import apart, make_peft, numbers, real_peft

from fusery.registry import Registry
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.adapters.peft_config import FIELDS
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.research.models import LoadedModel, uncompiled

# Importing torch takes seconds, and PEFT is asked by every test.
pytestmark = pytest.mark.slow
TOKENS = np.array([[72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100]])
CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "lora_alpha": 6},
    "patterns": {
        "ranks": {"model.layers.1.self_attn.q_proj": 8, "model.layers.2.self_attn.v_proj": 2},
        "alpha_pattern": {r"^model\.layers\.[12]\..*q_proj": 24, "v_proj": 5},
    },
    "layers": {"modules": ("down_proj", "o_proj"), "layers": (0, 2)},
    "dora": {"dora": True, "modules": ("q_proj", "up_proj")},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("bases") / "tiny", dtype="float32", layout="hf")


def mlx_logits(
    base: Path, adapter: Path | None, tokens: np.ndarray = TOKENS, dtype: str = "float32"
) -> np.ndarray:
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(base, lazy=True)
    if adapter is not None:
        model = load_adapters(model, str(adapter))
    model.eval()
    model.update(tree_map(lambda array: array.astype(getattr(mx, dtype)), model.parameters()))
    with uncompiled(mx):
        return np.array(model(mx.array(tokens))).astype(np.float64)


@pytest.mark.parametrize("case", CASES)
def test_a_fuse_is_peft_s_merge(module_registry: Registry, base: Path, tmp_path: Path, case: str) -> None:
    adapter = make_peft(tmp_path / "peft", base, **CASES[case])
    module_registry.bases.add(base, name="tiny")
    module_registry.adapters.register(adapter, base="tiny", task=case)
    fused = module_registry.fused.fuse(f"{case}@1")
    real_peft("merge", base, adapter, tmp_path / "merged")
    theirs, ours = (
        numbers(tmp_path / "merged" / "model.safetensors"),
        numbers(fused.path / "model.safetensors"),
    )
    before = numbers(base / "model.safetensors")
    touched = [name for name in ours if not np.array_equal(ours[name], before[name])]
    assert len(touched) == len(read_adapter_folder(adapter).modules)
    for name in ours:
        if name in touched:
            # To a few units in the last place of the weight.
            assert np.abs(ours[name] - theirs[name]).max() <= 4e-7 * np.abs(before[name]).max()
        else:
            assert np.array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("size", [8, 32])
def test_a_fuse_computes_what_peft_does_with_groups(
    module_registry: Registry, base: Path, tmp_path: Path, size: int
) -> None:
    """QA-LoRA, which PEFT itself cannot merge.  Here on layers in float32, where nothing else comes between."""
    np.save(tmp_path / "tokens.npy", TOKENS)
    adapter = tmp_path / "adapter"
    real_peft("qalora", base, tmp_path / "tokens.npy", size, adapter)
    peft_folders.edit_config(adapter, base_model_name_or_path=f"groups{size}")
    module_registry.bases.add(base, name=f"groups{size}")
    added = module_registry.adapters.register(adapter, base=f"groups{size}", task=f"groups{size}")
    told = [finding for finding in added["findings"] if finding["severity"] != "info"]
    assert not told, told
    fused = module_registry.fused.fuse(added.name, FuseRequest("keep", accept_loss=True))
    found, expected = mlx_logits(Path(fused["path"]), None), np.load(tmp_path / "adapter.npy")
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(found - mlx_logits(base, None)).max() > 1e-3 * np.abs(expected).max(), "nothing was learned"
    with pytest.raises(BadInputError):
        module_registry.bundles.materialize(added.name, tmp_path / "out", target="vllm", content="adapters")


@pytest.mark.parametrize(("bits", "width", "size"), [(4, 32, 64), (3, 64, 64)])
def test_groups_of_a_quantised_base_take_the_update_up_in_their_biases(
    module_registry: Registry, tmp_path: Path, bits: int, width: int, size: int
) -> None:
    """PEFT computes on the numbers that the quantised base stands for; the fused model has its size, codes and scales."""
    from mlx_lm.utils import dequantize_model, load_model, save_model

    name = f"q{bits}_{width}_{size}"
    packed = tiny_models.make_base(
        tmp_path / name, dtype="float32", bits=bits, group_size=width, overrides={"lm_head": False}
    )
    model, _ = load_model(packed, lazy=True)
    plain = tiny_models.make_base(tmp_path / "plain", dtype="float32", layout="hf")
    (plain / "model.safetensors").unlink()
    save_model(plain, dequantize_model(model))
    np.save(tmp_path / "tokens.npy", TOKENS)
    adapter = tmp_path / "adapter"
    real_peft("qalora", plain, tmp_path / "tokens.npy", size, adapter)
    expected = np.load(tmp_path / "adapter.npy")
    peft_folders.edit_config(adapter, base_model_name_or_path=name)
    module_registry.bases.add(packed, name=name)
    added = module_registry.adapters.register(adapter, base=name, task=f"q{bits}_{size}")
    before = tiny_models.read_tensors(packed / "model.safetensors")
    for precision in ("auto", "keep"):
        fused = module_registry.fused.fuse(added.name, FuseRequest(precision))
        assert (fused.format, fused.fidelity.verdict) == ("keep, in the biases", "PASS")
        found = LoadedModel.load(Path(fused["path"]), numpy=False).run(TOKENS.astype(np.int32))
        assert apart(found, expected[0]) < 1e-4
    after = tiny_models.read_tensors(Path(fused["path"]) / "model.safetensors")
    changed = {tensor for tensor, value in after.items() if value != before[tensor]}
    assert {tensor.rpartition(".")[2] for tensor in changed} == {"biases"}
    assert len(changed) == len(read_adapter_folder(adapter).modules)
    assert fused.recipe["biases"] is True
    again = module_registry.fused.fuse(added.name, FuseRequest(recipe=fused.key))
    assert again.digest == fused.digest


def test_every_field_of_peft_is_known() -> None:
    fields = set(real_peft("fields"))
    assert fields - FIELDS.keys() == set()
    assert FIELDS.keys() - fields == set()
