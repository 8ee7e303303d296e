"""Read a base model's architecture from its configuration and the headers of its files, packed weights among them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.jsonfile import is_keepable, read_config, read_object
from fusery.storage.safetensors import Tensor

from ..engine.architectures import TENSOR_SCALE, TENSOR_SCALED, has_tensor_scales
from ..engine.config import INDEX

_TENSOR_SCALES = ("weight_scale", TENSOR_SCALE, "input_scale")  # of a weight in NVFP4 with a scale per tensor
_SHARD = re.compile(r"(?P<stem>model[^/]*)-(?P<number>[0-9]{1,9})-of-(?P<total>[0-9]{1,9})\.safetensors")
_LAYER = re.compile(r"(?P<stem>(?:[A-Za-z_][\w]*\.)*?[A-Za-z_]\w*)\.(?P<index>[0-9]{1,5})\.(?P<key>.+)")


@dataclass(frozen=True, slots=True)
class Weight:
    """One module's weight as the model sees it."""

    module: str
    # logical shape, unpacked when the weight is quantised: (out, in) for a linear layer.
    shape: tuple[int, ...]
    dtype: str  # dtype of the numbers: of the scales when quantised
    bits: int | None


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts of a base model that are recorded and that adapters are checked against."""

    config: Mapping[str, Any]
    weights: Mapping[str, Weight]
    parameters: int  # numbers in all weights and biases, counted unpacked
    dtype: str  # the dtype that most parameters have, in the words of safetensors, lower case (`bf16`)
    quantization: Mapping[str, Any] | None
    written_by_mlx: bool

    @property
    def model_type(self) -> str:
        """mlx-lm's name of the architecture, such as `llama`."""
        return str(self.config.get("model_type", "unknown"))

    @property
    def name(self) -> str:
        """The class name in `architectures`, or else the model type."""
        listed = self.config.get("architectures")
        return str(listed[0]) if isinstance(listed, list) and listed else self.model_type

    def layers(self) -> dict[int, dict[str, Weight]]:
        """Return the matrices of each layer: layer number to path within the layer to weight."""
        stem, layers = self.layer_stem(), dict[int, dict[str, Weight]]()
        for match, weight in self._in_layers():
            if match["stem"] == stem:
                layers.setdefault(int(match["index"]), {})[match["key"]] = weight
        return layers

    def layer_stem(self) -> str:
        """Return the path that layer numbers follow, such as `model.layers`."""
        stems = Counter(match["stem"] for match, _ in self._in_layers())
        return stems.most_common(1)[0][0] if stems else ""

    def _in_layers(self) -> Iterator[tuple[re.Match[str], Weight]]:
        for weight in self.weights.values():
            if len(weight.shape) >= 2 and (match := _LAYER.fullmatch(weight.module)):
                yield match, weight


def read_architecture(folder: Path | Mapping[str, Path]) -> Architecture:
    """Read the architecture of a model from its folder, or from its files by name."""
    from ..engine.base import read_sources  # with NumPy, which few commands need

    files = folder if isinstance(folder, Mapping) else {path.name: path for path in folder.iterdir()}
    config = read_config(files.get("config.json", Path("config.json")))
    if not is_keepable(config):
        raise FormatError("config.json holds text with NUL or half of a character")
    listed = config.get("architectures")
    name = listed[0] if isinstance(listed, list) and listed else ""
    model_type = config.get("model_type", "")
    # They have to fit into the record of a base.
    for key, value, limit in (("architectures", name, 200), ("model_type", model_type, 100)):
        if not isinstance(value, str) or len(value) > limit:
            hint = "is this the config.json that came with the model?"
            raise FormatError(f"config.json: {key} is not a name of at most {limit} characters", hint=hint)
    _require_all_shards(files)
    sources, written_by_mlx = read_sources(files)
    tensors = {name: source.tensor for name, source in sources.items()}
    return architecture_of(config, tensors, written_by_mlx=written_by_mlx)


def _require_all_shards(files: Mapping[str, Path]) -> None:
    """Refuse a model of which only some weight files are there: the index names them, and so does `-of-N`."""
    indexed: set[str] = set()
    if INDEX in files:
        places = read_object(files[INDEX]).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            raise FormatError(f"{INDEX} has no weight_map from tensors to files")
        indexed = set(places.values())
    if missing := sorted(indexed - files.keys()):
        raise _incomplete(f"{INDEX} names {missing[0]}", len(missing))
    numbers: dict[tuple[str, int], set[int]] = {}
    for match in filter(None, map(_SHARD.fullmatch, files)):
        numbers.setdefault((match["stem"], int(match["total"])), set()).add(int(match["number"]))
    for (stem, total), parts in numbers.items():
        if len(parts) < total:  # most count from 1, some from 0
            raise _incomplete(f"{stem} is in {total} parts", total - len(parts))


def _incomplete(why: str, count: int) -> MissingFileError:
    files = "a weight file is" if count == 1 else f"{count} weight files are"
    return MissingFileError(f"{files} missing: {why[:200]}", hint="finish the download or copy of the model")


def architecture_of(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, written_by_mlx: bool = False
) -> Architecture:
    """Work out the architecture from a configuration and the tensors of all weight files."""
    quantization = config.get("quantization")
    quantization = quantization if isinstance(quantization, dict) else None
    if has_tensor_scales(config):
        quantization = {"group_size": 16, "bits": 4, "mode": TENSOR_SCALED}
    weights, parameters = {}, 0
    dtypes: Counter[str] = Counter()
    tied = bool(config.get("tie_word_embeddings"))
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part in ("scales", "biases") and f"{module}.scales" in tensors and f"{module}.weight" in tensors:
            continue
        if part in _TENSOR_SCALES and f"{module}.{TENSOR_SCALE}" in tensors:
            continue
        if tied and module == "lm_head":
            continue
        shape, dtype = tensor.shape, tensor.dtype
        if part == "weight":
            weights[module] = weight = _weight(module, tensor, tensors, quantization)
            shape, dtype = weight.shape, weight.dtype
        dtypes[dtype] += math.prod(shape)
        parameters += math.prod(shape)
    usual = dtypes.most_common(1)[0][0].lower() if dtypes else "unknown"
    return Architecture(config, weights, parameters, usual, quantization, written_by_mlx)


def _weight(
    module: str, tensor: Tensor, tensors: Mapping[str, Tensor], quantization: Mapping[str, Any] | None
) -> Weight:
    if tensor.dtype == "U8" and tensor.shape and f"{module}.{TENSOR_SCALE}" in tensors:
        return Weight(module, (*tensor.shape[:-1], tensor.shape[-1] * 2), "BF16", 4)
    scales = tensors.get(f"{module}.scales")
    if tensor.dtype != "U32" or scales is None:
        return Weight(module, tensor.shape, tensor.dtype, None)
    own = (quantization or {}).get(module, {})
    settings = {**(quantization or {}), **(own if isinstance(own, dict) else {})}
    bits = settings.get("bits", 4)
    if bits not in (2, 3, 4, 5, 6, 8) or (tensor.shape[-1] * 32) % bits:
        raise FormatError(f"the packed weight of {module} does not fit {bits!r} bits")
    width = tensor.shape[-1] * 32 // int(bits)
    # mx and nv formats keep one byte as scale; their numbers are bfloat16.
    dtype = "BF16" if scales.dtype == "U8" else scales.dtype
    return Weight(module, (*tensor.shape[:-1], width), dtype, int(bits))
