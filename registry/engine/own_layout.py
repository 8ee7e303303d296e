"""A base's own layout: the names and shapes that its tensors have on disk, where mlx-lm's class of the model changes them.

mlx-lm stacks the experts of a base in transformers' layout, and drops the vision tower.  transformers cannot read mlx-lm's
names.  Such a base is fused under its own names: adapted modules replace the base's, every other tensor is copied.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ..errors import FusionUnsupportedError
from .base import Base
from .whole import REPLACED

_DROPPABLE = re.compile(
    # Buffers, which every library computes anew.
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
    """Return a base with the tensors to write, and the layout to write them in.

    Quantised weights have mlx-lm's layout where that is complete: only mlx-lm reads them.

    Args:
        base: as mlx-lm's class has it.
        computed: paths of the modules that a fuse computes.
        quantized: the result has quantised weights.

    Raises:
        FusionUnsupportedError: mlx-lm's layout lacks tensors, and a computed module has no tensor of its own on disk.
    """
    own = base.own
    if own is None:
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
