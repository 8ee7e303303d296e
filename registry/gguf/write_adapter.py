"""An adapter as a GGUF file for llama.cpp's `--lora`.

What llama.cpp reads: src/llama-adapter.cpp; what its converter writes: convert_lora_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..engine.arithmetic import FORMATS, Array, decode
from ..errors import BadInputError
from .write_container import Output, Planned, Value, write_container
from .write_family import Dimensions
from .write_model import logical_shape, tensor_names, turned_head
from .write_numbers import interleaved

if TYPE_CHECKING:
    from ..adapters.plain_form import Factors, PlainAdapter
    from ..adapters.tensors import Stored


def write_adapter_gguf(
    file: Output,
    name: str,
    adapter: PlainAdapter,
    model: Dimensions,
    known: Mapping[str, object],
    keys: Mapping[str, Value],
) -> int:
    """Write an adapter, its numbers as float32, and return the number of modules; the same adapter gives the same bytes.

    Args:
        file: new and empty.
        name: the adapter's, for errors.
        adapter: what it changes.
        model: the base's dimensions.
        known: the base's tensors.
        keys: where it came from.

    Raises:
        BadInputError: the base has no such module, or one of another shape, or llama.cpp cannot adapt it.
    """
    targets = tensor_names(model, known)
    tensors: list[Planned] = []
    for path, factors in adapter.modules.items():
        target = targets.get(f"{path}.weight")
        if target is None or factors.shape != logical_shape(model, f"{path}.weight"):
            raise BadInputError(
                f"{name} has an update of {path}, and its base has no such module of that shape"
            )
        if target == "token_embd.weight" and "output.weight" not in targets.values():
            raise BadInputError(
                f"{name} has an update of the embedding, which is the head as well: llama.cpp cannot adapt it"
            )
        tensors += _pair(target, factors, turned_head(model, path))
    all_keys: dict[str, Value] = {
        **keys,
        "general.file_type": 0,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(adapter.alpha),
    }
    write_container(file, model.family.name, all_keys, tensors)
    return len(adapter.modules)


def _pair(target: str, factors: Factors, head: int | None) -> Iterator[Planned]:
    a, b = _values(factors.a), _values(factors.b)
    if factors.embedding:
        a = np.ascontiguousarray(a.T)  # llama.cpp looks rows up in it
    elif head is not None:
        b = interleaved(b, head)
    for part, values in (("lora_a", a), ("lora_b", b)):
        yield Planned(f"{target}.{part}", values.shape, "F32", partial(_bytes, values))


def _values(stored: Stored) -> Array:
    form = FORMATS.get(stored.dtype)
    if form is None:
        raise BadInputError(f"an adapter with numbers of the kind {stored.dtype} is not written as GGUF")
    return decode(stored.bits.view(form.stored), form)


def _bytes(values: Array) -> Iterator[bytes]:
    yield np.ascontiguousarray(values, "<f4").tobytes()
