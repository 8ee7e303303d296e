"""Which modules of a base a fuse computes, and how: the meeting of a base, an adapter and a precision.

What mlx-lm wraps follows from the adapter's configuration and not from its tensors: `num_layers` blocks from the end,
in them the `keys`, and each key once more as a path from the model's root (FUSION section 1.2).  A module that is
wrapped and has no tensors goes through `W + 0` and, where it is quantised, through quantisation once more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..errors import FusionUnsupportedError
from .adapter import Adapter, Factors
from .affine import Grid
from .arithmetic import FORMATS, Format
from .base import Base, Source


@dataclass(frozen=True, slots=True)
class Module:
    """A module whose weight is computed rather than copied.

    Attributes:
        path: in the model.
        rows: of the weight.
        columns: of the weight, unpacked.
        form: format of the weight's numbers.
        grid: how the base's weight is quantised, None if it is dense.
        requantize: the result is quantised on the same kind of grid again.
        weight: the base's tensor.
        scales: the base's, None if dense.
        biases: the base's, None if dense.
        touched: the adapter changes it.
        factors: its update; None if there is none, or one that mlx-lm takes to be zero.
        embedding: the update is that of an embedding.
    """

    path: str
    rows: int
    columns: int
    form: Format
    grid: Grid | None
    requantize: bool
    weight: Source
    scales: Source | None
    biases: Source | None
    touched: bool
    factors: Factors | None
    embedding: bool

    @property
    def rank(self) -> int:
        """Rank of the update, 0 if it is not touched."""
        return (self.factors.rank if self.factors else 1) if self.touched else 0


def computed_modules(base: Base, adapter: Adapter, *, dequantize: bool) -> dict[str, Module]:
    """Return the modules to compute, by path, in the order of the base's tensors.

    Args:
        base: the base.
        adapter: the adapter.
        dequantize: write every quantised module of the base as plain numbers.

    Raises:
        FusionUnsupportedError: the adapter does not belong to this base, or what mlx-lm would do cannot be told.
    """
    touched = _touched(base, adapter)
    modules = {}
    for name in base.tensors:
        path = name.removesuffix(".weight")
        if path == name:
            continue
        if path in touched:
            modules[path] = _touched_module(base, path, adapter.factors.get(path), dequantize=dequantize)
        elif dequantize and base.is_quantized(path):
            modules[path] = _module(base, path, base.grid(path), requantize=False)
    return modules


def _touched(base: Base, adapter: Adapter) -> set[str]:
    wrapped = _wrapped(base, adapter)
    if strangers := sorted(adapter.factors.keys() - wrapped):
        raise FusionUnsupportedError(
            f"the adapter holds tensors for {strangers[0]}, which "
            + (
                "its own configuration does not adapt"
                if f"{strangers[0]}.weight" in base.tensors
                else "the base does not have"
            ),
            hint="was it trained on another base?",
        )
    missing = sorted(wrapped - adapter.factors.keys())
    if missing and adapter.keys is None and not base.known:
        raise FusionUnsupportedError(
            f"the adapter has no tensors for {missing[0]}; whether mlx-lm would treat that layer as adapted "
            "needs the mlx engine, which this version does not have"
        )
    return wrapped


def _wrapped(base: Base, adapter: Adapter) -> set[str]:
    roots = {key for key in adapter.keys or () if f"{key}.weight" in base.tensors}
    within = None if adapter.keys is None else set(adapter.keys) - roots
    if within is not None and not within:
        return roots  # nothing within a block, so the blocks need not be told
    blocks = base.layer_modules(adapter.factors)[-max(adapter.num_layers, 0) :]
    paths = (path for block in blocks for path in block)
    return roots | {path for path in paths if within is None or _within_block(path) in within}


def _within_block(path: str) -> str:
    parts = path.split(".")
    number = next(index for index, part in enumerate(parts) if part.isdecimal())
    return ".".join(parts[number + 1 :])


def _touched_module(base: Base, path: str, factors: Factors | None, *, dequantize: bool) -> Module:
    weight = base.tensors[f"{path}.weight"]
    if len(weight.shape) != 2:
        raise FusionUnsupportedError(
            f"{path} is not a linear layer or embedding (its weight is {weight.shape}), this version cannot fuse it"
        )
    packed = base.is_quantized(path)
    if factors is None:
        return _module(
            base,
            path,
            base.grid(path) if packed else None,
            requantize=packed and not dequantize,
            touched=True,
        )
    rows, embedding = weight.shape[0], _is_embedding(path, weight.shape[0], factors)
    columns = factors.b.shape[1] if embedding else factors.a.shape[0]
    fits = (factors.a.shape[0] if embedding else factors.b.shape[1]) == rows
    if not fits or (not packed and columns != weight.shape[1]):
        raise FusionUnsupportedError(
            f"the adapter's tensors for {path} ({factors.a.shape}, {factors.b.shape}) do not fit its weight {weight.shape}",
            hint="was it trained on another base?",
        )
    return _module(
        base,
        path,
        base.grid(path, columns) if packed else None,
        requantize=packed and not dequantize,
        touched=True,
        factors=factors,
        embedding=embedding,
    )


def _is_embedding(path: str, rows: int, factors: Factors) -> bool:
    """Tell an embedding, whose factors stand the other way round, by the shapes, or by its name where it is square."""
    linear, embedding = factors.b.shape[1] == rows, factors.a.shape[0] == rows
    if linear and embedding:
        name = path.rsplit(".", 1)[-1]
        return not any(part.isdecimal() for part in path.split(".")) and (
            "embed" in name or name in ("wte", "wpe")
        )
    return embedding


def _module(
    base: Base,
    path: str,
    grid: Grid | None,
    *,
    requantize: bool,
    touched: bool = False,
    factors: Factors | None = None,
    embedding: bool = False,
) -> Module:
    weight = base.tensors[f"{path}.weight"]
    form = grid.form if grid else FORMATS.get(weight.tensor.dtype)
    if form is None:
        raise FusionUnsupportedError(f"the weight of {path} is {weight.tensor.dtype}, not in a float format")
    scales, biases = base.tensors.get(f"{path}.scales"), base.tensors.get(f"{path}.biases")
    columns = scales.shape[1] * grid.group_size if grid and scales else weight.shape[1]
    return Module(
        path,
        weight.shape[0],
        columns,
        form,
        grid,
        requantize,
        weight,
        scales if grid else None,
        biases if grid else None,
        touched,
        factors,
        embedding,
    )


def part_names(module: Module) -> Collection[str]:
    """Return the names of the base's tensors that a module is computed from."""
    parts = ("weight", "scales", "biases") if module.grid else ("weight",)
    return [f"{module.path}.{part}" for part in parts]
