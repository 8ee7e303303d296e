"""From PEFT's form to mlx-lm's.

mlx-lm has one rank and one scale for all modules: smaller ranks are padded with zeros, which changes nothing, and
other scales are multiplied into `lora_b`, exactly where the factor is a power of two or the numbers have room for it.
The modules are named by their paths from the root, so the result depends on the PEFT folder alone, on no base.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError

from ..documents import write_document
from ..parsing import plural
from .files import CONFIG, WEIGHTS
from .peft_config import PeftConfig
from .peft_folder import PeftModule, some
from .remark import Remark
from .tensors import Stored, multiplied, padded, read_stored, transposed, widened, write_stored

_PADDED = 16
_BEARABLE = 256 << 20


@dataclass(frozen=True, slots=True)
class MlxPlan:
    """How modules become mlx-lm's: the common rank and scale, and each module's factor beside it."""

    config: PeftConfig
    modules: Mapping[str, PeftModule]
    rank: int
    scale: float
    factors: Mapping[str, float]


def plan_mlx(config: PeftConfig, modules: Mapping[str, PeftModule]) -> MlxPlan:
    """Choose the rank and the scale.

    Raises:
        PatternError: the scale of a module is not known.
    """
    scales = {path: config.scale_of(path) for path in modules}
    ranks = [module.rank for module in modules.values() if module.rank]
    # The most frequent scale leaves most modules as they are; of equally frequent ones the largest.
    votes = Counter(scale for scale in scales.values() if scale)
    scale = max(votes, key=lambda each: (votes[each], each)) if votes else 0.0
    factors = {path: each / scale if scale else 1.0 for path, each in scales.items()}
    return MlxPlan(config, modules, max(ranks, default=config.r), scale, factors)


def require_bearable(plan: MlxPlan, size: int) -> None:
    """Refuse a plan that makes a small file a huge one: one module of a great rank pads all others to it.

    Args:
        plan: from `plan_mlx`.
        size: bytes of the PEFT file.

    Raises:
        FormatError: the rendering would take more than 16 times as much, and more than 256 MiB.
    """
    widths = (
        width
        for module in plan.modules.values()
        for width in (module.a and module.a.shape[-1], module.b and module.b.shape[0])
        if width
    )
    needed = 4 * plan.rank * sum(widths)
    if needed > max(_PADDED * size, _BEARABLE):
        raise FormatError(
            f"with every module padded to rank {plan.rank} it would take {needed:,} bytes in mlx-lm's form"
        )


def mlx_config(plan: MlxPlan) -> dict[str, Any]:
    """Return `adapter_config.json` as `mlx_lm` reads it."""
    document: dict[str, Any] = {
        "fine_tune_type": "dora" if plan.config.use_dora else "lora",
        "lora_parameters": {
            "dropout": plan.config.lora_dropout,
            "keys": sorted(plan.modules),
            "rank": plan.rank,
            "scale": plan.scale,
        },
        "num_layers": -1,
    }
    if plan.config.base_model_name_or_path:
        document["model"] = plan.config.base_model_name_or_path
    return document


def write_mlx(weights: Path, plan: MlxPlan, folder: Path) -> list[Remark]:
    """Write the two files of mlx-lm's form into a folder, and return what is worth knowing about them.

    Args:
        weights: `adapter_model.safetensors`.
        plan: from `plan_mlx`.
        folder: exists, and has neither file.
    """
    rounded: list[str] = []
    tensors = list(_tensors(weights, plan, rounded))
    before = {each.dtype for module in plan.modules.values() for each in (module.a, module.b) if each}
    if len(before) == 1 and {tensor.dtype for name, tensor in tensors if not name.endswith(".m")} != before:
        # One format for all factors, as PEFT had it.
        tensors = [(name, tensor if name.endswith(".m") else widened(tensor)) for name, tensor in tensors]
    write_stored(folder / WEIGHTS, tensors, {})
    write_document(folder / CONFIG, mlx_config(plan))
    return list(_remarks(plan, rounded))


def _tensors(weights: Path, plan: MlxPlan, rounded: list[str]) -> Iterator[tuple[str, Stored]]:
    for path, module in plan.modules.items():
        if module.a is not None:
            yield f"{path}.lora_a", padded(transposed(read_stored(weights, module.a)), 1, plan.rank)
        if module.b is not None:
            scaled, exact = multiplied(transposed(read_stored(weights, module.b)), plan.factors[path])
            if not exact:
                rounded.append(path)
            yield f"{path}.lora_b", padded(scaled, 0, plan.rank)
        if module.m is not None:
            yield f"{path}.m", read_stored(weights, module.m)


def _remarks(plan: MlxPlan, rounded: list[str]) -> Iterator[Remark]:
    small = [path for path, module in plan.modules.items() if module.rank and module.rank < plan.rank]
    if small:
        message = f"{plural(len(small), 'module')} of a smaller rank, padded with zeros to rank {plan.rank}: {some(small)}"
        yield Remark("peft_rank_padded", "info", WEIGHTS, message)
    folded = [path for path, factor in plan.factors.items() if factor != 1 and path not in rounded]
    if folded:
        message = f"{plural(len(folded), 'module')} with another scale, which is multiplied into lora_b exactly: {some(folded)}"
        yield Remark("peft_scale_folded", "info", WEIGHTS, message)
    if rounded:
        message = (
            f"{plural(len(rounded), 'module')} with another scale, which is multiplied into lora_b in float32, "
            f"rounded once: {some(rounded)}"
        )
        yield Remark("peft_scale_rounded", "info", WEIGHTS, message)
