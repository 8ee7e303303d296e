"""Adapters that mlx-lm's own trainer writes, and that PEFT trained, have no error and no warning."""

from __future__ import annotations

import contextlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bundle_cases import model_file
from tiny_architectures import ARCHITECTURES, make_architecture

from fusery.registry import Registry

# Adapters that PEFT itself trained on SmolLM2-135M-Instruct.
PEFT = Path(__file__).resolve().parents[2] / "data" / "peft"
STEPS = 2  # The first changes only what starts at nothing; the second changes both factors
FORMS: Mapping[str, dict[str, Any]] = {
    "LoRA as it comes": {"fine_tune_type": "lora", "num_layers": -1},
    "LoRA of query and value": {"fine_tune_type": "lora", "num_layers": -1, "keys": "query and value"},
    "LoRA of all that is linear": {"fine_tune_type": "lora", "num_layers": 0, "keys": "all"},
    "DoRA": {"fine_tune_type": "dora", "num_layers": -1},
    "full, the last layer": {"fine_tune_type": "full", "num_layers": 1},
    "with weight decay": {"fine_tune_type": "lora", "num_layers": -1, "optimizer": "adamw", "iters": 1},
}

QUICK = {
    "llama": "LoRA as it comes",
    "qwen2": "LoRA of query and value",
    "gemma3_text": "DoRA",
    "olmo2": "full, the last layer",
    "starcoder2": "with weight decay",
    "qwen3_moe": "LoRA of all that is linear",
}
TRAINED = sorted(path.parent for path in PEFT.glob("*/adapter_config.json"))
assert TRAINED and set(QUICK.values()) == set(FORMS)
QUERY_AND_VALUE = ("q_proj", "v_proj", "query_key_value", "qkv_proj", "c_attn", "in_proj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    (root / "data").mkdir()
    # Without examples to validate with, the trainer does not measure a loss that nobody here asks for.
    rows = [json.dumps({"text": f"train {n}: the quick brown fox jumps"}) for n in range(8)]
    (root / "data" / "train.jsonl").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module", autouse=True)
def _without_compiling() -> Iterator[None]:
    """Compute step by step: on a CPU, mlx calls the C++ compiler for every model otherwise, for minutes in all."""
    import mlx.core as mx

    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.fixture(scope="module")
def registry(module_registry: Registry) -> Registry:
    return module_registry


def train(folder: Path, base: Path, name: str, form: Mapping[str, Any]) -> Path:
    """Run `mlx_lm.lora` itself for a few steps, as its command line does, and return the adapter's folder."""
    from mlx_lm.lora import CONFIG_DEFAULTS, run

    parameters: dict[str, Any] = {"rank": 8, "dropout": 0.0, "scale": 20.0}
    if keys := form.get("keys"):
        parameters["keys"] = keys_of(base, keys)
    places = {"model": str(base), "data": str(folder / "data"), "adapter_path": str(folder / name)}
    fixed = {"train": True, "batch_size": 2, "steps_per_report": 1, "max_seq_length": 64}
    arguments = {
        **CONFIG_DEFAULTS,
        "iters": STEPS,
        "optimizer": "adam",
        "lora_parameters": parameters,
        **places,
        **fixed,
        **{key: form[key] for key in ("fine_tune_type", "num_layers", "iters", "optimizer") if key in form},
        # Else all adapters of one base begin alike; whatever came before, each begins as it always does.
        "seed": zlib.crc32(name.encode()),
    }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(SimpleNamespace(**arguments))
    return folder / name


def keys_of(base: Path, which: str) -> list[str]:
    from adapters_by_class import paths_of, within_block

    found = {
        within_block(path) for path in paths_of(base, "linear") if any(p.isdecimal() for p in path.split("."))
    }
    return sorted(key for key in found if which == "all" or key.rpartition(".")[2] in QUERY_AND_VALUE)


def require_silence(registry: Registry, folder: Path, base: str, task: str) -> None:
    findings = registry.adapters.check(folder, base=base, task=task)
    assert [finding for finding in findings if finding.severity != "info"] == []
    view = registry.adapters.register(folder, base=base, task=task)
    assert [finding for finding in view["findings"] if finding["severity"] != "info"] == []


def try_form(registry: Registry, folder: Path, model_type: str, form: str, **base: Any) -> None:
    name = "-".join([model_type, *(f"{key}{value}" for key, value in base.items())])
    source = folder / name
    if not source.exists():
        # On a CPU, mlx multiplies by experts in float32 only.
        experts = "expert" in json.dumps(ARCHITECTURES[model_type])
        make_architecture(source, model_type, **{"dtype": "float32" if experts else "bfloat16", **base})
        registry.bases.add(str(source), name=name)
    label = f"{name}-{list(FORMS).index(form)}"
    made = train(folder, source, label, FORMS[form])
    require_silence(registry, made, name, label.replace("_", "-"))


@pytest.mark.parametrize(("model_type", "form"), QUICK.items(), ids=QUICK.keys())
def test_what_mlx_lm_trains(registry: Registry, folder: Path, model_type: str, form: str) -> None:
    try_form(registry, folder, model_type, form)


def test_what_mlx_lm_trains_on_a_quantised_base(registry: Registry, folder: Path) -> None:
    try_form(registry, folder, "llama", "LoRA as it comes", bits=4)


@pytest.fixture(scope="module")
def smollm2(registry: Registry) -> str:
    return str(registry.bases.add(str(model_file()), name="SmolLM2-135M-Instruct")["name"])


@pytest.mark.slow
@pytest.mark.parametrize("adapter", TRAINED, ids=lambda path: path.name)
def test_what_peft_trained(registry: Registry, smollm2: str, adapter: Path) -> None:
    require_silence(registry, adapter, smollm2, f"peft-{adapter.name}".replace("_", "-"))
