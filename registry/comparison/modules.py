"""Comparing two adapters module by module, with never more than a few modules' factors in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusery.storage.digest import Digest
from fusery.storage.safetensors import Tensor
from fusery.storage.verified_files import Watch

from ..adapters import WEIGHTS
from ..charts.text import natural
from ..engine.adapter import FULL, LORA, Factors, read_adapter, read_stored
from ..engine.arithmetic import FORMATS, Array, NotFiniteError, decode
from ..engine.files import OpenFiles, open_input
from ..errors import BadInputError, FusionUnsupportedError
from ..records.bases import blob_generations
from ..records.renderings import fetch_form
from .cores import LowRank, UpdateComparison, compare, effective_rank, joined, numerical_rank, overlap

if TYPE_CHECKING:
    from .. import tables
    from ..adapters.peft_config import PeftConfig
    from ..records.difference import Magnitudes, ModuleDifference, WholeDifference
    from ..workspace.workspace import Workspace

# Modules that are compared at once: each holds some 30 MB at rank 64, and the large products use all cores anyway
WORKERS = 2


@dataclass(frozen=True, slots=True)
class OpenAdapter:
    """An adapter whose tensors can be read; with PEFT's `config`, its factors are PEFT's own, not padded and scaled as mlx-lm's."""

    name: str
    scale: float
    factors: Mapping[str, Factors]
    file: int
    digest: str = ""
    config: PeftConfig | None = None

    def shape(self, module: str) -> tuple[int, int, int]:
        """Return how many updates a module has, and their sizes, which are the same whatever the rank."""
        factors = self.factors[module]
        if factors.switch:
            return factors.a.shape[0], factors.a.shape[2], factors.b.shape[1]
        return 1, factors.a.shape[0], factors.b.shape[1]

    def largest(self, module: str) -> int:
        """Return the bytes of the larger of a module's factors."""
        factors = self.factors[module]
        return max(factors.a.size, factors.b.size)

    def rank(self, module: str) -> int:
        """Return the rank of a module's update, 0 if it is not adapted."""
        held = self.factors[module].rank if module in self.factors else 0
        return held if self.config is None else min(held, self.config.rank_of(module))

    def read(self, module: str, part: int = 0) -> LowRank:
        """Return the update of a module, or of one of its experts."""
        factors = self.factors[module]
        if factors.switch:
            # An expert's factors stand the other way round than those of a linear layer.
            a, b = (self._tensor(tensor, part).T for tensor in (factors.a, factors.b))
        else:
            a, b = (self._tensor(tensor) for tensor in (factors.a, factors.b))
        if self.config is None:
            return LowRank(a, b, self.scale)
        rank, scale = self.rank(module), self.config.scale_of(module)
        folded = scale / self.scale if self.scale else 1.0
        if folded not in (0.0, 1.0):
            b = np.divide(b[:rank], np.float32(folded), dtype=np.float32)
        return LowRank(a[:, :rank], b[:rank], scale)

    def magnitudes(self, module: str) -> Array | None:
        """Return DoRA's magnitudes of a module; None for LoRA."""
        m = self.factors[module].m if module in self.factors else None
        return None if m is None else self._tensor(m).astype(np.float64)

    def _tensor(self, tensor: Tensor, part: int | None = None) -> Array:
        return decode(read_stored(tensor, self.file, part), FORMATS[tensor.dtype])


@contextmanager
def open_adapter(path: Path, scale: float, *, method: str = LORA, name: str = "") -> Iterator[OpenAdapter]:
    """Open the safetensors file of an adapter as mlx-lm writes it."""
    if method == FULL:
        raise FusionUnsupportedError(f"{name or path} is a full fine-tune, which has no factors")
    if not math.isfinite(scale):
        raise FusionUnsupportedError(f"{name or path} has the scale {scale}")
    with OpenFiles() as stack:
        file = stack.hold(open_input(path))
        factors = read_adapter(path, {"fine_tune_type": method, "num_layers": 0}, 1.0).factors
        yield OpenAdapter(name or str(path), scale, factors, file)


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """The differences in one module."""

    module: str
    rank_a: int
    rank_b: int
    updates: UpdateComparison
    magnitudes: Magnitudes | None

    def record(self) -> ModuleDifference:
        """Return it as `diff --weights` lists it; angles are in degrees there."""
        from ..records.difference import ModuleDifference

        updates = self.updates
        return ModuleDifference(
            module=self.module,
            rank_a=self.rank_a,
            rank_b=self.rank_b,
            **updates.figures,
            effective_rank_a=effective_rank(updates.spectrum_a) if self.rank_a else None,
            effective_rank_b=effective_rank(updates.spectrum_b) if self.rank_b else None,
            numerical_rank_a=numerical_rank(updates.spectrum_a),
            numerical_rank_b=numerical_rank(updates.spectrum_b),
            overlap_in=overlap(updates.angles_in),
            overlap_out=overlap(updates.angles_out),
            angles_in=tuple(round(math.degrees(angle), 4) for angle in updates.angles_in),
            angles_out=tuple(round(math.degrees(angle), 4) for angle in updates.angles_out),
            spectrum_a=updates.spectrum_a,
            spectrum_b=updates.spectrum_b,
            magnitudes=self.magnitudes,
        )


def compare_adapters(a: OpenAdapter, b: OpenAdapter) -> list[ModuleChange]:
    """Compare every module that one of two adapters changes, in the order of the layers."""
    modules = sorted(a.factors.keys() | b.factors.keys(), key=natural)
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda module: compare_module(a, b, module), modules))


def compare_module(a: OpenAdapter, b: OpenAdapter, module: str, *, shapes: bool = True) -> ModuleChange:
    """Compare one module; see `compare_adapters`."""
    both = [adapter for adapter in (a, b) if module in adapter.factors]
    count, _, _ = common_shape(both, module)
    with finite_updates(both, module):
        parts = []
        for part in range(count):
            updates = (adapter.read(module, part) if adapter in both else None for adapter in (a, b))
            parts.append(compare(*updates, shapes=shapes))
    magnitudes = _magnitudes(a.magnitudes(module), b.magnitudes(module))
    return ModuleChange(module, a.rank(module), b.rank(module), joined(parts), magnitudes)


def common_shape(adapters: Sequence[OpenAdapter], module: str) -> tuple[int, int, int]:
    """Return the shape that a module has in adapters; refuse adapters of different bases."""
    names = {adapter.shape(module): adapter.name for adapter in adapters}
    if len(names) > 1:
        shapes = " and ".join(f"{' x '.join(map(str, shape))} in {name}" for shape, name in names.items())
        hint = f"fusery diff {' '.join(list(names.values())[:2])}"
        raise BadInputError(f"{module} is {shapes}: they were not trained on one base", hint=hint)
    return next(iter(names))


@contextmanager
def finite_updates(adapters: Sequence[OpenAdapter], module: str) -> Iterator[None]:
    """Name the module and the adapters where an update is not finite."""
    try:
        yield
    except NotFiniteError:
        names = " or ".join(adapter.name for adapter in adapters)
        raise FusionUnsupportedError(f"an update of {module} in {names} is not finite") from None


LARGEST = 64 << 20  # Bytes of a factor from which `shared_modules` passes a module over


def shared_modules(ours: OpenAdapter, theirs: OpenAdapter) -> list[str]:
    """Return the modules that both change and that can be compared, sorted; none if that is less than half of either's."""
    shared = sorted(
        module
        for module in ours.factors.keys() & theirs.factors.keys()
        if ours.shape(module) == theirs.shape(module)
        and max(ours.largest(module), theirs.largest(module)) <= LARGEST
    )
    enough = 2 * len(shared) >= max(len(ours.factors), len(theirs.factors))
    return shared if enough else []


def cosine(ours: OpenAdapter, theirs: OpenAdapter, modules: Sequence[str]) -> float | None:
    """Return the cosine between two adapters over some modules; None if one is zero, or without modules."""
    changes = [compare_module(ours, theirs, module, shapes=False) for module in modules]
    return joined([change.updates for change in changes]).cosine


def _magnitudes(ours: Array | None, theirs: Array | None) -> Magnitudes | None:
    if ours is None and theirs is None:
        return None
    norm_a, norm_b = (0.0 if one is None else float(np.linalg.norm(one)) for one in (ours, theirs))
    cosine = change = None
    if ours is not None and theirs is not None and norm_a and norm_b:
        cosine = float(ours @ theirs) / norm_a / norm_b
        change = float(np.linalg.norm(ours - theirs)) / norm_a
    from ..records.difference import Magnitudes

    return Magnitudes(
        norm_a=norm_a if ours is not None else None,
        norm_b=norm_b if theirs is not None else None,
        cosine=cosine,
        relative_change=change,
    )


def overall(changes: Sequence[ModuleChange]) -> WholeDifference:
    """Return what two adapters have in common over all modules."""
    whole = joined([change.updates for change in changes])
    squares = [(change.updates.norm_a**2, change.updates.norm_b**2) for change in changes]
    spectra = ((change.updates.spectrum_a, change.updates.spectrum_b) for change in changes)
    ranks = [(effective_rank(a), effective_rank(b)) for a, b in spectra]
    from ..records.difference import WholeDifference

    return WholeDifference(
        modules=len(changes),
        only_a=sum(not change.rank_b for change in changes),
        only_b=sum(not change.rank_a for change in changes),
        **whole.figures,
        effective_rank_a=_mean([rank[0] for rank in ranks], [square[0] for square in squares]),
        effective_rank_b=_mean([rank[1] for rank in ranks], [square[1] for square in squares]),
        overlap_in=overlap(whole.angles_in),
        overlap_out=overlap(whole.angles_out),
    )


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    total = math.fsum(weights)
    products = (value * weight for value, weight in zip(values, weights, strict=True))
    return math.fsum(products) / total if total else 0.0


@contextmanager
def open_registered(
    workspace: Workspace, adapters: Sequence[tables.AdapterRow]
) -> Iterator[list[OpenAdapter]]:
    """Open the weights of registered adapters for as long as something is read from them."""
    with workspace.cache.scratch() as scratch, ExitStack() as stack:
        with ThreadPoolExecutor(max(1, len(adapters))) as pool:
            # A folder for each: it may be the same adapter twice.
            folders = [scratch / str(number) for number in range(len(adapters))]
            paths = list(
                pool.map(lambda adapter, folder: _located(workspace, adapter, folder), adapters, folders)
            )
        for adapter in adapters:
            if adapter.scale is None and adapter.method != "full":
                hint = f"fusery show {adapter.name}"
                raise BadInputError(f"no scale is on record for {adapter.name}", hint=hint)
        yield [
            stack.enter_context(
                open_adapter(path, adapter.scale or 0.0, method=adapter.method, name=adapter.name)
            )
            for path, adapter in zip(paths, adapters, strict=True)
        ]


def _located(workspace: Workspace, adapter: tables.AdapterRow, folder: Path) -> Path:
    file = next((file for file in adapter.manifest.files if file.path == WEIGHTS), None)
    if file is None:  # registered in PEFT's form
        return fetch_form(workspace, adapter, "mlx", folder, factors_only=True)[WEIGHTS]
    digest = Digest(file.sha256)
    generation = blob_generations(workspace, [digest])[digest]
    local = workspace.store.local_path(digest, generation=generation)
    if local is None:
        folder.mkdir()
        local = folder / WEIGHTS
        workspace.store.fetch(digest, local, generation=generation)
    elif not workspace.verified_files.has(local, digest):
        watch = Watch({WEIGHTS: local})
        workspace.store.verify(digest, file.size, generation=generation)
        workspace.verified_files.record(watch, WEIGHTS, digest)
    return local
