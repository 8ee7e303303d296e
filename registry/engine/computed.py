"""The tensors that mlx-lm computes when it loads a base, written one at a time into one scratch file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from fusery.storage.failures import os_failures
from fusery.storage.safetensors import BASE_HEADER_LIMIT, build_header, read_header, tensor_bytes
from fusery.storage.transfer import Need, require_rooms

from ..errors import FusionUnsupportedError
from .base import Source
from .files import OpenFiles, create_output, open_input, read_all, write_all

# The name of the scratch file among the base's files; no file on disk has it.
COMPUTED: Final = "mlx-lm:computed"
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
    """A tensor to compute."""

    dtype: Any
    shape: tuple[int, ...]
    # the parts of its bytes, in order: a `Source` is copied, a lazy mlx array is evaluated.  Each is freed once it is written.
    pieces: list[Any]


def write_computed(
    mx: ModuleType, wanted: Mapping[str, Computed], files: Mapping[str, Path], scratch: Path
) -> tuple[dict[str, Source], dict[str, Path]]:
    """Evaluate tensors piece by piece and write them; return the place of each, and the scratch file by its name."""
    if not wanted:
        return {}, {}
    entries = [(name, dtype_of(name, tensor.dtype), tensor.shape) for name, tensor in wanted.items()]
    header = build_header(entries, {"format": "mlx"})
    size = len(header) + sum(tensor_bytes(dtype, shape) for _, dtype, shape in entries)
    path = scratch / "computed.safetensors"
    require_rooms([Need(scratch, [size])], hint="fusery admin cache prune")
    with os_failures(f"write to {scratch}", near=scratch), OpenFiles() as stack:
        output, position = stack.hold(create_output(path, header, size)), len(header)
        for tensor in wanted.values():
            position = _write(mx, tensor, files, output, position)
    written = read_header(path, limit=BASE_HEADER_LIMIT).tensors
    return {name: Source(COMPUTED, tensor) for name, tensor in written.items()}, {COMPUTED: path}


def _write(mx: ModuleType, tensor: Computed, files: Mapping[str, Path], output: int, position: int) -> int:
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
    with OpenFiles() as stack:
        descriptor = stack.hold(open_input(path))
        for begin in range(source.tensor.begin, source.tensor.end, _CHUNK):
            block = memoryview(bytearray(min(_CHUNK, source.tensor.end - begin)))
            read_all(descriptor, block, begin)
            yield block


def _evaluated(mx: ModuleType, array: Any) -> memoryview:
    if array.size == 0:
        return memoryview(b"")
    with mx.stream(mx.cpu):
        flat = mx.contiguous(array).reshape(-1).view(mx.uint8)
        mx.eval(flat)
    return memoryview(flat)


def dtype_of(name: str, dtype: Any) -> str:
    """Return the safetensors name of an MLX dtype."""
    short = str(dtype).rpartition(".")[2].removesuffix("_")
    if short not in _DTYPES:
        raise FusionUnsupportedError(f"mlx-lm makes {name} a tensor of {short}, which is not fused")
    return _DTYPES[short]


_IN_PLACE = (
    *("__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__"),
    *("__imatmul__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__", "__setitem__"),
)


@dataclass(slots=True)
class ArrayWatch:
    """The lazy arrays that a model loads, joins (to be written one by one) and changes in place while it sanitises its tensors."""

    loaded: dict[str, object] = field(default_factory=dict)  # by name on disk
    # arrays joined along the first axis, by identity: the array itself, and its parts.
    joined: dict[int, tuple[Any, Sequence[Any]]] = field(default_factory=dict)
    changed: dict[int, Any] = field(default_factory=dict)  # by identity

    def forget(self) -> None:
        """Release every array."""
        self.loaded, self.joined, self.changed = {}, {}, {}

    @contextlib.contextmanager
    def installed(self, mx: ModuleType) -> Iterator[None]:
        """Watch for as long as the context lasts."""
        with contextlib.ExitStack() as stack:

            def exchange(owner: Any, name: str, watch: Callable[..., Any]) -> None:
                original = getattr(owner, name)
                stack.callback(setattr, owner, name, original)
                setattr(owner, name, watch(original))

            for name in ("stack", "concatenate"):
                exchange(mx, name, lambda original: partial(self._join, original))
            for name in _IN_PLACE:
                if hasattr(mx.array, name):
                    exchange(mx.array, name, self._changing)
            yield

    def _join(self, original: Callable[..., Any], arrays: Any, axis: Any = 0, **options: Any) -> Any:
        parts = list(arrays)
        result = original(parts, axis, **options)
        if axis == 0:
            self.joined[id(result)] = (result, parts)
        return result

    def _changing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def change(array: Any, *arguments: Any) -> Any:
            self.changed[id(array)] = array
            return original(array, *arguments)

        return change
