"""Whether a base's tensors can be taken by their names on disk, from its configuration alone (docs/internals/arithmetic.md).

Light on purpose: the key of a fused artifact depends on it, and keys are computed before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..errors import FusionUnsupportedError
from .architectures import CHANGED_BY_LOADING, OWN_QUANTISATION, architecture_of


class NeedsModelClassError(FusionUnsupportedError):
    """The names of the tensors do not tell enough: mlx-lm's own class of the model has to."""


def taken_by_name(
    config: Mapping[str, Any], files: Collection[str], *, written_by_mlx: bool, quantize: bool = False
) -> bool:
    """Tell from the configuration whether a base's tensors can be taken by their names, without mlx-lm.

    Args:
        config: the parsed `config.json`.
        files: names of all files of the base.
        written_by_mlx: all weight files say so.
        quantize: every layer is to be quantised anew.
    """
    if quantize and not quantised_alike(config):
        return False
    try:
        require_by_name(config, written_by_mlx=written_by_mlx)
        require_plain_quantization(files, config)
    except NeedsModelClassError:
        return False
    except FusionUnsupportedError:
        return True  # nobody can fuse it, which is said when it is tried
    return True


def quantised_alike(config: Mapping[str, Any]) -> bool:
    """Tell whether mlx-lm is known to quantise every matrix of an architecture, and all in the same way."""
    model_type = str(config.get("model_type"))
    return architecture_of(model_type) is not None and model_type not in OWN_QUANTISATION


def require_by_name(config: Mapping[str, Any], *, written_by_mlx: bool) -> None:
    """Raise unless the names of the tensors are those of mlx-lm's modules.

    Raises:
        NeedsModelClassError: mlx-lm changes them as it loads the base.
        FusionUnsupportedError: the base cannot be fused.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise FusionUnsupportedError("the base's config.json has no model_type")
    if config.get("model_file") is not None:
        raise FusionUnsupportedError("the base brings its own code (model_file), which is never run")
    by_name = written_by_mlx or architecture_of(model_type) is not None
    if model_type in CHANGED_BY_LOADING or not by_name:
        raise NeedsModelClassError(f"mlx-lm rearranges a base of the architecture {model_type[:40]!r}")


def require_plain_quantization(files: Collection[str], config: Mapping[str, Any]) -> None:
    """Raise unless the base is not quantised, or as MLX does it.

    Raises:
        NeedsModelClassError: another tool did it, in a way that mlx-lm may know.
        FusionUnsupportedError: the base cannot be fused.
    """
    if config.get("quantize_activations"):
        raise FusionUnsupportedError(
            "a base with quantised activations cannot be fused, not by mlx-lm either"
        )
    quantization = config.get("quantization")
    if quantization is not None:
        sound = isinstance(quantization, Mapping) and {"bits", "group_size"} <= quantization.keys()
        if not sound or not all(type(quantization[key]) is int for key in ("bits", "group_size")):
            raise FusionUnsupportedError("the quantization entry of the base's config.json is malformed")
        return
    text = config.get("text_config")
    other = config.get("quantization_config") or (
        isinstance(text, Mapping) and text.get("quantization_config")
    )
    if other or "hf_quant_config.json" in files:
        method = other.get("quant_method") if isinstance(other, Mapping) else None
        raise NeedsModelClassError(f"the base was quantised by {str(method or 'another tool')[:40]}")
