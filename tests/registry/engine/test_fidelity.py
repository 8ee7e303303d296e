from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import numbers, weight

from fusery.registry.engine.arithmetic import Array
from fusery.registry.engine.fidelity import Fidelity, ModuleFidelity, Sums, measure, measure_exactly
from fusery.registry.engine.verdict import judge

from .conftest import OurFuse


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"dtype": "bfloat16"}, "keep"),
        ({"dtype": "float32"}, "keep"),
        ({"bits": 4}, "keep"),
        ({"bits": 8, "dtype": "float16"}, "keep"),
        ({"bits": 6, "dtype": "float32", "group_size": 32}, "keep"),
        ({"bits": 4}, "dequantize"),
    ],
    ids=str,
)
def test_figures_are_exact(
    options: dict[str, Any], precision: str, tmp_path: Path, our_fuse: OurFuse
) -> None:
    base = tiny_models.make_base(tmp_path / "base", **options)
    keys = ["model.embed_tokens", "self_attn.q_proj", "mlp.down_proj"]
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, keys=keys)
    folder, fused = our_fuse(base, adapter, precision)
    real_parts, intended_parts = [], []
    assert fused.fidelity.modules[0].module == "model.embed_tokens"
    for module in fused.fidelity.modules:
        real = weight(folder, module.module) - weight(base, module.module)
        a, b = (numbers(adapter / "adapters.safetensors", f"{module.module}.lora_{part}") for part in "ab")
        wanted = 20.0 * (a @ b if "embed" in module.module else (a @ b).T)
        compare(module, real, wanted)
        real_parts.append(real.ravel())
        intended_parts.append(wanted.ravel())
    compare(fused.fidelity, np.concatenate(real_parts), np.concatenate(intended_parts))
    assert fused.fidelity.verdict == judge(fused.fidelity.retained, fused.fidelity.noise)
    base_parts = [weight(base, module.module).ravel() for module in fused.fidelity.modules]
    noise = np.linalg.norm(np.concatenate(real_parts) - np.concatenate(intended_parts))
    assert fused.fidelity.noise == pytest.approx(
        noise / np.linalg.norm(np.concatenate(base_parts)), rel=1e-4, abs=1e-8
    )


def compare(found: ModuleFidelity | Fidelity, real: Array, wanted: Array) -> None:
    norm = np.linalg.norm(wanted)
    assert found.norm == pytest.approx(norm, rel=1e-5)
    assert found.retained == pytest.approx((real * wanted).sum() / norm**2, rel=1e-5, abs=1e-6)
    assert found.cosine == pytest.approx((real * wanted).sum() / norm / np.linalg.norm(real), rel=1e-5)
    assert found.relative_error == pytest.approx(np.linalg.norm(real - wanted) / norm, rel=1e-4, abs=1e-6)


def test_nothing_intended_is_all_retained_and_nothing_changed_is_nothing() -> None:
    assert ModuleFidelity.of("m", Sums(0.0, 0.0, 4.0)) == ModuleFidelity("m", 0.0, 1.0, 1.0, 0.0)
    assert Fidelity.of({}).verdict == "PASS"
    found = ModuleFidelity.of("m", Sums(4.0, 0.0, 4.0))
    assert (found.norm, found.retained, found.cosine, found.relative_error) == (2.0, 0.0, 0.0, 1.0)
    json.dumps(Fidelity.of({"m": Sums(1.0, 1.0, 0.0)}).to_dict(), allow_nan=False)


def test_the_whole_weighs_modules_by_their_updates() -> None:
    found = Fidelity.of({"large": Sums(9.0, 9.0, 0.0), "small": Sums(1.0, 0.0, 1.0)})
    assert found.retained == 0.9
    assert [module.retained for module in found.modules] == [1.0, 0.0]


def test_modules_that_overshoot_do_not_make_up_for_others() -> None:
    """One module has 190 % of its update and the other 10 %: together 100 %, and neither is right."""
    found = Fidelity.of({"much": Sums(1.0, 1.9, 0.81), "little": Sums(1.0, 0.1, 0.81)})
    assert (found.retained, found.verdict) == (1.0, "LOST")
    assert Fidelity.of({"a": Sums(1.0, 1.1, 0.01), "b": Sums(1.0, 0.9, 0.01)}).verdict == "PASS"


@pytest.mark.parametrize(
    ("share", "verdict"), [(1.0, "PASS"), (1.5, "DEGRADED"), (1.9, "LOST"), (0.1, "LOST")]
)
def test_replaced_tensor_can_overshoot(share: float, verdict: str) -> None:
    replaced = {"embed": Sums(100.0, 100.0 * share, 100.0 * (share - 1) ** 2)}
    assert Fidelity.of({"m": Sums(1.0, 1.0, 0.0)}, replaced).verdict == verdict


def test_the_exact_way_leaves_out_what_is_not_finite() -> None:
    real = np.array([[1, np.nan, 3], [4, np.inf, 6]], np.float32)
    wanted = np.array([[1, 2, 3], [4, 5, 5]], np.float32)
    base = np.array([[1, 2, 3], [np.inf, 5, 6]], np.float32)
    sums = measure_exactly(real, wanted, base)
    assert (sums.intended, sums.inner, sums.error, sums.weight) == (1 + 9 + 25, 1 + 9 + 30, 1, 1 + 9 + 36)
    assert not measure(real, wanted, base, np.empty_like(real), grouped=False).finite
