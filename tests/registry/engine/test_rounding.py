"""DoRA rounded once, at its end: nearer to base + adapter than what `mlx_lm.fuse` writes, in the base's own format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models
from tensor_files import numbers, weight

from fusery.registry.engine.arithmetic import FORMATS, Array, decode, encode
from fusery.registry.engine.policy import WritePolicy
from fusery.registry.engine.recipe import KEEP, MIXED, ONCE

from .conftest import OurFuse

_UP = "model.layers.3.mlp.up_proj"
_EMBEDDING = "model.embed_tokens"


def at_run_time(base: Path, adapter: Path, module: str, scale: float = 20.0) -> Array:
    a, b, m = (
        numbers(adapter / "adapters.safetensors", f"{module}.{part}") for part in ("lora_a", "lora_b", "m")
    )
    product = a @ b if module == _EMBEDDING else b.T @ a.T
    merged = weight(base, module) + scale * product
    return m[:, None] / np.linalg.norm(merged, axis=1)[:, None] * merged


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_number_is_the_nearest(dtype: tiny_models.FloatType, tmp_path: Path, our_fuse: OurFuse) -> None:
    base = tiny_models.make_base(tmp_path / "base", dtype=dtype)
    keys = [_EMBEDDING, "mlp.up_proj"]
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, fine_tune_type="dora", keys=keys)
    folder, fused = our_fuse(base, adapter, WritePolicy(KEEP, rounding=ONCE))
    assert fused.fidelity.retained == pytest.approx(1, abs=0.02)
    form = FORMATS[{"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype]]
    for module in (_UP, _EMBEDDING):
        assert tiny_models.read_tensors(folder)[f"{module}.weight"][0] == form.name
        truth = at_run_time(base, adapter, module)
        found = numbers(folder, f"{module}.weight")
        if dtype == "float32":
            np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-9)
        else:
            nearest = decode(encode(truth.astype(np.float32), form), form)
            assert np.mean(found != nearest) < 1e-3  # where float32 itself decides otherwise than float64


@pytest.mark.parametrize(
    ("policy", "own"),
    [(WritePolicy(KEEP, rounding=ONCE), 8), (WritePolicy(MIXED, {"": 8}, rounding=ONCE), 4)],
)
def test_quantised_anew_keeps_its_format(
    policy: WritePolicy, own: int, tmp_path: Path, our_fuse: OurFuse
) -> None:
    base = tiny_models.make_base(tmp_path / "base", bits=own)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, fine_tune_type="dora")
    folder, _ = our_fuse(base, adapter, policy)
    assert tiny_models.read_tensors(folder)[f"{_UP}.scales"][0] == "BF16"
    found, truth = weight(folder, _UP), at_run_time(base, adapter, _UP)
    assert np.sqrt(np.mean((found - truth) ** 2) / np.mean(truth**2)) < 1e-2
