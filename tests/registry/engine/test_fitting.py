"""Scales and biases fitted to what codes are off by, against the least squares that they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_files import numbers, weight

from fusery.registry.engine import kernel
from fusery.registry.engine.arithmetic import FORMATS, decode, encode
from fusery.registry.engine.calibration import (
    CalibrationFile,
    Learned,
    Stored,
    read_calibration,
    write_calibration,
)
from fusery.registry.engine.policy import WritePolicy
from fusery.registry.engine.recipe import DITHER
from fusery.registry.engine.shaped import RIDGE, Fit
from fusery.registry.engine.shaping import metric
from fusery.storage.errors import FormatError

from .conftest import OurFuse, known

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def least_squares(codes: Numbers, lacking: Numbers, matrix: Numbers, size: int) -> tuple[Numbers, Numbers]:
    groups = len(codes) // size
    basis = np.zeros((2 * groups, len(codes)))
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        basis[group, part], basis[groups + group, part] = codes[part], 1.0
    normal = basis @ matrix @ basis.T
    right = basis @ matrix @ lacking
    found = np.linalg.solve(normal + np.diag(RIDGE * np.diag(normal)), right)
    return found[:groups], found[groups:]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1 << 20),
    rows=st.integers(1, 9),
    groups=st.integers(1, 5),
    count=st.integers(1, 12),
    size=st.sampled_from([32, 64]),
)
def test_it_is_the_least_squares(seed: int, rows: int, groups: int, count: int, size: int) -> None:
    random = np.random.default_rng(seed)
    columns = groups * size
    directions, rest = random.standard_normal((count, columns)), random.random(columns) + 0.1
    codes = random.integers(0, 16, (rows, columns)).astype(np.float32)
    lacking = (0.1 * random.standard_normal((rows, columns))).astype(np.float32)
    by_scale, by_bias = Fit.of(directions, rest, size).changes(codes, lacking)
    matrix = np.diag(rest) + directions.T @ directions
    for row in range(rows):
        scale, bias = least_squares(codes[row].astype(float), lacking[row].astype(float), matrix, size)
        np.testing.assert_allclose(by_scale[row], scale, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(by_bias[row], bias, rtol=1e-6, atol=1e-9)


def test_codes_that_are_all_the_same_and_nothing_lacking() -> None:
    fit = Fit.of(np.ones((2, 64)), np.ones(64), 32)
    for code in (0.0, 7.0):
        by_scale, by_bias = fit.changes(np.full((3, 64), code, np.float32), np.full((3, 64), 0.5, np.float32))
        assert np.isfinite(by_scale).all() and np.isfinite(by_bias).all()
        np.testing.assert_allclose(by_scale * code + by_bias, 0.5, rtol=0.01)
    nothing = fit.changes(np.zeros((1, 64), np.float32), np.zeros((1, 64), np.float32))
    assert not any(part.any() for part in nothing)


def heard(base: Path, adapter: Path, fused: Path, calibration: CalibrationFile, path: str) -> float:
    scale = json.loads((adapter / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    left, right = (numbers(adapter / "adapters.safetensors", f"{path}.lora_{part}") for part in "ba")
    update = scale * left.T @ right.T
    error = weight(fused, path) - weight(base, path) - update
    inputs = calibration.of(path)
    assert inputs is not None
    directions, rest = metric(inputs, right.T.astype(np.float32))

    def size(part: Numbers) -> float:
        return float(((part @ directions.T) ** 2).sum() + (part * part * rest).sum())

    return size(error) / size(update)


def test_less_is_off_at_the_same_size(
    calibrated: tuple[Path, Path, CalibrationFile], our_fuse: OurFuse
) -> None:
    base, adapter, calibration = calibrated
    plain, without = our_fuse(base, adapter, WritePolicy(DITHER, calibration=calibration), name="plain")
    fitted, found = our_fuse(
        base, adapter, WritePolicy(DITHER, calibration=calibration, fitted=True), name="fitted"
    )
    tensors = tiny_models.read_tensors(adapter / "adapters.safetensors")
    adapted = [path for path in calibration.modules if f"{path}.lora_b" in tensors]
    assert len(adapted) >= 7
    for path in adapted:
        assert heard(base, adapter, fitted, calibration, path) < heard(
            base, adapter, plain, calibration, path
        )
    assert found.fidelity.retained == pytest.approx(1, abs=0.03)
    assert found.fidelity.noise == pytest.approx(without.fidelity.noise, rel=0.3)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (plain, fitted)]
    assert sizes[0] == sizes[1]
    before, after = tiny_models.read_tensors(plain), tiny_models.read_tensors(fitted)
    changed = {name.rpartition(".")[2] for name in before if before[name] != after[name]}
    assert changed == {"weight", "scales", "biases"}


@pytest.mark.parametrize("fitted", [False, True])
def test_a_layer_that_nothing_came_into(
    calibrated: tuple[Path, Path, CalibrationFile], our_fuse: OurFuse, tmp_path: Path, fitted: bool
) -> None:
    """It was fused into garbage: everything was divided by nothing."""
    base, adapter, calibration = calibrated
    widths = {path: calibration.width_of(path) or 0 for path in calibration.modules}
    dead = known(tmp_path / "dead.safetensors", widths, size=0.0, rest=0.0)
    policy = WritePolicy(DITHER, calibration=dead, fitted=fitted)
    _, found = our_fuse(base, adapter, policy)
    assert found.fidelity.retained == pytest.approx(1, abs=0.1)
    assert found.fidelity.noise < 0.3


def test_a_small_update(
    calibrated: tuple[Path, Path, CalibrationFile], our_fuse: OurFuse, tmp_path: Path
) -> None:
    base, _, calibration = calibrated
    small = tiny_models.make_adapter(tmp_path / "small", base, update=0.00001)
    folder, _ = our_fuse(base, small, WritePolicy(DITHER, calibration=calibration, fitted=True))
    before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(folder)
    assert {name.rpartition(".")[2] for name in before if before[name] != after[name]} <= {"weight"}


@pytest.mark.parametrize(("part", "share"), [("scales", 0.05), ("biases", 0.05), ("biases", 2.0)])
def test_what_was_learned_is_written_where_it_is_near_what_was_fitted(
    calibrated: tuple[Path, Path, CalibrationFile], our_fuse: OurFuse, tmp_path: Path, part: str, share: float
) -> None:
    """A file of a stranger can say that it is for this adapter, and would write any model it liked."""
    base, adapter, calibration = calibrated
    policy = WritePolicy(DITHER, calibration=calibration, fitted=True)
    fitted, _ = our_fuse(base, adapter, policy, name="fitted")
    path = "model.layers.3.mlp.down_proj"
    tensors = tiny_models.read_tensors(fitted)
    found = {}
    for name in ("scales", "biases"):
        dtype, shape, data = tensors[f"{path}.{name}"]
        found[name] = np.frombuffer(data, FORMATS[dtype].stored).reshape(shape).copy()
    form = FORMATS[tensors[f"{path}.scales"][0]]
    scales, moved = decode(found["scales"], form), decode(found[part], form)
    moved[3, 1] += np.float32(share) * scales[3, 1]
    found[part] = encode(moved, form)
    inputs = {name: calibration.of(module) for module, name in calibration.modules.items()}
    about = Learned("a" * 64, policy.seed, 1, 1, "b" * 64)
    file = tmp_path / "learned.safetensors"
    write_calibration(
        file,
        inputs,
        calibration.modules,
        base="a" * 64,
        tokens=1,
        prompts="b" * 64,
        learned=(about, {path: Stored(form, found["scales"], found["biases"])}),
    )
    policy = WritePolicy(DITHER, calibration=read_calibration(file), fitted=True)
    if share > 1:
        with pytest.raises(FormatError):
            our_fuse(base, adapter, policy, name="learned")
        return
    written = []
    for compiled in dict.fromkeys((kernel.compiled, None)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "compiled", compiled)
            threads = 1 if compiled is None else 2
            folder, _ = our_fuse(base, adapter, policy, name=f"learned-{threads}", threads=threads)
            written.append(tiny_models.read_tensors(folder))
    assert written[0] == written[-1]
    assert {name for name in tensors if tensors[name] != written[0][name]} == {f"{path}.{part}"}
