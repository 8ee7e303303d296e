"""Reading the tensors of adapters: the low-rank update of a module, or of one of its experts, and DoRA's magnitudes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fusery.storage.safetensors import Tensor

from ..errors import FusionUnsupportedError
from .arithmetic import F32, FORMATS, Array, Update, decode
from .files import read_all
from .modules import Module, Part


def read_update(module: Module, expert: int, files: Mapping[Path, int]) -> Update:
    """Return the update of a module or of one of its experts.

    Several adapters make one update, whose rank is the sum of theirs: what `mlx_lm.fuse` makes of an adapter whose
    factors are those of all, one behind the other.

    Args:
        module: which.
        expert: which of its experts, 0 if it has none.
        files: descriptors of the adapters' files.

    Raises:
        FusionUnsupportedError: it holds a number that is not finite.
        BlobCorruptError: a file ends before it should.
    """
    if not module.parts:
        return Update.nothing(module.rows, module.columns)
    try:
        updates = [_one(part, expert, module.embedding, files[part.path]) for part in module.parts]
    except ValueError:
        raise FusionUnsupportedError(
            f"the adapter's update of {module.path} holds numbers that are not finite"
        ) from None
    return updates[0] if len(updates) == 1 else _joined(updates)


def read_magnitudes(module: Module, files: Mapping[Path, int]) -> Array | None:
    """Return DoRA's magnitudes of a module, float32 (rows,); None with LoRA.

    Raises:
        FusionUnsupportedError: one is not finite.
        BlobCorruptError: the file ends before it should.
    """
    if module.magnitudes is None:
        return None
    path, tensor = module.magnitudes
    values = decode(_read(tensor, files[path]), FORMATS[tensor.dtype])
    if not np.isfinite(values).all():
        raise FusionUnsupportedError(
            f"the adapter's magnitudes of {module.path} hold numbers that are not finite"
        )
    return values


def _one(part: Part, expert: int, embedding: bool, file: int) -> Update:
    factors = part.factors
    forms = FORMATS[factors.a.dtype], FORMATS[factors.b.dtype]
    if factors.switch:
        # An expert's factors stand the other way round than those of a linear layer.
        a, b = (_read(tensor, file, expert).T for tensor in (factors.a, factors.b))
    else:
        a, b = (_read(tensor, file) for tensor in (factors.a, factors.b))
    return Update.of(a, b, *forms, part.scale, embedding=embedding)


def _joined(updates: list[Update]) -> Update:
    forms = {update.form.name for update in updates}
    form = updates[0].form if len(forms) == 1 else F32
    return Update(
        np.concatenate([update.left for update in updates]),
        np.concatenate([update.right for update in updates]),
        form,
        min(update.smallest for update in updates),
        sum(update.largest for update in updates),
    )


def _read(tensor: Tensor, file: int, expert: int | None = None) -> Array:
    """Read a tensor of an adapter, or one expert's part of it, as stored."""
    size, begin, shape = tensor.size, tensor.begin, tensor.shape
    if expert is not None:
        size, shape = size // shape[0], shape[1:]
        begin += expert * size
    data = np.empty(size, np.uint8)
    read_all(file, data.data, begin)
    return data.view(FORMATS[tensor.dtype].stored).reshape(shape)
