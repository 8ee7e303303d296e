"""Where transformers and mlx-lm differ: the names of experts and of language models that see, and sliding windows.

transformers 5 holds (experts, 2 * inner, outer) as `gate_up_proj`, and `down_proj`; mlx-lm's `sanitize` makes `gate_proj`, `up_proj`
and `down_proj` of them, (experts, out, in): of halves, or in gpt_oss of every other row.
Of a model that sees, mlx-lm has `language_model.model.layers.0`; transformers 5 `model.language_model.layers.0`, before 4.52 either's.

Sources: transformers 5.24, src/transformers/models/*/{modeling,configuration}_*.py (for old names `_checkpoint_conversion_mapping`
in 4.52), and `sanitize` in mlx-lm 0.32.2, mlx_lm/models/*.py.  Tests compare the tables with both libraries.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .architecture import Architecture

GATE_UP, DOWN = "gate_up_proj", "down_proj"
# The experts' parameters in transformers, in the order of their classes, to mlx-lm's switch layers.
PROJECTIONS: Final[Mapping[str, tuple[str, ...]]] = {GATE_UP: ("gate_proj", "up_proj"), DOWN: ("down_proj",)}


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """The names in one class, as paths within a layer."""

    experts: str = "mlp.experts"  # the module in transformers that has the parameters
    switch: str = "mlp.switch_mlp"  # the module in mlx-lm that has the switch layers
    # the router in transformers and in mlx-lm, where it is a linear layer there; else None.
    routers: tuple[str, str] | None = ("mlp.gate", "mlp.gate")
    # the rows of `gate_up_proj` are gate's and up's in turn, not one half and the other.
    interleaved: bool = False
    transposed: bool = False  # transformers holds (experts, in, out), and says so (`is_transposed`)

    def rows(self, projection: str, total: int) -> slice:
        """Return which of a parameter's output rows are those of a projection."""
        if projection == "down_proj":
            return slice(0, total)
        second = projection == "up_proj"
        if self.interleaved:
            return slice(int(second), total, 2)
        return slice(total // 2, total) if second else slice(0, total // 2)


_BLOCK_SPARSE: Final = ExpertLayout(
    switch="block_sparse_moe.switch_mlp", routers=("mlp.gate", "block_sparse_moe.gate")
)
_OWN_ROUTER: Final = ExpertLayout(routers=None)

# Model types whose experts are known in both libraries.
LAYOUTS: Final[Mapping[str, ExpertLayout]] = {
    "ernie4_5_moe": ExpertLayout(),
    "exaone_moe": _OWN_ROUTER,
    "glm4_moe": _OWN_ROUTER,
    "gpt_oss": ExpertLayout(
        switch="mlp.experts", routers=("mlp.router", "mlp.router"), interleaved=True, transposed=True
    ),
    "minimax_m2": _BLOCK_SPARSE,
    "mixtral": _BLOCK_SPARSE,
    "olmoe": ExpertLayout(),
    "phimoe": ExpertLayout(
        switch="block_sparse_moe.switch_mlp", routers=("mlp.router", "block_sparse_moe.gate")
    ),
    "qwen2_moe": ExpertLayout(),
    "qwen3_moe": ExpertLayout(),
    "qwen3_next": ExpertLayout(),
}


def expert_layout(config: Mapping[str, Any]) -> ExpertLayout | None:
    """Return where a base keeps its experts, None where that is not known."""
    return LAYOUTS.get(str(config.get("model_type")))


HEAD: Final = "language_model.lm_head"  # The head in mlx-lm
_MLX = "language_model.model."
_TODAY = "model.language_model."
_PREFIXES = (_TODAY, _MLX, "model.")

# Model types whose language model has the same modules in both, but under another path.
ALIKE: Final = frozenset(
    {"gemma3", "gemma4", "llava", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl"}
)


def sees(base: Architecture) -> bool:
    """Tell whether mlx-lm keeps a base's language model apart, beside what it sees with."""
    return any(path.startswith(_MLX) for path in base.weights)


def in_mlx(path: str, weights: Container[str]) -> str:
    """Return the name that mlx-lm has for a module of transformers' language model; what it does not have keeps its name."""
    if path in weights:
        return path
    if path == "lm_head" and HEAD in weights:
        return HEAD
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            mlx_path = _MLX + path.removeprefix(prefix)
            return mlx_path if mlx_path in weights else path
    return path


def in_transformers(path: str, prefix: str = _TODAY) -> str:
    """Return the name that transformers has for a module of mlx-lm's language model."""
    if path == HEAD:
        return HEAD if prefix == _MLX else "lm_head"
    return prefix + path.removeprefix(_MLX) if path.startswith(_MLX) else path


def prefix_of(paths: Iterable[str]) -> str:
    """Return the prefix of the language model in the names of a file."""
    present_prefixes = {prefix for path in paths for prefix in _PREFIXES if path.startswith(prefix)}
    return next((prefix for prefix in _PREFIXES if prefix in present_prefixes), _TODAY)


def every_name(name: str) -> Iterator[str]:
    """Yield a tensor's name, and those that it has elsewhere if it is of a language model."""
    yield name
    if name in ("lm_head.weight", f"{HEAD}.weight"):
        yield from ("lm_head.weight", f"{HEAD}.weight")
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            yield from (other_prefix + name.removeprefix(prefix) for other_prefix in _PREFIXES)
            return


# Model types whose layers all have the window, if there is one, and the window where `config.json` has no `sliding_window`.
EVERY_LAYER: Final[Mapping[str, int | None]] = {
    "mistral": 4096,
    "mixtral": None,
    "phi3": None,
    "phimoe": None,
    "starcoder2": None,
}
# The same for model types of which some layers have it.
SOME_LAYERS: Final[Mapping[str, int | None]] = {"gemma2": 4096, "minimax": None}
# Model types that have a window only where `use_sliding_window` is true.
IF_ASKED: Final = frozenset(
    (
        *("qwen2", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_moe", "qwen2_vl", "qwen2_vl_text", "qwen3"),
        *("qwen3_moe", "smollm3"),
    )
)


def ignored_window(config: Mapping[str, Any]) -> int | None:
    """Return the window in tokens, if it is shorter than the model's context and mlx-lm ignores it; else None."""
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {"model_type": config.get("model_type"), **text}
    kind = str(config.get("model_type"))
    if kind in IF_ASKED:
        if not config.get("use_sliding_window"):
            return None
        first, count = config.get("max_window_layers"), config.get("num_hidden_layers")
        counted = kind not in ("qwen2_moe", "qwen3_moe", "smollm3") and "layer_types" not in config
        if counted and type(first) is int and type(count) is int and first >= count:
            return None  # the layers with the window would begin after the last layer
    elif kind not in EVERY_LAYER and kind not in SOME_LAYERS:
        return None
    window = config.get("sliding_window", {**EVERY_LAYER, **SOME_LAYERS}.get(kind))
    context = config.get("max_position_embeddings")
    layers = config.get("layer_types")
    if type(window) is not int or window < 1 or (type(context) is int and window >= context):
        return None
    return None if isinstance(layers, list) and "sliding_attention" not in layers else window
