"""One pass over the numbers of an adapter: where they are not finite, and where they are all zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusery.storage.safetensors import Header, Tensor

_BLOCK = 4 << 20
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


@dataclass(frozen=True, slots=True)
class TensorValues:
    """What one tensor's numbers are like.

    Attributes:
        name: the tensor.
        finite: no NaN and no infinity.
        zero: every number is zero.
    """

    name: str
    finite: bool
    zero: bool


def scan_values(path: Path, header: Header) -> Iterator[TensorValues]:
    """Yield, for each floating-point tensor of a file, whether it is finite and whether it is all zero.

    Memory stays at a few MiB whatever the file's size.
    """
    with path.open("rb", buffering=0) as file:
        for tensor in header.tensors.values():
            if tensor.dtype in _FLOATS or tensor.dtype == "BF16":
                finite, zero = True, True
                for block in _blocks(file, tensor):
                    finite = finite and bool(np.isfinite(block).all())
                    zero = zero and not block.any()
                yield TensorValues(tensor.name, finite, zero)


def _blocks(file: object, tensor: Tensor) -> Iterator[np.ndarray]:
    position = tensor.begin
    while position < tensor.end:
        file.seek(position)  # type: ignore[attr-defined]
        data = file.read(min(_BLOCK, tensor.end - position))  # type: ignore[attr-defined]
        if not data:
            return
        position += len(data)
        if tensor.dtype == "BF16":
            # A bfloat16 is the upper half of a float32.
            yield (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            yield np.frombuffer(data, np.dtype(_FLOATS[tensor.dtype]).newbyteorder("<"))
