"""Experts are fused one by one; MLX multiplies them out together, and the bits have to be the same."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from mlx_numbers import from_mlx, mlx_type, to_mlx

from fusery.registry.engine.arithmetic import (
    FORMATS,
    Array,
    Format,
    Update,
    encode,
    multiply_out,
)

mx = pytest.importorskip("mlx.core")
forms = pytest.mark.parametrize(
    ("a_form", "b_form"), list(product(FORMATS.values(), repeat=2)), ids=lambda form: form.name
)
RANKS = (1, 5, 16, 17, 64, 128)
SCALE = 0.1  # not a float32, and rounded differently in each format


def factor(seed: int, shape: tuple[int, ...], form: Format) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape) * 1e-2
    return encode(values.astype(np.float32), form)


def delta_of(update: Update, form: Format) -> Array:
    """Return the stored delta of a whole module, the same by the exact way and by the fast one."""
    delta = np.empty((update.left.shape[1], update.right.shape[1]), np.float32)
    scratch, found = np.empty_like(delta), []
    for exact in {True, update.needs_exact(form)}:
        multiply_out(update.left[:, :, None], update.right[:, None, :], delta, scratch)
        update.round_to(delta, form, scratch, delta, exact=exact)
        found.append(encode(delta, form))
    np.testing.assert_array_equal(found[0], found[-1])
    return found[0]


@forms
def test_experts_multiplied_out_one_by_one_have_the_bits_of_mlx(a_form: Format, b_form: Format) -> None:
    """As in `LoRASwitchLinear.fuse`: lora_a (experts, rank, columns), lora_b (experts, rows, rank)."""
    for rank, (experts, rows, columns) in product(RANKS, [(3, 40, 24), (2, 33, 17), (2, 1, 50)]):
        a, b = factor(1, (experts, rank, columns), a_form), factor(2, (experts, rows, rank), b_form)
        whole = (SCALE * to_mlx(b, b_form)) @ to_mlx(a, a_form).reshape(experts, -1, columns)
        for form in FORMATS.values():
            expected = from_mlx(whole.astype(mlx_type(form)))
            for expert in range(experts):
                factors = np.ascontiguousarray(a[expert].T), np.ascontiguousarray(b[expert].T)
                update = Update.of(*factors, a_form, b_form, SCALE, embedding=False)
                np.testing.assert_array_equal(delta_of(update, form), expected[expert])


@forms
@pytest.mark.parametrize("embedding", [False, True])
def test_updates_of_any_rank_have_the_bits_of_mlx(embedding: bool, a_form: Format, b_form: Format) -> None:
    """As in `LoRALinear.fuse` and `LoRAEmbedding.fuse`."""
    for rank, (rows, columns) in product(RANKS, [(33, 17), (1, 50), (50, 1)]):
        left, right = (rows, columns) if embedding else (columns, rows)
        a, b = factor(3, (left, rank), a_form), factor(4, (rank, right), b_form)
        theirs_a, theirs_b = to_mlx(a, a_form), to_mlx(b, b_form)
        whole = (SCALE * theirs_a) @ theirs_b if embedding else (SCALE * theirs_b.T) @ theirs_a.T
        update = Update.of(a, b, a_form, b_form, SCALE, embedding=embedding)
        for form in FORMATS.values():
            np.testing.assert_array_equal(delta_of(update, form), from_mlx(whole.astype(mlx_type(form))))
