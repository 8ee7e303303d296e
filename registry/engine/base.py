"""A base model as a fuse sees it: its tensors by name, which of them mlx-lm would drop, and how they are quantised.

Also decides whether tensors may be taken by their names on disk at all (docs/internals/arithmetic.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, read_header

from ..errors import FusionUnsupportedError
from .architectures import architecture_of
from .arithmetic import FORMATS
from .config import weight_names
from .naming import NeedsModelClassError, require_by_name, require_plain_quantization

_LAYER_LISTS = ("layers", "h", "blocks")
_COPYABLE = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32"}


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the base.

    Attributes:
        file: name of the base's file that holds it.
        tensor: where in the file.
    """

    file: str
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape as stored."""
        return self.tensor.shape


@dataclass(frozen=True, slots=True)
class OwnLayout:
    """The layout that a base has on disk.

    Attributes:
        names: for each of mlx-lm's tensors, the tensors on disk whose bytes it holds, in order.
        copied: tensors on disk that `names` lacks: mlx-lm drops them or computes others from them.
        dropped: names of tensors that the model needs and mlx-lm drops; if empty, mlx-lm's layout is complete, too.
    """

    names: Mapping[str, Sequence[Tensor]]
    copied: Mapping[str, Source]
    dropped: Collection[str]

    def entries(
        self, name: str, dtype: str, shape: tuple[int, ...]
    ) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return name, dtype and shape of the tensors that replace one of mlx-lm's, in the order of its bytes.

        Scales and biases are named after their weight.
        """
        own = self.names.get(name, ())
        if len(own) > 1:
            return [(tensor.name, dtype, tensor.shape) for tensor in own]
        if own:
            return [(own[0].name, dtype, own[0].shape if prod(shape) == prod(own[0].shape) else shape)]
        module, _, part = name.rpartition(".")
        weight = self.names.get(f"{module}.weight", ())
        return [(f"{weight[0].name.removesuffix('weight')}{part}" if weight else name, dtype, shape)]


@dataclass(frozen=True, slots=True)
class Base:
    """A base model whose tensors can be taken by name.

    Attributes:
        files: every file of the base, by name.
        config: its `config.json`.
        tensors: those that mlx-lm keeps, by name, in the order of the files.
        known: every matrix of a block is known to be a linear layer.
        kinds: what mlx-lm's class says of each module that can be adapted, `linear`, `embedding` or `switch`; None
            where the class was not asked.
        blocks: paths of the layers of each block, from the class; None where it was not asked.
        formats: how each quantised module is quantised, from the class; None where it was not asked.
        quantizable: what can be quantised, from the class: True, or parameters for `quantization`, or False.
        kept_plain: modules whose numbers an adapter replaced, which are not rounded any further.
        own: the layout on disk, where mlx-lm's class renames, stacks or drops tensors; None for mlx-lm's.
    """

    files: Mapping[str, Path]
    config: Mapping[str, Any]
    tensors: Mapping[str, Source]
    known: bool
    kinds: Mapping[str, str] | None = None
    blocks: Sequence[Sequence[str]] | None = None
    formats: Mapping[str, Mapping[str, Any]] | None = None
    quantizable: Mapping[str, Any] | None = None
    kept_plain: frozenset[str] = frozenset()
    own: OwnLayout | None = None

    def with_tensors(self, file: str, path: Path, tensors: Mapping[str, Tensor]) -> Base:
        """Return the base with some of its tensors taken from another file, as after full fine-tuning.

        Args:
            file: what to call the file.
            path: where it lies.
            tensors: those to replace, by name.

        Raises:
            FusionUnsupportedError: the base has no such tensor, or it has another shape or kind of numbers.
        """
        for name, tensor in tensors.items():
            if name not in self.tensors:
                raise FusionUnsupportedError(
                    f"the adapter holds the tensor {name}, which the base does not have",
                    hint="was it trained on another base?",
                )
            own = self.tensors[name].tensor
            if tensor.shape != own.shape:
                raise FusionUnsupportedError(
                    f"the adapter's {name} is {tensor.shape}, the base's is {own.shape}",
                    hint="was it trained on another base?",
                )
            # mlx-lm would take it, and what it writes could not be run.
            if tensor.dtype != own.dtype and not {tensor.dtype, own.dtype} <= FORMATS.keys():
                raise FusionUnsupportedError(
                    f"the adapter's {name} is {tensor.dtype}, the base's is {own.dtype}",
                    hint="was it trained on another base?",
                )
        replaced = {name: Source(file, tensor) for name, tensor in tensors.items()}
        return replace(self, files={**self.files, file: path}, tensors={**self.tensors, **replaced})

    @property
    def quantization(self) -> Mapping[str, Any]:
        """MLX's `quantization` entry, empty for a dense base."""
        found = self.config.get("quantization")
        return found if isinstance(found, Mapping) else {}

    def is_quantized(self, module: str) -> bool:
        """Whether a module's weight is packed."""
        return f"{module}.scales" in self.tensors

    def layer_modules(self, adapted: Collection[str]) -> list[list[str]]:
        """Return the paths of the matrices of each block, in order.

        Args:
            adapted: paths of adapted modules; of several lists of blocks (a vision tower's), theirs is meant.

        Raises:
            NeedsModelClassError: the blocks cannot be told from the names.
        """
        if self.blocks is not None:
            return [list(block) for block in self.blocks]
        found: dict[str, dict[int, list[str]]] = {}
        for name, source in self.tensors.items():
            module = name.removesuffix(".weight")
            parts = module.split(".")
            place = next((index for index, part in enumerate(parts) if part.isdecimal()), 0)
            if module == name or not place or parts[place - 1] not in _LAYER_LISTS:
                continue
            block = found.setdefault(".".join(parts[:place]), {}).setdefault(int(parts[place]), [])
            if len(source.shape) >= 2:
                block.append(module)
        if len(found) > 1:
            found = {
                stem: blocks
                for stem, blocks in found.items()
                if any(path.startswith(f"{stem}.") for path in adapted)
            }
        if len(found) != 1:
            raise NeedsModelClassError("the blocks of the model cannot be told from its tensor names")
        blocks = next(iter(found.values()))
        return [blocks.get(index, []) for index in range(max(blocks) + 1)]


def read_base(files: Mapping[str, Path], config: Mapping[str, Any]) -> Base:
    """Read the headers of a base's weights and check that its tensors can be taken by name.

    Args:
        files: every file of the base, name to local path.
        config: the parsed `config.json`.

    Raises:
        NeedsModelClassError: this base needs mlx-lm's own class.
        FusionUnsupportedError: mlx-lm cannot fuse it either.
        FormatError: a weight file is malformed, or there is none.
        MissingFileError: a file cannot be read.
    """
    names = weight_names(files)
    if not names:
        raise FormatError("the base has no weights in safetensors format (model*.safetensors)")
    headers = {name: read_header(files[name], limit=BASE_HEADER_LIMIT) for name in names}
    tensors: dict[str, Source] = {}
    for file, header in headers.items():
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise FormatError(f"two weight files of the base hold the tensor {name!r}")
            tensors[name] = Source(file, tensor)
    written_by_mlx = all(header.metadata.get("format") == "mlx" for header in headers.values())
    require_by_name(config, written_by_mlx=written_by_mlx)
    require_plain_quantization(files, config)
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
    return Base(files, config, tensors, architecture is not None)
