"""From PEFT's form to mlx-lm's.

mlx-lm has one rank and one scale for all modules: smaller ranks are padded with zeros, which changes nothing, and
other scales are multiplied into `lora_b`, exactly where the factor is a power of two or the numbers have room for it.
The modules are named by their paths from the root, so the result depends on the PEFT folder alone; of QA-LoRA, of experts and
of models that see, which mlx-lm calls otherwise than PEFT, on the base's configuration and shapes as well, which are on record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError

from ..documents import write_document
from ..parsing import plural
from .files import CONFIG, WEIGHTS
from .peft_config import PeftConfig
from .peft_experts import SwitchFactors
from .peft_folder import PeftModule, some
from .remark import Remark
from .tensors import Stored, multiplied, padded, read_stored, repeated, transposed, widened, write_stored
from .trained_through import kept_entries

_PADDED = 16
_BEARABLE = 256 << 20


@dataclass(frozen=True, slots=True)
class MlxPlan:
    """How modules become mlx-lm's: the common rank and scale, and each module's factor beside it, switch layers too."""

    config: PeftConfig
    modules: Mapping[str, PeftModule]
    rank: int
    scale: float
    factors: Mapping[str, float]
    switches: Mapping[str, SwitchFactors] = field(default_factory=dict)

    @property
    def ranks(self) -> dict[str, int | None]:
        """The rank that each module's tensors have in the file."""
        own = {path: module.rank for path, module in self.modules.items()}
        return own | {path: switch.factors.rank for path, switch in self.switches.items()}


def plan_mlx(
    config: PeftConfig,
    modules: Mapping[str, PeftModule],
    switches: Mapping[str, SwitchFactors] | None = None,
) -> MlxPlan:
    """Choose the rank and the scale.

    Args:
        config: the adapter's.
        modules: linear layers and embeddings, by mlx-lm's paths.
        switches: switch layers.

    Raises:
        PatternError: the scale of a module is not known.
    """
    switches = switches or {}
    scales = {path: config.scale_of(module.path) * module.gain for path, module in modules.items()}
    scales |= {path: config.scale_of(switch.factors.name) for path, switch in switches.items()}
    # The most frequent scale leaves most modules as they are; of equally frequent ones the largest.
    votes = Counter(scale for scale in scales.values() if scale)
    scale = max(votes, key=lambda each: (votes[each], each)) if votes else 0.0
    factors = {path: each / scale if scale else 1.0 for path, each in scales.items()}
    plan = MlxPlan(config, modules, config.r, scale, factors, switches)
    return replace(plan, rank=max(filter(None, plan.ranks.values()), default=config.r))


def require_bearable(plan: MlxPlan, size: int) -> None:
    """Refuse a plan that makes a small file a huge one: one module of a great rank pads all others to it.

    Args:
        plan: from `plan_mlx`.
        size: bytes of the PEFT file.

    Raises:
        FormatError: the rendering would take more than 16 times as much, and more than 256 MiB.
    """
    widths = [
        width
        for module in plan.modules.values()
        for width in (module.a and module.a.shape[-1] * module.pooled, module.b and module.b.shape[0])
        if width
    ]
    for switch in plan.switches.values():
        a, b = switch.factors.a, switch.factors.b
        widths.append(switch.factors.experts * (a.shape[1] + b.shape[0]))
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
            "keys": sorted({*plan.modules, *plan.switches}),
            "rank": plan.rank,
            "scale": plan.scale,
        },
        "num_layers": -1,
    }
    document |= kept_entries(plan.config.model_extra or {})
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
    pairs = [(module.a, module.b) for module in plan.modules.values()]
    pairs += [(switch.factors.a, switch.factors.b) for switch in plan.switches.values()]
    before = {each.dtype for pair in pairs for each in pair if each}
    if len(before) == 1 and {tensor.dtype for name, tensor in tensors if not name.endswith(".m")} != before:
        # One format for all factors, as PEFT had it.
        tensors = [(name, tensor if name.endswith(".m") else widened(tensor)) for name, tensor in tensors]
    write_stored(folder / WEIGHTS, tensors, {})
    write_document(folder / CONFIG, mlx_config(plan))
    return list(_remarks(plan, rounded))


def _tensors(weights: Path, plan: MlxPlan, rounded: list[str]) -> Iterator[tuple[str, Stored]]:
    for path, module in plan.modules.items():
        if module.a is not None:
            a = repeated(read_stored(weights, module.a), module.pooled)
            yield f"{path}.lora_a", padded(transposed(a), 1, plan.rank)
        if module.b is not None:
            scaled, exact = multiplied(transposed(read_stored(weights, module.b)), plan.factors[path])
            if not exact:
                rounded.append(path)
            yield f"{path}.lora_b", padded(scaled, 0, plan.rank)
        if module.m is not None:
            yield f"{path}.m", read_stored(weights, module.m)
    for path, switch in plan.switches.items():
        a, b = _experts(weights, switch)
        scaled, exact = multiplied(b, plan.factors[path])
        if not exact:
            rounded.append(path)
        yield f"{path}.lora_a", padded(a, 1, plan.rank)
        yield f"{path}.lora_b", padded(scaled, 2, plan.rank)


def _experts(weights: Path, switch: SwitchFactors) -> tuple[Stored, Stored]:
    """Return the factors of a switch layer: (experts, rank, in) and (experts, out, rank)."""
    factors = switch.factors
    shape = (factors.experts, factors.rank)
    a, b = read_stored(weights, factors.a), read_stored(weights, factors.b)
    # In B the expert's number runs fastest.
    left = a.bits.reshape(*shape, -1)
    right = b.bits.reshape(-1, *shape[::-1]).transpose(2, 0, 1)
    if switch.turned:
        left, right = right.transpose(0, 2, 1), left.transpose(0, 2, 1)
        a, b = b, a
    return Stored(a.dtype, left), Stored(b.dtype, right[:, switch.rows])


def _remarks(plan: MlxPlan, rounded: list[str]) -> Iterator[Remark]:
    small = [path for path, rank in plan.ranks.items() if rank and rank < plan.rank]
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
