"""Which architectures have on-disk tensor names that are mlx-lm's module names, and what its `sanitize` drops.

A base that mlx-lm wrote ("format": "mlx") has passed `sanitize` already: its names are module names, whatever the
architecture.  A base as Hugging Face lays it out may only be taken by name if the architecture is in this table,
where `sanitize` is missing or only drops tensors (from mlx-lm 0.32.2; a test compares the table with the installed
mlx-lm).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Architecture:
    """What mlx-lm does to the tensors of one `model_type` when loading it.

    Attributes:
        drops: a tensor whose name holds one of these is dropped.
        drops_prefix: a tensor whose name begins so is dropped.
        tied: `lm_head.weight` is dropped if `tie_word_embeddings` holds, and this is its default; None: never.
        needs: a tensor that mlx-lm would make up if it were missing.
    """

    drops: tuple[str, ...] = ()
    drops_prefix: str | None = None
    tied: bool | None = None
    needs: str | None = None

    def dropped(self, names: Iterable[str], config: Mapping[str, Any]) -> set[str]:
        """Return those of `names` that mlx-lm drops."""
        found = {name for name in names if any(part in name for part in self.drops)}
        if self.drops_prefix is not None:
            found |= {name for name in names if name.startswith(self.drops_prefix)}
        if self.tied is not None and config.get("tie_word_embeddings", self.tied):
            found.add("lm_head.weight")
        return found & set(names)


_ROTARY = ("self_attn.rotary_emb.inv_freq",)
_ROPE = ("attention.rope.inv_freq",)

_BY_NAME: Final = Architecture()
_HEAD_IF_TIED: Final = Architecture(tied=True)
_ROTARY_AND_HEAD: Final = Architecture(_ROTARY, tied=True)

TABLE: Final[Mapping[str, Architecture]] = {
    "gemma3_text": _BY_NAME,
    "glm": _ROTARY_AND_HEAD,
    "granite": _HEAD_IF_TIED,
    "hunyuan_v1_dense": Architecture(tied=False),
    "internlm2": Architecture(_ROPE),
    "internlm3": Architecture(_ROPE),
    "lille-130m": Architecture(("rotary_emb",)),
    "llama": _ROTARY_AND_HEAD,
    "mimo": Architecture(_ROTARY, "model.mtp_layers.", tied=False),
    "minicpm": Architecture(needs="lm_head.weight"),
    "nanbeige": Architecture(_ROTARY),
    "nemotron-nas": Architecture(tied=False),
    "olmo2": Architecture(_ROTARY),
    "phi3small": Architecture(_ROTARY),
    "plamo3": _HEAD_IF_TIED,
    "qwen2": _ROTARY_AND_HEAD,
    "qwen3": Architecture(tied=False),
    "seed_oss": _HEAD_IF_TIED,
    "smollm3": _ROTARY_AND_HEAD,
    "youtu_llm": _HEAD_IF_TIED,
} | dict.fromkeys(
    (
        "cohere",
        "cohere2",
        "ernie4_5",
        "exaone",
        "exaone4",
        "gemma",
        "gemma2",
        "glm4",
        "gpt_bigcode",
        "helium",
        "iquestloopcoder",
        "llama4_text",
        "minicpm3",
        "nanochat",
        "nemotron",
        "olmo3",
        "openelm",
        "phi",
        "phi3",
        "plamo",
        "qwen",
        "stablelm",
        "starcoder2",
        "telechat3",
    ),
    _BY_NAME,
)
"""Model types whose tensors may be taken by name in any layout.  In all of them every matrix of a layer is linear."""

REMAPPED: Final[Mapping[str, str]] = {"mistral": "llama", "iquestcoder": "llama", "xverse": "llama"}
"""Model types that mlx-lm loads with the class of another one."""

CHANGED_BY_LOADING: Final = frozenset({"baichuan_m1", "afm7", "bitnet"})
"""Not even bases written by mlx-lm can be taken by name: weights change at every load, or layers are not linear."""


OWN_QUANTISATION: Final = frozenset({"granite"})
"""Model types of the table whose class says for each layer how to quantise it (`quant_predicate`)."""


NOT_IN_TRANSFORMERS: Final = frozenset(
    (
        "Klear",
        "afm7",
        "baichuan_m1",
        "bailing_moe",
        "bailing_moe_linear",
        "bailing_moe_v3",
        "deepseek",
        "deepseek_v41",
        "deepseek_v41_text",
        "gear",
        "hunyuan",
        "internlm2",
        "iquestloopcoder",
        "joyai_llm_flash",
        "kimi_k2",
        "kimi_k3",
        "kimi_vl",
        "lfm2-vl",
        "lille-130m",
        "longcat_flash_ngram",
        "mimo",
        "minicpm",
        "nanbeige",
        "nemotron-nas",
        "openelm",
        "phi-msft",
        "phi3small",
        "phixtral",
        "plamo",
        "plamo2",
        "plamo3",
        "prism_hadamard_qwen35",
        "qwen",
        "rwkv7",
        "spark2_5",
        "talkie",
        "telechat3",
        "xverse",
        "youtu_llm",
    )
)
"""Model types of mlx-lm that transformers reads only with code from the hub, which a fused model never contains."""


def architecture_of(model_type: str) -> Architecture | None:
    """Return the entry of a `model_type`, None if it is not in the table."""
    return TABLE.get(REMAPPED.get(model_type, model_type))
