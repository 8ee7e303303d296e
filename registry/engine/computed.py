"""Writing the tensors that mlx-lm computes when it loads a base: one at a time, into one scratch file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from fusery.storage.room import Need, require_rooms
from fusery.storage.safetensors import BASE_HEADER_LIMIT, build_header, read_header, tensor_bytes

from ..errors import FusionUnsupportedError
from .base import Source
from .files import create_output, open_input, read_all, told_plainly, write_all

COMPUTED: Final = "mlx-lm:computed"
"""What the scratch file is called among the base's files; no file has such a name."""

_CHUNK = 1 << 20
_DTYPES = {
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
}


@dataclass(slots=True)
class Computed:
    """A tensor to compute.

    Attributes:
        dtype: as mlx calls it.
        shape: of the result.
        pieces: what its bytes are put together from, in order: a `Source` is copied, a lazy mlx array is evaluated.
            Emptied while it is written, so that each piece is freed before the next.
    """

    dtype: Any
    shape: tuple[int, ...]
    pieces: list[Any]


def write_computed(
    mx: ModuleType, wanted: Mapping[str, Computed], files: Mapping[str, Path], scratch: Path
) -> tuple[dict[str, Source], dict[str, Path]]:
    """Evaluate tensors piece by piece and write them.

    Args:
        mx: `mlx.core`.
        wanted: by name; their pieces are used up.
        files: of the base, name to path.
        scratch: existing folder.

    Returns:
        Where each tensor lies, and the scratch file by its name; both empty if there is nothing to compute.

    Raises:
        FusionUnsupportedError: a tensor has a dtype that is not fused.
        OutOfSpaceError: there is no room for them.
        StorageError: the system reports something else.
    """
    if not wanted:
        return {}, {}
    entries = [(name, dtype_of(name, tensor.dtype), tensor.shape) for name, tensor in wanted.items()]
    header = build_header(entries, {"format": "mlx"})
    size = len(header) + sum(tensor_bytes(dtype, shape) for _, dtype, shape in entries)
    path = scratch / "computed.safetensors"
    require_rooms([Need(scratch, [size])], hint="fusery cache prune")
    with told_plainly(scratch):
        output = create_output(path, header, size)
        try:
            position = len(header)
            for tensor in wanted.values():
                position = _write(mx, tensor, files, output, position)
        finally:
            os.close(output)
    written = read_header(path, limit=BASE_HEADER_LIMIT).tensors
    return {name: Source(COMPUTED, tensor) for name, tensor in written.items()}, {COMPUTED: path}


def _write(mx: ModuleType, tensor: Computed, files: Mapping[str, Path], output: int, position: int) -> int:
    """Write a tensor, and return where it ends."""
    tensor.pieces.reverse()
    while tensor.pieces:
        piece = tensor.pieces.pop()
        if isinstance(piece, Source):
            blocks = _copied(piece, files[piece.file])
        else:
            blocks = iter([_evaluated(mx, piece)])
        del piece
        for block in blocks:
            write_all(output, block, position)
            position += block.nbytes
            del block
        del blocks
        mx.clear_cache()
    return position


def _copied(source: Source, path: Path) -> Iterator[memoryview]:
    descriptor = open_input(path)
    try:
        for begin in range(source.tensor.begin, source.tensor.end, _CHUNK):
            block = memoryview(bytearray(min(_CHUNK, source.tensor.end - begin)))
            read_all(descriptor, block, begin)
            yield block
    finally:
        os.close(descriptor)


def _evaluated(mx: ModuleType, array: Any) -> memoryview:
    """Return the bytes of an array in row order."""
    if array.size == 0:
        return memoryview(b"")
    with mx.stream(mx.cpu):
        flat = mx.contiguous(array).reshape(-1).view(mx.uint8)
        mx.eval(flat)
    return memoryview(flat)


def dtype_of(name: str, dtype: Any) -> str:
    """Return the safetensors name of an MLX dtype.

    Raises:
        FusionUnsupportedError: it is none that is fused.
    """
    short = str(dtype).rpartition(".")[2].removesuffix("_")
    if short not in _DTYPES:
        raise FusionUnsupportedError(f"mlx-lm makes {name} a tensor of {short}, which is not fused")
    return _DTYPES[short]
