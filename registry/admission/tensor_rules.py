"""Rules about the tensors: that they fit each other and the base, and that their numbers do something."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fusery.storage.safetensors import Tensor

from ..adapter_files import CONFIG, WEIGHTS
from ..adapter_folder import LoraModule
from ..architecture import Weight
from .candidate import Candidate
from .finding import Finding, some
from .values import TensorValues, scan_values


def complete_pairs(candidate: Candidate) -> Iterator[Finding]:
    """Each module has both factors, and with DoRA a magnitude: `incomplete_module`."""
    folder = candidate.folder
    # That no module has one is for `supported_method` to say.
    magnitudes = folder.config.method == "dora" and any(m.m is not None for m in folder.modules.values())
    for module in folder.modules.values():
        parts = {"lora_a": module.a, "lora_b": module.b, **({"m": module.m} if magnitudes else {})}
        for part in (name for name, shape in parts.items() if shape is None):
            yield Finding("incomplete_module", "error", module.path, f"{module.path} has no {part}")


def shapes_fit(candidate: Candidate) -> Iterator[Finding]:
    """The factors' and magnitudes' shapes fit each other and the base: `shape_mismatch`."""
    for module in candidate.folder.modules.values():
        weight = candidate.base.architecture.weights.get(module.path)
        if weight is not None and (why := _misfit(module, weight) or _misfit_magnitude(module, weight)):
            yield Finding("shape_mismatch", "error", module.path, f"{module.path}: {why}")


def _misfit(module: LoraModule, weight: Weight) -> str | None:
    a, b, shape = module.a, module.b, weight.shape
    if a is None or b is None:
        return None
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


def _misfit_magnitude(module: LoraModule, weight: Weight) -> str | None:
    if module.m is None or module.m == weight.shape[:1]:
        return None
    return f"the magnitude m {module.m} does not fit a weight of shape {weight.shape}"


def full_weights(candidate: Candidate) -> Iterator[Finding]:
    """A full fine tune holds weights of the base in their shapes: `no_tensors`, `unknown_tensor`, `shape_mismatch`."""
    folder = candidate.folder
    if folder.header is None or folder.config.method != "full":
        return
    if not folder.header.tensors:
        yield Finding("no_tensors", "error", WEIGHTS, "the file holds no tensors")
    weights = candidate.base.architecture.weights
    containers = _containers(weights)
    unknown = []
    for tensor in folder.header.tensors.values():
        module, _, part = tensor.name.rpartition(".")
        weight = weights.get(module)
        if part in ("lora_a", "lora_b"):
            continue  # a method_mismatch
        if weight is not None and part in ("weight", "bias", "scales", "biases"):
            if why := _misfit_full(tensor, part, weight):
                yield Finding("shape_mismatch", "error", tensor.name, f"{tensor.name}: {why}")
        elif module not in containers:
            unknown.append(tensor.name)
    if unknown:
        message = f"{len(unknown)} tensors are not in {candidate.base.name}: {some(unknown)}"
        hint = "the fine tune belongs to another base model"
        yield Finding("unknown_tensor", "error", WEIGHTS, message, hint)


def _containers(weights: Iterable[str]) -> set[str]:
    """Return the paths that modules lie in: they may have numbers of their own, which are not on record."""
    found = set()
    for path in weights:
        while path := path.rpartition(".")[0]:
            found.add(path)
    return found


def _misfit_full(tensor: Tensor, part: str, weight: Weight) -> str | None:
    if part in ("scales", "biases"):
        return None if weight.bits else "the base's weight is not quantised"
    if part == "bias":
        fits = tensor.shape in (weight.shape[:1], weight.shape[:-1])
    elif weight.bits:
        return "the base's weight is quantised, and cannot be replaced by numbers"
    elif len(weight.shape) > 2:
        # mlx-lm turns convolutions round when it loads them.
        fits = sorted(tensor.shape) == sorted(weight.shape)
    else:
        fits = tensor.shape == weight.shape
    return None if fits else f"its shape {tensor.shape} does not fit a weight of shape {weight.shape}"


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
        message = f"the configuration says rank {parameters.rank}, and the tensors have {some({str(r) for r in ranks})}"
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


def numbers_sound(candidate: Candidate) -> Iterator[Finding]:
    """The numbers are finite and do something: `not_finite`, `all_zero`, `module_zero`."""
    folder = candidate.folder
    if folder.header is None:
        return
    scanned = list(scan_values(folder.files[WEIGHTS], folder.header))
    if broken := [values.name for values in scanned if not values.finite]:
        message = f"{len(broken)} tensors hold NaN or infinity: {some(broken)}"
        hint = "the training run diverged: take an earlier checkpoint"
        yield Finding("not_finite", "error", WEIGHTS, message, hint)
    yield from _without_effect(candidate, scanned)


def _without_effect(candidate: Candidate, scanned: list[TensorValues]) -> Iterator[Finding]:
    folder = candidate.folder
    hint = "the run saved its starting point: train longer, or take a later checkpoint"
    if folder.config.method == "full":
        if scanned and all(values.zero for values in scanned):
            yield Finding("all_zero", "error", WEIGHTS, "every weight is zero", hint)
        return
    if folder.scale == 0:
        message = "the configuration's scale is zero: the adapter does nothing"
        yield Finding("all_zero", "error", CONFIG, message, "write the scale of the run")
    dead = {
        values.name.rpartition(".")[0] for values in scanned if values.zero and not values.name.endswith(".m")
    }
    if folder.modules and dead >= set(folder.modules):
        message = "every module's update is zero: the adapter does nothing"
        yield Finding("all_zero", "error", WEIGHTS, message, hint)
    elif dead:
        message = f"{len(dead)} of {len(folder.modules)} modules have a zero update: {some(dead)}"
        yield Finding("module_zero", "warning", WEIGHTS, message)
