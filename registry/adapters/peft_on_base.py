"""PEFT's factors by the names and shapes of a base's modules in mlx-lm: what a file alone does not tell.

- Of a model that sees, transformers and mlx-lm call the language model otherwise (`models.language_model`).
- QA-LoRA has one column of A for a group of neighbouring inputs; which modules are of that kind, their shapes tell.
- Experts lie elsewhere, and otherwise (`peft_experts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..models.architecture import Architecture
from ..models.language_model import in_mlx, sees
from .files import CONFIG, PEFT_WEIGHTS
from .peft_config import PeftConfig
from .peft_experts import ExpertFactors, OnBase, place_experts
from .peft_folder import PeftModule
from .peft_methods import TRAIN
from .remark import Remark

_NAME = 120


def put_on_base(
    config: PeftConfig,
    modules: Mapping[str, PeftModule],
    experts: Sequence[ExpertFactors],
    base: Architecture | None,
) -> OnBase:
    """Find the modules of a base that an adapter's factors belong to.

    Args:
        config: the adapter's.
        modules: of single modules, as PEFT names them.
        experts: from `split_experts`.
        base: what the adapter stands on; where it is not known yet, what needs it is left out, and said to be.
    """
    if base is not None and sees(base):
        placed: dict[str, PeftModule] = {}
        for path, module in modules.items():
            if (same := placed.setdefault(in_mlx(path, base.weights), module)) is not module:
                reason = f"{same.path[:_NAME]} and {path[:_NAME]} are one module of the base"
                return OnBase({}, {}, (Remark("peft_unknown_tensor", "error", PEFT_WEIGHTS, reason),))
        modules = placed
    if config.use_qalora:
        if (why := _not_computed(config)) is not None:
            return OnBase({}, {}, (Remark("peft_variant", "error", CONFIG, why, TRAIN),))
        if base is not None and config.group is not None:
            modules = {path: _pooled(path, module, config.group, base) for path, module in modules.items()}
    return place_experts(config, modules, experts, base)


def _not_computed(config: PeftConfig) -> str | None:
    """Return why a QA-LoRA is none that can be read; None if it can."""
    if config.group is None:
        # PEFT multiplies by the number of groups where the base's layer was quantised, and with groups of one input the
        # shapes do not tell where.
        size = str(config.qalora_group_size)[:20]
        return f"qalora_group_size is {size}, and QA-LoRA's modules cannot be told from others by that"
    # PEFT makes no such layer (`GPTQLoraLinear` of peft 0.21.2, src/peft/tuners/lora/gptq.py).
    return "use_qalora with use_dora is nothing that PEFT computes" if config.use_dora else None


def _pooled(path: str, module: PeftModule, group: int, base: Architecture) -> PeftModule:
    """Return a module with the size of its groups; what PEFT did not quantise is plain LoRA beside it, and has all columns."""
    weight = base.weights.get(path)
    if module.embedding or module.a is None or weight is None or len(module.a.shape) != 2:
        return module
    return replace(module, pooled=group) if module.a.shape[1] * group == weight.shape[-1] else module
