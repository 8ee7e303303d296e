"""A whole model as one GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.jsonfile import read_object

from ..engine.base import Base, read_base
from ..errors import BadInputError
from .write_container import Output, Planned, Value, require_gguf, write_container
from .write_family import ROPE_FACTORS, Dimensions, dimension_keys, dimensions_of, rope_factors
from .write_numbers import KINDS, Numbers, numbers_of
from .write_tokenizer import tokenizer_keys

_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
"""`general.file_type` by the type that most matrices have (llama.h, `llama_ftype`)."""

_NORMS = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
LINEAR = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_TURNED = LINEAR[:2]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be written.

    Attributes:
        files: its files, by name.
        config: its `config.json`.
        dimensions: what that says.
        base: its tensors.
    """

    files: Mapping[str, Path]
    config: Mapping[str, Any]
    dimensions: Dimensions
    base: Base

    @property
    def names(self) -> dict[str, str]:
        """llama.cpp's names of its tensors, by theirs.

        Raises:
            BadInputError: there is a tensor that llama.cpp has no place for, or one is missing.
        """
        return tensor_names(self.dimensions, self.base.tensors)


def read_model(files: Mapping[str, Path]) -> Model:
    """Read a model's configuration and headers, and see that it can be written.

    Raises:
        BadInputError: another architecture, or a variant that llama.cpp would compute differently.
        FusionUnsupportedError: its tensors cannot be taken by their names.
        MissingExtraError: `gguf` or `tokenizers` is not installed.
    """
    require_gguf()
    config = read_object(files["config.json"])
    return Model(files, config, dimensions_of(config), read_base(files, config))


def require_writable(model: Model) -> None:
    """Refuse a model with tensors or a tokenizer that a GGUF file cannot hold.

    Raises:
        BadInputError: the model has such a tensor or tokenizer.
    """
    rows = model.base.tensors[next(iter(model.names))].shape[0]
    tokenizer_keys(model.files, model.config, rows)


def write_model_gguf(file: Output, model: Model, keys: Mapping[str, Value], wanted: str | None) -> int:
    """Write a model, and return the number of its tensors; the same model gives the same bytes.

    Args:
        file: new and empty.
        model: from `read_model`.
        keys: where it came from.
        wanted: the format of the matrices, one of `numbers.KINDS`; None for what they have.

    Raises:
        BadInputError: there is no such format, the tokenizer is of another kind, or a tensor has another shape than the configuration says.
    """
    if wanted is not None and wanted not in KINDS:
        raise BadInputError(
            f"there is no format {wanted[:20]!r} for matrices", hint=f"--gguf-type {'|'.join(KINDS)}"
        )
    tensors = [_planned(model, name, target, wanted) for name, target in model.names.items()]
    factors = rope_factors(model.dimensions)
    if factors is not None:
        tensors.append(Planned(ROPE_FACTORS, factors.shape, "F32", partial(_whole, factors)))
    kinds = [tensor.kind for tensor in tensors if len(tensor.shape) > 1]
    rows = next(tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight")
    all_keys: dict[str, Value] = {
        **keys,
        "general.file_type": _FILE_TYPES[max(sorted(set(kinds)), key=kinds.count)],
        "general.quantization_version": 2,
        **dimension_keys(model.dimensions),
        **tokenizer_keys(model.files, model.config, rows),
    }
    write_container(file, model.dimensions.family.name, all_keys, tensors)
    return len(tensors)


def tensor_names(model: Dimensions, known: Mapping[str, object]) -> dict[str, str]:
    """Return llama.cpp's names of tensors, in the order in which they are written.

    Args:
        model: whose they are.
        known: the tensors that there are; parts of quantised ones do not count.
    """
    from gguf.constants import MODEL_ARCH
    from gguf.tensor_mapping import get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH[model.family.name.upper()], model.layers)
    found: dict[str, str] = {}
    for name in _expected(model, known):
        if name not in known:
            raise BadInputError(f"the model is not written as GGUF: it has no tensor {name}")
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise BadInputError(f"the model is not written as GGUF: llama.cpp has no place for {name[:80]!r}")
        found[name] = target
    packed = {name.rpartition(".")[0] for name in known if name.endswith(".scales")}
    rest = [
        name
        for name in known
        if name not in found
        and not (name.rpartition(".")[0] in packed and name.endswith((".scales", ".biases")))
    ]
    if rest:
        raise BadInputError(
            f"the model is not written as GGUF: llama.cpp has no place for {min(rest)[:80]!r}"
        )
    return found


def _expected(model: Dimensions, known: Mapping[str, object]) -> Iterator[str]:
    yield "model.embed_tokens.weight"
    for layer in range(model.layers):
        stem = f"model.layers.{layer}"
        for norm in _NORMS:
            if model.family.name == "qwen3" or not norm.startswith("self_attn"):
                yield f"{stem}.{norm}.weight"
        for key in LINEAR:
            yield f"{stem}.{key}.weight"
            if f"{stem}.{key}.bias" in known:
                yield f"{stem}.{key}.bias"
    yield "model.norm.weight"
    if not model.tied:
        yield "lm_head.weight"


def logical_shape(model: Dimensions, name: str) -> tuple[int, ...]:
    """Return the shape that a tensor must have."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    module, _, part = name.rpartition(".")
    shapes = {
        "q_proj": (queries, model.hidden),
        "k_proj": (keys, model.hidden),
        "v_proj": (keys, model.hidden),
        "o_proj": (model.hidden, queries),
        "gate_proj": (model.intermediate, model.hidden),
        "up_proj": (model.intermediate, model.hidden),
        "down_proj": (model.hidden, model.intermediate),
        "embed_tokens": (model.vocab, model.hidden),
        "lm_head": (model.vocab, model.hidden),
        "q_norm": (model.head_dim,),
        "k_norm": (model.head_dim,),
    }
    shape = shapes.get(module.rpartition(".")[2], (model.hidden,))
    return shape[:1] if part == "bias" else shape


def turned_head(model: Dimensions, module: str) -> int | None:
    """Return the width of a head where llama.cpp wants the rows of a module interleaved."""
    return model.head_dim if model.family.interleaved and module.endswith(_TURNED) else None


def _planned(model: Model, name: str, target: str, wanted: str | None) -> Planned:
    numbers: Numbers = numbers_of(model.base, name)
    expected = logical_shape(model.dimensions, name)
    if numbers.shape != expected:
        raise BadInputError(f"{name} has the shape {list(numbers.shape)}, and {list(expected)} was expected")
    kind, head = numbers.kind(wanted), turned_head(model.dimensions, name.rpartition(".")[0])
    return Planned(target, numbers.shape, kind, partial(numbers.blocks, kind, head))


def _whole(values: np.ndarray[Any, Any]) -> Iterator[bytes]:
    yield values.astype("<f4").tobytes()
