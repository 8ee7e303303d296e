"""Where a model that sees keeps its language model: transformers calls it otherwise than mlx-lm does.

mlx-lm has `language_model.model.layers.0` and `language_model.lm_head`.  transformers 5 has `model.language_model.layers.0` and
`lm_head`; before 4.52 it had `language_model.model.layers.0` and `language_model.lm_head`, or plain `model.layers.0`, and adapters
of those days are still about.

Source: `sanitize` in mlx-lm 0.32.2, mlx_lm/models/{gemma3,mistral3,qwen2_vl,qwen3_vl,qwen3_5}.py; `_checkpoint_conversion_mapping` in
transformers 4.52, src/transformers/models/*/modeling_*.py.  A test computes with both libraries what is said here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Final

from .architecture import Architecture

HEAD: Final = "language_model.lm_head"
"""The head in mlx-lm."""

_MLX = "language_model.model."
_TODAY = "model.language_model."
_PREFIXES = (_TODAY, _MLX, "model.")

ALIKE: Final = frozenset(
    {"gemma3", "gemma4", "llava", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl"}
)
"""Model types whose language model has the same modules in both, but for where it lies."""


def sees(base: Architecture) -> bool:
    """Tell whether mlx-lm keeps a base's language model apart, beside what it sees with."""
    return any(path.startswith(_MLX) for path in base.weights)


def in_mlx(path: str, weights: Container[str]) -> str:
    """Return the name that mlx-lm has for a module of transformers' language model; what it does not have keeps its name.

    Args:
        path: as PEFT writes it, without its own prefix.
        weights: the base's modules by mlx-lm's names.
    """
    if path in weights:
        return path
    if path == "lm_head" and HEAD in weights:
        return HEAD
    prefix = next((each for each in _PREFIXES if path.startswith(each)), None)
    if prefix is None:
        return path
    found = _MLX + path.removeprefix(prefix)
    return found if found in weights else path


def in_transformers(path: str, prefix: str = _TODAY) -> str:
    """Return the name that transformers has for a module of mlx-lm's language model.

    Args:
        path: in mlx-lm.
        prefix: where the language model lies; in transformers 5, unless `prefix_of` has found another.
    """
    if path == HEAD:
        return HEAD if prefix == _MLX else "lm_head"
    return prefix + path.removeprefix(_MLX) if path.startswith(_MLX) else path


def prefix_of(paths: Iterable[str]) -> str:
    """Return where the language model lies in the names of a file: of today or of other years."""
    found = {each for path in paths for each in _PREFIXES if path.startswith(each)}
    return next((each for each in _PREFIXES if each in found), _TODAY)


def every_name(name: str) -> Iterator[str]:
    """Yield a tensor's name, and those that it has elsewhere if it is of a language model."""
    yield name
    if name in ("lm_head.weight", f"{HEAD}.weight"):
        yield from ("lm_head.weight", f"{HEAD}.weight")
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            yield from (each + name.removeprefix(prefix) for each in _PREFIXES)
            return
