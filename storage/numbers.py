"""The numbers in the bytes of a tensor, as safetensors files have them: little endian, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLAIN: Mapping[str, str] = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
"""NumPy's types of the floating dtypes that it has; BF16 it has not."""


def decoded(data: bytes | memoryview, dtype: str) -> NDArray[Any]:
    """Return the numbers of a floating dtype in one dimension; those of BF16 as float32, which holds them exactly.

    Args:
        data: whole numbers.
        dtype: `BF16`, or a key of `PLAIN`.
    """
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        return (np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.frombuffer(data, PLAIN[dtype])
