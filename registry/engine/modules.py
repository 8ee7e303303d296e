"""Which modules of a base a fuse computes, and how: the meeting of a base, adapters and a policy.

What mlx-lm wraps follows from the adapter's configuration and not from its tensors: `num_layers` blocks from the end,
in them the `keys`, and each key once more as a path from the model's root (docs/internals/arithmetic.md).  A module that is
wrapped and has no tensors goes through `W + 0` and, where it is quantised, through quantisation once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from fusery.storage.safetensors import Tensor, tensor_bytes

from ..errors import FusionUnsupportedError
from .adapter import DORA, FULL, Adapter, Factors
from .affine import Grid
from .arithmetic import BF16, F16, F32, FORMATS, Format
from .base import Base, Source
from .grids import AFFINE, AnyGrid, grid_of
from .magnitude import result_form
from .naming import NeedsModelClassError, quantised_alike
from .policy import Policy, Quantize, Target, quantized_target
from .recipe import ONCE


@dataclass(frozen=True, slots=True)
class Part:
    """What one adapter adds to a module.

    Attributes:
        path: the adapter's file.
        factors: its tensors for the module.
        scale: of the update.
    """

    path: Path
    factors: Factors
    scale: float


@dataclass(frozen=True, slots=True)
class Module:
    """A module whose weight is computed rather than copied.

    The weight of a switch layer (experts, rows, columns) counts as one of experts * rows rows.

    Attributes:
        path: in the model.
        rows: of the weight.
        columns: of the weight, unpacked.
        experts: how many parts of equal size the rows are in, each with factors of its own; 1 of other layers.
        form: format of the weight's numbers.
        plain: format of the sum's, which is another one with DoRA unless it is rounded once.
        grid: how the base's weight is quantised, None if it is dense.
        target: what is written.
        weight: the base's tensor.
        scales: the base's, None if dense.
        biases: the base's, None if dense or in a format without.
        touched: an adapter changes it.
        parts: the updates; none if mlx-lm takes it to be zero.
        embedding: the updates are those of an embedding.
        once: DoRA's rescaling is rounded at its end only.
        aware: the grid that the update was trained through, None for none.
    """

    path: str
    rows: int
    columns: int
    experts: int
    form: Format
    plain: Format
    grid: AnyGrid | None
    target: Target
    weight: Source
    scales: Source | None
    biases: Source | None
    touched: bool
    parts: tuple[Part, ...]
    embedding: bool
    once: bool = False
    aware: AnyGrid | None = None

    @property
    def rank(self) -> int:
        """Rank of the update, 0 if it is not touched."""
        return max(sum(part.factors.rank for part in self.parts), 1) if self.touched else 0

    @property
    def magnitudes(self) -> tuple[Path, Tensor] | None:
        """DoRA's magnitudes: the file and the tensor; None for LoRA."""
        m = self.parts[0].factors.m if self.parts else None
        return None if m is None else (self.parts[0].path, m)

    @property
    def lead(self) -> tuple[int, ...]:
        """The shape of the weight without its columns."""
        return self.weight.shape[:-1]


def computed_modules(
    base: Base, adapters: Sequence[tuple[Adapter, float]], policy: Policy
) -> dict[str, Module]:
    """Return the modules to compute, by path, in the order of the base's tensors.

    Args:
        base: the base.
        adapters: each with its weight in the sum.
        policy: what is written.

    Raises:
        FusionUnsupportedError: an adapter does not belong to this base, or mlx-lm would write wrong weights.
        NeedsModelClassError: what mlx-lm would do cannot be told from names.
        FormatError: the policy's calibration is of another base.
    """
    touched = set().union(*(_touched(base, adapter) for adapter, _ in adapters))
    modules = {}
    for name in base.tensors:
        path = name.removesuffix(".weight")
        if path == name or (path in base.kept_plain and path not in touched):
            continue
        if path in touched:
            parts = tuple(
                Part(adapter.path, adapter.factors[path], adapter.scale * weight)
                for adapter, weight in adapters
                if path in adapter.factors
            )
            modules[path] = _touched_module(base, path, parts, policy, dora=adapters[0][0].kind == DORA)
        elif base.is_quantized(path) and policy.rewrites:
            modules[path] = _module(base, path, grid_of(base, path), policy)
        elif policy.quantize is not None and _quantize(base, path, policy.quantize) is not None:
            module = _module(base, path, None, policy)
            if module.target.grid is not None:
                modules[path] = module
    return modules


def _quantize(base: Base, path: str, asked: Quantize) -> Quantize | None:
    """Return how mlx-lm would quantise a module when it is asked to quantise all; None if it would not."""
    if base.quantizable is None:
        if not quantised_alike(base.config):
            raise NeedsModelClassError("which layers can be quantised cannot be told from the names")
        return asked if len(base.tensors[f"{path}.weight"].shape) == 2 else None
    own = base.quantizable.get(path, False)
    if isinstance(own, Mapping):
        return Quantize(own["bits"], own["group_size"], own.get("mode", AFFINE))
    return asked if own else None


def _touched(base: Base, adapter: Adapter) -> set[str]:
    if adapter.kind == FULL:
        return set()
    wrapped = _wrapped(base, adapter)
    if unexpected := sorted(adapter.factors.keys() - wrapped):
        raise FusionUnsupportedError(
            f"the adapter holds tensors for {unexpected[0]}, which "
            + (
                "its own configuration does not adapt"
                if f"{unexpected[0]}.weight" in base.tensors
                else "the base does not have"
            ),
            hint="was it trained on another base?",
        )
    missing = sorted(wrapped - adapter.factors.keys())
    if missing and adapter.keys is None and not base.known:
        raise NeedsModelClassError(f"whether mlx-lm adapts {missing[0]} cannot be told from its name")
    # DoRA starts as the identity: mlx-lm would write W / |W| * |W|, in float32.
    return wrapped - set(missing) if adapter.kind == DORA else wrapped


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


def _touched_module(base: Base, path: str, parts: tuple[Part, ...], policy: Policy, *, dora: bool) -> Module:
    weight, packed = base.tensors[f"{path}.weight"], base.is_quantized(path)
    if not 2 <= len(weight.shape) <= 3:
        raise FusionUnsupportedError(
            f"{path} is not a linear layer, an embedding or a switch layer: its weight is {weight.shape}"
        )
    if not parts:
        return _module(base, path, grid_of(base, path) if packed else None, policy, touched=True)
    embeddings = {_is_embedding(base, path, part.factors) for part in parts}
    embedding = embeddings.pop()
    shapes = {_shape(part.factors, embedding) for part in parts}
    shape = shapes.pop()
    fits = shape[:-1] == weight.shape[:-1] and (packed or shape[-1] == weight.shape[-1])
    if embeddings or shapes or not fits or not all(_magnitudes_fit(part.factors, shape) for part in parts):
        pair = parts[-1].factors
        raise FusionUnsupportedError(
            f"the adapter's tensors for {path} ({pair.a.shape}, {pair.b.shape}) do not fit its weight {weight.shape}",
            hint="was it trained on another base?",
        )
    if dora and embedding and packed:
        raise FusionUnsupportedError(
            f"{path} is a quantised embedding, which mlx-lm fuses with DoRA into something that cannot be loaded",
            hint="train without it, or on a base whose embedding is not quantised",
        )
    grid = grid_of(base, path, shape[-1]) if packed else None
    return _module(base, path, grid, policy, touched=True, parts=parts, embedding=embedding)


def _shape(factors: Factors, embedding: bool) -> tuple[int, ...]:
    """Return the shape of the product."""
    a, b = factors.a.shape, factors.b.shape
    if factors.switch:
        return (a[0], b[1], a[2])
    return (a[0], b[1]) if embedding else (b[1], a[0])


def _magnitudes_fit(factors: Factors, shape: tuple[int, ...]) -> bool:
    return factors.m is None or factors.m.shape == shape[:1]


def _is_embedding(base: Base, path: str, factors: Factors) -> bool:
    """Tell an embedding, whose factors stand the other way round, by its class, its shape or its name."""
    if base.kinds is not None:
        return base.kinds.get(path) == "embedding"
    rows = base.tensors[f"{path}.weight"].shape[0]
    linear, embedding = factors.b.shape[1] == rows, factors.a.shape[0] == rows
    if linear and embedding:
        name = path.rsplit(".", 1)[-1]
        return not any(part.isdecimal() for part in path.split(".")) and (
            "embed" in name or name in ("wte", "wpe")
        )
    return embedding and not factors.switch


def _module(
    base: Base,
    path: str,
    grid: AnyGrid | None,
    policy: Policy,
    *,
    touched: bool = False,
    parts: tuple[Part, ...] = (),
    embedding: bool = False,
) -> Module:
    weight = base.tensors[f"{path}.weight"]
    form = grid.form if grid else FORMATS.get(weight.tensor.dtype)
    if form is None:
        raise FusionUnsupportedError(f"the weight of {path} is {weight.tensor.dtype}, not in a float format")
    scales, biases = base.tensors.get(f"{path}.scales"), base.tensors.get(f"{path}.biases")
    columns = scales.shape[-1] * grid.group_size if grid and scales else weight.shape[-1]
    quantize = None if policy.quantize is None else _quantize(base, path, policy.quantize)
    m = parts[0].factors.m if parts else None
    once = m is not None and policy.rounding == ONCE
    plain = form if m is None or once else result_form(FORMATS[m.dtype], form)
    if policy.quantize is not None:
        target = quantized_target(quantize, _declared(base) or plain, plain, columns, policy.quantize)
    else:
        target = policy.target(
            path,
            grid,
            plain,
            columns,
            adapted=bool(parts),
            rescaled=m is not None,
            switch=len(weight.shape) > 2,
        )
    rows = prod(weight.shape[:-1])
    return Module(
        path,
        rows,
        columns,
        weight.shape[0] if parts and len(weight.shape) == 3 else 1,
        form,
        plain,
        grid,
        target,
        weight,
        scales if grid else None,
        biases if grid else None,
        touched,
        parts,
        embedding,
        once,
        _aware(policy.aware, target, columns) if parts else None,
    )


def _aware(aware: Quantize | None, target: Target, columns: int) -> AnyGrid | None:
    """Return the grid that a module's update was trained through; what has no groups of that size was not."""
    if aware is None or columns % aware.group_size:
        return None
    grid = target.grid
    return aware.grid(grid.form if isinstance(grid, Grid) else target.form)


def _declared(base: Base) -> Format | None:
    """Return the format that mlx-lm casts numbers to before it quantises: what the configuration says they are."""
    text = base.config.get("text_config")
    name = base.config.get("torch_dtype") or (text.get("dtype") if isinstance(text, Mapping) else None)
    return {"bfloat16": BF16, "float16": F16, "float32": F32}.get(str(name))


def part_names(module: Module) -> Iterator[str]:
    """Yield the names of the base's tensors that a module is computed from."""
    sources = {"weight": module.weight, "scales": module.scales, "biases": module.biases}
    return (f"{module.path}.{part}" for part, source in sources.items() if source is not None)


def written_parts(module: Module) -> Collection[tuple[str, str, tuple[int, ...]]]:
    """Return the tensors that are written of a module: part of the name, dtype and shape."""
    grid, lead = module.target.grid, module.lead
    if grid is None:
        return [("weight", module.target.form.name, (*lead, module.columns))]
    groups = (*lead, module.columns // grid.group_size)
    weight = ("weight", "U32", (*lead, grid.words(module.columns)))
    if isinstance(grid, Grid):
        return [weight, ("scales", grid.form.name, groups), ("biases", grid.form.name, groups)]
    return [weight, ("scales", "U8", groups)]


def written_bytes(module: Module) -> int:
    """Return the bytes of the tensors that are written of a module."""
    return sum(tensor_bytes(dtype, shape) for _, dtype, shape in written_parts(module))
