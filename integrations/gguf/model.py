"""Models and adapters as GGUF files, for llama.cpp and everything that is built on it.

The container: ggml's gguf.md, version 3, little-endian.  llama.cpp's `gguf` package writes keys and the list of tensors, then
numbers follow in blocks.  Adapters: src/llama-adapter.cpp reads them, convert_lora_to_gguf.py writes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusery.registry.bundles.writing import HashedFile
from fusery.registry.documents import provenance_part
from fusery.registry.engine.arithmetic import FORMATS, Array, decode
from fusery.registry.engine.base import Base, read_base
from fusery.registry.engine.matrices import matrix_of
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.models.gguf_convert import WRITTEN_KINDS, blocks, interleaved, kind_of
from fusery.registry.models.gguf_llama import ROPE_FACTORS, TensorPlace, tensor_places
from fusery.storage.jsonfile import read_config

from .family import Dimensions, Value, dimension_keys, dimensions_of, refusal, rope_factors
from .tokenizer import tokenizer_keys

if TYPE_CHECKING:
    from fusery.registry.adapters.mlx_form import PlainAdapter, PlainFactors
    from fusery.registry.adapters.tensors import StoredTensor

ALIGNMENT = 32  # bytes; the default of `general.alignment`


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]  # outermost dimension first, as in PyTorch; GGUF stores the reverse
    kind: str
    blocks: Callable[[], Iterator[bytes | memoryview]]  # yields its bytes in order

    @property
    def size(self) -> int:
        """Number of bytes, padding left out."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[self.kind]]
        return int(math.prod(self.shape) // block * size)


def write_container(
    file: HashedFile, architecture: str, keys: Mapping[str, Value], tensors: Sequence[Planned]
) -> None:
    """Write a GGUF file."""
    from gguf.constants import GGMLQuantizationType

    writer = _writer(file, architecture)
    for key, value in keys.items():
        if value != "":
            writer.add_key_value(key, value, *_types(value))
    for tensor in tensors:
        kind = GGMLQuantizationType[tensor.kind]
        writer.add_tensor_info(tensor.name, tensor.shape, None, tensor.size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file.require_room(sum(tensor.size + ALIGNMENT for tensor in tensors))
    for tensor in tensors:
        file.write(bytes(-file.size % ALIGNMENT))
        begin = file.size
        for block in tensor.blocks():
            file.write(block)
        if (written := file.size - begin) != tensor.size:
            raise AssertionError(f"{tensor.name} has {written} bytes, and {tensor.size} were announced")
    file.write(bytes(-file.size % ALIGNMENT))


def _writer(file: HashedFile, architecture: str) -> Any:
    from gguf.constants import GGUFValueType
    from gguf.gguf_writer import GGUFWriter, WriterState

    class Writer(GGUFWriter):  # type: ignore[misc]  # untyped package
        """The package's writer with an open file and empty lists."""

        def open_output_file(self, path: Any = None) -> None:
            self.fout, self.state = [file], WriterState.EMPTY

        def _pack_val(self, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None) -> bytes:
            if vtype is GGUFValueType.ARRAY and not val and sub_type is not None:
                # llama.cpp requires a list of merges; that of a tokenizer of single bytes is empty.
                head = self._pack("I", vtype) if add_vtype else b""
                return bytes(head + self._pack("I", sub_type) + self._pack("Q", 0))
            return bytes(super()._pack_val(val, vtype, add_vtype, sub_type))

    return Writer(None, architecture)


def _types(value: Value) -> tuple[Any, ...]:
    from gguf.constants import GGUFValueType

    kinds = {str: "STRING", bool: "BOOL", int: "UINT32", float: "FLOAT32"}
    if isinstance(value, str | bool | int | float):
        return (GGUFValueType[kinds[type(value)]],)
    item = type(value[0]) if value else str
    return GGUFValueType.ARRAY, GGUFValueType["INT32" if item is int else kinds[item]]


# `general.file_type` by the type that most matrices have (llama.h, `llama_ftype`).
_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be written."""

    files: Mapping[str, Path]
    config: Mapping[str, Any]
    dimensions: Dimensions
    base: Base

    @property
    def places(self) -> dict[str, TensorPlace]:
        """Its tensors by their names in its files, in the order of the GGUF file."""
        family, names = self.dimensions.family, self.base.tensors.keys()
        options = {"head_norms": family.name == "qwen3", "interleaved": family.interleaved}
        all_places = tensor_places(self.dimensions, lambda bias: bias.name in names, **options)
        places = {place.name: place for place in all_places}
        if missing := next((name for name in places if name not in names), None):
            raise refusal(f"it has no tensor {missing}")
        packed = {name.removesuffix("scales") for name in names if name.endswith(".scales")}
        packed_parts = {f"{name}{part}" for name in packed for part in ("scales", "biases")}
        if rest := names - places.keys() - packed_parts:
            raise refusal(f"llama.cpp has no place for {min(rest)[:80]!r}")
        return places


def read_model(files: Mapping[str, Path]) -> Model:
    """Read a model's configuration and headers."""
    for package in ("gguf", "tokenizers"):
        try:
            import_module(package)
        except ImportError as error:
            raise MissingExtraError("writing a GGUF file", "gguf") from error
    config = read_config(files["config.json"])
    return Model(files, config, dimensions_of(config), read_base(files, config))


def write_model_gguf(file: HashedFile, model: Model, keys: Mapping[str, Value], wanted: str | None) -> None:
    """Write a model; the same model gives the same bytes."""
    if wanted is not None and wanted not in WRITTEN_KINDS:
        hint = f"-o gguf_type={'|'.join(WRITTEN_KINDS)}"
        raise BadInputError(f"unknown format of matrices: {wanted[:20]!r}", hint=hint)
    tensors = [_planned(model, place, wanted) for place in model.places.values()]
    if (factors := rope_factors(model.dimensions)) is not None:
        tensors.append(Planned(ROPE_FACTORS, factors.shape, "F32", partial(_bytes, factors)))
    kinds = [tensor.kind for tensor in tensors if len(tensor.shape) > 1]
    rows = tensors[0].shape[0]  # of the embedding
    all_keys: dict[str, Value] = {
        **keys,
        "general.file_type": _FILE_TYPES[max(sorted(set(kinds)), key=kinds.count)],
        "general.quantization_version": 2,
        **dimension_keys(model.dimensions),
        **tokenizer_keys(model.files, model.config, rows),
    }
    write_container(file, model.dimensions.family.name, all_keys, tensors)


def _planned(model: Model, place: TensorPlace, wanted: str | None) -> Planned:
    matrix = matrix_of(model.base, place.name)
    if matrix.shape != place.shape:
        raise BadInputError(f"shape of {place.name}: {list(matrix.shape)} (expected: {list(place.shape)})")
    kind = kind_of(matrix, wanted)
    return Planned(place.source, matrix.shape, kind, partial(blocks, matrix, kind, place.head))


def provenance_keys(name: str, provenance: Mapping[str, Any], kind: str) -> dict[str, Value]:
    """Return the keys of a file."""
    base, adapter = provenance_part(provenance, "base"), provenance_part(provenance, "adapter")
    metadata: dict[str, object] = {
        "general.type": kind,
        "general.name": name,
        "general.finetune": adapter.get("task"),
        "general.version": f"v{adapter['version']}" if adapter.get("version") is not None else None,
    }
    if base.get("name"):
        organisation, _, short = str(base["name"]).rpartition("/")
        metadata |= {"general.base_model.0.name": short, "general.base_model.0.organization": organisation}
    metadata |= {
        "fusery.key": provenance.get("key"),
        "fusery.digest": provenance.get("digest"),
        "fusery.base.name": base.get("name"),
        "fusery.base.digest": base.get("digest"),
        "fusery.adapter.name": adapter.get("name"),
        "fusery.adapter.digest": adapter.get("digest"),
        "fusery.adapter.dataset": adapter.get("dataset"),
    }
    keys: dict[str, Value] = {key: plain(value) for key, value in metadata.items() if value not in (None, "")}
    return ({"general.base_model.count": 1} if base.get("name") else {}) | keys


def plain(value: Any) -> str:
    """Return a value as text without NUL and half characters, which become escapes."""
    return str(value).replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def write_adapter_gguf(
    file: HashedFile, name: str, adapter: PlainAdapter, model: Model, keys: Mapping[str, Value]
) -> None:
    """Write an adapter as float32; the same adapter gives the same bytes."""
    places = model.places
    tensors: list[Planned] = []
    for path, factors in adapter.modules.items():
        place = places.get(f"{path}.weight")
        if place is None or factors.shape != place.shape:
            raise BadInputError(f"{name} has an update of {path}, which is not a module of its base")
        if place.source == "token_embd.weight" and model.dimensions.tied:
            raise BadInputError(f"{name} has an update of a tied embedding, which llama.cpp cannot adapt")
        tensors += _pair(place, factors)
    lora: dict[str, Value] = {"general.file_type": 0, "adapter.type": "lora"}
    lora["adapter.lora.alpha"] = float(adapter.alpha)
    write_container(file, model.dimensions.family.name, {**keys, **lora}, tensors)


def _pair(place: TensorPlace, factors: PlainFactors) -> Iterator[Planned]:
    a, b = _values(factors.a), _values(factors.b)
    if factors.embedding:
        a = np.ascontiguousarray(a.T)  # llama.cpp looks rows up in it
    elif place.head is not None:
        b = interleaved(b, place.head)
    for part, values in (("lora_a", a), ("lora_b", b)):
        yield Planned(f"{place.source}.{part}", values.shape, "F32", partial(_bytes, values))


def _values(stored: StoredTensor) -> Array:
    form = FORMATS.get(stored.dtype)
    if form is None:
        raise BadInputError(f"an adapter with numbers of the kind {stored.dtype} is not written as GGUF")
    return decode(stored.bits.view(form.stored), form)


def _bytes(values: Array) -> Iterator[bytes]:
    yield np.ascontiguousarray(values, "<f4").tobytes()
