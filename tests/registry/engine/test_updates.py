"""Several adapters at once: the bits of `mlx_lm.fuse` for one adapter whose factors are those of all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import load_raw, rewrite

from fusery.registry.engine.arithmetic import FORMATS, Array, decode, encode
from fusery.registry.engine.plan import AddedAdapter
from fusery.registry.errors import FusionUnsupportedError

from .conftest import MlxFuse, OurFuse, Planner

Weighted = tuple[Path, float]


def settings_of(adapter: Path) -> dict[str, Any]:
    return dict(json.loads((adapter / "adapter_config.json").read_text()))


def extra(adapter: Path, weight: float) -> AddedAdapter:
    return AddedAdapter(adapter / "adapters.safetensors", settings_of(adapter), weight)


def concatenated(folder: Path, adapters: Sequence[Weighted], **settings: Any) -> Path:
    """Write one adapter of scale 1 that is the weighted sum of several, each scale folded into its `lora_b`.

    Modules that an adapter does not have are filled up with zeros, so that all have the same rank, as mlx-lm wants.
    """
    parts = [_scaled(adapter, weight) for adapter, weight in adapters]
    modules = list(dict.fromkeys(name.rpartition(".")[0] for part in parts for name in part))
    ranks = [next(iter(_pairs(part))).shape[1] for part in parts]
    raw: dict[str, tiny_models.Raw] = {}
    for module in modules:
        embedding = module.endswith("embed_tokens")
        shape = next(
            (part[f"{module}.lora_a"].shape[0], part[f"{module}.lora_b"].shape[1])
            for part in parts
            if f"{module}.lora_a" in part
        )
        pairs = [
            (
                part.get(f"{module}.lora_a", np.zeros((shape[0], rank), np.float32)),
                part.get(f"{module}.lora_b", np.zeros((rank, shape[1]), np.float32)),
            )
            for part, rank in zip(parts, ranks, strict=True)
        ]
        a, b = np.concatenate([pair[0] for pair in pairs], 1), np.concatenate([pair[1] for pair in pairs], 0)
        assert embedding or a.shape[1] == sum(ranks)
        raw |= {f"{module}.lora_a": ("F32", a), f"{module}.lora_b": ("F32", b)}
    folder.mkdir()
    tiny_models.write_tensors(folder / "adapters.safetensors", raw, None)
    config = settings_of(adapters[0][0]) | settings
    config["lora_parameters"] = config["lora_parameters"] | {"rank": sum(ranks), "scale": 1.0}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _pairs(part: dict[str, Array]) -> list[Array]:
    return [value for name, value in part.items() if name.endswith("lora_a")]


def _scaled(adapter: Path, weight: float) -> dict[str, Array]:
    scale = settings_of(adapter)["lora_parameters"]["scale"] * weight
    found = {}
    for name, (dtype, value) in load_raw(adapter / "adapters.safetensors").items():
        form = FORMATS[dtype]
        numbers = decode(value, form)
        # The scale meets `lora_b`, or `lora_a` of an embedding; rounded to the format of the tensor before and after.
        if name.endswith("embed_tokens.lora_a" if "embed_tokens" in name else "lora_b"):
            factor = decode(encode(np.full(1, scale, np.float32), form), form)[0]
            numbers = decode(encode(factor * numbers, form), form)
        found[name] = numbers
    return found


def assert_same_tensors(theirs: Path, ours: Path) -> None:
    assert tiny_models.read_tensors(ours) == tiny_models.read_tensors(theirs)


BASES: dict[str, dict[str, Any]] = {
    "bf16": {},
    "f16": {"dtype": "float16"},
    "4 bits": {"bits": 4, "group_size": 32},
    "8 bits, f32": {"bits": 8, "dtype": "float32"},
}


@pytest.mark.parametrize("weights", [(0.5, -1.0), (1.0, 1.0, 0.3)], ids=str)
@pytest.mark.parametrize("options", BASES.values(), ids=BASES.keys())
def test_a_sum_has_the_bits_of_one_adapter_of_all_factors(
    options: dict[str, Any], weights: tuple[float, ...], tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = tiny_models.make_base(tmp_path / "base", **options)
    dtypes: Any = ("float32", "float32" if "bits" in options else "bfloat16", "float16")
    adapters = [
        tiny_models.make_adapter(
            tmp_path / f"a{n}", base, rank=rank, scale=scale, seed=n, update=0.3, dtype=dtypes[n]
        )
        for n, (rank, scale) in enumerate(((8, 20.0), (3, 1.7), (16, 0.1)))
    ]
    weighted = list(zip(adapters, weights, strict=False))
    theirs = mlx_fuse(base, concatenated(tmp_path / "all", weighted))
    extras = [extra(*pair) for pair in weighted[1:]]
    ours, fused = our_fuse(base, adapters[0], weight=weights[0], extras=extras)
    assert_same_tensors(theirs, ours)
    assert len(fused.fidelity.modules) == 14


def test_keys_ranks_and_an_embedding_may_differ(tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    base = tiny_models.make_base(tmp_path / "base")
    one = tiny_models.make_adapter(tmp_path / "one", base, keys=["self_attn.q_proj", "model.embed_tokens"])
    two = tiny_models.make_adapter(
        tmp_path / "two", base, rank=2, seed=1, keys=["self_attn.q_proj", "mlp.up_proj", "lm_head"]
    )
    keys = ["self_attn.q_proj", "mlp.up_proj", "model.embed_tokens", "lm_head"]
    parameters = {"rank": 10, "dropout": 0.0, "scale": 1.0, "keys": keys}
    theirs = mlx_fuse(
        base, concatenated(tmp_path / "all", [(one, 1.0), (two, -0.5)], lora_parameters=parameters)
    )
    ours, fused = our_fuse(base, one, extras=[extra(two, -0.5)])
    assert_same_tensors(theirs, ours)
    assert {module.module.rpartition(".")[2] for module in fused.fidelity.modules} == {
        key.rpartition(".")[2] for key in keys
    }


def test_what_is_not_a_sum_cannot_be_combined(tmp_path: Path, planned: Planner) -> None:
    base = tiny_models.make_base(tmp_path / "base")
    plain = tiny_models.make_adapter(tmp_path / "plain", base)
    other = tiny_models.make_adapter(tmp_path / "other", base, fine_tune_type="dora")
    assert planned(base, other)
    for first, options in (
        (other, {"weight": 0.5}),
        (other, {"extras": [extra(plain, 1.0)]}),
        (plain, {"extras": [extra(other, 1.0)]}),
    ):
        with pytest.raises(FusionUnsupportedError):
            planned(base, first, **options)


def test_an_adapter_and_its_negative_leave_the_base(tmp_path: Path, our_fuse: OurFuse) -> None:
    base = tiny_models.make_base(tmp_path / "base")
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
    ours, fused = our_fuse(base, adapter, extras=[extra(adapter, -1.0)])
    assert_same_tensors(base, ours)
    assert fused.fidelity.norm < 1e-3
    broken = tiny_models.make_adapter(tmp_path / "broken", base, seed=1)
    rewrite(broken, lambda t: t["model.layers.3.mlp.up_proj.lora_a"][1].__setitem__((3, 1), np.nan))
    stranger = tiny_models.make_adapter(
        tmp_path / "stranger", tiny_models.make_base(tmp_path / "wide", hidden=256)
    )
    bad = [
        extra(adapter, float("nan")),
        extra(adapter, float("inf")),
        extra(broken, 1.0),
        extra(stranger, 1.0),
    ]
    for number, part in enumerate(bad):
        with pytest.raises(FusionUnsupportedError):
            our_fuse(base, adapter, extras=[part], name=f"refused-{number}")
