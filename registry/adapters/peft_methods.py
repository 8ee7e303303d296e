"""PEFT's methods other than LoRA: what each of them is, and what its owner can do instead.

Source: `PeftType`, and what `merge_and_unload` and `save_as_lora` of peft 0.21.2 do; a test asks the installed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MERGE = "merge it with PEFT's merge_and_unload, and add the result as a base: fusery base add"
TRAIN = "serve it with PEFT itself, or train a LoRA"

BIASED = f"where the base's layers have biases, {MERGE}; otherwise train a LoRA: PEFT cannot merge it either"

PROMPTS: Mapping[str, str] = {
    "PROMPT_TUNING": "prompt tuning",
    "MULTITASK_PROMPT_TUNING": "multitask prompt tuning",
    "P_TUNING": "P-tuning",
    "PREFIX_TUNING": "prefix tuning",
    "CPT": "context-aware prompt tuning",
    "CARTRIDGE": "a cartridge, which is a trained key-value cache",
    "ADAPTION_PROMPT": "a LLaMA-Adapter",
}
"""Methods that put something trained before the input, and change no weight."""

UNMERGED: Mapping[str, str] = {
    "XLORA": "X-LoRA, which mixes several LoRAs anew for each token",
    "POLY": "Poly, which mixes several LoRAs by task",
    "LILY": "Lily, which shares factors between layers and mixes them by the input",
    "SHADOW": "ShadowPEFT, which runs a small model beside the base",
}
"""Methods that change what is computed in a way that no weights can hold."""

LIKE_LORA = frozenset(
    [
        "C3A",
        "DELORA",
        "FOURIERFT",
        "GRALORA",
        "LOHA",
        "LOKR",
        "MISS",
        "PSOFT",
        "RANDLORA",
        "TINYLORA",
        "UNILORA",
        "VBLORA",
        "VERA",
        "WAVEFT",
    ]
)
"""Methods whose updates PEFT can save as a LoRA, nearly."""

MERGED = frozenset(
    [
        "ADALORA",
        "ADAMSS",
        "BEFT",
        "BOFT",
        "DEFT",
        "FROD",
        "GLORA",
        "HIRA",
        "HRA",
        "IA3",
        "LN_TUNING",
        "OFT",
        "OSF",
        "PEANUT",
        "PVERA",
        "ROAD",
        "SHIRA",
        "SUPERTUNING",
        "TRAINABLE_TOKENS",
    ]
)
"""Other methods whose updates PEFT can merge."""


def reason(method: Any) -> str | None:
    """Return why an adapter of a method is refused, as the rest of a sentence about its `peft_type`; None for LoRA."""
    if method == "LORA":
        return None
    if not isinstance(method, str):
        return "is not LoRA, and no name of a method"
    if method in PROMPTS:
        return f"is {PROMPTS[method]}: it puts something before the input and changes no weight, so there is nothing to fuse"
    if method in UNMERGED:
        return f"is {UNMERGED[method]}: no weights can hold that, so there is nothing to fuse"
    if method == "BEFT":
        return "is not LoRA: it trains biases, which mlx-lm's LoRA does not have"
    return "is not LoRA, and mlx-lm has no such method"


def advice(method: Any) -> str:
    """Return what the owner of an adapter of another method than LoRA can do."""
    if not isinstance(method, str):
        return "restore adapter_config.json as PEFT saved it"
    if method in PROMPTS or method in UNMERGED:
        return TRAIN
    if method == "BEFT":
        return BIASED
    if method in LIKE_LORA:
        return (
            "save it as a LoRA that comes close with PEFT's save_as_lora(FOLDER, model, rank=32), and register that;"
            f" or {MERGE}"
        )
    if method in MERGED:
        return MERGE
    return f"if PEFT can merge it, {MERGE}"
