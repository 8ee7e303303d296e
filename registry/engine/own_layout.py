"""A base's own layout: the names that its tensors have on disk, for models whose class in mlx-lm drops some of them.

mlx-lm has the language model of a base that sees, and drops its tower.  Such a base is fused under its own names, with the
adapted modules in place of the base's and every other tensor as it is, so that nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import FusionUnsupportedError
from .whole import REPLACED

if TYPE_CHECKING:
    from .base import Base, Source

_DROPPABLE = re.compile(
    # Buffers, which every library computes anew.
    r"(.*\.)?(inv_freq|rotary_emb\.\w+|rope\.freqs|masked_bias|position_ids)|(.*\.)?(attn|attention)\.bias"
    # Scales of activations and of cached keys and values, which mlx-lm does not quantise.
    r"|.*\.(input_scale|output_scale|activation_scale|k_scale|v_scale)"
    # Heads that predict further tokens, which only speeds generation up.
    r"|(.*\.)?(mtp|mtp_layers|mtp_block|nextn)\..*"
)
_LAYER = re.compile(r"(?:(?:model|language_model)\.)*layers\.(\d+)\..*")


@dataclass(frozen=True, slots=True)
class OwnLayout:
    """The layout that a base has on disk.

    Attributes:
        names: the name on disk of each tensor that mlx-lm keeps as it is, by mlx-lm's.
        copied: tensors that mlx-lm drops or computes others from, by their names on disk.
        dropped: names of those that it drops.
    """

    names: Mapping[str, str]
    copied: Mapping[str, Source]
    dropped: Collection[str]

    def name_of(self, tensor: str) -> str:
        """Return the name on disk of a tensor that mlx-lm calls `tensor`; scales are called as their weight is."""
        module, _, part = tensor.rpartition(".")
        weight = self.names.get(f"{module}.weight")
        return self.names.get(tensor) or (f"{weight.removesuffix('weight')}{part}" if weight else tensor)


def is_droppable(name: str, config: Mapping[str, Any]) -> bool:
    """Tell whether a model without a tensor is the same model: a buffer, a tied head, or a layer that only predicts ahead."""
    text = config.get("text_config")
    parts = [config, text] if isinstance(text, Mapping) else [config]
    if name.endswith("lm_head.weight") and any(part.get("tie_word_embeddings") for part in parts):
        return True
    counts = [count for part in parts if type(count := part.get("num_hidden_layers")) is int]
    layer = _LAYER.fullmatch(name)
    beyond = layer is not None and bool(counts) and int(layer[1]) >= max(counts)
    return beyond or _DROPPABLE.fullmatch(name) is not None


def in_own_layout(base: Base, computed: Collection[str]) -> Base:
    """Return a base with the tensors that are written: mlx-lm's, or those of the base's own layout.

    Args:
        base: as mlx-lm's class has it.
        computed: paths of the modules that a fuse computes.

    Raises:
        FusionUnsupportedError: a computed module has no tensor of its own on disk.
    """
    own = base.own
    if own is None:
        return base
    changed = {f"{path}.weight" for path in computed}
    changed |= {name for name, source in base.tensors.items() if source.file == REPLACED}
    if strange := sorted(changed - own.names.keys()):
        raise FusionUnsupportedError(
            f"the fused model would lose {len(own.dropped)} tensors of the base, such as {min(own.dropped)}: mlx-lm drops"
            f" them, and {strange[0]} cannot be written in the base's own layout",
            hint="for the language model alone: mlx_lm.convert --hf-path BASE --mlx-path FOLDER, then fusery base add FOLDER",
        )
    kept = {name: source for name, source in base.tensors.items() if name in own.names}
    tensors = sorted({**kept, **own.copied}.items(), key=lambda item: (item[1].file, item[1].tensor.begin))
    return replace(base, tensors=dict(tensors))
