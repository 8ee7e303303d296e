"""Adapters that were trained through a quantiser: the forward pass computed with quantise(W + BA), and so should what is fused.

No trainer says so in what it leaves (unsloth-zoo's `mlx/qat.py` does not), so that it is said by an entry of `adapter_config.json`
in the words of MLX's own `quantization`: `"quantization_aware": {"bits": 4, "group_size": 64}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..errors import FusionUnsupportedError

QUANTIZATION_AWARE = "quantization_aware"
"""The entry of the configuration."""

ITS_WEIGHTS = "quantization_aware_weights"
"""The entry with SHA-256 digests of the weights that were trained so.

mlx-lm takes what stands in a configuration over into that of the next run (`mlx_lm.lora -c`), which is trained as usual.
"""


def trained_through(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the format that an adapter was trained through, as MLX writes it: `group_size`, `bits`, `mode`; None of any other.

    Args:
        config: the adapter's, as it was parsed.

    Raises:
        ValueError: it is no format of MLX.
    """
    said = config.get(QUANTIZATION_AWARE)
    if said is None or said is False:
        return None
    # What knows the formats of MLX takes a while to import, and next to no adapter says this.
    from ..engine.microscaling import MODES
    from ..engine.policy import Quantize

    if isinstance(said, Mapping) and set(said) <= {"bits", "group_size", "mode"}:
        mode = said.get("mode", "affine")
        grid = MODES.get(mode) if isinstance(mode, str) else None
        bits = said.get("bits", grid and grid.bits)
        size = said.get("group_size", grid.group_size if grid else 64)
        if type(bits) is int and type(size) is int and isinstance(mode, str):
            with suppress(FusionUnsupportedError):
                return Quantize(bits, size, mode).to_dict()
    raise ValueError(f"{QUANTIZATION_AWARE} is no quantisation of mlx")


def aware_of(method: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the format that a registered adapter was trained through; None of any other, and where the entry is no format.

    Such an adapter was admitted when nobody looked at the entry, and is fused since as what its tensors are.

    Args:
        method: `lora`, `dora` or `full`.
        config: as it is on record.
    """
    try:
        return None if method == "full" else trained_through(config)
    except ValueError:
        return None


def is_of_others(config: Mapping[str, Any], digest: str) -> bool:
    """Tell whether an adapter's entry is about other weights than it has.

    Args:
        config: the adapter's, as it was parsed.
        digest: of its weights, in the form that the trainer wrote.
    """
    theirs = config.get(ITS_WEIGHTS)
    return theirs is not None and not (isinstance(theirs, list) and digest in theirs)
