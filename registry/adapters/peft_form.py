"""From mlx-lm's form to PEFT's: every number as it is, factors transposed, the scale as `lora_alpha / r`.

Switch layers of experts become `target_parameters` (`reading` is the way back), as do other layers' projections of their names, since
PEFT takes those in `target_modules` for experts (`_convert_peft_config_moe` in peft 0.21.2, transformers_weight_conversion.py).
Two projections of one parameter are side by side factors of twice the rank, with zeros elsewhere in B.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import Header, read_header

from ..documents import without_places, write_document
from ..errors import BadInputError
from ..models.libraries import (
    ALIKE,
    DOWN,
    GATE_UP,
    HEAD,
    PROJECTIONS,
    ExpertLayout,
    expert_layout,
    in_transformers,
    sees,
)
from . import CONFIG, PEFT_WEIGHTS, WEIGHTS
from .peft_config import PeftConfig, lora_document, targets
from .peft_folder import PREFIX
from .tensors import StoredTensor, read_stored, transposed, widened, write_stored
from .trained_through import kept_entries

if TYPE_CHECKING:
    from ..models.architecture import Architecture
    from .mlx_config import AdapterConfig, LoraModule

_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_EMBEDDING_PARTS = {"lora_a": "lora_embedding_A", "lora_b": "lora_embedding_B"}


def write_peft(files: Mapping[str, Path], base: Architecture, folder: Path) -> None:
    """Write the two files of PEFT's form into a folder."""
    from .mlx_config import AdapterConfig, lora_modules

    config = AdapterConfig.model_validate(read_object(files[CONFIG]))
    header = read_header(files[WEIGHTS])
    if config.method == "full":
        raise _refusal("it is the result of full fine-tuning and has no low-rank factors")
    modules, _ = lora_modules(header)
    layout = expert_layout(base.config)
    embeddings = {path for path, module in modules.items() if _is_embedding(module, base)}
    parameters = parameters_of(modules, base, layout) if layout else {}
    _require_expressible(config, modules, embeddings, parameters, base)
    document = _config(config, modules, parameters, base)
    tensors = list(_tensors(files[WEIGHTS], header, embeddings, parameters))
    tensors += _expert_tensors(files[WEIGHTS], header, parameters, base)
    write_stored(folder / PEFT_WEIGHTS, tensors, {"format": "pt"})
    write_document(folder / CONFIG, document)


def _config(
    config: AdapterConfig,
    modules: Mapping[str, LoraModule],
    parameters: Mapping[str, list[str]],
    base: Architecture,
) -> Mapping[str, Any]:
    scale, ranks = config.parameters.scale, {module.a[1] for module in modules.values() if module.a}
    if scale is None or len(ranks) != 1:
        raise _refusal("its configuration gives no scale, or its tensors have different ranks")
    rank = ranks.pop()
    layout = expert_layout(base.config)
    single = set(modules).difference(*parameters.values())
    names, layers = _targets(single, base.weights) if single else ([], None)
    if sees(base):
        # What it sees with may have modules of the same names, which the record of a base does not tell.
        names, layers = sorted(map(in_transformers, single)), None
    more: dict[str, object] = {
        "lora_dropout": config.parameters.dropout or 0.0,
        "use_dora": config.method == "dora",
        **kept_entries(config.model_extra or {}),  # PEFT ignores them with a warning
    }
    if layout is not None and parameters:
        more["target_parameters"] = target_parameters(parameters, base, layout)
        more["peft_version"] = VERSION
        more["lora_dropout"] = 0.0  # PEFT takes no other of a parameter
        if any(name.endswith(f".{GATE_UP}") for name in parameters):
            name, joined = f"{layout.experts}.{GATE_UP}", len(PROJECTIONS[GATE_UP]) * rank
            more["rank_pattern"] = {name: joined}
            more["alpha_pattern"] = {name: alpha_of(scale, joined)}
    model = without_places(config.model) if config.model else None
    return lora_document(model, rank, alpha_of(scale, rank), names, layers, **more)


def alpha_of(scale: float, rank: int) -> float:
    """Return the number that divided by the rank gives the scale again, a whole one where that is so."""
    alpha = scale * rank
    near = (alpha, math.nextafter(alpha, math.inf), math.nextafter(alpha, -math.inf))
    exact = next((candidate for candidate in near if candidate / rank == scale), alpha)
    return int(exact) if exact.is_integer() and abs(exact) < 2**53 else exact


def _targets(modules: Collection[str], base_modules: Collection[str]) -> tuple[list[str], list[int] | None]:
    """Return PEFT's `target_modules` and `layers_to_transform` that mean exactly these modules of the base."""
    wanted = set(modules)
    numbers = sorted({int(part) for path in wanted for part in path.split(".") if part.isdecimal()})
    for count in (1, 2):
        names = sorted({".".join(path.split(".")[-count:]) for path in wanted})
        for layers in (None, numbers):
            config = PeftConfig(target_modules=names, layers_to_transform=layers or None)
            if {path for path in {*base_modules, *wanted} if targets(config, path)} == wanted:
                return names, layers
    return sorted(wanted), None


def _tensors(
    path: Path, header: Header, embeddings: set[str], parameters: Mapping[str, list[str]]
) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors of single modules; a router's are called as PEFT calls it."""
    pairs = ((module, name) for name, modules in parameters.items() for module in modules)
    named = {module: name.removesuffix(".weight") for module, name in pairs}
    for name in sorted(header.tensors):
        module, _, part = name.rpartition(".")
        if len(header.tensors[name].shape) == 3:
            continue  # of experts
        parts = _EMBEDDING_PARTS if module in embeddings else _PARTS
        tensor = transposed(read_stored(path, header.tensors[name]))
        yield f"{PREFIX}{named.get(module) or in_transformers(module)}.{parts[part]}", tensor


def _is_embedding(module: LoraModule, base: Architecture) -> bool:
    """Tell an embedding from a linear layer: by shape, and by name where the weight is square."""
    weight = base.weights.get(module.path)
    if weight is None or module.a is None or module.b is None or len(module.a) != 2:
        return False
    linear = (module.a[0], module.b[-1]) == (weight.shape[-1], weight.shape[0])
    named = any(word in module.path.rpartition(".")[2] for word in ("embed", "wte"))
    return not linear or (named and weight.shape[0] == weight.shape[-1])


def _require_expressible(
    config: AdapterConfig,
    modules: Mapping[str, LoraModule],
    embeddings: set[str],
    parameters: Mapping[str, list[str]],
    base: Architecture,
) -> None:
    if strange := sorted(set(modules) - set(base.weights)):
        raise _refusal(f"its module {strange[0]} is not in the base")
    expert_paths = set().union(*parameters.values())
    for path, module in modules.items():
        if module.a and len(module.a) != 2 and path not in expert_paths:
            raise _refusal(f"PEFT's layout of the experts of {base.model_type} is not known ({path})")
    if expert_paths and config.method == "dora":
        raise _refusal("it is DoRA on a base with experts, of which PEFT adapts parameters only without")
    if embeddings and config.method == "dora":
        raise _refusal("its embedding has DoRA, which PEFT scales by columns and mlx-lm by rows")
    if embeddings and is_tied(base):
        raise _refusal("its embedding is tied to the head, and PEFT would change one end of it only")
    alike = expert_layout(base.config) is not None or (sees(base) and base.model_type in ALIKE)
    if not alike and not names_are_shared(base):
        raise _refusal(f"mlx-lm gives the modules of {base.model_type} other names than transformers does")


def is_tied(base: Architecture) -> bool:
    """Tell whether a base's embedding is its head as well: it has none of its own."""
    return bool(base.config.get("tie_word_embeddings")) or not {"lm_head", HEAD} & base.weights.keys()


def names_are_shared(base: Architecture) -> bool:
    """Tell whether mlx-lm and transformers call a base's modules the same: mlx-lm renames no tensor of it."""
    from ..engine.architectures import NeedsModelClassError, require_by_name

    try:
        require_by_name(base.config, written_by_mlx=False)
    except NeedsModelClassError:
        return False
    return True


def _refusal(why: str) -> BadInputError:
    hint = "leave out --format to export it as it is"
    return BadInputError(f"the adapter has no form in PEFT: {why}", hint=hint)


VERSION = "0.19.1"  # The first PEFT that has A at the inputs, as it is written here
_PARAMETER_OF = {name: parameter for parameter, names in PROJECTIONS.items() for name in names}


def parameters_of(paths: Collection[str], base: Architecture, layout: ExpertLayout) -> dict[str, list[str]]:
    """Return the parameters in PEFT that some of a base's modules are, each with its modules in mlx-lm."""
    parameters: dict[str, list[str]] = {}
    for path in sorted(paths):
        if path in base.weights and (name := _parameter(path, len(base.weights[path].shape), layout)):
            parameters.setdefault(name, []).append(path)
    return parameters


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
    base_parameters, wanted = set(parameters_of(base.weights, base, layout)), set(parameters)
    short = sorted({re.sub(r".*?\.\d+\.", "", name, count=1) for name in wanted})  # within a layer
    meant = set(filter(PeftConfig(target_parameters=short).targets_parameter, base_parameters))
    return short if meant == wanted else sorted(wanted)


def _expert_tensors(
    weights: Path, header: Header, parameters: Mapping[str, list[str]], base: Architecture
) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the factors of each parameter of experts: (experts * rank, in) and (out, rank * experts)."""
    layout = expert_layout(base.config) or ExpertLayout()  # without one, there are no parameters
    for name in sorted(parameters):
        holder, _, parameter = name.rpartition(".")
        if parameter not in PROJECTIONS:
            continue
        stem = holder.removesuffix(layout.experts)
        paths = [f"{stem}{layout.switch}.{projection}" for projection in PROJECTIONS[parameter]]
        held = {
            path: [read_stored(weights, header.tensors[f"{path}.{part}"]) for part in ("lora_a", "lora_b")]
            for path in paths
            if f"{path}.lora_a" in header.tensors
        }
        if len({tensor.dtype for pair in held.values() for tensor in pair}) > 1:
            held = {path: [widened(tensor) for tensor in pair] for path, pair in held.items()}
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
        b = b.transpose(1, 2, 0).reshape(sum(outs), -1)
        nested = parameter == GATE_UP and f"{holder}.{DOWN}" in parameters
        place = f"{PREFIX}{holder}.base_layer" if nested else f"{PREFIX}{holder}"
        yield f"{place}.lora_A.weight", StoredTensor(first.dtype, a.reshape(-1, columns))
        yield f"{place}.lora_B.weight", StoredTensor(first.dtype, b)
