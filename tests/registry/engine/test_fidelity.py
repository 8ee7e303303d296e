from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from tensor_files import numbers, weight

from fusery.registry.engine.arithmetic import Array
from fusery.registry.engine.fidelity import FuseFidelity, ModuleShare, Sums, measure, measure_exactly
from fusery.registry.engine.verdict import (
    closeness,
    in_words,
    judge,
    range_in_words,
    recorded_verdict,
    share_in_words,
)

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


def compare(found: ModuleShare | FuseFidelity, real: Array, wanted: Array) -> None:
    norm = np.linalg.norm(wanted)
    assert found.norm == pytest.approx(norm, rel=1e-5)
    assert found.retained == pytest.approx((real * wanted).sum() / norm**2, rel=1e-5, abs=1e-6)
    assert found.cosine == pytest.approx((real * wanted).sum() / norm / np.linalg.norm(real), rel=1e-5)
    assert found.relative_error == pytest.approx(np.linalg.norm(real - wanted) / norm, rel=1e-4, abs=1e-6)


def test_nothing_intended_is_all_retained_and_nothing_changed_is_nothing() -> None:
    assert ModuleShare.of("m", Sums(0.0, 0.0, 4.0)) == ModuleShare("m", 0.0, 1.0, 1.0, 0.0)
    assert FuseFidelity.of({}).verdict == "PASS"
    found = ModuleShare.of("m", Sums(4.0, 0.0, 4.0))
    assert (found.norm, found.retained, found.cosine, found.relative_error) == (2.0, 0.0, 0.0, 1.0)
    json.dumps(asdict(FuseFidelity.of({"m": Sums(1.0, 1.0, 0.0)})), allow_nan=False)


def test_the_whole_weighs_modules_by_their_updates() -> None:
    found = FuseFidelity.of({"large": Sums(9.0, 9.0, 0.0), "small": Sums(1.0, 0.0, 1.0)})
    assert found.retained == 0.9
    assert [module.retained for module in found.modules] == [1.0, 0.0]


def test_modules_that_overshoot_do_not_make_up_for_others() -> None:
    """One module has 190 % of its update and the other 10 %: together 100 %, and neither is right."""
    found = FuseFidelity.of({"much": Sums(1.0, 1.9, 0.81), "little": Sums(1.0, 0.1, 0.81)})
    assert (found.retained, found.verdict) == (1.0, "LOST")
    assert FuseFidelity.of({"a": Sums(1.0, 1.1, 0.01), "b": Sums(1.0, 0.9, 0.01)}).verdict == "PASS"


@pytest.mark.parametrize(("share", "verdict"), [(1.0, "PASS"), (1.5, "UNSURE"), (1.9, "LOST"), (0.1, "LOST")])
def test_replaced_tensor_can_overshoot(share: float, verdict: str) -> None:
    replaced = {"embed": Sums(100.0, 100.0 * share, 100.0 * (share - 1) ** 2)}
    assert FuseFidelity.of({"m": Sums(1.0, 1.0, 0.0)}, replaced).verdict == verdict


def test_the_exact_way_leaves_out_what_is_not_finite() -> None:
    real = np.array([[1, np.nan, 3], [4, np.inf, 6]], np.float32)
    wanted = np.array([[1, 2, 3], [4, 5, 5]], np.float32)
    base = np.array([[1, 2, 3], [np.inf, 5, 6]], np.float32)
    sums = measure_exactly(real, wanted, base)
    assert (sums.intended, sums.inner, sums.error, sums.weight) == (1 + 9 + 25, 1 + 9 + 30, 1, 1 + 9 + 36)
    assert not measure(real, wanted, base, np.empty_like(real), grouped=False).finite


def test_verdicts() -> None:
    for verdict, figures in {
        "PASS": [(1.0, 0.0), (0.95, 0.025), (1.05, 0.025)],
        "UNSURE": [(0.949, 0.0), (1.051, 0.0), (1.0, 0.026), (0.3, 0.0), (1.7, 0.0)],
        "LOST": [(0.29, 0.0), (1.71, 0.0), (1.936, 0.04), (2.67, 0.04), (-0.2, 1.0)],
    }.items():
        for retained, noise in figures:
            assert judge(retained, noise) == verdict, (retained, noise)
    assert [judge(1.0, noise, shaped=True) for noise in (0.035, 0.036)] == ["PASS", "UNSURE"]
    assert [judge(1.0, 0.01, cosine) for cosine in (0.1, 0.09)] == ["PASS", "UNSURE"]
    assert [judge(1.0, close=close) for close in (0.8, 0.799, 0.299)] == ["PASS", "UNSURE", "LOST"]


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.2]))
def test_overshooting_is_judged_like_a_loss(thousandths: int, noise: float) -> None:
    distance = thousandths / 512  # exact in binary, and so are both shares
    assert judge(1 + distance, noise) == judge(1 - distance, noise)
    assert closeness(1 + distance) == closeness(1 - distance) == 1 - distance


def test_words_name_the_figures_and_say_when_a_fuse_overshoots() -> None:
    words = in_words("LOST", 1.936, 0.042)
    assert all(part in words for part in ("LOST", "overshoots", "193.6 %", "4.2 %"))
    assert "overshoots" not in in_words("LOST", 0.1, 0.042)
    assert range_in_words(0.9) == "90 to 110 % of the update"
    assert "103.0 %" in share_in_words(1.03) and "0.0 %" in share_in_words(None)
    reason = "its modules"  # where the figures alone give none
    assert reason in in_words("LOST", 0.95, 0.04)
    for verdict, retained, noise in (("UNSURE", 0.95, 0.13), ("LOST", 1.8, 0.04), ("PASS", 1.0, 0.02)):
        assert reason not in in_words(verdict, retained, noise)


def test_a_recorded_verdict_is_no_better_than_its_figures() -> None:
    assert recorded_verdict("PASS", 1.936, 0.04) == "LOST"
    assert recorded_verdict("PASS", 1.0, 0.2) == recorded_verdict("PASS", 1.0, 0.01, 0.05) == "UNSURE"
    assert recorded_verdict("LOST", 1.0, 0.04) == "LOST"
    assert recorded_verdict("DEGRADED", 1.0, None) == recorded_verdict("DEGRADED", None, None) == "UNSURE"
    assert recorded_verdict("PASS", None, None) == "PASS"
