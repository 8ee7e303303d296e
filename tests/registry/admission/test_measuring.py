"""What is measured of an adapter's numbers, against the plain computation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry.adapters.mlx_config import lora_modules
from fusery.registry.admission.measuring import Values, measure, update_norm
from fusery.storage.safetensors import read_header


def measured(path: Path, tensors: dict[str, tuple[str, np.ndarray]], group: int | None = None) -> Values:
    tiny_models.write_tensors(path, tensors, None)
    header = read_header(path)
    return measure(path, header, lora_modules(header)[0], group)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 40)),
    experts=st.integers(0, 3),
    factor=st.sampled_from([1e-20, 1e-3, 1.0, 1e15]),
)
def test_the_norm_is_that_of_the_whole_matrix(
    seed: int, sizes: tuple[int, int, int], experts: int, factor: float
) -> None:
    random, (rows, rank, columns) = np.random.default_rng(seed), sizes
    if experts:
        a = random.standard_normal((experts, rank, rows)).astype(np.float32) * np.float32(factor)
        b = random.standard_normal((experts, columns, rank)).astype(np.float32)
        dense = np.einsum("eor,eri->eoi", b.astype(np.float64), a.astype(np.float64))
    else:
        a = random.standard_normal((rows, rank)).astype(np.float32) * np.float32(factor)
        b = random.standard_normal((rank, columns)).astype(np.float32)
        dense = a.astype(np.float64) @ b.astype(np.float64)
    assert update_norm(a, b) == pytest.approx(float(np.linalg.norm(dense)), rel=1e-4)


@pytest.mark.parametrize("experts", [0, 3])
def test_modules_are_named_whose_inputs_do_not_share_what_they_should(experts: int, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    own = random.standard_normal((experts or 1, 2, 4)).astype(np.float32)
    even = np.repeat(own, 8, axis=2)  # (experts, rank, inputs), in groups of 8
    odd = even.copy()
    odd[-1, 1, 9] += 1
    shaped = {"even": even, "odd": odd} if experts else {"even": even[0].T, "odd": odd[0].T}
    b = np.ones((experts, 5, 2) if experts else (2, 5), np.float32)
    tensors = {f"{name}.lora_a": ("F32", np.ascontiguousarray(a)) for name, a in shaped.items()}
    tensors |= {f"{name}.lora_b": ("F32", b) for name in shaped}
    path = tmp_path / "a.safetensors"
    assert list(measured(path, tensors, 8).uneven) == ["odd"]
    assert list(measured(path, tensors, 4).uneven) == ["odd"]
    assert list(measured(path, tensors, 16).uneven) == ["even", "odd"]
    assert list(measured(path, tensors, 5).uneven) == ["even", "odd"], "no whole number of groups"
    assert not measured(path, tensors).uneven


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["m.lora_a", "other", "m.m"])
def test_one_number_that_is_not_finite_is_seen(bad: float, name: str, tmp_path: Path) -> None:
    tensors = {key: np.ones((6, 6), np.float32) for key in ("m.lora_a", "m.lora_b", "other", "m.m")}
    tensors[name][3, 4] = bad
    found = measured(tmp_path / "x.safetensors", {key: ("F32", value) for key, value in tensors.items()})
    assert [key for key, look in found.tensors.items() if not look.finite] == [name]


def test_numbers_that_are_all_alike_were_not_clipped(tmp_path: Path) -> None:
    for value in (0, 1, math.inf):
        alike = {"m.lora_a": ("F32", np.full((6, 6), value, np.float32))}
        [look] = measured(tmp_path / "x.safetensors", alike).tensors.values()
        assert (look.zero, look.finite, look.clipped) == (value == 0, value != math.inf, 0)


def test_a_file_that_shrinks_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    value = np.ones((64, 64), np.float32)
    tiny_models.write_tensors(path, {"m.lora_a": ("F32", value), "m.lora_b": ("F32", value)}, None)
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:5000])
    assert measure(path, header, lora_modules(header)[0]).tensors.keys() == header.tensors.keys()


def test_tensors_that_are_no_factors_are_read_in_blocks(tmp_path: Path) -> None:
    value = np.zeros(3_000_000, np.float32)
    value[-1] = 7.0
    found = measured(tmp_path / "x.safetensors", {"weight": ("F32", value)}).tensors["weight"]
    assert (found.low, found.high, found.zero, found.finite) == (0.0, 7.0, False, True)
