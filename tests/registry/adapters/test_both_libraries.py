"""PEFT and mlx-lm compute the same of an adapter, on models of transformers: mixtures of experts, and models that see."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import adapters_by_class
import numpy as np
import pytest
import tiny_models
from peft_folders import apart, by_mlx, by_peft, edit_config, fused, numbers, real_peft

from fusery.registry import Registry
from fusery.registry.models.libraries import ALIKE, LAYOUTS
from fusery.registry.records.bases import base_folder
from fusery.research.models import uncompiled
from fusery.storage.jsonfile import read_object

pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.slow

# What Unsloth writes, in short: only modules of the language model.
LANGUAGE = r".*language_model.*\.(q_proj|v_proj|up_proj|in_proj_qkv)"
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
# Fields of an adapter of experts and linear layers.
MIXED: dict[str, Any] = {
    "target_parameters": EXPERTS,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"down_proj": 2, "experts.gate_up_proj": 8},
    "alpha_pattern": {"v_proj": 3},
    "use_rslora": True,
}


@pytest.fixture(scope="module")
def bases(module_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the folder of a model of one class, which is made and added once."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            # mlx-lm's YaRN truncates, which transformers does unless it is told otherwise, as gpt_oss is.
            scaling = {"truncate": True} if kind == "gpt_oss" else None
            real_peft("tiny", kind, json.dumps(scaling), made[kind])
            ours = in_mlx_layout(made[kind], made[kind] / "mlx") if kind == "gpt_oss" else made[kind]
            module_registry.bases.add(ours, name=kind)
        return made[kind]

    return get


def trained(base: Path, out: Path, **fields: Any) -> Path:
    """Train an adapter with PEFT."""
    real_peft("train", base, json.dumps({"r": 4, "lora_alpha": 16, **fields}), out)
    return out


def in_mlx_layout(model: Path, folder: Path) -> Path:
    """Write a gpt_oss of transformers as mlx-lm has it, which loads such a model from its 4-bit blocks only."""
    tensors = {}
    for name, value in numbers(model / "model.safetensors").items():
        stem, _, part = name.rpartition(".")
        if part in ("gate_up_proj", "gate_up_proj_bias"):
            rows = value.swapaxes(1, 2) if value.ndim == 3 else value
            kind = "bias" if part.endswith("bias") else "weight"
            tensors[f"{stem}.gate_proj.{kind}"] = rows[:, ::2]
            tensors[f"{stem}.up_proj.{kind}"] = rows[:, 1::2]
        elif part == "down_proj":
            tensors[f"{stem}.down_proj.weight"] = value.swapaxes(1, 2)
        elif part == "down_proj_bias":
            tensors[f"{stem}.down_proj.bias"] = value
        else:
            tensors[name] = value
    folder.mkdir()
    stored = {name: ("F32", np.ascontiguousarray(value, np.float32)) for name, value in tensors.items()}
    tiny_models.write_tensors(folder / "model.safetensors", stored, {"format": "mlx"})
    shutil.copyfile(model / "config.json", folder / "config.json")
    return folder


@pytest.mark.parametrize("kind", sorted({*LAYOUTS, *ALIKE}))
def test_a_fused_model_answers_as_peft_does(
    kind: str, module_registry: Registry, bases: Any, tmp_path: Path
) -> None:
    base = bases(kind)
    fields = MIXED if kind in LAYOUTS else {"target_modules": LANGUAGE, "use_dora": True}
    adapter = trained(base, tmp_path / "adapter", **fields)
    expected = by_peft(base, adapter, tmp_path)
    added = module_registry.adapters.register(adapter, base=kind, task=f"{kind}-peft")
    assert kind in LAYOUTS or {each["severity"] for each in added["findings"]} <= {"info"}
    found = by_mlx(fused(module_registry, added.name), tmp_path)
    assert apart(found, expected) < 1e-4
    with base_folder(module_registry.workspace, kind) as folder:
        assert apart(found, by_mlx(folder, tmp_path)) > 1e-3, "nothing was learned"


@pytest.mark.parametrize("kind", sorted({*LAYOUTS, *ALIKE}))
def test_peft_answers_as_a_fused_model_does(
    kind: str, module_registry: Registry, bases: Any, tmp_path: Path
) -> None:
    """Of an adapter that has all that mlx-lm's trainer adapts by default; a tower has modules of the same names."""
    base = bases(kind)
    with base_folder(module_registry.workspace, kind) as folder:
        adapter = adapters_by_class.make_adapter(tmp_path / "adapter", folder, rank=2, scale=2.0, update=0.3)
    added = module_registry.adapters.register(adapter, base=kind, task=f"{kind}-mlx")
    out = Path(module_registry.exchange.export(added.name, tmp_path / "out", form="peft").path)
    found = by_mlx(fused(module_registry, added.name), tmp_path)
    assert apart(found, by_peft(base, out, tmp_path)) < 1e-4
    if kind in ALIKE:  # and back it is the same
        edit_config(out, base_model_name_or_path=kind)
        module_registry.adapters.register(out, base=kind, task=f"{kind}-back")
        difference = module_registry.adapters.diff(f"{kind}-mlx@1", f"{kind}-back@1")
        assert min(module["cosine"] for module in difference["modules"]) > 0.999999


def test_experts_named_as_linear_layers(module_registry: Registry, bases: Any, tmp_path: Path) -> None:
    """PEFT makes parameters of the names that experts had in transformers 4, with the router among them."""
    base = bases("mixtral")
    adapter = trained(base, tmp_path / "adapter", target_modules=["gate", "w1", "w2", "w3", "q_proj"])
    said = read_object(adapter / "adapter_config.json")
    assert set(said["target_parameters"]) == {"gate.weight", "gate_up_proj", "down_proj"}
    added = module_registry.adapters.register(adapter, base="mixtral", task="renamed")
    assert "block_sparse_moe.gate" in added["target_modules"]
    assert (
        apart(by_mlx(fused(module_registry, added.name), tmp_path), by_peft(base, adapter, tmp_path)) < 1e-4
    )


ENDS = {"modules_to_save": ["embed_tokens", "lm_head"]}
ADDED = {"trainable_token_indices": [128, 129, 130, 131]}
TRAINED: dict[str, tuple[str, int, dict[str, Any]]] = {
    "embedding and head, tied before": ("tied", 128, ENDS),
    "head and norms, tied before": ("tied", 128, {"modules_to_save": ["lm_head", "norm"]}),
    "tied, and kept so": ("tied", 128, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "a head that is among the targets, too": (
        "",
        128,
        {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
    ),
    "tokens at both ends": ("", 128, {"trainable_token_indices": {"embed_tokens": [5, 3], "lm_head": [1]}}),
    "tokens, tied": ("tied", 128, {"trainable_token_indices": [5, 3, 9]}),
    "tokens taken away": ("", 120, {}),
    "tokens added and trained, tied": ("tied", 132, ADDED),
    "tokens added, all trained, tied before": ("tied", 132, ENDS),
    "tokens added, with factors": ("", 132, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
}


def logits_of(model: Path, end: int = 100, count: int = 100) -> np.ndarray:
    """Return what mlx-lm's model answers to the first of the 100 tokens before `end`."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    found, _ = load_model(model)
    with uncompiled(mx):
        logits = found(mx.arange(end - 100, end - 100 + count)[None]).astype(mx.float32)
        return np.array(logits).astype(np.float64)


@pytest.mark.parametrize("case", TRAINED)
def test_whole_tensors_are_fused_as_peft_merges_them(
    module_registry: Registry, tmp_path: Path, case: str
) -> None:
    tied, rows, fields = TRAINED[case]
    assert real_peft("whole", tmp_path, tied, str(rows), json.dumps(fields)) == ["same"]
    name = f"t{list(TRAINED).index(case)}"
    module_registry.bases.add(tmp_path / "base", name=name)
    made = module_registry.adapters.register(tmp_path / "adapter", base=name, task=name)
    fused = module_registry.fused.fuse(made["name"])
    known = min(100, 228 - rows)  # tokens that the base has
    theirs, before = np.load(tmp_path / "logits.npy"), logits_of(tmp_path / "base", rows, known)
    assert np.abs(logits_of(fused.path, rows) - theirs).max() < 1e-4
    assert np.abs(before[..., :120] - theirs[:, :known, :120]).max() > 1e-2
    ours, merged = (
        json.loads((path / "config.json").read_text()) for path in (fused.path, tmp_path / "merged")
    )
    for key in ("vocab_size", "tie_word_embeddings"):
        assert ours.get(key) == merged.get(key)
    assert fused.fidelity.verdict == "PASS"
    found = {each["code"] for each in module_registry.adapters.show(made["name"])["findings"]}
    assert "peft_whole_tensors" in found
