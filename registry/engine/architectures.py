"""Which architectures have on-disk tensor names that are mlx-lm's module names, and what its `sanitize` drops.

A base that mlx-lm wrote ("format": "mlx") has module names.  Others are taken by name only if the architecture is in this table (from
mlx-lm 0.32.2; a test compares it).  Light on purpose: keys of fused artifacts are computed before anything is loaded.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import FusionUnsupportedError, MissingExtraError


@dataclass(frozen=True, slots=True)
class TensorNames:
    """The changes that mlx-lm makes to the tensors of one `model_type` when loading it."""

    drops: tuple[str, ...] = ()  # a tensor whose name holds one of these is dropped
    drops_prefix: str | None = None  # a tensor whose name begins so is dropped
    # `lm_head.weight` is dropped if `tie_word_embeddings` holds, and this is its default; None: never.
    tied: bool | None = None
    needs: str | None = None  # a tensor that mlx-lm would make up if it were missing

    def dropped(self, names: Iterable[str], config: Mapping[str, Any]) -> set[str]:
        """Return those of `names` that mlx-lm drops."""
        dropped_names = {name for name in names if any(part in name for part in self.drops)}
        if self.drops_prefix is not None:
            dropped_names |= {name for name in names if name.startswith(self.drops_prefix)}
        if self.tied is not None and config.get("tie_word_embeddings", self.tied):
            dropped_names.add("lm_head.weight")
        return dropped_names & set(names)


TENSOR_SCALE = "weight_scale_2"  # ModelOpt's name for the scale of a whole tensor
TENSOR_SCALED = "nvfp4_tensor_scale"  # not a mode of MLX: NVFP4 with a float32 scale for each tensor

_ROTARY = ("self_attn.rotary_emb.inv_freq",)
_ROPE = ("attention.rope.inv_freq",)

_BY_NAME: Final = TensorNames()
_HEAD_IF_TIED: Final = TensorNames(tied=True)
_ROTARY_AND_HEAD: Final = TensorNames(_ROTARY, tied=True)

# Model types whose tensors may be taken by name in any layout; every matrix of their layers is linear.
TABLE: Final[Mapping[str, TensorNames]] = {
    "gemma3_text": _BY_NAME,
    "glm": _ROTARY_AND_HEAD,
    "granite": _HEAD_IF_TIED,
    "hunyuan_v1_dense": TensorNames(tied=False),
    "internlm2": TensorNames(_ROPE),
    "internlm3": TensorNames(_ROPE),
    "lille-130m": TensorNames(("rotary_emb",)),
    "llama": _ROTARY_AND_HEAD,
    "mimo": TensorNames(_ROTARY, "model.mtp_layers.", tied=False),
    "minicpm": TensorNames(needs="lm_head.weight"),
    "nanbeige": TensorNames(_ROTARY),
    "nemotron-nas": TensorNames(tied=False),
    "olmo2": TensorNames(_ROTARY),
    "phi3small": TensorNames(_ROTARY),
    "plamo3": _HEAD_IF_TIED,
    "qwen2": _ROTARY_AND_HEAD,
    "qwen3": TensorNames(tied=False),
    "seed_oss": _HEAD_IF_TIED,
    "smollm3": _ROTARY_AND_HEAD,
    "youtu_llm": _HEAD_IF_TIED,
} | dict.fromkeys(
    (
        *("cohere", "cohere2", "ernie4_5", "exaone", "exaone4", "gemma", "gemma2", "glm4"),
        *("gpt_bigcode", "helium", "iquestloopcoder", "llama4_text", "minicpm3", "nanochat", "nemotron"),
        *("olmo3", "openelm", "phi", "phi3", "plamo", "qwen", "stablelm", "starcoder2", "telechat3"),
    ),
    _BY_NAME,
)
# Model types that mlx-lm loads with the class of another one.
REMAPPED: Final[Mapping[str, str]] = {"mistral": "llama", "iquestcoder": "llama", "xverse": "llama"}
# Not even bases of mlx-lm can be taken by name: weights change at every load, or layers are not linear.
CHANGED_BY_LOADING: Final = frozenset({"baichuan_m1", "afm7", "bitnet"})

# Model types of the table whose class says for each layer how to quantise it (`quant_predicate`).
OWN_QUANTISATION: Final = frozenset({"granite"})

# Model types of mlx-lm that transformers reads only with code from the hub, which fused models lack.
NOT_IN_TRANSFORMERS: Final = frozenset(
    (
        *("Klear", "afm7", "baichuan_m1", "bailing_moe", "bailing_moe_linear", "bailing_moe_v3"),
        *("deepseek", "deepseek_v41", "deepseek_v41_text", "gear", "hunyuan", "internlm2"),
        *("iquestloopcoder", "joyai_llm_flash", "kimi_k2", "kimi_k3", "kimi_vl", "lfm2-vl"),
        *("lille-130m", "longcat_flash_ngram", "mimo", "minicpm", "nanbeige", "nemotron-nas", "openelm"),
        *("phi-msft", "phi3small", "phixtral", "plamo", "plamo2", "plamo3", "prism_hadamard_qwen35"),
        *("qwen", "rwkv7", "spark2_5", "talkie", "telechat3", "xverse", "youtu_llm"),
    )
)


def architecture_of(model_type: str) -> TensorNames | None:
    """Return the entry of a `model_type`, None if it is not in the table."""
    return TABLE.get(REMAPPED.get(model_type, model_type))


class NeedsModelClassError(FusionUnsupportedError):
    """The tensors cannot be read by name: mlx-lm's class of the model is needed."""

    code = "fusion_unsupported"


def taken_by_name(
    config: Mapping[str, Any], files: Collection[str], *, written_by_mlx: bool, quantize: bool = False
) -> bool:
    """Tell from the configuration whether a base's tensors can be taken by their names, without mlx-lm."""
    if quantize and not quantised_alike(config):
        return False
    try:
        require_by_name(config, written_by_mlx=written_by_mlx)
        require_plain_quantization(files, config)
    except NeedsModelClassError:
        return False
    except FusionUnsupportedError:
        return True  # it cannot be fused at all, which the fuse reports
    return True


def quantised_alike(config: Mapping[str, Any]) -> bool:
    """Tell whether mlx-lm is known to quantise every matrix of an architecture, and all in the same way."""
    model_type = str(config.get("model_type"))
    return architecture_of(model_type) is not None and model_type not in OWN_QUANTISATION


def has_tensor_scales(config: Mapping[str, Any]) -> bool:
    """Tell whether ModelOpt quantised a base to NVFP4, which has a scale for each tensor."""
    other = config.get("quantization_config")
    if config.get("quantization") is not None or not isinstance(other, Mapping):
        return False
    settings = other.get("quantization", other)
    algorithm = settings.get("quant_algo") if isinstance(settings, Mapping) else None
    return other.get("quant_method") == "modelopt" and algorithm == "NVFP4"


def require_by_name(config: Mapping[str, Any], *, written_by_mlx: bool) -> None:
    """Raise unless the names of the tensors are those of mlx-lm's modules."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise FusionUnsupportedError("the base's config.json has no model_type")
    if config.get("model_file") is not None:
        raise FusionUnsupportedError("the base brings its own code (model_file), which is never run")
    by_name = written_by_mlx or architecture_of(model_type) is not None
    if model_type in CHANGED_BY_LOADING or not by_name:
        raise NeedsModelClassError(f"mlx-lm rearranges a base of the architecture {model_type[:40]!r}")


def require_plain_quantization(files: Collection[str], config: Mapping[str, Any]) -> None:
    """Raise if the base is quantised in a format other than MLX's and ModelOpt's NVFP4."""
    if config.get("quantize_activations"):
        raise FusionUnsupportedError("a base with quantised activations cannot be fused, nor by mlx-lm")
    quantization = config.get("quantization")
    if quantization is not None:
        sound = isinstance(quantization, Mapping) and {"bits", "group_size"} <= quantization.keys()
        if not sound or not all(type(quantization[key]) is int for key in ("bits", "group_size")):
            raise FusionUnsupportedError("the quantization entry of the base's config.json is malformed")
        return
    if has_tensor_scales(config):
        return
    text = config.get("text_config")
    other = config.get("quantization_config") or (
        isinstance(text, Mapping) and text.get("quantization_config")
    )
    if other or "hf_quant_config.json" in files:
        method = other.get("quant_method") if isinstance(other, Mapping) else None
        raise NeedsModelClassError(f"the base was quantised by {str(method or 'another tool')[:40]}")


def fingerprint() -> str:
    """Name what loads a base that cannot be taken by name, without importing it."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and needed by few commands

    try:
        versions = [f"{package} {version(package)}" for package in ("mlx-lm", "mlx")]
    except PackageNotFoundError:
        raise MissingExtraError("a base whose tensors mlx-lm rearranges", "mlx") from None
    return ", ".join([*versions, f"{platform.system()}-{platform.machine()}"])


def within_layer(path: str) -> str:
    """Return a module's path within its layer; the whole path outside of layers."""
    parts = path.split(".")
    index = next((i for i, part in enumerate(parts) if part.isdigit()), -1)
    return ".".join(parts[index + 1 :])
