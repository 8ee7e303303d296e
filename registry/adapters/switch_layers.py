"""From mlx-lm's switch layers to the parameters that PEFT adapts: `peft_experts` is the way back.

What is a module to mlx-lm and a parameter to PEFT is named in `target_parameters`: the experts, the router, and on a base
with experts the projections of other layers too, since PEFT takes their names in `target_modules` for those of experts
(`_convert_peft_config_moe` in peft 0.21.2, src/peft/utils/transformers_weight_conversion.py).

The two projections that share a parameter have factors of their own.  Side by side, they are factors of twice the rank:
A has one behind the other, B each in its own rows and columns, and zeros elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusery.storage.safetensors import Header

from ..models.experts import DOWN, GATE_UP, PROJECTIONS, ExpertLayout
from .peft_config import PeftConfig
from .tensors import Stored, read_stored, widened

if TYPE_CHECKING:
    from ..models.architecture import Architecture

VERSION = "0.19.1"
"""The first PEFT that has A at the inputs, as it is written here."""

_PARAMETER_OF = {name: parameter for parameter, names in PROJECTIONS.items() for name in names}


def parameters_of(paths: Collection[str], base: Architecture, layout: ExpertLayout) -> dict[str, list[str]]:
    """Return the parameters in PEFT that some of a base's modules are, each with its modules in mlx-lm.

    Args:
        paths: the modules.
        base: which has them.
        layout: where its class keeps its experts.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        if path in base.weights and (name := _parameter(path, len(base.weights[path].shape), layout)):
            found.setdefault(name, []).append(path)
    return found


def _parameter(path: str, dimensions: int, layout: ExpertLayout) -> str | None:
    module, _, last = path.rpartition(".")
    if dimensions == 3 and last in _PARAMETER_OF and module.endswith(f".{layout.switch}"):
        return f"{module.removesuffix(layout.switch)}{layout.experts}.{_PARAMETER_OF[last]}"
    if dimensions != 2:
        return None
    if layout.routers is not None and path.endswith(f".{layout.routers[1]}"):
        return f"{path.removesuffix(layout.routers[1])}{layout.routers[0]}.weight"
    return f"{path}.weight" if last in _PARAMETER_OF else None


def target_parameters(parameters: Collection[str], base: Architecture, layout: ExpertLayout) -> list[str]:
    """Return names that mean exactly some parameters of a base: short ones, or full paths where those would mean more."""
    known, wanted = set(parameters_of(base.weights, base, layout)), set(parameters)
    short = sorted({_within_layer(name) for name in wanted})
    config = PeftConfig(target_parameters=short)
    return short if {name for name in known if config.targets_parameter(name)} == wanted else sorted(wanted)


def _within_layer(name: str) -> str:
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[numbers[0] + 1 :]) if numbers else name


def joined_rank(layout: ExpertLayout, rank: int) -> dict[str, Any]:
    """Return the `rank_pattern` of the parameter that holds two projections."""
    return {f"{layout.experts}.{GATE_UP}": len(PROJECTIONS[GATE_UP]) * rank}


def expert_tensors(
    weights: Path,
    header: Header,
    parameters: Mapping[str, list[str]],
    base: Architecture,
    layout: ExpertLayout,
) -> Iterator[tuple[str, Stored]]:
    """Yield PEFT's tensors of experts by name, without PEFT's prefix.

    Args:
        weights: `adapters.safetensors`.
        header: of it.
        parameters: from `parameters_of`.
        base: what the adapter stands on.
        layout: where its class keeps its experts.
    """
    for name in sorted(parameters):
        holder, _, parameter = name.rpartition(".")
        if parameter not in PROJECTIONS:
            continue
        nested = parameter == GATE_UP and f"{holder}.{DOWN}" in parameters
        a, b = _joined(weights, header, holder, parameter, base, layout)
        place = f"{holder}.base_layer" if nested else holder
        yield f"{place}.lora_A.weight", a
        yield f"{place}.lora_B.weight", b


def _joined(
    weights: Path, header: Header, holder: str, parameter: str, base: Architecture, layout: ExpertLayout
) -> tuple[Stored, Stored]:
    """Return the factors of a parameter: (experts * rank, in) and (out, rank * experts)."""
    stem = holder.removesuffix(layout.experts)
    paths = [f"{stem}{layout.switch}.{projection}" for projection in PROJECTIONS[parameter]]
    held = {
        path: [read_stored(weights, header.tensors[f"{path}.{part}"]) for part in ("lora_a", "lora_b")]
        for path in paths
        if f"{path}.lora_a" in header.tensors
    }
    if len({each.dtype for pair in held.values() for each in pair}) > 1:
        held = {path: [widened(each) for each in pair] for path, pair in held.items()}
    first, _ = next(iter(held.values()))
    experts, rank, columns = first.bits.shape
    outs = [base.weights[path].shape[1] for path in paths]
    a = np.zeros((experts, rank * len(paths), columns), first.bits.dtype)
    b = np.zeros((experts, sum(outs), rank * len(paths)), first.bits.dtype)
    for number, path in enumerate(paths):
        if path in held:
            own = slice(number * rank, (number + 1) * rank)
            left, right = held[path]
            a[:, own] = left.bits
            b[:, layout.rows(path.rpartition(".")[2], sum(outs)), own] = right.bits
    return (
        Stored(first.dtype, a.reshape(-1, columns)),
        Stored(first.dtype, b.transpose(1, 2, 0).reshape(sum(outs), -1)),
    )
