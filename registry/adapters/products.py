"""Products of tall factors, as small as their ranks, in one thread of BLAS.

A second thread is not worth it for so little: on a machine that is busy it is waited for fifty times as long as the product
takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ALONE = 1 << 18
"""Multiplications in a product of matrices up to which OpenBLAS uses one thread (its interface/gemm.c)."""

Array = NDArray[Any]


def cross(a: Array, b: Array) -> Array:
    """Return a.T @ b of two matrices with as many rows."""
    rows = a.shape[0]
    height = min(max(1, ALONE // max(1, a.shape[1] * b.shape[1])), max(1, rows))
    whole = rows - rows % height
    first, second = (factor[:whole].reshape(whole // height, height, factor.shape[1]) for factor in (a, b))
    found: Array = np.matmul(first.transpose(0, 2, 1), second).sum(axis=0)
    if whole < rows:
        found += a[whole:].T @ b[whole:]
    return found
