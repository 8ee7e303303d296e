"""Plan the output files of a fuse, and the source of each range of their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import build_header, tensor_bytes

from ..errors import MissingExtraError
from ..runtime.mlx_keys import with_mlx_keys, written_config
from .adapter import read_adapter, require_linear
from .affine import Grid
from .architectures import TENSOR_SCALE, NeedsModelClassError
from .base import REPLACED, Base, Source, in_own_layout, read_base
from .config import INDEX, copied_names, fused_config, has_vision, weight_index
from .fidelity import Sums
from .grids import bits_of
from .modules import PlannedModule, computed_modules
from .policy import Quantize, WritePolicy
from .recipe import DEQUANTIZE, MIXED
from .whole import ReplacedTensors

# Bytes of tensors in one weight file at most, unless a single tensor is larger: what mlx-lm writes.
SHARD = 5 << 30


@dataclass(frozen=True, slots=True)
class AddedAdapter:
    """A further adapter of a linear combination."""

    file: Path
    config: Mapping[str, Any]
    weight: float


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A weight file to write: its name, its first bytes (up to the tensors), and its size."""

    name: str
    header: bytes
    size: int


@dataclass(frozen=True, slots=True)
class OutputPlace:
    """Where bytes go: which of the outputs, and the offset in it."""

    output: int
    offset: int


@dataclass(frozen=True, slots=True)
class CopyStep:
    """A range of bytes of a file of the base that stays as it is, and where they go."""

    file: str
    begin: int
    size: int
    place: OutputPlace

    @property
    def end(self) -> tuple[str, int, OutputPlace]:
        """Where the next bytes are read, and go."""
        place = OutputPlace(self.place.output, self.place.offset + self.size)
        return self.file, self.begin + self.size, place


@dataclass(frozen=True, slots=True)
class ComputeStep:
    """A module to compute: where its weight goes, and its scales and biases if it is quantised again."""

    module: PlannedModule
    weight: OutputPlace
    scales: OutputPlace | None
    biases: OutputPlace | None


Step = CopyStep | ComputeStep


@dataclass(frozen=True, slots=True)
class FusePlan:
    """Everything that a fuse needs to know; made without reading a tensor."""

    base: Base
    policy: WritePolicy
    outputs: tuple[WeightFile, ...]
    steps: tuple[Step, ...]  # what fills them, in the order of their bytes
    documents: Mapping[str, bytes]
    copies: tuple[str, ...]
    # by module, what rounding left of the change where the adapter replaced the base's numbers.
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
    def modules(self) -> tuple[PlannedModule, ...]:
        """The modules that the adapter changes, in order."""
        computed = (step.module for step in self.steps if isinstance(step, ComputeStep))
        return tuple(module for module in computed if module.touched)


def make_plan(
    base_files: Mapping[str, Path],
    config: Mapping[str, Any],
    adapter_file: Path,
    adapter_config: Mapping[str, Any],
    precision: str | WritePolicy,
    *,
    scale: float | None = None,
    weight: float = 1.0,
    extras: Sequence[AddedAdapter] = (),
    whole: ReplacedTensors | None = None,
    metadata: Mapping[str, str] | None = None,
    shard: int = SHARD,
    scratch: Path | None = None,
) -> FusePlan:
    """Plan a fuse; `scratch` is for tensors that mlx-lm's class of the model has to compute, None not to ask the class."""
    policy = precision if isinstance(precision, WritePolicy) else WritePolicy(precision)
    config = with_mlx_keys(config)
    adapters = [(read_adapter(adapter_file, adapter_config, scale), weight)]
    adapters += [(read_adapter(extra.file, extra.config), extra.weight) for extra in extras]
    require_linear(adapters, whole=whole is not None, scaled=scale is not None)

    def planned(base: Base) -> FusePlan:
        replaced: Mapping[str, Sums] = {}
        adapter = adapters[0][0]
        if whole is not None:
            base, replaced = whole.put_on(base)
        elif adapter.tensors:
            base = base.with_tensors(REPLACED, adapter.path, adapter.tensors)
        modules = computed_modules(base, adapters, policy)
        return replace(_plan(base, policy, modules, metadata or {}, shard), replaced=replaced)

    try:
        return planned(read_base(base_files, config))
    except NeedsModelClassError as reason:
        if scratch is None:
            raise
        from .model_class import load_by_class

        try:
            loaded = load_by_class(base_files, config, scratch)
        except MissingExtraError as missing:
            raise MissingExtraError(f"{reason.message}; fusing it", "mlx") from missing
        return planned(loaded)


def _plan(
    base: Base,
    policy: WritePolicy,
    modules: Mapping[str, PlannedModule],
    metadata: Mapping[str, str],
    shard: int,
) -> FusePlan:
    quantization = _quantization(base, policy, modules)
    base = in_own_layout(base, modules, quantized=quantization is not None)
    if policy.precision == DEQUANTIZE:
        base = base.without_tensor_scales()
    layout = _Layout(base, modules, {"format": "pt" if base.own else "mlx", **metadata}, shard)
    size = sum(output.size - len(output.header) for output in layout.outputs)
    generation: Mapping[str, Any] = {}
    if (path := base.files.get("generation_config.json")) is not None:
        with suppress(FormatError):  # mlx-lm passes over it in silence, and so would its result
            generation = read_object(path)
    documents = {
        "config.json": fused_config(
            written_config(base.config),
            generation,
            quantization=quantization,
            dequantized=policy.precision == DEQUANTIZE and policy.quantize is None,
            keep_vision=has_vision(base.tensors),
        ),
        INDEX: weight_index(layout.where, size, _count(layout, modules)),
    }
    copies = tuple(copied_names(base.files))
    return FusePlan(base, policy, layout.outputs, layout.steps(), documents, copies)


def _quantization(
    base: Base, policy: WritePolicy, modules: Mapping[str, PlannedModule]
) -> Mapping[str, Any] | None:
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
        if policy.precision == MIXED and isinstance(grid := module.target.grid, Grid)
    }
    return {**base.config["quantization"], **own}


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    origin: Source | PlannedModule

    @property
    def size(self) -> int:
        return tensor_bytes(self.dtype, self.shape)


class _Layout:
    """Distributes the tensors over files in the order of the base, and finds their offsets."""

    def __init__(
        self, base: Base, modules: Mapping[str, PlannedModule], metadata: Mapping[str, str], shard: int
    ) -> None:
        self.base, self._modules = base, modules
        shards: list[list[_Tensor]] = [[]]
        size = 0
        for tensor in self._tensors():
            if shards[-1] and size + tensor.size > shard:
                shards.append([])
                size = 0
            shards[-1].append(tensor)
            size += tensor.size
        count = len(shards)
        self.tensors = [tensor for part in shards for tensor in part]
        self.where: dict[str, str] = {}
        self._places: dict[str, OutputPlace] = {}
        outputs = []
        for number, part in enumerate(shards):
            name = f"model-{number + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
            entries = [(tensor.name, tensor.dtype, tensor.shape) for tensor in part]
            if base.own is not None:
                entries = [own for entry in entries for own in base.own.entries(*entry)]
            header = build_header(entries, metadata)
            self.where |= dict.fromkeys((entry[0] for entry in entries), name)
            offset = len(header)
            for tensor in part:
                self._places[tensor.name] = OutputPlace(number, offset)
                offset += tensor.size
            outputs.append(WeightFile(name, header, offset))
        self.outputs = tuple(outputs)

    def steps(self) -> tuple[Step, ...]:
        steps: list[Step] = []
        for tensor in self.tensors:
            place = self._places[tensor.name]
            if isinstance(tensor.origin, PlannedModule):
                module = tensor.origin
                if tensor.name == f"{module.path}.weight":
                    parts = {"weight"} if module.keeps_scales else {part for part, _, _ in module.written()}
                    scales, biases = (
                        self._places[f"{module.path}.{part}"] if part in parts else None
                        for part in ("scales", "biases")
                    )
                    steps.append(ComputeStep(module, place, scales, biases))
                continue
            source = tensor.origin
            copy = CopyStep(source.file, source.tensor.begin, tensor.size, place)
            last = steps[-1] if steps else None
            if isinstance(last, CopyStep) and last.end == (source.file, source.tensor.begin, place):
                steps[-1] = CopyStep(last.file, last.begin, last.size + copy.size, last.place)
            elif copy.size:
                steps.append(copy)
        return tuple(steps)

    def _tensors(self) -> Iterator[_Tensor]:
        """Yield the tensors in the order of the base, scales and biases of a module right behind its weight."""
        parts = {
            f"{module.path}.{part}"
            for module in self._modules.values()
            for part in ("weight", "scales", "biases")
            if getattr(module, part) is not None
        }
        for name, source in self.base.tensors.items():
            if name not in parts:
                yield _Tensor(name, source.tensor.dtype, source.shape, source)
            elif name.endswith(".weight"):
                module = self._modules[name.removesuffix(".weight")]
                for part, dtype, shape in module.written():
                    written = f"{module.path}.{part}"
                    kept = module.keeps_scales and part != "weight"
                    yield _Tensor(written, dtype, shape, self.base.tensors[written] if kept else module)


def _count(layout: _Layout, modules: Mapping[str, PlannedModule]) -> int:
    # Packed weights count unpacked, scales and biases of a grid not at all, nor what a module holds beside its parts
    # (the attention sinks of gpt_oss).
    paths = {tensor.name.rpartition(".")[0] for tensor in layout.tensors}
    composed = {path[:place] for path in paths for place, letter in enumerate(path) if letter == "."} | {""}
    total = 0
    for tensor in layout.tensors:
        path, _, part = tensor.name.rpartition(".")
        if path in composed:
            continue
        grid = modules[path].target.grid if path in modules else None
        quantized = grid is not None or (path not in modules and layout.base.is_quantized(path))
        if tensor.dtype == "U32" and part == "weight" and quantized:
            total += prod(tensor.shape) * 32 // (grid.bits if grid else bits_of(layout.base, path))
        elif part not in ("scales", "biases", "global_scale", TENSOR_SCALE) or not quantized:
            total += prod(tensor.shape)
    return total
