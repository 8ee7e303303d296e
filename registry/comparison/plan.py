"""Which modules a new adapter has and of which rank, from the adapters that it is made of; and writing its weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from fusery.storage.failures import os_failures
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.safetensors import Entry, build_header
from fusery.storage.transfer import in_order

from ..charts.text import natural
from ..engine.arithmetic import Array
from ..errors import BadInputError
from ..parsing import plural
from ..records.withdrawals import SHRINK
from .methods import (
    ALIGNED,
    METHODS,
    OF_ANY_RANK,
    OF_ONE_RANK,
    SPARSE,
    CombinedUpdate,
    Mask,
    Method,
    WeightedUpdate,
    combine,
)
from .modules import WORKERS, OpenAdapter, common_shape, finite_updates

MOST = 64  # Adapters that are combined at once: each is an open file
_MOST_WEIGHT = 1e6
_MOST_SEED = 1 << 63
_DENSITY = 0.2  # TIES' default; with 2 and 6 adapters it retained more than 1 (benchmarks/merging.py)
_LEAST_DENSITY = 1e-6  # `dare` divides by it: with less, numbers no longer fit into float32


@dataclass(frozen=True, slots=True)
class CombineOptions:
    """How adapters are to be combined, as it was asked for."""

    method: str
    weights: tuple[float, ...]
    density: float | None = None
    seed: int | None = None
    rank: int | None = None


def choice(
    names: Sequence[str],
    method: str,
    weights: Sequence[float] | None,
    density: float | None,
    seed: int | None,
    rank: int | None,
) -> CombineOptions:
    """Return the options, if they are valid."""
    factors = tuple(weights) if weights is not None else (1.0,) * len(names)
    seed = 0 if method == "dare" and seed is None else seed
    density = _DENSITY if method in ALIGNED and density is None else density
    options = CombineOptions(method, factors, density, seed, rank)
    for message, hint in _faults(names, options):
        raise BadInputError(message, hint=hint)
    return replace(options, weights=tuple(map(float, factors)))


def _faults(names: Sequence[str], options: CombineOptions) -> Iterator[tuple[str, str]]:
    method, density, seed = options.method, options.density, options.seed
    for weight in options.weights:
        if weight != 0 and not 1 / _MOST_WEIGHT <= abs(weight) <= _MOST_WEIGHT:
            hint = "weights are 0, or numbers such as 0.5, from a millionth to a million"
            yield f"invalid weight: {str(weight)[:40]}", hint
    if method not in METHODS:
        yield f"unknown method {method[:40]!r}", f"--method {'|'.join(METHODS)}"
    if not 2 <= len(names) <= MOST:
        count = plural(len(names), "adapter")
        yield f"{count} cannot be combined (2 to {MOST})", "of one adapter: fusery combine REF --rank R"
    if len(options.weights) != len(names):
        counts = f"{plural(len(options.weights), 'weight')} for {plural(len(names), 'adapter')}"
        yield f"{counts}: each needs one", f"--weights {','.join(['1'] * len(names))}"
    if (density is not None) != (method in (*SPARSE, *ALIGNED)):
        with_density = f"{' and '.join(SPARSE)}, which need it, and with {' and '.join(ALIGNED)}"
        yield f"--density goes with {with_density}", "--method ties --density 0.5"
    if density is not None and not _LEAST_DENSITY <= density <= 1:
        yield f"invalid density: {density} ({_LEAST_DENSITY:.6f} to 1)", "--density 0.5"
    if seed is not None and not (method == "dare" and 0 <= seed < _MOST_SEED):
        yield f"invalid seed: {seed} (a whole number, for dare)", "--method dare --seed 0"
    if options.rank is not None and method not in OF_ANY_RANK:
        yield f"the rank of {method} follows from the adapters", f"--method svd --rank {options.rank}"


@dataclass(frozen=True, slots=True)
class NewModule:
    """One module of the new adapter."""

    path: str
    parts: int
    switch: bool
    rows: int
    columns: int
    holders: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CombinePlan:
    """The method, the rank, and the modules in their order."""

    choice: CombineOptions
    rank: int
    modules: tuple[NewModule, ...]

    def entries(self) -> list[Entry]:
        """Return name, dtype and shape of each tensor, in the order in which they are written."""
        tensor_entries: list[Entry] = []
        for module in self.modules:
            a: tuple[int, ...] = (module.rows, self.rank)
            b: tuple[int, ...] = (self.rank, module.columns)
            if module.switch:
                a, b = (module.parts, *reversed(a)), (module.parts, *reversed(b))
            tensor_entries += [(f"{module.path}.lora_a", "F32", a), (f"{module.path}.lora_b", "F32", b)]
        return tensor_entries


def plan(adapters: Sequence[OpenAdapter], choice: CombineOptions) -> CombinePlan:
    """Return what is made of adapters."""
    left: dict[str, float] = {}
    for adapter, weight in zip(adapters, choice.weights, strict=True):
        left[adapter.digest] = left.get(adapter.digest, 0.0) + weight
    if not any(left.values()):  # else rounding alone would be registered as an adapter
        raise BadInputError("the weights leave nothing of the adapters", hint="--weights 0.5,0.5")
    paths = sorted({path for adapter in adapters for path in adapter.factors}, key=natural)
    modules = []
    for path in paths:
        holders = tuple(number for number, adapter in enumerate(adapters) if path in adapter.factors)
        parts, rows, columns = common_shape([adapters[number] for number in holders], path)
        of_rank = {adapters[number].rank(path): adapters[number].name for number in holders}
        if len(of_rank) > 1 and choice.method in OF_ONE_RANK:
            listed = " and ".join(f"{rank} in {of_rank[rank]}" for rank in sorted(of_rank))
            message = f"{choice.method} needs factors of one rank: those of {path} have rank {listed}"
            raise BadInputError(message, hint="--method svd adds up whole updates, of any rank")
        switch = adapters[holders[0]].factors[path].switch
        modules.append(NewModule(path, parts, switch, rows, columns, holders))
    ranks = [max((adapter.rank(path) for path in adapter.factors), default=1) for adapter in adapters]
    # The result of `core`, `knots` and `tsv` has up to as many directions as all updates together.
    default = sum(ranks) if choice.method in ("cat", "tsv", *ALIGNED) else max(ranks)
    rank = choice.rank if choice.rank is not None else default
    if rank < 1:
        # A rank is not larger than the adapters', and a smaller one is what `shrink` is for.
        lower = max(1, ranks[0] // 2) if choice.method == SHRINK else max(ranks)
        raise BadInputError(f"invalid rank: {rank} (1 or more)", hint=f"--rank {lower}")
    if choice.method == SHRINK and rank > ranks[0]:
        hint = f"--rank {max(1, ranks[0] // 2)}"
        raise BadInputError(f"{adapters[0].name} has rank {ranks[0]}, and is not shrunk to {rank}", hint=hint)
    if rank > sum(ranks):
        raise BadInputError(f"invalid rank {rank} (at most {sum(ranks)})", hint=f"--rank {sum(ranks)}")
    return CombinePlan(choice, rank, tuple(modules))


def measure(adapters: Sequence[OpenAdapter], plan: CombinePlan) -> dict[str, CombinedUpdate]:
    """Return the figures of each module of what would be made; nothing is written."""
    return {module.path: CombinedUpdate.joined(made) for module, made in _updates(adapters, plan)}


def write(
    adapters: Sequence[OpenAdapter], plan: CombinePlan, path: Path, reporter: Reporter = SILENT
) -> dict[str, CombinedUpdate]:
    """Write a new adapter's safetensors file, and return the figures of each module."""
    entries = plan.entries()
    total, done = sum(4 * math.prod(shape) for _, _, shape in entries), 0
    figures = {}
    with os_failures(f"write {path}", near=path.parent), path.open("xb") as file:
        file.write(build_header(entries))
        for module, made in _updates(adapters, plan):
            figures[module.path] = CombinedUpdate.joined(made)
            for factor in (*(part.a for part in made), *(part.b for part in made)):
                assert factor is not None
                # An expert's factors stand the other way round than those of a linear layer.
                laid = np.ascontiguousarray(factor.T if module.switch else factor, dtype="<f4")
                file.write(laid.data)
                done += laid.nbytes
            reporter.progress(done, total)
    return figures


def _updates(
    adapters: Sequence[OpenAdapter], plan: CombinePlan
) -> Iterator[tuple[NewModule, list[CombinedUpdate]]]:
    choice, digests = plan.choice, [adapter.digest for adapter in adapters]
    density, method = choice.density or 1.0, "svd" if choice.method == SHRINK else cast(Method, choice.method)

    def make(module: NewModule) -> tuple[NewModule, list[CombinedUpdate]]:
        made = []
        for part in range(module.parts):
            read = ((number, adapters[number].read(module.path, part)) for number in module.holders)
            updates = [WeightedUpdate(number, update, choice.weights[number]) for number, update in read]
            mask = mask_of(choice.seed or 0, digests, density, f"{module.path}#{part}")
            with finite_updates([adapters[number] for number in module.holders], module.path):
                combined = combine(updates, method, rank=plan.rank, density=density, mask=mask)
            if not all(np.isfinite(one).all() for one in (combined.a, combined.b) if one is not None):
                hint = "--weights with smaller ones"
                raise BadInputError(f"numbers of {module.path} are too large for float32", hint=hint)
            made.append(combined)
        return module, made

    yield from in_order(make, plan.modules, WORKERS)


def mask_of(seed: int, digests: Sequence[str], density: float, module: str) -> Mask:
    """Return DARE's mask, each number with the probability `density`, from seed, adapter, place and name alone (Philox 4x64)."""
    bound = np.uint32(min(round(density * 2**32), 2**32 - 1))

    def mask(number: int, which: str, shape: tuple[int, ...]) -> Array:
        text = f"dare {seed} {number} {digests[number]} {module}.{which}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
        size = math.prod(shape)
        drawn = np.random.Philox(key=key).random_raw((size + 1) // 2).astype("<u8", copy=False).view("<u4")
        return np.asarray((drawn[:size] < bound).reshape(shape))

    return mask
