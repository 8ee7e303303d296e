"""A base model's tensors by name (docs/internals/arithmetic.md), and the layout in which a fuse writes them, its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Entry, Tensor, read_header

from ..errors import FusionUnsupportedError
from .architectures import (
    TENSOR_SCALE,
    NeedsModelClassError,
    architecture_of,
    has_tensor_scales,
    require_by_name,
    require_plain_quantization,
)
from .arithmetic import FORMATS
from .config import weight_names

# The name of the file of replaced tensors among the base's files; no file on disk has it.
REPLACED = "adapter:whole"
OTHER_BASE = "was it trained on another base?"
_COPYABLE = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32"}


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the base, and the name of the base's file that holds it."""

    file: str
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape as stored."""
        return self.tensor.shape


@dataclass(frozen=True, slots=True)
class OwnLayout:
    """The layout that a base has on disk."""

    names: Mapping[str, Sequence[Tensor]]  # the tensors on disk that each of mlx-lm's holds, in order
    copied: Mapping[str, Source]  # the other tensors on disk: mlx-lm drops them or computes others from them
    dropped: Collection[str]  # tensors that the model needs and mlx-lm drops

    def entries(self, name: str, dtype: str, shape: tuple[int, ...]) -> list[Entry]:
        """Return name, dtype and shape of the tensors that replace one of mlx-lm's, in the order of its bytes."""
        # Scales and biases are named after their weight.
        own = self.names.get(name, ())
        if len(own) > 1:
            return [(tensor.name, dtype, tensor.shape) for tensor in own]
        if own:
            return [(own[0].name, dtype, own[0].shape if prod(shape) == prod(own[0].shape) else shape)]
        module, _, part = name.rpartition(".")
        weight = self.names.get(f"{module}.weight", ())
        return [(f"{weight[0].name.removesuffix('weight')}{part}" if weight else name, dtype, shape)]


@dataclass(frozen=True, slots=True)
class ModelOptLayout(OwnLayout):
    """The layout of NVIDIA's ModelOpt: the bytes of MLX's nvfp4 with other names, dtypes and shapes, and a scale for each tensor."""

    def entries(self, name: str, dtype: str, shape: tuple[int, ...]) -> list[Entry]:
        """Return the tensor that stands for one of MLX's."""
        module, _, part = name.rpartition(".")
        if part == "weight" and dtype == "U32":
            return [(name, "U8", (*shape[:-1], shape[-1] * 4))]
        return [(f"{module}.weight_scale", "F8_E4M3", shape) if part == "scales" else (name, dtype, shape)]

    @staticmethod
    def by_mlx_names(tensors: Mapping[str, Source]) -> dict[str, Source]:
        """Return the tensors on disk under MLX's names, in the same order."""
        renamed = {}
        for name, source in tensors.items():
            module, _, part = name.rpartition(".")
            own = source.tensor
            if part == "weight" and own.dtype == "U8":
                scales = {key: tensors.get(f"{module}.{key}") for key in ("weight_scale", TENSOR_SCALE)}
                dtypes = [scale.tensor.dtype for scale in scales.values() if scale is not None]
                if dtypes != ["F8_E4M3", "F32"] or not own.shape or own.shape[-1] % 4:
                    message = f"the tensors of {module} are not those of NVFP4 with a scale per tensor"
                    raise FusionUnsupportedError(message)
                own = Tensor(name, "U32", (*own.shape[:-1], own.shape[-1] // 4), own.begin, own.end)
            elif part == "weight_scale" and own.dtype == "F8_E4M3":
                own = Tensor(f"{module}.scales", "U8", own.shape, own.begin, own.end)
            if own.name in renamed:
                raise FormatError(f"the base has two tensors for {own.name}")
            renamed[own.name] = Source(source.file, own)
        return renamed


@dataclass(frozen=True, slots=True)
class Base:
    """A base model whose tensors can be taken by name."""

    files: Mapping[str, Path]
    config: Mapping[str, Any]
    tensors: Mapping[str, Source]  # those that mlx-lm keeps, by name, in the order of the files
    all_linear: bool  # every matrix of a block is known to be a linear layer
    # From mlx-lm's class of the model, None if it was not loaded:
    kinds: Mapping[str, str] | None = None  # of modules: `linear`, `embedding` or `switch`
    blocks: Sequence[Sequence[str]] | None = None  # paths of the layers of each block
    formats: Mapping[str, Mapping[str, Any]] | None = None  # of the quantised modules
    quantizable: Mapping[str, Any] | None = None  # by module: True, parameters for `quantization`, or False
    kept_plain: frozenset[str] = frozenset()  # modules that an adapter replaced, which are not rounded again
    own: OwnLayout | None = None  # the layout on disk, if mlx-lm's class renames, stacks or drops tensors

    def with_tensors(self, file: str, path: Path, tensors: Mapping[str, Tensor]) -> Base:
        """Return the base with some of its tensors taken from another file, as after full fine-tuning."""
        for name, tensor in tensors.items():
            own = self.tensors[name].tensor if name in self.tensors else None
            if own is None:
                fault = f"the adapter holds the tensor {name}, which the base does not have"
            elif tensor.shape != own.shape:
                fault = f"the adapter's {name} is {tensor.shape}, the base's is {own.shape}"
            elif tensor.dtype != own.dtype and not {tensor.dtype, own.dtype} <= FORMATS.keys():
                # mlx-lm would take it, and what it writes could not be run.
                fault = f"the adapter's {name} is {tensor.dtype}, the base's is {own.dtype}"
            else:
                continue
            raise FusionUnsupportedError(fault, hint=OTHER_BASE)
        replaced = {name: Source(file, tensor) for name, tensor in tensors.items()}
        return replace(self, files={**self.files, file: path}, tensors={**self.tensors, **replaced})

    @property
    def quantization(self) -> Mapping[str, Any]:
        """MLX's `quantization` entry, empty for a dense base."""
        entry = self.config.get("quantization")
        return entry if isinstance(entry, Mapping) else {}

    def without_tensor_scales(self) -> Base:
        """Return the base without ModelOpt's scales of tensors and activations, for a model in another format."""
        if not isinstance(self.own, ModelOptLayout):
            return self
        kept = {
            name: source
            for name, source in self.tensors.items()
            if not (name.endswith(f".{TENSOR_SCALE}") or is_droppable(name, self.config))
        }
        return replace(self, tensors=kept, own=None)

    def is_quantized(self, module: str) -> bool:
        """Whether a module's weight is packed."""
        return f"{module}.scales" in self.tensors

    def layer_modules(self, adapted: Collection[str]) -> list[list[str]]:
        """Return the paths of the matrices of each block; of several lists of blocks (a vision tower's) that of `adapted`."""
        if self.blocks is not None:
            return [list(block) for block in self.blocks]
        blocks_by_stem: dict[str, dict[int, list[str]]] = {}
        for name, source in self.tensors.items():
            module = name.removesuffix(".weight")
            parts = module.split(".")
            place = next((index for index, part in enumerate(parts) if part.isdecimal()), 0)
            if module == name or not place or parts[place - 1] not in ("layers", "h", "blocks"):
                continue
            block = blocks_by_stem.setdefault(".".join(parts[:place]), {}).setdefault(int(parts[place]), [])
            if len(source.shape) >= 2:
                block.append(module)
        meant = [stem for stem in blocks_by_stem if any(path.startswith(f"{stem}.") for path in adapted)]
        stems = meant if len(blocks_by_stem) > 1 else list(blocks_by_stem)
        if len(stems) != 1:
            raise NeedsModelClassError("cannot find the blocks of the model in its tensor names")
        blocks = blocks_by_stem[stems[0]]
        return [blocks.get(index, []) for index in range(max(blocks) + 1)]


def read_sources(files: Mapping[str, Path]) -> tuple[dict[str, Source], bool]:
    """Return every tensor of a base's weight files by name, and whether MLX wrote all of them."""
    names = weight_names(files)
    if not names:
        hint = "a model folder holds model.safetensors or model-00001-of-0000N.safetensors"
        raise FormatError("the base has no weights in safetensors format (model*.safetensors)", hint=hint)
    tensors: dict[str, Source] = {}
    written_by_mlx = True
    for file in names:
        header = read_header(files[file], limit=BASE_HEADER_LIMIT)
        written_by_mlx &= header.metadata.get("format") == "mlx"
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise FormatError(f"two weight files of the base hold the tensor {name!r}")
            tensors[name] = Source(file, tensor)
    return tensors, written_by_mlx


def read_base(files: Mapping[str, Path], config: Mapping[str, Any]) -> Base:
    """Read the headers of a base's weights and check that its tensors can be taken by name."""
    tensors, written_by_mlx = read_sources(files)
    require_by_name(config, written_by_mlx=written_by_mlx)
    require_plain_quantization(files, config)
    own = None
    if has_tensor_scales(config):
        tensors, own = ModelOptLayout.by_mlx_names(tensors), ModelOptLayout({}, {}, ())
    architecture = architecture_of(str(config.get("model_type")))
    if architecture is not None:
        for name in architecture.dropped(tensors, config):
            del tensors[name]
        if architecture.needs is not None and architecture.needs not in tensors:
            raise NeedsModelClassError(f"the base has no {architecture.needs}")
    for name, source in tensors.items():
        if name.endswith("rotary_emb.inv_freq"):
            raise FusionUnsupportedError(f"mlx-lm cannot load this base: it does not know the tensor {name}")
        if source.tensor.dtype not in _COPYABLE:
            raise NeedsModelClassError(f"{name} is {source.tensor.dtype}")
    return Base(files, config, tensors, architecture is not None, own=own)


_DROPPABLE = re.compile(
    # Buffers, which every library computes itself.
    r"(.*\.)?(inv_freq|rotary_emb\.\w+|rope\.freqs|masked_bias|position_ids)|(.*\.)?(attn|attention)\.bias"
    # Scales of activations and of cached keys and values, which mlx-lm does not quantise.
    r"|.*\.(input_scale|output_scale|activation_scale|k_scale|v_scale)"
    # Heads that predict further tokens, which only speeds generation up.
    r"|(.*\.)?(mtp|mtp_layers|mtp_block|nextn)\..*"
)
_LAYER = re.compile(r"(?:(?:model|language_model)\.)*layers\.(\d+)\..*")


def is_droppable(name: str, config: Mapping[str, Any]) -> bool:
    """Tell whether a model does not need a tensor: a buffer, a tied head, or a layer that only predicts ahead."""
    text = config.get("text_config")
    parts = [config, text] if isinstance(text, Mapping) else [config]
    if name.endswith("lm_head.weight") and any(part.get("tie_word_embeddings") for part in parts):
        return True
    counts = [count for part in parts if type(count := part.get("num_hidden_layers")) is int]
    layer = _LAYER.fullmatch(name)
    beyond = layer is not None and bool(counts) and int(layer[1]) >= max(counts)
    return beyond or _DROPPABLE.fullmatch(name) is not None


def in_own_layout(base: Base, computed: Collection[str], *, quantized: bool) -> Base:
    """Return a base with the tensors to write, and the layout to write them in."""
    # Quantised weights have mlx-lm's layout where that is complete: only mlx-lm reads them.
    own = base.own
    if own is None or isinstance(own, ModelOptLayout):
        return base
    if not own.dropped:
        return base if base.tensors.keys() <= own.names.keys() and not quantized else replace(base, own=None)
    changed = {f"{path}.weight" for path in computed}
    changed |= {name for name, source in base.tensors.items() if source.file == REPLACED}
    stacked = {name for name, tensors in own.names.items() if len(tensors) > 1}
    if unwritable := sorted(changed - own.names.keys() | (changed & stacked if quantized else set())):
        raise FusionUnsupportedError(
            f"the fused model would lose {len(own.dropped)} tensors of the base, such as {min(own.dropped)}: mlx-lm drops"
            f" them, and {unwritable[0]} cannot be written in the base's own layout",
            hint="for the language model alone: mlx_lm.convert --hf-path BASE --mlx-path FOLDER, then fusery base add FOLDER",
        )
    kept = {name: source for name, source in base.tensors.items() if name in own.names}
    tensors = sorted({**kept, **own.copied}.items(), key=lambda item: (item[1].file, item[1].tensor.begin))
    return replace(base, tensors=dict(tensors))
