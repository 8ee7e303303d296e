"""Merge-aware adapters: their training computed with quantise(W + BA), so that only the fused model is correct.

Two entries of `adapter_config.json` declare it: `"quantization_aware": {"bits": 4, "group_size": 64}` of `fusery train --qat`, and
Axolotl's `"nvfp4_merge_aware": {...}` (pull request 3822).  That is NVFP4 with the base's scale for each tensor.  Such an
adapter can be fused only on a base that ModelOpt wrote in this format, since its training used the scales of that checkpoint.

An aLoRA cannot be fused.  It is active from the last invocation tokens of a prompt on, those included; the base alone computes the
tokens before them.  If the prompt does not contain them, the base alone also computes the answer.
Source: `calculate_alora_offsets` of peft 0.21.2 (src/peft/tuners/lora/variants.py), arXiv 2504.12397.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..engine.architectures import TENSOR_SCALED
from ..errors import BadInputError, FusionUnsupportedError

QUANTIZATION_AWARE = "quantization_aware"  # The entry for a format of MLX
NVFP4_MERGE_AWARE = "nvfp4_merge_aware"  # Axolotl's entry
INVOCATION = "alora_invocation_tokens"  # PEFT's entry of an aLoRA: ids of tokens
MOST_INVOCATION = 1_000  # tokens: a server searches each prompt for them
ALORA = "peft_alora"  # The code of the finding that an adapter is an aLoRA
# The entries to keep when an adapter is converted to another form.
MERGE_AWARE = (QUANTIZATION_AWARE, NVFP4_MERGE_AWARE)
# The entry with SHA-256 digests of the weights that were trained so: mlx-lm takes the entries of a configuration over into
# that of the next run (`mlx_lm.lora -c`), which is trained as usual.
ITS_WEIGHTS = "quantization_aware_weights"
_MOST_IN_GROUP = 65_536  # inputs of a group of QA-LoRA


def group_of(config: Mapping[str, Any]) -> int | None:
    """Return how many neighbouring inputs share a column of A; None of any other adapter, and where that is no number."""
    size = config.get("qalora_group_size", 16) if config.get("use_qalora") else None
    return size if type(size) is int and 1 < size <= _MOST_IN_GROUP else None


def trained_through(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the format that an adapter was trained through, as MLX writes it: `group_size`, `bits`, `mode`; None of any other."""
    if config.get(NVFP4_MERGE_AWARE):
        return {"group_size": 16, "bits": 4, "mode": TENSOR_SCALED}
    declared_format = config.get(QUANTIZATION_AWARE)
    if declared_format is None or declared_format is False:
        return None
    # What knows the formats of MLX takes a while to import, and next to no adapter says this.
    from ..engine.microscaling import MODES
    from ..engine.policy import Quantize

    if isinstance(declared_format, Mapping) and set(declared_format) <= {"bits", "group_size", "mode"}:
        mode = declared_format.get("mode", "affine")
        grid = MODES.get(mode) if isinstance(mode, str) else None
        bits = declared_format.get("bits", grid and grid.bits)
        size = declared_format.get("group_size", grid.group_size if grid else 64)
        if type(bits) is int and type(size) is int and isinstance(mode, str):
            with suppress(FusionUnsupportedError):
                return Quantize(bits, size, mode).to_dict()
    raise ValueError(f"{QUANTIZATION_AWARE} is no quantisation of mlx")


def aware_of(method: str, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the format that a registered adapter was trained through; None of any other, and where the entry is no format."""
    # Such an adapter was admitted before the entry was checked; it is fused by its tensors.
    try:
        return None if method == "full" else trained_through(config)
    except ValueError:
        return None


def is_merge_aware(recipe: Mapping[str, Any]) -> bool:
    """Tell whether a fused model's recipe is that of a merge-aware adapter, which no other precision may have."""
    return bool(recipe.get(QUANTIZATION_AWARE))


def kept_entries(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the entries of a configuration that declare a merge-aware adapter or an aLoRA."""
    return {name: config[name] for name in (*MERGE_AWARE, INVOCATION) if config.get(name)}


def format_in_words(method: str, config: Mapping[str, Any]) -> str | None:
    """Return the format that an adapter must be fused into; None where it may be used unfused."""
    aware = aware_of(method, config)
    return None if aware is None else in_words(aware)


def in_words(aware: Mapping[str, Any]) -> str:
    """Return a format of MLX in words."""
    if aware["mode"] == TENSOR_SCALED:
        return "NVFP4 with a scale per tensor"
    return "{bits} bits in groups of {group_size} ({mode})".format(**aware)


def require_usable_unfused(
    name: str, method: str, config: Mapping[str, Any], use: str = "used unfused"
) -> None:
    """Refuse unfused use of a merge-aware adapter, since base + adapter is worse than the base."""
    if (form := format_in_words(method, config)) is None:
        return
    hint = MERGE_WITH_AXOLOTL if config.get(NVFP4_MERGE_AWARE) else f"fusery fuse {name}"
    raise BadInputError(f"{name} was trained to be fused into {form}, and cannot be {use}", hint=hint)


def require_fusable(name: str, method: str, config: Mapping[str, Any], quantization: object) -> None:
    """Refuse an aLoRA, and an adapter trained through NVFP4 if its entry or the base's `quantization` does not allow the fuse."""
    require_plain(name, config, "fused")
    if not (entry := config.get(NVFP4_MERGE_AWARE)):
        return
    declared = entry if isinstance(entry, Mapping) else {}
    ways = {key: declared.get(key, usual) for key, usual in _AXOLOTL.items()}
    if method != "lora" or ways != _AXOLOTL:
        way = ", ".join([method, *(str(value)[:40] for value in ways.values() if value)])
        fault = f"{name} was trained through NVFP4 in a way that fusery cannot merge ({way})"
    elif not isinstance(quantization, Mapping) or quantization.get("mode") != TENSOR_SCALED:
        fault = f"{name} was trained on a base in NVFP4 with a scale per tensor, and this base is in another format"
    else:
        return
    raise FusionUnsupportedError(fault, hint=MERGE_WITH_AXOLOTL)


# Axolotl's settings that fusery reproduces: new scales of groups, the base's scale of the tensor, the default backend.
_AXOLOTL = {"scale_mode": "fresh", "pts_policy": "base_fused_max", "backend": None}
MERGE_WITH_AXOLOTL = (
    "fuse it on the NVFP4 checkpoint that it was trained on, or merge it there: axolotl merge-lora CONFIG.yml;"
    f" only if the run set nvfp4_merge_aware_latent_mix: remove {NVFP4_MERGE_AWARE} from adapter_config.json and register it"
)


def is_of_others(config: Mapping[str, Any], digest: str) -> bool:
    """Tell whether an adapter's entry is about other weights than it has."""
    theirs = config.get(ITS_WEIGHTS)
    return theirs is not None and not (isinstance(theirs, list) and digest in theirs)


def require_plain(name: str, config: Mapping[str, Any], use: str) -> None:
    """Refuse an aLoRA for a use in which an adapter is active on all tokens; `use` ends the message."""
    if config.get(INVOCATION):
        problem = f"{name} is an aLoRA, active from its invocation tokens on, and cannot be {use}"
        raise BadInputError(problem, hint=f"fusery serve {name}")
