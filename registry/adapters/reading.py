"""Reading a PEFT folder: its configuration, its tensors, experts among them, and what cannot be carried over.

PEFT adapts all experts of a layer in one parameter (`target_parameters`).  The file has, for E experts of rank r,

    lora_A.weight (E * r, columns)     is (E, r, columns): the experts one behind the other
    lora_B.weight (rows, r * E)        is (rows, r, E): the expert's number runs fastest

and the update of expert e is scale * B[:, :, e] @ A[e].  Of two parameters of a module, the class's first is
`experts.base_layer.lora_A`, the other `experts.lora_A`.

Which side is in: before 0.19.1 the second dimension, which turns (experts, out, in) round; 0.19.0 turned (experts, in, out); since
0.19.1 A is at the inputs, if transformers says that a class is transposed.

Source: `ParamWrapper` and `_inject_parameters` of peft 0.17.1 to 0.21.2 (src/peft/tuners/lora/layer.py, tuners_utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusery.storage.safetensors import Header, Tensor

from ..models.architecture import Architecture
from ..models.libraries import PROJECTIONS, ExpertLayout, expert_layout, in_mlx, sees
from ..parsing import plural
from . import CONFIG, PEFT_WEIGHTS, Finding, some
from .mlx_config import FileProblem, read_json, validated, weights_header
from .patterns import PatternError
from .peft_config import MERGE, TRAIN, PeftConfig, check_invocation, refusal_of_method, refused_fields
from .peft_folder import PeftModule, check_ranks, sort_tensors
from .whole import WholeTensors, read_whole

_NESTED = ".base_layer"
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})")
_SWAPPED, _SETTLED = (0, 19, 0), (0, 19, 1)
_NAME = 120


@dataclass(frozen=True, slots=True)
class ExpertFactors:
    """The factors of one parameter that holds all experts of a layer."""

    holder: str
    parameter: str
    rank: int
    a: Tensor  # (experts * rank, columns)
    b: Tensor  # (rows, rank * experts)

    @property
    def name(self) -> str:
        """The parameter's own path, which `rank_pattern` and `alpha_pattern` match."""
        return f"{self.holder}.{self.parameter}"

    @property
    def experts(self) -> int:
        """How many experts there are factors of."""
        return self.a.shape[0] // self.rank


@dataclass(frozen=True, slots=True)
class SwitchFactors:
    """What one switch layer of mlx-lm takes from a parameter's factors; turned, A is at the outputs and B at the inputs."""

    factors: ExpertFactors
    rows: slice
    turned: bool


@dataclass(frozen=True, slots=True)
class OnBase:
    """The factors of a PEFT folder by the names of a base's modules in mlx-lm."""

    modules: Mapping[str, PeftModule]
    switches: Mapping[str, SwitchFactors]
    remarks: tuple[Finding, ...] = ()


def split_experts(
    config: PeftConfig, modules: Mapping[str, PeftModule]
) -> tuple[dict[str, PeftModule], list[ExpertFactors], list[Finding]]:
    """Tell the factors of experts from those of single modules, as far as that needs no base."""
    plain: dict[str, PeftModule] = {}
    nests: dict[str, dict[int, PeftModule]] = {}
    for path, module in modules.items():
        # Two parameters are nested once; what is nested deeper belongs to none.
        holder, depth = path, 0
        while holder.endswith(_NESTED) and depth < len(PROJECTIONS):
            holder, depth = holder.removesuffix(_NESTED), depth + 1
        if config.target_parameters and holder.rpartition(".")[2] in ("experts", _NESTED[1:]):
            nests.setdefault(holder, {})[depth] = module
        else:
            plain[path] = module
    experts, remarks = [], []
    for holder, nest in nests.items():
        named = [name for name in PROJECTIONS if config.targets_parameter(f"{holder}.{name}")]
        if len(named) != len(nest) or set(nest) != set(range(len(named))):
            message = f"{_short(holder)} has the factors of {plural(len(nest), 'parameter')}, and target_parameters names {len(named)} of it"
            remarks.append(_remark(message))
            continue
        for name, module in zip(named, (nest[depth] for depth in sorted(nest, reverse=True)), strict=True):
            factors = _factors(config, holder, name, module)
            if isinstance(factors, str):
                remarks.append(_remark(f"{_short(holder)}.{name} {factors}"))
            else:
                experts.append(factors)
    return plain, experts, remarks


def _factors(config: PeftConfig, holder: str, name: str, module: PeftModule) -> ExpertFactors | str:
    """Return the factors of a parameter, or what is wrong with them."""
    if module.a is None or module.b is None or module.embedding or module.m is not None:
        return "has not lora_A and lora_B alone"
    try:
        rank = config.rank_of(f"{holder}.{name}")
        config.scale_of(f"{holder}.{name}")
    except PatternError as error:
        return f"has a rank or a scale that is not known: rank_pattern or alpha_pattern holds {error}"
    rows, columns = module.a.shape[0], module.b.shape[1]
    if rows != columns or rows % rank or not rows:
        return f"has factors that are not of rank {rank} for a number of experts: {module.a.shape}, {module.b.shape}"
    return ExpertFactors(holder, name, rank, module.a, module.b)


def place_experts(
    config: PeftConfig,
    modules: Mapping[str, PeftModule],
    experts: Sequence[ExpertFactors],
    base: Architecture | None,
) -> OnBase:
    """Find the switch layers of a base that the factors of experts belong to, and what mlx-lm calls their router."""
    if not config.target_parameters:
        return OnBase(modules, {})
    routers = {path for path in modules if config.targets_parameter(f"{path}.weight")}
    if base is None:
        left = [*routers, *(expert.name for expert in experts)]
        plain = {path: module for path, module in modules.items() if path not in routers}
        remark = _remark(f"the base of {some(left)} is unknown")
        return OnBase(plain, {}, (remark,) if left else ())
    layout = expert_layout(base.config)
    if layout is None:
        reason = f"where mlx-lm keeps the experts of {base.model_type[:40]!r} is not known here, so target_parameters cannot be carried over"
        return OnBase({}, {}, (_remark(reason, MERGE),))
    remarks: list[Finding] = []
    named: dict[str, PeftModule] = {}
    for path, module in modules.items():
        if path in routers and layout.routers is not None and path.endswith(f".{layout.routers[0]}"):
            path = path.removesuffix(layout.routers[0]) + layout.routers[1]
        elif path in routers and not path.endswith("_proj"):
            reason = f"{_short(path)}.weight is among target_parameters, and mlx-lm has no linear layer for it that could be adapted"
            remarks.append(_remark(reason, MERGE))
            continue
        if (same := named.setdefault(path, module)) is not module:
            names = f"{_short(same.path)} and {_short(module.path)}"
            remarks.append(_remark(f"{names} are one module of the base"))
    places = list(_places(experts, base, layout, remarks))
    turned = _orientation(places, config, layout)
    if isinstance(turned, str):
        return OnBase(named, {}, (*remarks, _remark(turned)))
    switches = {
        path: SwitchFactors(expert_factors, layout.rows(path.rpartition(".")[2], shape[1]), turned)
        for expert_factors, paths, shape in places
        for path in paths
    }
    return OnBase(named, dict(sorted(switches.items())), tuple(remarks))


_Place = tuple[ExpertFactors, list[str], tuple[int, int, int]]


def _places(
    experts: Iterable[ExpertFactors], base: Architecture, layout: ExpertLayout, remarks: list[Finding]
) -> Iterator[_Place]:
    """Yield each parameter with its switch layers and its shape as (experts, out, in)."""
    for expert in experts:
        stem = expert.holder.removesuffix(layout.experts)
        paths = [f"{stem}{layout.switch}.{name}" for name in PROJECTIONS[expert.parameter]]
        shapes = [base.weights[path].shape for path in paths if path in base.weights]
        if len(shapes) != len(paths) or any(len(shape) != 3 for shape in shapes) or stem == expert.holder:
            remarks.append(_remark(f"the base has no experts for {_short(expert.name)}"))
            continue
        count, rows, columns = shapes[0][0], sum(shape[1] for shape in shapes), shapes[0][2]
        fits = _fits(expert, rows, columns) or _fits(expert, columns, rows)
        if expert.experts == count and fits:
            yield expert, paths, (count, rows, columns)
        else:
            factors = f"factors of {expert.a.shape} and {expert.b.shape}"
            message = f"has {factors}, which do not fit experts of {(count, rows, columns)}"
            remarks.append(_remark(f"{_short(expert.name)} {message}"))


def _fits(factors: ExpertFactors, rows: int, columns: int) -> bool:
    return (factors.b.shape[0], factors.a.shape[1]) == (rows, columns)


def _orientation(places: Sequence[_Place], config: PeftConfig, layout: ExpertLayout) -> bool | str:
    """Return whether A is at the outputs, or why that is unknown."""
    straight = all(_fits(factors, shape[1], shape[2]) for factors, _, shape in places)
    turned = all(_fits(factors, shape[2], shape[1]) for factors, _, shape in places)
    if straight != turned or not places:
        return turned and bool(places)
    if not straight:
        return "some experts have A at the inputs and others at the outputs, which no version of PEFT writes"
    version = _VERSION.fullmatch(config.peft_version or "")
    version_numbers = tuple(map(int, version.groups())) if version else None
    if version_numbers is not None and not layout.transposed:
        return version_numbers < _SETTLED
    if version_numbers is not None and version_numbers < _SWAPPED:
        return False
    version_text = f"PEFT {config.peft_version[:40]}" if config.peft_version else "no version of PEFT"
    name = _short(places[0][0].name)
    return f"the experts of {name} are square: whether A is at their inputs is unknown ({version_text})"


def promised_experts(config: PeftConfig, base: Architecture) -> set[str]:
    """Return the modules of a base that `target_parameters` promises to adapt."""
    layout = expert_layout(base.config)
    if layout is None or not config.target_parameters:
        return set()
    names = {
        f"{layout.switch}.{projection}": f"{layout.experts}.{parameter}"
        for parameter, projections in PROJECTIONS.items()
        for projection in projections
    }
    if layout.routers is not None:
        names[layout.routers[1]] = f"{layout.routers[0]}.weight"
    return {
        path
        for path in base.weights
        for ours, theirs in names.items()
        if path.endswith(f".{ours}") and config.targets_parameter(path.removesuffix(ours) + theirs)
    }


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[:_NAME]}…"


def _remark(message: str, hint: str = "") -> Finding:
    return Finding("peft_experts", "error", PEFT_WEIGHTS, message, hint)


@dataclass(frozen=True, slots=True)
class PeftReading:
    """What a PEFT folder says."""

    raw: Mapping[str, Any]
    config: PeftConfig | None  # the same, checked; None if it cannot be used
    header: Header | None  # of its weights; None if they cannot be read
    modules: Mapping[str, PeftModule]
    whole: WholeTensors
    remarks: tuple[Finding, ...]
    problems: tuple[FileProblem, ...]
    experts: tuple[ExpertFactors, ...] = ()


def read_peft(files: Mapping[str, Path]) -> PeftReading:
    """Read the two files of a PEFT adapter; what cannot be read becomes a problem, not an exception."""
    problems: list[FileProblem] = []
    raw = read_json(files, CONFIG, problems)
    if raw is not None and refusal_of_method(raw.get("peft_type")) is not None:
        # What another method's fields and tensors are is not what keeps it out.
        return PeftReading(raw, None, None, {}, WholeTensors(), tuple(refused_fields(raw)), ())
    config = validated(PeftConfig, raw, CONFIG, problems) if raw is not None else None
    header = weights_header(files, PEFT_WEIGHTS, problems)
    modules, names, remarks = sort_tensors(header) if header else ({}, [], [])
    whole, wrong = WholeTensors(), list[Finding]()
    if header is not None:
        whole, wrong = read_whole(files[PEFT_WEIGHTS], header, names, raw or {}, modules)
    remarks = [*refused_fields(raw or {}), *remarks, *wrong]
    experts: list[ExpertFactors] = []
    if config is not None:
        modules, experts, wrong = split_experts(config, modules)
        embedding = any(module.embedding for module in modules.values())
        remarks += [*wrong, *check_ranks(config, modules), *check_invocation(raw or {}, embedding=embedding)]
    lists = tuple(remarks), tuple(problems), tuple(experts)
    return PeftReading(raw or {}, config, header, modules, whole, *lists)


def put_on_base(config: PeftConfig, peft: PeftReading, base: Architecture | None) -> OnBase:
    """Find the modules of a base that an adapter's factors belong to."""
    modules = peft.modules
    if base is not None and sees(base):
        placed: dict[str, PeftModule] = {}
        for path, module in modules.items():
            if (same := placed.setdefault(in_mlx(path, base.weights), module)) is not module:
                reason = f"{same.path[:_NAME]} and {path[:_NAME]} are one module of the base"
                return OnBase({}, {}, (Finding("peft_unknown_tensor", "error", PEFT_WEIGHTS, reason),))
        modules = placed
    if config.use_qalora and (config.group is None or config.use_dora):
        # PEFT multiplies by the number of groups where the base's layer was quantised, and with groups of one input the
        # shapes do not tell where; with DoRA it makes no such layer (`GPTQLoraLinear` of peft 0.21.2, tuners/lora/gptq.py).
        why = f"use_qalora needs groups of several inputs (qalora_group_size {str(config.qalora_group_size)[:20]}), and no DoRA"
        return OnBase({}, {}, (Finding("peft_variant", "error", CONFIG, why, TRAIN),))
    if config.group is not None and base is not None:
        # A layer that PEFT did not quantise has plain LoRA, with all columns.
        modules = {path: _pooled(path, module, config.group, base) for path, module in modules.items()}
    return place_experts(config, modules, peft.experts, base)


def _pooled(path: str, module: PeftModule, group: int, base: Architecture) -> PeftModule:
    a, weight = module.a, base.weights.get(path)
    if a is None or module.embedding or weight is None or len(a.shape) != 2:
        return module
    return replace(module, pooled=group) if a.shape[1] * group == weight.shape[-1] else module
