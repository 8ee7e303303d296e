"""The modules that a fuse computes, as mlx-lm chooses them, also without tensors (docs/internals/arithmetic.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from fusery.storage.safetensors import Entry

from ..errors import FusionUnsupportedError
from .adapter import DORA, FULL, Factors, TrainedAdapter
from .affine import Grid
from .architectures import TENSOR_SCALED, NeedsModelClassError, quantised_alike
from .arithmetic import BF16, F16, F32, FORMATS
from .base import OTHER_BASE, Base, Source
from .grids import AFFINE, AnyGrid, grid_of
from .policy import Quantize, WritePolicy, WriteTarget
from .recipe import DEQUANTIZE, ONCE
from .rows import RowsFormat


@dataclass(frozen=True, slots=True)
class ModuleUpdate:
    """The update of one adapter to a module."""

    path: Path
    factors: Factors
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModule(RowsFormat):
    """A module whose weight is computed rather than copied; a switch layer (experts, rows, columns) counts as experts * rows rows."""

    path: str
    rows: int
    experts: int  # parts of the rows with factors of their own; 1 of other layers
    weight: Source
    scales: Source | None  # the base's, None if dense
    biases: Source | None
    touched: bool
    parts: tuple[ModuleUpdate, ...]  # the updates; none if mlx-lm takes it to be zero
    embedding: bool

    @property
    def rank(self) -> int:
        """Rank of the update, 0 if it is not touched."""
        return max(sum(part.factors.rank for part in self.parts), 1) if self.touched else 0

    @property
    def keeps_scales(self) -> bool:
        """Whether only codes are written: scales and biases are copied."""
        return self.target.dither and not self.target.fitted

    def written(self) -> list[Entry]:
        """Return the tensors that are written: part of the name, dtype and shape."""
        grid, lead = self.target.grid, self.weight.shape[:-1]
        if grid is None:
            return [("weight", self.target.form.name, (*lead, self.columns))]
        groups = (*lead, self.columns // grid.group_size)
        weight = ("weight", "U32", (*lead, grid.words(self.columns)))
        if isinstance(grid, Grid):
            return [weight, ("scales", grid.form.name, groups), ("biases", grid.form.name, groups)]
        return [weight, ("scales", "U8", groups)]


def computed_modules(
    base: Base, adapters: Sequence[tuple[TrainedAdapter, float]], policy: WritePolicy
) -> dict[str, PlannedModule]:
    """Return the modules to compute, by path, in the order of the base's tensors."""
    touched = set().union(*(_touched(base, adapter) for adapter, _ in adapters))
    rewritten = policy.precision == DEQUANTIZE or policy.quantize is not None
    modules = {}
    for name in base.tensors:
        path = name.removesuffix(".weight")
        if path == name or (path in base.kept_plain and path not in touched):
            continue
        if path in touched:
            parts = tuple(
                ModuleUpdate(adapter.path, adapter.factors[path], adapter.scale * weight)
                for adapter, weight in adapters
                if path in adapter.factors
            )
            modules[path] = _touched_module(base, path, parts, policy, dora=adapters[0][0].kind == DORA)
        elif base.is_quantized(path) and rewritten:
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
            raise NeedsModelClassError("cannot find the layers to quantise by their names")
        return asked if len(base.tensors[f"{path}.weight"].shape) == 2 else None
    own = base.quantizable.get(path, False)
    if isinstance(own, Mapping):
        return Quantize(own["bits"], own["group_size"], own.get("mode", AFFINE))
    return asked if own else None


def _touched(base: Base, adapter: TrainedAdapter) -> set[str]:
    if adapter.kind == FULL:
        return set()
    wrapped = _wrapped(base, adapter)
    if unexpected := sorted(adapter.factors.keys() - wrapped):
        is_base_module = f"{unexpected[0]}.weight" in base.tensors
        fault = "its own configuration does not adapt" if is_base_module else "the base does not have"
        raise FusionUnsupportedError(f"the adapter changes {unexpected[0]}, which {fault}", hint=OTHER_BASE)
    missing = sorted(wrapped - adapter.factors.keys())
    if missing and adapter.keys is None and not base.all_linear:
        raise NeedsModelClassError(f"whether mlx-lm adapts {missing[0]} is unknown from its name")
    # DoRA starts as the identity: mlx-lm would write W / |W| * |W|, in float32.
    return wrapped - set(missing) if adapter.kind == DORA else wrapped


def _wrapped(base: Base, adapter: TrainedAdapter) -> set[str]:
    roots = {key for key in adapter.keys or () if f"{key}.weight" in base.tensors}
    within = None if adapter.keys is None else set(adapter.keys) - roots
    if within is not None and not within:
        return roots  # nothing within a block, so the blocks do not matter
    blocks = base.layer_modules(adapter.factors)[-max(adapter.num_layers, 0) :]
    paths = {path for block in blocks for path in block}
    if within is None:
        return roots | paths
    return roots | {path for path in paths if re.split(r"\.\d+\.", path, maxsplit=1)[-1] in within}


def _touched_module(
    base: Base, path: str, parts: tuple[ModuleUpdate, ...], policy: WritePolicy, *, dora: bool
) -> PlannedModule:
    weight, packed = base.tensors[f"{path}.weight"], base.is_quantized(path)
    if not 2 <= len(weight.shape) <= 3:
        message = f"{path} is not a linear layer, an embedding or a switch layer: {weight.shape}"
        raise FusionUnsupportedError(message)
    if not parts:
        return _module(base, path, grid_of(base, path) if packed else None, policy, touched=True)
    embeddings = {_is_embedding(base, path, part.factors) for part in parts}
    embedding = embeddings.pop()
    shapes = {part.factors.shape(embedding=embedding) for part in parts}
    shape = shapes.pop()
    fits = shape[:-1] == weight.shape[:-1] and (packed or shape[-1] == weight.shape[-1])
    fits &= all(part.factors.m is None or part.factors.m.shape == shape[:1] for part in parts)
    if embeddings or shapes or not fits:
        pair = parts[-1].factors
        message = f"the factors for {path} ({pair.a.shape}, {pair.b.shape}) do not fit {weight.shape}"
        raise FusionUnsupportedError(message, hint=OTHER_BASE)
    if dora and embedding and packed:
        hint = "train without it, or on a base whose embedding is not quantised"
        raise FusionUnsupportedError(f"{path} is a quantised embedding, which DoRA cannot adapt", hint=hint)
    grid = grid_of(base, path, shape[-1]) if packed else None
    return _module(base, path, grid, policy, touched=True, parts=parts, embedding=embedding)


def _is_embedding(base: Base, path: str, factors: Factors) -> bool:
    if base.kinds is not None:
        return base.kinds.get(path) == "embedding"
    rows = base.tensors[f"{path}.weight"].shape[0]
    linear, embedding = factors.b.shape[1] == rows, factors.a.shape[0] == rows
    if linear and embedding:
        name = path.rsplit(".", 1)[-1]
        within_layer = any(part.isdecimal() for part in path.split("."))
        return not within_layer and ("embed" in name or name in ("wte", "wpe"))
    return embedding and not factors.switch


def _module(
    base: Base,
    path: str,
    grid: AnyGrid | None,
    policy: WritePolicy,
    *,
    touched: bool = False,
    parts: tuple[ModuleUpdate, ...] = (),
    embedding: bool = False,
) -> PlannedModule:
    weight = base.tensors[f"{path}.weight"]
    form = grid.form if grid else FORMATS.get(weight.tensor.dtype)
    if form is None:
        raise FusionUnsupportedError(f"the weight of {path} is {weight.tensor.dtype}, not in a float format")
    scales, biases = base.tensors.get(f"{path}.scales"), base.tensors.get(f"{path}.biases")
    columns = scales.shape[-1] * grid.group_size if grid and scales else weight.shape[-1]
    m = parts[0].factors.m if parts else None
    scaled = bool(parts) and policy.aware is not None and policy.aware.mode == TENSOR_SCALED
    once = scaled if m is None else policy.rounding == ONCE
    # DoRA's result has the format of the weight if its magnitudes have that, too.
    plain = form if m is None or once or FORMATS[m.dtype] is form else F32
    if policy.quantize is not None:
        # mlx-lm casts numbers to the format that the configuration says they are before it quantises.
        text = base.config.get("text_config")
        name = base.config.get("torch_dtype") or (text.get("dtype") if isinstance(text, Mapping) else None)
        declared = {"bfloat16": BF16, "float16": F16, "float32": F32}.get(str(name), plain)
        quantize = _quantize(base, path, policy.quantize)
        if quantize is None or columns % policy.quantize.group_size or columns % quantize.group_size:
            target = WriteTarget(None, plain)
        else:
            target = WriteTarget(quantize.grid(declared), declared)
    else:
        rescaled, switch = m is not None, len(weight.shape) > 2
        target = policy.target(
            path, grid, plain, columns, adapted=bool(parts), rescaled=rescaled, switch=switch
        )
    aware = None
    if scaled:
        aware = grid  # with the base's scale for the tensor; None for a module that the base has in 16 bits, as in the training
    elif parts and policy.aware is not None and columns % policy.aware.group_size == 0:
        # A module without groups of that size was not trained through it.
        aware = policy.aware.grid(target.grid.form if isinstance(target.grid, Grid) else target.form)
    return PlannedModule(
        columns=columns,
        form=form,
        plain=plain,
        grid=grid,
        target=target,
        once=once,
        aware=aware,
        path=path,
        rows=prod(weight.shape[:-1]),
        experts=weight.shape[0] if parts and len(weight.shape) == 3 else 1,
        weight=weight,
        scales=scales if grid else None,
        biases=biases if grid else None,
        touched=touched,
        parts=parts,
        embedding=embedding,
    )
