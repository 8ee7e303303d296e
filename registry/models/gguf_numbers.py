"""The numbers of a model, read block by block and converted to GGUF's formats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..engine.arithmetic import FORMATS, Array, decode, encode
from ..engine.matrices import StoredMatrix
from ..errors import BadInputError

# Formats of a model's matrices; what has one dimension is always f32, as llama.cpp wants it.
KINDS = ("f32", "f16", "bf16", "q8_0")
_BLOCK = (
    1 << 20
)  # numbers in memory at a time: 4 MiB as float32, and a few times that while they are converted


def kind_of(matrix: StoredMatrix, wanted: str | None) -> str:
    """Return the ggml type that a tensor is written in."""
    if len(matrix.shape) < 2:
        return "F32"
    if wanted == "q8_0" and matrix.shape[-1] % 32:
        return "F16"  # as llama.cpp's own converter falls back
    return (wanted or matrix.form.name).upper()


def blocks(matrix: StoredMatrix, kind: str, head: int | None = None) -> Iterator[bytes]:
    """Yield a tensor's bytes in a ggml type; `head` is the rows of a head that llama.cpp wants interleaved."""
    unit, rows = head or 1, matrix.shape[0]
    step = max(1, _BLOCK // (matrix.width * unit)) * unit
    for start in range(0, rows, step):
        stored = matrix.stored(start, min(step, rows - start))
        stored = np.ascontiguousarray(stored if head is None else interleaved(stored, head))
        yield stored.tobytes() if kind == matrix.form.name else _converted(matrix, stored, kind)


def _converted(matrix: StoredMatrix, stored: Array, kind: str) -> bytes:
    values = decode(stored, matrix.form)
    if kind == "Q8_0":
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        return bytes(quantize(values, GGMLQuantizationType.Q8_0).tobytes())
    with np.errstate(over="ignore"):
        found = encode(values, FORMATS[kind])
    if kind == "F16" and np.isinf(found.view(np.float16)).any() and np.isfinite(values).all():
        raise BadInputError(f"{matrix.name} holds numbers that f16 cannot", hint="-o gguf_type=bf16")
    return found.tobytes()


def interleaved(matrix: Array, head: int) -> Array:
    """Return rows as llama.cpp's rotary embedding wants them: [half, pair] becomes [pair, half] in each head."""
    # Source: `LlamaModel.permute` in llama.cpp's conversion/llama.py.
    return matrix.reshape(-1, 2, head // 2, *matrix.shape[1:]).swapaxes(1, 2).reshape(matrix.shape)
