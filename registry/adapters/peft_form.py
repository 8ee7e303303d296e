"""From mlx-lm's form to PEFT's: every number as it is, factors transposed, the scale as `lora_alpha / r`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import Header, read_header

from ..documents import without_places, write_document
from ..errors import BadInputError
from ..models.experts import GATE_UP, expert_layout
from ..models.language_model import ALIKE, HEAD, in_transformers, sees
from .files import CONFIG, PEFT_WEIGHTS, WEIGHTS
from .peft_config import PeftConfig, targets
from .peft_folder import PREFIX
from .switch_layers import VERSION, expert_tensors, joined_rank, parameters_of, target_parameters
from .tensors import Stored, read_stored, transposed, write_stored
from .trained_through import kept_entries

if TYPE_CHECKING:
    from ..models.architecture import Architecture
    from .mlx_config import AdapterConfig, LoraModule

_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_EMBEDDING_PARTS = {"lora_a": "lora_embedding_A", "lora_b": "lora_embedding_B"}


def write_peft(files: Mapping[str, Path], base: Architecture, folder: Path) -> None:
    """Write the two files of PEFT's form into a folder.

    Args:
        files: mlx-lm's two files by name.
        base: the base that the adapter stands on.
        folder: exists, and has neither file.

    Raises:
        BadInputError: the adapter has no form in PEFT; one sentence says why.
    """
    from .mlx_config import AdapterConfig, lora_modules

    config = AdapterConfig.model_validate(read_object(files[CONFIG]))
    header = read_header(files[WEIGHTS])
    if config.method == "full":
        raise _refusal("it is the result of full fine-tuning and has no low-rank factors")
    modules, _ = lora_modules(header)
    layout = expert_layout(base.config)
    embeddings = {path for path, module in modules.items() if _is_embedding(module, base)}
    _require_expressible(config, modules, embeddings, base)
    document = peft_config(config, modules, base)
    parameters = parameters_of(modules, base, layout) if layout else {}
    tensors = list(_tensors(files[WEIGHTS], header, embeddings, parameters))
    if layout is not None:
        experts = expert_tensors(files[WEIGHTS], header, parameters, base, layout)
        tensors += [(f"{PREFIX}{name}", tensor) for name, tensor in experts]
    write_stored(folder / PEFT_WEIGHTS, tensors, {"format": "pt"})
    write_document(folder / CONFIG, document)


def peft_config(
    config: AdapterConfig, modules: Mapping[str, LoraModule], base: Architecture
) -> dict[str, Any]:
    """Return `adapter_config.json` as PEFT reads it."""
    parameters = config.lora_parameters
    ranks = {module.a[1] for module in modules.values() if module.a}
    if parameters is None or parameters.scale is None or len(ranks) != 1:
        raise _refusal("its configuration gives no scale, or its tensors have different ranks")
    rank = ranks.pop()
    layout = expert_layout(base.config)
    found = parameters_of(modules, base, layout) if layout else {}
    single = set(modules).difference(*found.values())
    names, layers = _targets(single, base.weights) if single else ([], None)
    if sees(base):
        # What it sees with may have modules of the same names, which the record of a base does not tell.
        names, layers = sorted(map(in_transformers, single)), None
    document: dict[str, Any] = {
        "alpha_pattern": {},
        "base_model_name_or_path": without_places(config.model) if config.model else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": layers,
        "lora_alpha": alpha_of(parameters.scale, rank),
        "lora_dropout": parameters.dropout or 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "target_modules": names,
        "task_type": "CAUSAL_LM",
        "use_dora": config.method == "dora",
        "use_rslora": False,
    }
    document |= kept_entries(config.model_extra or {})  # PEFT ignores them with a warning
    if layout is not None and found:
        document["target_parameters"] = target_parameters(found, base, layout)
        document["peft_version"] = VERSION
        document["lora_dropout"] = 0.0  # PEFT takes no other of a parameter
        if any(name.endswith(f".{GATE_UP}") for name in found):
            document["rank_pattern"] = joined_rank(layout, rank)
            document["alpha_pattern"] = {
                name: alpha_of(parameters.scale, joined) for name, joined in document["rank_pattern"].items()
            }
    return document


def alpha_of(scale: float, rank: int) -> float:
    """Return the number that divided by the rank gives the scale again, a whole one where that is so."""
    alpha = scale * rank
    near = (alpha, math.nextafter(alpha, math.inf), math.nextafter(alpha, -math.inf))
    exact = next((each for each in near if each / rank == scale), alpha)
    return int(exact) if exact.is_integer() and abs(exact) < 2**53 else exact


def _targets(modules: Collection[str], known: Collection[str]) -> tuple[list[str], list[int] | None]:
    """Return PEFT's `target_modules` and `layers_to_transform` that mean exactly these modules of the base.

    Short names are what people write and what servers look for; where they would mean more, the full paths are given.
    """
    wanted = set(modules)
    numbers = sorted({int(part) for path in wanted for part in path.split(".") if part.isdecimal()})
    for count in (1, 2):
        names = sorted({".".join(path.split(".")[-count:]) for path in wanted})
        for layers in (None, numbers):
            config = PeftConfig(target_modules=names, layers_to_transform=layers or None)
            if {path for path in {*known, *wanted} if targets(config, path)} == wanted:
                return names, layers
    return sorted(wanted), None


def _tensors(
    path: Path, header: Header, embeddings: set[str], parameters: Mapping[str, list[str]]
) -> Iterator[tuple[str, Stored]]:
    """Yield the tensors of single modules; a router's are called as PEFT calls it."""
    named = {
        module: name.removesuffix(".weight") for name, modules in parameters.items() for module in modules
    }
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
    config: AdapterConfig, modules: Mapping[str, LoraModule], embeddings: set[str], base: Architecture
) -> None:
    if strange := sorted(set(modules) - set(base.weights)):
        raise _refusal(f"its module {strange[0]} is not in the base")
    layout = expert_layout(base.config)
    found = set().union(*parameters_of(modules, base, layout).values()) if layout else set()
    for path, module in modules.items():
        if module.a and len(module.a) != 2 and path not in found:
            raise _refusal(
                f"{path} has factors for each expert, and where PEFT keeps those of {base.model_type} is not known"
            )
    if found and config.method == "dora":
        raise _refusal("it is DoRA on a base with experts, of which PEFT adapts parameters only without")
    if embeddings and config.method == "dora":
        raise _refusal("its embedding has DoRA, which PEFT scales by columns and mlx-lm by rows")
    if embeddings and is_tied(base):
        raise _refusal("its embedding is tied to the head, and PEFT would change one end of it only")
    if layout is None and not names_are_shared(base) and not (sees(base) and base.model_type in ALIKE):
        raise _refusal(f"mlx-lm gives the modules of {base.model_type} other names than transformers does")


def is_tied(base: Architecture) -> bool:
    """Tell whether a base's embedding is its head as well: it has none of its own."""
    return bool(base.config.get("tie_word_embeddings")) or not {"lm_head", HEAD} & base.weights.keys()


def names_are_shared(base: Architecture) -> bool:
    """Tell whether mlx-lm and transformers call a base's modules the same: mlx-lm renames no tensor of it."""
    from ..engine.naming import NeedsModelClassError, require_by_name

    try:
        require_by_name(base.config, written_by_mlx=False)
    except NeedsModelClassError:
        return False
    return True


def _refusal(why: str) -> BadInputError:
    return BadInputError(
        f"the adapter has no form in PEFT: {why}", hint="leave out --format to export it as it is"
    )
