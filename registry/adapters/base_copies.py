"""Whole tensors in an adapter that are only copies of the base's, which change nothing and can be left out.

PEFT copies an embedding that it finds resized or adapted into the adapter by itself, and mergekit writes what it did not
decompose.  Whether such a tensor is a copy is told by its numbers, block by block: also where it has more bits than the
base's, and where the base is quantised and the copy is what it was quantised from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.errors import FormatError, FuseryError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, read_header

from ..engine.affine import pack_rows
from ..engine.arithmetic import FORMATS, Array, decode, encode
from ..engine.config import weight_names
from ..models.language_model import HEAD, every_name
from ..models.weight_sizes import affine_grid
from .peft_folder import own_name

COPY, QUANTISED_COPY, OTHER, UNKNOWN = "copy", "quantised copy", "other", "unknown"
"""What a whole tensor is to the base: its numbers; what its were quantised from; other numbers; none that it has."""

_BLOCK = 1 << 22
"""Numbers that are compared at a time."""

_EMBEDDINGS = (
    "model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "transformer.wte.weight",
)


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor, and the file that it lies in."""

    file: Path
    tensor: Tensor


def likeness(
    files: Mapping[str, Path], config: Mapping[str, Any], weights: Path, names: Sequence[str]
) -> dict[str, str]:
    """Tell of tensors in an adapter's file whether they are the base's.

    Args:
        files: the base's files by name.
        config: its `config.json`.
        weights: the adapter's file.
        names: of the tensors, as PEFT wrote them.

    Returns:
        For each: `COPY`, `QUANTISED_COPY`, `OTHER`, or `UNKNOWN` where the base has no tensor of that name and shape, or
        cannot be read.
    """
    try:
        theirs = read_header(weights).tensors
        base = {
            name: _Place(files[file], tensor)
            for file in weight_names(files)
            for name, tensor in read_header(files[file], limit=BASE_HEADER_LIMIT).tensors.items()
        }
    except FuseryError:
        return dict.fromkeys(names, UNKNOWN)
    found = {}
    for name in names:
        try:
            found[name] = _likeness(_Place(weights, theirs[name]), own_name(name), base, config)
        except (OSError, FormatError):
            found[name] = UNKNOWN
    return found


def _likeness(copy: _Place, name: str, base: Mapping[str, _Place], config: Mapping[str, Any]) -> str:
    name = next((each for each in every_name(name) if each in base), name)
    if name in ("lm_head.weight", f"{HEAD}.weight") and name not in base:  # tied: the head is the embedding
        name = next((each for each in _EMBEDDINGS if each in base), name)
    own = base.get(name)
    if own is None or copy.tensor.dtype not in FORMATS or not copy.tensor.shape:
        return UNKNOWN
    if (scales := base.get(f"{name.removesuffix('.weight')}.scales")) is not None:
        return _quantised(copy, own, scales, base.get(f"{name.removesuffix('.weight')}.biases"), name, config)
    if own.tensor.dtype not in FORMATS or own.tensor.shape != copy.tensor.shape:
        return UNKNOWN
    pairs = zip(_blocks(copy), _blocks(own), strict=True)
    return COPY if all(np.array_equal(one, other) for one, other in pairs) else OTHER


def _quantised(
    copy: _Place, words: _Place, scales: _Place, biases: _Place | None, name: str, config: Mapping[str, Any]
) -> str:
    """Quantise a copy as the base's weight is, and compare what comes out."""
    said, shape = config.get("quantization"), copy.tensor.shape
    module, dtype = name.removesuffix(".weight"), scales.tensor.dtype
    grid = affine_grid(said, module, dtype) if isinstance(said, Mapping) else None
    if grid is None or biases is None or len(shape) != 2 or shape[1] % grid.group_size:
        return UNKNOWN
    size, form = grid.group_size, grid.form
    if (shape[0], shape[1] // size) != scales.tensor.shape:
        return UNKNOWN
    for first, values in zip(range(0, shape[0], _rows(copy.tensor)), _blocks(copy), strict=True):
        if not np.array_equal(decode(encode(values, form), form), values):
            return UNKNOWN  # the base was quantised from other numbers than these, which have more bits
        packed = pack_rows(values.reshape(-1, size), grid)
        count = len(values)
        for place, made in ((words, packed.words), (scales, packed.scales), (biases, packed.biases)):
            if _bytes(place, first, count) != np.ascontiguousarray(made).tobytes():
                return OTHER
    return QUANTISED_COPY


def _rows(tensor: Tensor) -> int:
    """Return how many rows are compared at a time."""
    return max(1, _BLOCK * tensor.shape[0] // max(1, int(np.prod(tensor.shape))))


def _blocks(place: _Place) -> Iterator[Array]:
    """Yield a tensor's numbers as float32, some rows at a time."""
    form, shape = FORMATS[place.tensor.dtype], place.tensor.shape
    count = _rows(place.tensor)
    for first in range(0, shape[0], count):
        rows = min(count, shape[0] - first)
        data = np.frombuffer(_bytes(place, first, rows), form.stored)
        yield decode(data, form).reshape(rows, *shape[1:])


def _bytes(place: _Place, first: int, rows: int) -> bytes:
    """Return some rows of a tensor as they are stored."""
    width = place.tensor.size // place.tensor.shape[0]
    with place.file.open("rb", buffering=0) as file:
        file.seek(place.tensor.begin + first * width)
        data = file.read(rows * width)
    if len(data) < rows * width:
        raise FormatError("the file ends before the tensor does")
    return data
