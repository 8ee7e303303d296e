"""What a base model is made of, from its configuration and the headers of its weight files: no model class is loaded.

A weight that is quantised in MLX's affine format lies in the file as packed 32-bit words beside `.scales` and
`.biases`; its logical shape is found from the words and the scales (FUSION 1.3).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import Header, Tensor, read_header

WEIGHTS = re.compile(r"model[^/]*\.safetensors")
"""The weight files that mlx-lm loads."""

HEADER_LIMIT = 100 << 20
_LAYER = re.compile(r"(?P<stem>(?:[A-Za-z_][\w]*\.)*?[A-Za-z_]\w*)\.(?P<index>[0-9]{1,5})\.(?P<key>.+)")


@dataclass(frozen=True, slots=True)
class Weight:
    """One module's weight as the model sees it.

    Attributes:
        module: path of the module, without `.weight`.
        shape: logical shape, unpacked when the weight is quantised: (out, in) for a linear layer.
        dtype: dtype of the numbers: of the scales when quantised.
        bits: bits per number when quantised, else None.
    """

    module: str
    shape: tuple[int, ...]
    dtype: str
    bits: int | None


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts of a base model that are recorded and that adapters are held against.

    Attributes:
        config: `config.json`.
        weights: by module path.
        parameters: numbers in all weights and biases, counted unpacked.
        dtype: the dtype that most parameters have, in the words of safetensors, lower case (`bf16`).
        quantization: MLX's `quantization` entry, or None.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Weight]
    parameters: int
    dtype: str
    quantization: Mapping[str, Any] | None

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
        stems: Counter[str] = Counter()
        found: dict[str, dict[int, dict[str, Weight]]] = {}
        for weight in self.weights.values():
            if len(weight.shape) >= 2 and (match := _LAYER.fullmatch(weight.module)):
                stems[match["stem"]] += 1
                layers = found.setdefault(match["stem"], {})
                layers.setdefault(int(match["index"]), {})[match["key"]] = weight
        return found[stems.most_common(1)[0][0]] if stems else {}

    def layer_stem(self) -> str:
        """Return the path that layer numbers follow, such as `model.layers`."""
        stems = Counter(
            match["stem"]
            for weight in self.weights.values()
            if len(weight.shape) >= 2 and (match := _LAYER.fullmatch(weight.module))
        )
        return stems.most_common(1)[0][0] if stems else ""


def read_architecture(folder: Path | Mapping[str, Path]) -> Architecture:
    """Read the architecture of a model from its folder, or from its files by name.

    Raises:
        MissingFileError: there is no `config.json`.
        FormatError: a file is malformed, there are no weights, or two shards hold the same tensor.
    """
    files = folder if isinstance(folder, Mapping) else {path.name: path for path in folder.iterdir()}
    config = read_object(files.get("config.json", Path("config.json")))
    headers = [
        read_header(path, limit=HEADER_LIMIT)
        for name, path in sorted(files.items())
        if WEIGHTS.fullmatch(name)
    ]
    if not headers:
        raise FormatError(
            "there are no weights in safetensors format",
            hint="a model folder holds model.safetensors or model-00001-of-0000N.safetensors",
        )
    return architecture_of(config, headers)


def architecture_of(config: Mapping[str, Any], headers: Iterable[Header]) -> Architecture:
    """Work out the architecture from a configuration and the headers of the shards.

    Raises:
        FormatError: two shards hold the same tensor, or a packed weight fits no format.
    """
    tensors: dict[str, Tensor] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise FormatError(f"two weight files hold the tensor {name!r}")
            tensors[name] = tensor
    quantization = config.get("quantization")
    quantization = quantization if isinstance(quantization, dict) else None
    weights = {}
    parameters = 0
    dtypes: Counter[str] = Counter()
    tied = bool(config.get("tie_word_embeddings"))
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part in ("scales", "biases") and f"{module}.scales" in tensors and f"{module}.weight" in tensors:
            continue
        if tied and module == "lm_head" and part == "weight":
            continue
        count = math.prod(tensor.shape)
        if part == "weight":
            weight = _weight(module, tensor, tensors, quantization)
            weights[module] = weight
            count = math.prod(weight.shape)
            dtypes[weight.dtype] += count
        else:
            dtypes[tensor.dtype] += count
        parameters += count
    dtype = dtypes.most_common(1)[0][0].lower() if dtypes else "unknown"
    return Architecture(config, weights, parameters, dtype, quantization)


def _weight(
    module: str, tensor: Tensor, tensors: Mapping[str, Tensor], quantization: Mapping[str, Any] | None
) -> Weight:
    scales = tensors.get(f"{module}.scales")
    if tensor.dtype != "U32" or scales is None:
        return Weight(module, tensor.shape, tensor.dtype, None)
    own = (quantization or {}).get(module, {})
    settings = {**(quantization or {}), **(own if isinstance(own, dict) else {})}
    bits = settings.get("bits", 4)
    if bits not in (2, 3, 4, 5, 6, 8) or (tensor.shape[-1] * 32) % bits:
        raise FormatError(f"the packed weight of {module} does not fit {bits!r} bits")
    width = tensor.shape[-1] * 32 // int(bits)
    # mx and nv formats keep one byte as scale; their numbers are bfloat16 (FUSION 1.1).
    dtype = "BF16" if scales.dtype == "U8" else scales.dtype
    return Weight(module, (*tensor.shape[:-1], width), dtype, int(bits))
