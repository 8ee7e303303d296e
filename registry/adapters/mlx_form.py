"""From PEFT's form to mlx-lm's, and to a plain form of PEFT's that every server computes alike.

mlx-lm has one rank and one scale: smaller ranks are padded with zeros, and other scales multiplied into `lora_b`, where that is exact.
The result depends on the PEFT folder alone; of QA-LoRA, experts and models that see, also on the base's recorded configuration.

Servers pass over `rank_pattern`, `alpha_pattern` and `use_rslora` (llama.cpp) or fractions in `lora_alpha` (Ollama) without a word:
that is multiplied into the factors here, or refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import FormatError

from ..documents import write_document
from ..errors import BadInputError
from . import CONFIG, PEFT_WEIGHTS, WEIGHTS, some
from .patterns import PatternError
from .peft_config import PeftConfig, lora_document
from .peft_folder import PREFIX, PeftModule
from .reading import OnBase, SwitchFactors, read_peft
from .tensors import (
    StoredTensor,
    multiplied,
    padded,
    read_stored,
    repeated,
    transposed,
    widened,
    write_stored,
)
from .trained_through import kept_entries, require_plain

if TYPE_CHECKING:
    from ..models.architecture import Architecture

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
    switches: Mapping[str, SwitchFactors]


def plan_mlx(config: PeftConfig, placed: OnBase) -> MlxPlan:
    """Choose the rank and the scale."""
    modules, switches = placed.modules, placed.switches
    scales = {path: config.scale_of(module.path) * module.gain for path, module in modules.items()}
    scales |= {path: config.scale_of(switch.factors.name) for path, switch in switches.items()}
    # The most frequent scale leaves most modules as they are; of equally frequent ones the largest.
    votes = Counter(scale for scale in scales.values() if scale)
    scale = max(votes, key=lambda scale: (votes[scale], scale), default=0.0)
    factors = {path: module_scale / scale if scale else 1.0 for path, module_scale in scales.items()}
    ranks = [module.rank for module in modules.values()]
    ranks += [switch.factors.rank for switch in switches.values()]
    rank = max(filter(None, ranks), default=config.r)
    return MlxPlan(config, modules, rank, scale, factors, switches)


def require_bearable(plan: MlxPlan, size: int) -> None:
    """Refuse a plan that makes a small file a huge one: one module of a great rank pads all others to it."""
    experts = [switch.factors for switch in plan.switches.values()]
    widths = [expert.experts * (expert.a.shape[1] + expert.b.shape[0]) for expert in experts]
    widths += [module.a.shape[-1] * module.pooled for module in plan.modules.values() if module.a]
    widths += [module.b.shape[0] for module in plan.modules.values() if module.b]
    needed = 4 * plan.rank * sum(widths)
    if needed > max(_PADDED * size, _BEARABLE):
        padded_to = f"with every module padded to rank {plan.rank}"
        raise FormatError(f"{padded_to} it would take {needed:,} bytes in mlx-lm's form")


def mlx_config(plan: MlxPlan) -> Mapping[str, Any]:
    """Return `adapter_config.json` as `mlx_lm` reads it."""
    document: dict[str, object] = {
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


def write_mlx(weights: Path, plan: MlxPlan, folder: Path) -> None:
    """Write the two files of mlx-lm's form into a folder."""
    tensors = list(_tensors(weights, plan))
    pairs = [(module.a, module.b) for module in plan.modules.values()]
    pairs += [(switch.factors.a, switch.factors.b) for switch in plan.switches.values()]
    before = {factor.dtype for pair in pairs for factor in pair if factor}
    if len(before) == 1 and {tensor.dtype for name, tensor in tensors if not name.endswith(".m")} != before:
        # One format for all factors, as PEFT had it.
        tensors = [(name, tensor if name.endswith(".m") else widened(tensor)) for name, tensor in tensors]
    write_stored(folder / WEIGHTS, tensors, {})
    write_document(folder / CONFIG, mlx_config(plan))


def _tensors(weights: Path, plan: MlxPlan) -> Iterator[tuple[str, StoredTensor]]:
    for path, module in plan.modules.items():
        if module.a is not None:
            a = repeated(read_stored(weights, module.a), module.pooled)
            yield f"{path}.lora_a", padded(transposed(a), 1, plan.rank)
        if module.b is not None:
            scaled = multiplied(transposed(read_stored(weights, module.b)), plan.factors[path])
            yield f"{path}.lora_b", padded(scaled, 0, plan.rank)
        if module.m is not None:
            yield f"{path}.m", read_stored(weights, module.m)
    for path, switch in plan.switches.items():
        a, b = _experts(weights, switch)
        yield f"{path}.lora_a", padded(a, 1, plan.rank)
        yield f"{path}.lora_b", padded(multiplied(b, plan.factors[path]), 2, plan.rank)


def _experts(weights: Path, switch: SwitchFactors) -> tuple[StoredTensor, StoredTensor]:
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
    return StoredTensor(a.dtype, left), StoredTensor(b.dtype, right[:, switch.rows])


# The hint for adapters that other servers cannot compute, and mlx-lm can.
OWN_SERVER = "--target adapters, which has a server of its own"
_MOST = 1 << 20  # A whole alpha up to which every server's arithmetic is exact


@dataclass(frozen=True, slots=True)
class PlainFactors:
    """The two factors of a module's update, which is alpha / rank times their product."""

    a: StoredTensor  # (rank, in); of an embedding (rank, rows)
    b: StoredTensor  # (out, rank); of an embedding (columns, rank)
    embedding: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight that they fit."""
        shape = (int(self.b.bits.shape[0]), int(self.a.bits.shape[1]))
        return shape[::-1] if self.embedding else shape


@dataclass(frozen=True, slots=True)
class PlainAdapter:
    """An adapter that every server computes alike."""

    rank: int
    alpha: int
    modules: Mapping[str, PlainFactors]
    raw: Mapping[str, Any]

    def config(self, base: str | None) -> Mapping[str, Any]:
        """Return `adapter_config.json`."""
        layers = self.raw.get("layers_to_transform")
        return lora_document(
            base,
            self.rank,
            self.alpha,
            self.raw.get("target_modules"),
            layers,
            exclude_modules=self.raw.get("exclude_modules"),
            # PEFT refuses a pattern without layers.
            layers_pattern=None if layers is None else self.raw.get("layers_pattern"),
            **kept_entries(self.raw),
        )

    def tensors(self) -> Iterator[tuple[str, StoredTensor]]:
        """Yield the tensors of `adapter_model.safetensors`."""
        for path, module in self.modules.items():
            form = "lora_embedding_{}" if module.embedding else "lora_{}.weight"
            yield f"{PREFIX}{path}.{form.format('A')}", module.a
            yield f"{PREFIX}{path}.{form.format('B')}", module.b


def read_plain(name: str, files: Mapping[str, Path]) -> PlainAdapter:
    """Read an adapter in PEFT's form and make it plain."""
    peft = read_peft(files)
    if peft.config is None or peft.header is None:
        raise FormatError(f"{PEFT_WEIGHTS} of {name} is not an adapter that can be read")
    require_plain(name, peft.raw, "run by this target's server")
    config, magnitudes = peft.config, any(module.m is not None for module in peft.modules.values())
    if config.use_dora or magnitudes or config.use_qalora or config.target_parameters:
        what = "is a DoRA or QA-LoRA, or adapts experts as parameters"
        raise BadInputError(f"{name} {what}, which this target's server does not compute", hint=OWN_SERVER)
    bare = sorted(path for path, module in peft.modules.items() if module.a is None or module.b is None)
    if bare or not peft.modules:
        raise FormatError(f"{name} has modules without both factors: {some(bare)}")
    try:
        plan = plan_mlx(config, OnBase(peft.modules, {}))
        scales = {path: config.scale_of(path) for path in peft.modules}
    except PatternError as error:
        raise FormatError(f"the configuration of {name} holds {error}") from error
    alpha = plan.scale * plan.rank
    whole = float(alpha).is_integer() and 0 < alpha < _MOST
    factors = plan.factors if whole else scales
    weights = files[PEFT_WEIGHTS]
    modules = {}
    for path, module in peft.modules.items():
        assert module.a is not None
        assert module.b is not None
        b = multiplied(read_stored(weights, module.b), factors[path])
        a = padded(read_stored(weights, module.a), 0, plan.rank)
        modules[path] = PlainFactors(a, padded(b, 1, plan.rank), module.embedding)
    if len({factor.dtype for module in modules.values() for factor in (module.a, module.b)}) > 1:
        for path, factors_ in modules.items():
            modules[path] = replace(factors_, a=widened(factors_.a), b=widened(factors_.b))
    return PlainAdapter(plan.rank, int(alpha) if whole else plan.rank, modules, peft.raw)


def matched_modules(name: str, adapter: PlainAdapter, base: Architecture) -> int:
    """Return how many modules of a base an adapter changes: all that it has."""
    for path, module in adapter.modules.items():
        weight = base.weights.get(path)
        if weight is None or tuple(weight.shape) != module.shape:
            raise BadInputError(f"{name} has an update of {path}, and no module of its base fits")
    return len(adapter.modules)
