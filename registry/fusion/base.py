"""A base model as a fuse sees it: its tensors by name, which of them mlx-lm would drop, and how they are quantised.

Also decides whether tensors may be taken by their on-disk names at all (FUSION section 4, rule 1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Header, Tensor, read_header

from ..errors import FusionUnsupportedError
from .affine import BITS, GROUP_SIZES, Grid
from .architectures import CHANGED_BY_LOADING, architecture_of
from .arithmetic import FORMATS
from .config import weight_names

_LAYER_LISTS = ("layers", "h", "blocks")
_COPYABLE = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32"}
_PLAIN_GRID = {"bits": 4, "group_size": 64, "mode": "affine"}
_NEEDS_MLX = "needs the mlx engine, which this version does not have"


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
class Base:
    """A base model whose tensors can be taken by name.

    Attributes:
        files: every file of the base, by name.
        config: its `config.json`.
        tensors: those that mlx-lm keeps, by name, in the order of the files.
        known: every matrix of a block is known to be a linear layer.
    """

    files: Mapping[str, Path]
    config: Mapping[str, Any]
    tensors: Mapping[str, Source]
    known: bool

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
            FusionUnsupportedError: the blocks cannot be told from the names.
        """
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
            raise FusionUnsupportedError(
                f"the blocks of the model cannot be told from its tensor names, it {_NEEDS_MLX}"
            )
        blocks = next(iter(found.values()))
        return [blocks.get(index, []) for index in range(max(blocks) + 1)]

    def grid(self, module: str, columns: int | None = None) -> Grid:
        """Return how a packed module is quantised: by its own entry in the configuration, else by its shapes.

        Args:
            module: its path.
            columns: unpacked columns, if known (from the adapter).

        Raises:
            FusionUnsupportedError: not in an affine format, or the configuration contradicts the shapes.
        """
        weight, scales, biases = (
            self.tensors.get(f"{module}.{part}") for part in ("weight", "scales", "biases")
        )
        if weight is None or scales is None or f"{module}.global_scale" in self.tensors:
            raise FusionUnsupportedError(f"{module} is quantised in a way that {_NEEDS_MLX}")
        own = self.quantization.get(module)
        settings = self._settings(module, own, columns, weight, scales)
        mode, bits, size = settings["mode"], settings["bits"], settings["group_size"]
        form = FORMATS.get(scales.tensor.dtype)
        if mode != "affine" or form is None or biases is None:
            raise FusionUnsupportedError(
                f"{module} is quantised in the {str(mode)[:40]} format, which {_NEEDS_MLX}"
            )
        packed, groups = weight.shape[-1] * 32, scales.shape[-1]
        whole = type(bits) is type(size) is int
        fits = whole and bits in BITS and size in GROUP_SIZES and packed == groups * size * bits
        fits = fits and weight.tensor.dtype == "U32" and len(weight.shape) == 2
        same = scales.shape == biases.shape and scales.tensor.dtype == biases.tensor.dtype
        if not fits or not same or scales.shape[0] != weight.shape[0] or columns not in (None, groups * size):
            raise FusionUnsupportedError(
                f"the tensors of {module} do not fit the {str(bits)[:9]} bits in groups of {str(size)[:9]} they should have"
            )
        return Grid(bits, size, form)

    def bits(self, module: str) -> int:
        """Return the bits per number of a packed module, as far as they can be told: for counting only."""
        own = self.quantization.get(module)
        if isinstance(own, Mapping) and type(own.get("bits")) is int:
            return int(own["bits"])
        weight, scales = self.tensors[f"{module}.weight"], self.tensors[f"{module}.scales"]
        columns = self._columns(weight, scales) if scales.tensor.dtype in FORMATS else None
        return weight.shape[-1] * 32 // columns if columns else int(self._default["bits"])

    @property
    def _default(self) -> dict[str, Any]:
        return _PLAIN_GRID | {key: self.quantization[key] for key in _PLAIN_GRID if key in self.quantization}

    def _settings(
        self, module: str, own: Any, columns: int | None, weight: Source, scales: Source
    ) -> dict[str, Any]:
        if isinstance(own, Mapping):
            return _PLAIN_GRID | dict(own)
        if own is True:
            return self._default
        if own is not None or not self.quantization or 0 in weight.shape + scales.shape:
            raise FusionUnsupportedError(f"{module} is quantised, but the configuration does not say so")
        if scales.tensor.dtype not in FORMATS:
            return self._default
        columns = columns or self._columns(weight, scales)
        if columns is None:
            raise FusionUnsupportedError(
                f"how {module} is quantised cannot be told from its shapes, it {_NEEDS_MLX}"
            )
        bits, size = weight.shape[-1] * 32 // columns, columns // scales.shape[-1]
        return {"bits": bits, "group_size": size, "mode": "affine"}

    def _columns(self, weight: Source, scales: Source) -> int | None:
        """Return the unpacked columns of a module that neither the configuration nor the adapter names.

        4 bits in groups of 64 and 8 bits in groups of 32 have the same shapes; what decides is a width that the
        model has, the configuration's default first.
        """
        packed, groups = weight.shape[-1] * 32, scales.shape[-1]
        choices = [groups * size for bits in BITS for size in GROUP_SIZES if bits * size * groups == packed]
        likely = [columns for columns in choices if columns in self._widths()] or choices
        default = groups * int(self._default["group_size"])
        if default in likely:
            return default
        return likely[0] if len(likely) == 1 else None

    def _widths(self) -> set[int]:
        text = self.config.get("text_config")
        config = {**(text if isinstance(text, Mapping) else {}), **self.config}
        widths = {config.get("hidden_size"), config.get("intermediate_size")}
        heads, size = config.get("num_attention_heads"), config.get("head_dim")
        if type(heads) is int and type(size) is int:
            widths.add(heads * size)
        return {width for width in widths if type(width) is int}


def read_base(files: Mapping[str, Path], config: Mapping[str, Any]) -> Base:
    """Read the headers of a base's weights and check that its tensors can be taken by name.

    Args:
        files: every file of the base, name to local path.
        config: the parsed `config.json`.

    Raises:
        FusionUnsupportedError: this base needs the model's own class, so the mlx engine.
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
    _require_by_name(config, headers)
    _require_plain_quantization(files, config)
    architecture = architecture_of(str(config.get("model_type")))
    if architecture is not None:
        for name in architecture.dropped(tensors, config):
            del tensors[name]
        if architecture.needs is not None and architecture.needs not in tensors:
            raise FusionUnsupportedError(f"the base has no {architecture.needs}; adding it {_NEEDS_MLX}")
    for name, source in tensors.items():
        if name.endswith("rotary_emb.inv_freq"):
            raise FusionUnsupportedError(f"mlx-lm cannot load this base: it does not know the tensor {name}")
        if source.tensor.dtype not in _COPYABLE:
            raise FusionUnsupportedError(f"{name} is {source.tensor.dtype}, which {_NEEDS_MLX}")
    return Base(files, config, tensors, architecture is not None)


def _require_by_name(config: Mapping[str, Any], headers: Mapping[str, Header]) -> None:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise FusionUnsupportedError("the base's config.json has no model_type")
    if config.get("model_file") is not None:
        raise FusionUnsupportedError("the base brings its own code (model_file), which is never run")
    written_by_mlx = all(header.metadata.get("format") == "mlx" for header in headers.values())
    by_name = written_by_mlx or architecture_of(model_type) is not None
    if model_type in CHANGED_BY_LOADING or not by_name:
        raise FusionUnsupportedError(
            f"a base of the architecture {model_type[:40]!r} in this layout {_NEEDS_MLX}",
            hint=None if by_name else "convert it with mlx_lm.convert and add the result as the base",
        )


def _require_plain_quantization(files: Mapping[str, Path], config: Mapping[str, Any]) -> None:
    if config.get("quantize_activations"):
        raise FusionUnsupportedError(
            "a base with quantised activations cannot be fused, not by mlx-lm either"
        )
    quantization = config.get("quantization")
    if quantization is not None:
        sound = isinstance(quantization, Mapping) and {"bits", "group_size"} <= quantization.keys()
        if not sound or not all(type(quantization[key]) is int for key in ("bits", "group_size")):
            raise FusionUnsupportedError("the quantization entry of the base's config.json is malformed")
        return
    text = config.get("text_config")
    other = config.get("quantization_config") or (
        isinstance(text, Mapping) and text.get("quantization_config")
    )
    if other or "hf_quant_config.json" in files:
        method = other.get("quant_method") if isinstance(other, Mapping) else None
        raise FusionUnsupportedError(f"a base quantised by {str(method or 'another tool')[:40]} {_NEEDS_MLX}")
