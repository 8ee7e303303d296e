"""What a fuse will write: every output file, and for each range of its bytes where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import build_header, tensor_bytes

from ..errors import MissingExtraError
from ..server.mlx_keys import with_mlx_keys, written_config
from .adapter import Adapter, read_adapter, require_linear
from .affine import Grid
from .base import Base, Source, read_base
from .config import INDEX, copied_names, fused_config, has_vision, weight_index
from .fidelity import Sums
from .grids import bits_of
from .modules import Module, computed_modules, part_names, written_parts
from .naming import NeedsModelClassError
from .own_layout import in_own_layout
from .policy import Policy, Quantize
from .whole import REPLACED, Whole

SHARD = 5 << 30
"""Bytes of tensors in one weight file at most, unless a single tensor is larger: what mlx-lm writes."""


@dataclass(frozen=True, slots=True)
class Extra:
    """A further adapter of a linear combination.

    Attributes:
        file: its `adapters.safetensors`.
        config: its parsed `adapter_config.json`.
        weight: factor of its update.
    """

    file: Path
    config: Mapping[str, Any]
    weight: float


@dataclass(frozen=True, slots=True)
class Output:
    """A weight file to write: its name, its first bytes (up to the tensors), and its size."""

    name: str
    header: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes go: which of the outputs, and the offset in it."""

    output: int
    offset: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A range of bytes that stays as it is.

    Attributes:
        file: name of the base's file.
        begin: offset in it.
        size: number of bytes.
        place: where they go.
    """

    file: str
    begin: int
    size: int
    place: Place


@dataclass(frozen=True, slots=True)
class Compute:
    """A module to compute: where its weight goes, and its scales and biases if it is quantised again."""

    module: Module
    weight: Place
    scales: Place | None
    biases: Place | None


Step = Copy | Compute


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a fuse needs to know; made without reading a tensor.

    Attributes:
        base: the base.
        policy: what is written.
        outputs: the weight files.
        steps: what fills them, in the order of their bytes.
        documents: further files, name to contents.
        copies: names of the base's files that are copied whole.
        replaced: by module, what rounding left of the change where the adapter replaced the base's numbers.
    """

    base: Base
    policy: Policy
    outputs: tuple[Output, ...]
    steps: tuple[Step, ...]
    documents: Mapping[str, bytes]
    copies: tuple[str, ...]
    replaced: Mapping[str, Sums] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the weight files: what progress counts up to."""
        return sum(output.size for output in self.outputs)

    @property
    def sizes(self) -> list[int]:
        """Bytes of every file that is written."""
        copied = [self.base.files[name].stat().st_size for name in self.copies]
        return [*(output.size for output in self.outputs), *map(len, self.documents.values()), *copied]

    @property
    def modules(self) -> tuple[Module, ...]:
        """The modules that the adapter changes, in order."""
        return tuple(step.module for step in self.steps if isinstance(step, Compute) and step.module.touched)


def make_plan(
    base_files: Mapping[str, Path],
    config: Mapping[str, Any],
    adapter_file: Path,
    adapter_config: Mapping[str, Any],
    precision: str | Policy,
    *,
    scale: float | None = None,
    weight: float = 1.0,
    extras: Sequence[Extra] = (),
    whole: Whole | None = None,
    metadata: Mapping[str, str] | None = None,
    shard: int = SHARD,
    scratch: Path | None = None,
) -> Plan:
    """Plan a fuse.

    Args:
        base_files: every file of the base: its name to where it lies.
        config: the base's parsed `config.json`; the result has the keys that mlx-lm needs beside its own.
        adapter_file: `adapters.safetensors`.
        adapter_config: the parsed `adapter_config.json`.
        precision: what to write.
        scale: instead of the adapter's own scale.
        weight: factor of its update.
        extras: further adapters to add.
        whole: what it replaces in the base, beside its factors.
        metadata: further entries for the metadata of the weight files, beside `format`.
        shard: bytes of tensors in one file at most.
        scratch: folder for tensors that mlx-lm's class of the model has to compute; None not to ask the class.

    Raises:
        FusionUnsupportedError: mlx-lm could not fuse this either, or would write wrong weights; says why.
        MissingExtraError: mlx-lm's class of the model is needed, and mlx-lm is not installed.
        FormatError: a file is malformed.
        MissingFileError: a file cannot be read.
    """
    policy = precision if isinstance(precision, Policy) else Policy(precision)
    config = with_mlx_keys(config)
    adapters = [(read_adapter(adapter_file, adapter_config, scale), weight)]
    adapters += [(read_adapter(extra.file, extra.config), extra.weight) for extra in extras]
    require_linear(adapters, whole=whole is not None, scaled=scale is not None)
    try:
        base, replaced = _with_replaced(read_base(base_files, config), adapters, whole)
        modules = computed_modules(base, adapters, policy)
    except NeedsModelClassError as reason:
        if scratch is None:
            raise
        loaded = _by_class(base_files, config, scratch, reason)
        base, replaced = _with_replaced(loaded, adapters, whole)
        modules = computed_modules(base, adapters, policy)
    return replace(_plan(base, policy, modules, metadata or {}, shard), replaced=replaced)


def _by_class(
    files: Mapping[str, Path], config: Mapping[str, Any], scratch: Path, reason: NeedsModelClassError
) -> Base:
    from .model_class import load_by_class

    try:
        loaded = load_by_class(files, config, scratch)
    except MissingExtraError as missing:
        raise MissingExtraError(f"{reason.message}; fusing it", "mlx") from missing
    told = (loaded.kinds, loaded.blocks, loaded.formats, loaded.quantizable)
    return Base({**files, **loaded.files}, loaded.config, loaded.tensors, True, *told, own=loaded.own)


def _with_replaced(
    base: Base, adapters: Sequence[tuple[Adapter, float]], whole: Whole | None
) -> tuple[Base, Mapping[str, Sums]]:
    if whole is not None:
        return whole.put_on(base)
    adapter = adapters[0][0]
    return base.with_tensors(REPLACED, adapter.path, adapter.tensors) if adapter.tensors else base, {}


def _plan(
    base: Base, policy: Policy, modules: Mapping[str, Module], metadata: Mapping[str, str], shard: int
) -> Plan:
    quantization = _quantization(base, policy, modules)
    base = in_own_layout(base, modules, quantized=quantization is not None)
    layout = _Layout(base, modules, {"format": "pt" if base.own else "mlx", **metadata}, shard)
    outputs, steps = layout.outputs(), layout.steps()
    size = sum(output.size - len(output.header) for output in outputs)
    documents = {
        "config.json": fused_config(
            written_config(base.config),
            _generation(base.files),
            quantization=quantization,
            dequantized=policy.dequantizes,
            keep_vision=has_vision(base.tensors),
        ),
        INDEX: weight_index(layout.where(), size, _count(layout, modules)),
    }
    return Plan(base, policy, outputs, steps, documents, tuple(copied_names(base.files)))


def _quantization(base: Base, policy: Policy, modules: Mapping[str, Module]) -> Mapping[str, Any] | None:
    """Return MLX's `quantization` entry of the result, None for plain numbers."""
    if policy.quantize is not None:
        own = {
            path: asked
            for path, asked in (base.quantizable or {}).items()
            if isinstance(asked, Mapping) and path in modules and modules[path].target.grid is not None
        }
        plain = {path: False for path in base.kept_plain if f"{path}.weight" in base.tensors}
        return {**policy.quantize.to_dict(), **own, **plain}
    if "quantization" not in base.config:
        return None
    own = {
        path: Quantize(grid.bits, grid.group_size).to_dict()
        for path, module in modules.items()
        if policy.mixes and isinstance(grid := module.target.grid, Grid)
    }
    return {**base.config["quantization"], **own}


def _generation(files: Mapping[str, Path]) -> Mapping[str, Any]:
    path = files.get("generation_config.json")
    if path is None:
        return {}
    try:
        return read_object(path)
    except FormatError:
        return {}  # mlx-lm passes over it in silence, and so would its result


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor to write, and what it is made from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    origin: Source | Module

    @property
    def size(self) -> int:
        return tensor_bytes(self.dtype, self.shape)


@dataclass(slots=True)
class _Layout:
    """Distributes the tensors over files in the order of the base, and finds their offsets."""

    base: Base
    modules: Mapping[str, Module]
    metadata: Mapping[str, str]
    shard: int
    shards: list[list[_Tensor]] = field(init=False)
    places: dict[str, Place] = field(init=False)

    def __post_init__(self) -> None:
        self.shards = [[]]
        size = 0
        for tensor in self._tensors():
            if self.shards[-1] and size + tensor.size > self.shard:
                self.shards.append([])
                size = 0
            self.shards[-1].append(tensor)
            size += tensor.size
        self.places = {}
        for number, shard in enumerate(self.shards):
            offset = len(self._header(shard))
            for tensor in shard:
                self.places[tensor.name] = Place(number, offset)
                offset += tensor.size

    def outputs(self) -> tuple[Output, ...]:
        """Return the files."""
        headers = [self._header(shard) for shard in self.shards]
        sizes = [sum(tensor.size for tensor in shard) for shard in self.shards]
        return tuple(
            Output(self._name(number), header, len(header) + size)
            for number, (header, size) in enumerate(zip(headers, sizes, strict=True))
        )

    def steps(self) -> tuple[Step, ...]:
        """Return what fills the files, neighbouring copies joined."""
        steps: list[Step] = []
        for tensor in self.tensors():
            place = self.places[tensor.name]
            if isinstance(tensor.origin, Module):
                if tensor.name == f"{tensor.origin.path}.weight":
                    steps.append(self._compute(tensor.origin, place))
                continue
            source = tensor.origin
            copy = Copy(source.file, source.tensor.begin, tensor.size, place)
            last = steps[-1] if steps else None
            if isinstance(last, Copy) and _follows(last, copy):
                steps[-1] = Copy(last.file, last.begin, last.size + copy.size, last.place)
            elif copy.size:
                steps.append(copy)
        return tuple(steps)

    def tensors(self) -> Iterator[_Tensor]:
        """Yield every tensor in the order of the files."""
        return (tensor for shard in self.shards for tensor in shard)

    def where(self) -> dict[str, str]:
        """Return the file of each tensor."""
        return {name: self._name(n) for n, each in enumerate(self.shards) for name, *_ in self._entries(each)}

    def _compute(self, module: Module, place: Place) -> Compute:
        parts = {part for part, _, _ in written_parts(module)}
        if module.target.dither and not module.target.fitted:
            parts = {"weight"}
        scales, biases = (
            self.places[f"{module.path}.{part}"] if part in parts else None for part in ("scales", "biases")
        )
        return Compute(module, place, scales, biases)

    def _tensors(self) -> Iterator[_Tensor]:
        """Yield the tensors in the order of the base, scales and biases of a module right behind its weight."""
        parts = {name for module in self.modules.values() for name in part_names(module)}
        for name, source in self.base.tensors.items():
            if name not in parts:
                yield _Tensor(name, source.tensor.dtype, source.shape, source)
            elif name.endswith(".weight"):
                yield from self._computed(self.modules[name.removesuffix(".weight")])

    def _computed(self, module: Module) -> Iterator[_Tensor]:
        for part, dtype, shape in written_parts(module):
            name = f"{module.path}.{part}"
            kept = module.target.dither and not module.target.fitted and part != "weight"
            yield _Tensor(name, dtype, shape, self.base.tensors[name] if kept else module)

    def _header(self, shard: list[_Tensor]) -> bytes:
        return build_header(self._entries(shard), self.metadata)

    def _entries(self, shard: list[_Tensor]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for tensor in shard:
            entry = tensor.name, tensor.dtype, tensor.shape
            yield from self.base.own.entries(*entry) if self.base.own else (entry,)

    def _name(self, number: int) -> str:
        count = len(self.shards)
        return "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _follows(last: Copy, copy: Copy) -> bool:
    end = Place(last.place.output, last.place.offset + last.size)
    return last.file == copy.file and last.begin + last.size == copy.begin and end == copy.place


def _count(layout: _Layout, modules: Mapping[str, Module]) -> int:
    """Count parameters as mlx-lm does.

    Packed weights count unpacked, scales and biases of a grid not at all, nor what a module holds beside its parts
    (the attention sinks of gpt_oss).
    """
    paths = {tensor.name.rpartition(".")[0] for tensor in layout.tensors()}
    composed = {path[:place] for path in paths for place, letter in enumerate(path) if letter == "."} | {""}
    total = 0
    for tensor in layout.tensors():
        path, _, part = tensor.name.rpartition(".")
        if path in composed:
            continue
        quantized = (
            modules[path].target.grid is not None if path in modules else layout.base.is_quantized(path)
        )
        if tensor.dtype == "U32" and part == "weight" and quantized:
            grid = modules[path].target.grid if path in modules else None
            total += prod(tensor.shape) * 32 // (grid.bits if grid else bits_of(layout.base, path))
        elif part not in ("scales", "biases", "global_scale") or not quantized:
            total += prod(tensor.shape)
    return total
