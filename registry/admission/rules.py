"""The rules of admission, each a function from a candidate to what it finds.

The order is the order of understanding: files, configuration, base, modules, shapes, numbers, contradictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..adapter_files import CONFIG, METADATA, WEIGHTS
from ..adapter_folder import LoraModule
from ..architecture import Weight
from ..errors import BadInputError
from ..names import AdapterName, parse_date
from .candidate import Candidate, tail
from .finding import Finding
from .values import scan_values

Rule = Callable[[Candidate], Iterator[Finding]]
_SHOWN = 4


def _some(items: set[str] | list[str]) -> str:
    ordered = sorted(items)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def readable_files(candidate: Candidate) -> Iterator[Finding]:
    """Every file is there and in its format: `file_missing`, `not_safetensors`, `config_invalid`, `metadata_invalid`."""
    for problem in candidate.folder.problems:
        if problem.absent:
            hint = "give the folder that mlx_lm.lora wrote with --adapter-path"
            yield Finding("file_missing", "error", problem.file, problem.message, hint)
        elif problem.file == WEIGHTS:
            yield Finding("not_safetensors", "error", WEIGHTS, problem.message)
        else:
            code = "config_invalid" if problem.file == CONFIG else "metadata_invalid"
            yield Finding(code, "error", problem.file, problem.message)


def has_adapter_tensors(candidate: Candidate) -> Iterator[Finding]:
    """The weights are those of an adapter: `no_tensors`, `unknown_tensor`."""
    folder = candidate.folder
    if folder.header is None or folder.config.method == "full":
        return
    if not folder.modules:
        yield Finding("no_tensors", "error", WEIGHTS, "the file holds no lora_a and lora_b tensors")
    if folder.strangers:
        message = (
            f"{len(folder.strangers)} tensors are not part of a LoRA adapter: {_some(list(folder.strangers))}"
        )
        yield Finding("unknown_tensor", "error", WEIGHTS, message)


def supported_method(candidate: Candidate) -> Iterator[Finding]:
    """The method is the one that the tensors show: `method_mismatch`."""
    folder = candidate.folder
    has_magnitude = any(module.m for module in folder.modules.values())
    if has_magnitude and folder.config.method == "lora":
        message = "the tensors have DoRA magnitudes, and the configuration says LoRA"
        yield Finding("method_mismatch", "error", CONFIG, message, 'set "fine_tune_type": "dora"')
    if folder.modules and not has_magnitude and folder.config.method == "dora":
        message = "the configuration says DoRA, and the tensors have no magnitudes"
        yield Finding("method_mismatch", "error", CONFIG, message, 'set "fine_tune_type": "lora"')


def declared_base(candidate: Candidate) -> Iterator[Finding]:
    """The base that the files name is the one that was given: `base_mismatch`, `base_unverified`."""
    for file, name in (
        (CONFIG, candidate.folder.config.model),
        (METADATA, candidate.folder.metadata.base_model),
    ):
        if name:
            yield from _one_declared_base(candidate, file, name)


def _one_declared_base(candidate: Candidate, file: str, name: str) -> Iterator[Finding]:
    base = candidate.base
    if tail(name) in {tail(known) for known in base.known_as}:
        return
    other = next((first for known, first in base.others.items() if tail(known) == tail(name)), None)
    add_name = f"if both are the same model, run: fusery base add SOURCE --name '{name}'"
    if other is not None:
        message = f"{file} says the adapter was trained on {name!r}, which is registered as {other!r}, not {base.name!r}"
        yield Finding("base_mismatch", "error", file, message, f"give --base {other}")
    elif _is_local_path(name):
        message = f"{file} names the base by the path {name!r}, which cannot be compared with {base.name!r}"
        yield Finding("base_unverified", "warning", file, message)
    else:
        message = f"{file} says the adapter was trained on {name!r}, and the base given is {base.name!r}"
        yield Finding("base_mismatch", "error", file, message, add_name)


def _is_local_path(name: str) -> bool:
    return (
        name.startswith(("/", "./", "../", "~"))
        or "\\" in name
        or name.count("/") > 1
        or Path(name).suffix == ".gguf"
    )


def modules_of_base(candidate: Candidate) -> Iterator[Finding]:
    """Every adapted module is a module of the base: `unknown_module`."""
    weights = candidate.base.architecture.weights
    unknown = {path for path in candidate.folder.modules if path not in weights}
    if unknown:
        message = f"{len(unknown)} adapted modules are not in {candidate.base.name}: {_some(unknown)}"
        yield Finding(
            "unknown_module", "error", WEIGHTS, message, "the adapter belongs to another base model"
        )


def complete_pairs(candidate: Candidate) -> Iterator[Finding]:
    """Each module has both factors: `incomplete_module`."""
    for module in candidate.folder.modules.values():
        if module.a is None or module.b is None:
            missing = "lora_a" if module.a is None else "lora_b"
            yield Finding("incomplete_module", "error", module.path, f"{module.path} has no {missing}")


def shapes_fit(candidate: Candidate) -> Iterator[Finding]:
    """The factors' shapes fit each other and the base: `shape_mismatch`."""
    for module in candidate.folder.modules.values():
        weight = candidate.base.architecture.weights.get(module.path)
        if weight is not None and module.a and module.b and (why := _misfit(module, weight)):
            yield Finding("shape_mismatch", "error", module.path, f"{module.path}: {why}")


def _misfit(module: LoraModule, weight: Weight) -> str | None:
    a, b, shape = module.a or (), module.b or (), weight.shape
    if len(shape) == 3:
        fits = (
            len(a) == 3
            and len(b) == 3
            and a == (shape[0], a[1], shape[2])
            and b == (shape[0], shape[1], a[1])
        )
    else:
        linear = len(a) == len(b) == 2 and a[1] == b[0] and (a[0], b[1]) == (shape[1], shape[0])
        embedding = len(a) == len(b) == 2 and a[1] == b[0] and (a[0], b[1]) == shape
        fits = linear or embedding
    return None if fits else f"lora_a {a} and lora_b {b} do not fit a weight of shape {shape}"


def rank_consistent(candidate: Candidate) -> Iterator[Finding]:
    """The tensors have the configured rank, and a scale is given: `rank_mismatch`, `scale_missing`."""
    folder = candidate.folder
    if folder.config.method == "full" or not folder.modules:
        return
    parameters = folder.config.lora_parameters
    ranks = {
        module.a[-1] if len(module.a) == 2 else module.a[1]
        for module in folder.modules.values()
        if module.a and len(module.a) > 1
    }
    if parameters and parameters.rank is not None and ranks and ranks != {parameters.rank}:
        message = f"the configuration says rank {parameters.rank}, and the tensors have {_some({str(r) for r in ranks})}"
        yield Finding("rank_mismatch", "error", CONFIG, message)
    if CONFIG in {problem.file for problem in folder.problems}:
        return
    if parameters is None or parameters.scale is None:
        has_alpha = parameters is not None and parameters.alpha is not None
        message = (
            "the configuration gives alpha and no scale" if has_alpha else "the configuration gives no scale"
        )
        hint = 'mlx-lm multiplies by "scale" in lora_parameters: write the value of the run (alpha / rank in other tools)'
        yield Finding("scale_missing", "error", CONFIG, message, hint)


def promised_layers(candidate: Candidate) -> Iterator[Finding]:
    """What the configuration promises is in the file: `layers_missing`, `unmatched_key`, `layers_unpromised`."""
    folder = candidate.folder
    if not folder.modules or folder.config.method == "full" or folder.config.num_layers is None:
        return
    promised, present = candidate.promised_modules(), set(folder.modules)
    keys = folder.config.lora_parameters.keys if folder.config.lora_parameters else None
    for key in keys or ():
        if not any(path == key or path.endswith(f".{key}") for path in promised):
            message = f"the configuration's key {key!r} matches no module of {candidate.base.name}"
            yield Finding(
                "unmatched_key", "error", CONFIG, message, "keys are paths in a layer: self_attn.q_proj"
            )
    if missing := promised - present:
        message = f"the configuration promises {len(promised)} modules, and {len(missing)} have no tensors: {_some(missing)}"
        yield Finding(
            "layers_missing", "error", WEIGHTS, message, "register the whole adapters.safetensors of the run"
        )
    if extra := present & set(candidate.base.architecture.weights) - promised:
        message = f"{len(extra)} adapted modules are not promised by the configuration: {_some(extra)}"
        yield Finding("layers_unpromised", "error", CONFIG, message, "mlx-lm refuses to load such an adapter")


def numbers_sound(candidate: Candidate) -> Iterator[Finding]:
    """The numbers are finite and do something: `not_finite`, `all_zero`, `module_zero`."""
    folder = candidate.folder
    if folder.header is None:
        return
    scanned = list(scan_values(folder.path / WEIGHTS, folder.header))
    broken = [values.name for values in scanned if not values.finite]
    if broken:
        message = f"{len(broken)} tensors hold NaN or infinity: {_some(broken)}"
        yield Finding(
            "not_finite", "error", WEIGHTS, message, "the training run diverged: take an earlier checkpoint"
        )
    if folder.config.method == "full":
        return
    dead = {
        values.name.rpartition(".")[0] for values in scanned if values.zero and not values.name.endswith(".m")
    }
    if folder.modules and dead >= set(folder.modules):
        message = "every module's update is zero: the adapter does nothing"
        yield Finding(
            "all_zero",
            "error",
            WEIGHTS,
            message,
            "the run saved its starting point: train longer, or take a later checkpoint",
        )
    elif dead:
        message = f"{len(dead)} of {len(folder.modules)} modules have a zero update: {_some(dead)}"
        yield Finding("module_zero", "warning", WEIGHTS, message)


def metadata_agrees(candidate: Candidate) -> Iterator[Finding]:
    """The hand-written file says what the flags, the configuration and the tensors say: `metadata_conflict`."""
    folder, declared, metadata = candidate.folder, candidate.declared, candidate.folder.metadata
    config_rank = folder.config.lora_parameters.rank if folder.config.lora_parameters else None
    pairs: list[tuple[str, object, object, str]] = [
        ("version", metadata.version, declared.version, "--version"),
        ("final_val_loss", metadata.final_val_loss, declared.val_loss, "--val-loss"),
        ("dataset", metadata.dataset, declared.dataset, "--dataset"),
        ("training_examples", metadata.training_examples, declared.examples, "--examples"),
        ("lora_alpha", metadata.lora_alpha, declared.alpha, "--alpha"),
        ("lora_rank", metadata.lora_rank, folder.rank or config_rank, "the tensors"),
    ]
    for field, written, other, source in pairs:
        if written is not None and other is not None and written != other:
            message = f"{METADATA} says {field} {written}, and {source} says {other}; {source} wins"
            yield Finding("metadata_conflict", "warning", field, message)
    yield from _name_agrees(candidate)


def _name_agrees(candidate: Candidate) -> Iterator[Finding]:
    metadata, declared = candidate.folder.metadata, candidate.declared
    if metadata.training_date:
        try:
            written = parse_date(metadata.training_date[:10])
        except BadInputError:
            message = f"{METADATA} says training_date {metadata.training_date[:40]!r}, which is not a date"
            yield Finding("metadata_conflict", "warning", "training_date", message)
        else:
            if declared.date and written != declared.date:
                message = (
                    f"{METADATA} says training_date {written}, and --date says {declared.date}; --date wins"
                )
                yield Finding("metadata_conflict", "warning", "training_date", message)
    if metadata.adapter_name and declared.task:
        try:
            task = AdapterName.parse(metadata.adapter_name.removeprefix("adapters_")).task
        except BadInputError:
            task = metadata.adapter_name.casefold()
        if task != declared.task:
            message = (
                f"{METADATA} says adapter_name {metadata.adapter_name!r}, and --task says {declared.task!r}"
            )
            yield Finding("metadata_conflict", "warning", "adapter_name", message)


def alpha_is_scale_times_rank(candidate: Candidate) -> Iterator[Finding]:
    """`alpha = scale * rank` holds where both are known: `alpha_conflict`."""
    folder = candidate.folder
    alpha = candidate.declared.alpha if candidate.declared.alpha is not None else folder.metadata.lora_alpha
    if alpha is None or folder.scale is None or not folder.rank:
        return
    implied = folder.scale * folder.rank
    if abs(implied - alpha) > 1e-6 * max(abs(implied), abs(alpha)):
        message = (
            f"alpha is given as {alpha:g}, and scale {folder.scale:g} x rank {folder.rank} is {implied:g}"
        )
        hint = "fusing uses the scale of adapter_config.json; alpha is only recorded"
        if alpha == folder.scale:
            message += ": the scale was written where alpha is meant"
        yield Finding("alpha_conflict", "warning", "alpha", message, hint)


RULES: tuple[Rule, ...] = (
    readable_files,
    has_adapter_tensors,
    supported_method,
    declared_base,
    modules_of_base,
    complete_pairs,
    shapes_fit,
    rank_consistent,
    promised_layers,
    numbers_sound,
    metadata_agrees,
    alpha_is_scale_times_rank,
)
