"""Runs of Unsloth's trainer for MLX: which checkpoint is registered, and the base that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from run_folders import register

from fusery.registry import Registry
from fusery.registry.admission.refusal import AdmissionError
from fusery.storage.digest import digest_file


def codes(view: dict[str, Any]) -> set[str]:
    found = {finding["code"] for finding in view["findings"] if finding["severity"] != "info"}
    return found - {"update_large"}


def test_mlx_s_form_from_unsloth(with_base: Registry, base: Path, tmp_path: Path) -> None:
    """Its trainer for MLX leaves `checkpoint-STEP` with a state, `best` and the last weights (unsloth-zoo ce232d6c)."""
    out, losses = tmp_path / "out", {5: 2.0, 10: 1.8, 15: 1.5, 20: 1.9}
    for step in (10, 20):
        made = tiny_models.make_adapter(out / f"checkpoint-{step}", base, seed=step, rank=2)
        (made / "optimizer_state.safetensors").write_bytes(b"")
        log = [{"step": at, "loss": 3.0, "eval_loss": loss} for at, loss in losses.items() if at <= step]
        state = {"global_step": step, "best_step": 15, "best_metric": 1.5, "log_history": log}
        (made / "trainer_state.json").write_text(json.dumps(state))
    best = tiny_models.make_adapter(out / "best", base, seed=15, rank=2)
    tiny_models.make_adapter(out, base, seed=15, rank=2)
    view = register(with_base, out)
    assert (view["val_loss"], view["iterations"], view["training_run"]["chosen"]) == (1.5, 15, "best")
    kept = next(file["sha256"] for file in view["files"] if file["path"] == "adapters.safetensors")
    assert kept == digest_file(best / "adapters.safetensors")[0]
    assert register(with_base, out, checkpoint=20)["val_loss"] == 1.9


def unsloth_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    mlx = json.loads(path.read_text())
    lora = {key: mlx["lora_parameters"][key] for key in ("rank", "scale", "dropout")}
    tensors = tiny_models.read_tensors(folder / "adapters.safetensors")
    # Paths from the root of the model; mlx-lm writes paths within a layer.
    paths = sorted({name.rpartition(".")[0] for name in tensors})
    config = {
        **lora,
        "base_model_name_or_path": "org/tiny",
        "base_model_commit_hash": "a" * 40,
        "requires_unsloth_mlx_runtime_quantization": False,
        "lora_parameters": {**lora, "keys": paths},
        "num_layers": mlx["num_layers"],
        "fine_tune_type": "lora",
        "peft_type": "LORA",
        "unsloth_mlx_lora_module_paths": paths,
    }
    path.write_text(json.dumps({**config, **changes}, indent=2))


def test_the_base_that_unsloth_on_mlx_names_is_held_against_the_one_given(
    with_base: Registry, base: Path, tmp_path: Path
) -> None:
    folder = tiny_models.make_adapter(tmp_path / "lessons_v1_20260301", base, seed=3, rank=2)
    unsloth_config(folder)
    made = with_base.adapters.register(folder)
    assert (made["base"], codes(made)) == ("tiny", set())
    with_base.fused.fuse(made)
    unsloth_config(folder, base_model_name_or_path="org/another")
    with pytest.raises(AdmissionError) as caught:
        with_base.adapters.register(folder, base="tiny")
    assert caught.value.findings[0].code == "base_mismatch"
    quantised = {"bits": 4, "group_size": 64, "mode": "affine"}
    unsloth_config(folder, requires_unsloth_mlx_runtime_quantization=True, base_quantization_config=quantised)
    found = with_base.adapters.check(folder, base="tiny", task="other")
    assert "base_quantised_in_training" in {finding.code for finding in found}
