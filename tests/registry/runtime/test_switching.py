"""Adapters on the base: the logits of mlx-lm's own loading, and a base that stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapters_by_class
import mlx.core as mx
import numpy as np
import pytest
import tiny_architectures
import tiny_models
from mlx_lm import load
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from safetensors.numpy import load_file, save_file

from fusery.registry.runtime import switching
from fusery.registry.runtime.errors import AdapterError
from fusery.registry.runtime.switching import Resident, Switchboard

BASES: dict[str, dict[str, Any]] = {"dense": {}, "quantised": {"bits": 4}, "tied": {"tied": True}}
Spoil = Callable[[Path], object]
ADAPTERS: dict[str, dict[str, Any]] = {
    "rank 1": {"rank": 1},
    "rank 48, all blocks": {"rank": 48, "num_layers": -1},
    "attention only": {"keys": ["self_attn.q_proj", "self_attn.v_proj"]},
    "embedding": {"keys": ["model.embed_tokens"]},
    "dora": {"fine_tune_type": "dora"},
    "part of the layers missing": {"skip": ["model.layers.3.mlp.up_proj"]},
}
TOKENS = [[5, 6, 7, 8, 250]]


@pytest.fixture(scope="module", params=list(BASES))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    return tiny_models.make_base(folder, dtype="float32", **BASES[request.param])


@pytest.mark.parametrize(
    ("tokens", "first"), [([7, 8, 7, 8, 9], 2), ([7, 8], 0), ([8, 7, 9], None), ([7], None), ([], None)]
)
def test_an_alora_is_active_from_its_last_invocation(tokens: list[int], first: int | None) -> None:
    resident = Resident("a", None, 1, 1, (), 0, invocation=(7, 8))
    assert resident.active_from(tokens) == first
    assert replace(resident, invocation=()).active_from(tokens) == 0


def test_the_logits_are_those_of_mlx_lm(base: Path, tmp_path: Path) -> None:
    model, _ = load(str(base))
    board, tokens = Switchboard(model), mx.array(TOKENS)
    plain = model(tokens)
    residents = {}
    for number, (name, settings) in enumerate(ADAPTERS.items()):
        folder = tiny_models.make_adapter(
            tmp_path / str(number), base, seed=number, update=0.5, **{"num_layers": 2} | settings
        )
        residents[name] = folder, board.load(name, folder)
    for name, (folder, resident) in residents.items():
        expected = load(str(base), adapter_path=str(folder))[0](tokens)
        board.use(resident)
        assert mx.array_equal(model(tokens), expected), name
        assert not mx.array_equal(expected, plain), name
    board.use(None)
    assert mx.array_equal(model(tokens), plain)


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v2", "gemma3_text", "qwen3_next", "mamba"])
def test_other_architectures(kind: str, tmp_path: Path) -> None:
    base = tiny_architectures.make_architecture(tmp_path / "base", kind, dtype="float32")
    folder = adapters_by_class.make_adapter(tmp_path / "a", base, rank=4, update=0.5)
    model, _ = load_model(base)
    board, tokens = Switchboard(model), mx.array(TOKENS)
    plain = model(tokens)
    resident = board.load("a", folder)
    reference = load_adapters(load_model(base)[0], str(folder))
    reference.eval()
    board.use(resident)
    assert mx.array_equal(model(tokens), reference(tokens))
    assert not mx.array_equal(model(tokens), plain)
    board.use(None)
    assert mx.array_equal(model(tokens), plain)


def test_what_is_built_keeps_its_adapter(base: Path, tmp_path: Path) -> None:
    model, _ = load(str(base))
    board, tokens = Switchboard(model), mx.array(TOKENS)
    resident = board.load("a", tiny_models.make_adapter(tmp_path / "a", base, update=0.5))
    plain = model(tokens)
    mx.eval(plain)
    built = model(tokens)  # not computed yet
    board.use(resident)
    assert mx.array_equal(built, plain)


def test_counts(small_base: Path, tmp_path: Path) -> None:
    board = Switchboard(load(str(small_base))[0])
    folder = tiny_models.make_adapter(
        tmp_path / "a", small_base, rank=4, num_layers=2, keys=["self_attn.q_proj", "self_attn.v_proj"]
    )
    resident = board.load("a", folder, "d" * 64)
    assert resident.modules == 4
    assert resident.nbytes == 2 * 4 * (64 * 4 + 4 * 64 + 64 * 4 + 4 * 32)
    for wanted in (resident, resident, None, resident):
        board.use(wanted)
    assert board.switches == 3


def change(**values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def weights(make: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "adapters.safetensors"
        save_file(make(load_file(path)), path)

    return spoil


LORA = {"rank": 8, "scale": 1.0, "dropout": 0}


BAD: dict[str, Spoil] = {
    "full fine-tune": change(fine_tune_type="full"),
    "trained through a quantiser": change(quantization_aware={"bits": 4, "group_size": 64}),
    "no configuration": lambda folder: (folder / "adapter_config.json").unlink(),
    "configuration is a list": lambda folder: (folder / "adapter_config.json").write_text("[]"),
    "no safetensors": lambda folder: (folder / "adapters.safetensors").write_bytes(b"\0" * 20),
    "other names": weights(lambda each: {f"base_{name}": value for name, value in each.items()}),
    "layers that match nothing": change(lora_parameters={**LORA, "keys": ["x"]}),
    "other shapes": weights(lambda each: {name: value[:-1] for name, value in each.items()}),
    "alpha for scale": change(lora_parameters={"rank": 8, "alpha": 16, "dropout": 0}),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_adapter_leaves_the_base_as_it_is(what: str, small_base: Path, tmp_path: Path) -> None:
    model, _ = load(str(small_base))
    board, tokens = Switchboard(model), mx.array(TOKENS)
    plain = model(tokens)
    folder = tiny_models.make_adapter(tmp_path / "a", small_base, update=0.5)
    BAD[what](folder)
    with pytest.raises(AdapterError) as caught:
        board.load("task_v1", folder)
    assert "task_v1" in str(caught.value)
    assert mx.array_equal(model(tokens), plain)
    assert not any("lora" in name for name, _ in model.named_modules())


def test_a_base_that_would_keep_its_layers() -> None:
    from mlx_lm.models import kimi_k3, llama

    assert switching._keeps_layers(kimi_k3.Model.__new__(kimi_k3.Model))
    assert not switching._keeps_layers(llama.Model.__new__(llama.Model))
