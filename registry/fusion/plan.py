"""What a fuse will write: every output file, and for each range of its bytes where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import build_header, tensor_bytes

from ..errors import FusionUnsupportedError
from .adapter import Adapter, read_adapter
from .base import Base, Source, read_base
from .config import INDEX, copied_names, fused_config, weight_index
from .modules import Module, computed_modules, part_names

PRECISIONS = ("keep", "dequantize")
SHARD = 5 << 30
"""Bytes of tensors in one weight file at most, unless a single tensor is larger: what mlx-lm writes."""


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
        adapter: the adapter.
        outputs: the weight files.
        steps: what fills them, in the order of their bytes.
        documents: further files, name to contents.
        copies: names of the base's files that are copied whole.
    """

    base: Base
    adapter: Adapter
    outputs: tuple[Output, ...]
    steps: tuple[Step, ...]
    documents: Mapping[str, bytes]
    copies: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the weight files: what progress counts up to."""
        return sum(output.size for output in self.outputs)

    @property
    def modules(self) -> tuple[Module, ...]:
        """The modules that the adapter changes, in order."""
        return tuple(step.module for step in self.steps if isinstance(step, Compute) and step.module.touched)


def make_plan(
    base_files: Mapping[str, Path],
    config: Mapping[str, Any],
    adapter_file: Path,
    adapter_config: Mapping[str, Any],
    precision: str,
    *,
    scale: float | None = None,
    metadata: Mapping[str, str] | None = None,
    shard: int = SHARD,
) -> Plan:
    """Plan a fuse.

    Args:
        base_files: every file of the base: its name to where it lies.
        config: the base's parsed `config.json`.
        adapter_file: `adapters.safetensors`.
        adapter_config: the parsed `adapter_config.json`.
        precision: `keep` writes what `mlx_lm.fuse` does, `dequantize` what it does with `--dequantize`.
        scale: instead of the adapter's own scale.
        metadata: further entries for the metadata of the weight files, beside {"format": "mlx"}.
        shard: bytes of tensors in one file at most.

    Raises:
        FusionUnsupportedError: this cannot be fused exactly without MLX, or not at all; says why.
        FormatError: a file is malformed.
        MissingFileError: a file cannot be read.
    """
    if precision not in PRECISIONS:
        raise FusionUnsupportedError(f"the precision {precision[:40]!r} is not known to this version")
    base = read_base(base_files, config)
    adapter = read_adapter(adapter_file, adapter_config, scale)
    modules = computed_modules(base, adapter, dequantize=precision == "dequantize")
    layout = _Layout(base, modules, {"format": "mlx", **(metadata or {})}, shard)
    outputs, steps = layout.outputs(), layout.steps()
    parameters = _count(layout, modules)
    size = sum(output.size - len(output.header) for output in outputs)
    documents = {
        "config.json": fused_config(
            config,
            _generation(base_files),
            quantized=precision == "keep",
            keep_vision=any(name.startswith("model.vision_tower.") for name in base.tensors),
        ),
        INDEX: weight_index(layout.where(), size, parameters),
    }
    return Plan(base, adapter, outputs, steps, documents, tuple(copied_names(base_files)))


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
                if tensor.name.endswith(".weight"):
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
        return {name: self._name(place.output) for name, place in self.places.items()}

    def _compute(self, module: Module, place: Place) -> Compute:
        if not module.requantize:
            return Compute(module, place, None, None)
        scales, biases = (self.places[f"{module.path}.{part}"] for part in ("scales", "biases"))
        return Compute(module, place, scales, biases)

    def _tensors(self) -> Iterator[_Tensor]:
        """Yield the tensors in the order of the base, scales and biases of a module right behind its weight."""
        parts = {name for module in self.modules.values() for name in part_names(module)}
        for name, source in self.base.tensors.items():
            if name not in parts:
                yield _Tensor(name, source.tensor.dtype, source.shape, source)
            elif name.endswith(".weight"):
                yield from _computed(self.modules[name.removesuffix(".weight")])

    def _header(self, shard: list[_Tensor]) -> bytes:
        return build_header(((tensor.name, tensor.dtype, tensor.shape) for tensor in shard), self.metadata)

    def _name(self, number: int) -> str:
        count = len(self.shards)
        return "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _computed(module: Module) -> Iterator[_Tensor]:
    form = module.form.name
    if not module.requantize or module.grid is None:
        yield _Tensor(f"{module.path}.weight", form, (module.rows, module.columns), module)
        return
    groups = module.columns // module.grid.group_size
    yield _Tensor(f"{module.path}.weight", "U32", (module.rows, module.grid.words(module.columns)), module)
    yield _Tensor(f"{module.path}.scales", form, (module.rows, groups), module)
    yield _Tensor(f"{module.path}.biases", form, (module.rows, groups), module)


def _follows(last: Copy, copy: Copy) -> bool:
    end = Place(last.place.output, last.place.offset + last.size)
    return last.file == copy.file and last.begin + last.size == copy.begin and end == copy.place


def _count(layout: _Layout, modules: Mapping[str, Module]) -> int:
    """Count parameters as mlx-lm does: packed weights unpacked, scales and biases of a grid not at all."""
    total = 0
    for tensor in layout.tensors():
        path, _, part = tensor.name.rpartition(".")
        if tensor.dtype == "U32" and part == "weight" and layout.base.is_quantized(path):
            grid = modules[path].grid if path in modules else None
            total += prod(tensor.shape) * 32 // (grid.bits if grid else layout.base.bits(path))
        elif part not in ("scales", "biases") or not layout.base.is_quantized(path):
            total += prod(tensor.shape)
    return total
