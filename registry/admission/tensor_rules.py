"""Rules about keys, layers, method, shapes and rank: they match the base and the tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fusery.storage.digest import digest_file
from fusery.storage.safetensors import Tensor

from ..adapters import CONFIG, WEIGHTS, Finding, some
from ..adapters.mlx_config import LoraModule
from ..adapters.trained_through import (
    ITS_WEIGHTS,
    MERGE_WITH_AXOLOTL,
    NVFP4_MERGE_AWARE,
    QUANTIZATION_AWARE,
    in_words,
    is_of_others,
    trained_through,
)
from ..adapters.whole_fit import EMBEDDINGS, HEADS
from ..models.architecture import Weight
from ..parsing import plural
from .candidate import Candidate
from .code import Code, error, info, rule, warning
from .file_rules import NO_TENSORS, UNKNOWN_TENSOR

UNMATCHED_KEY = error(
    "unmatched_key",
    "lora_parameters.keys has an entry that is not in the base, or is empty",
    "mlx-lm matches keys literally, and skips unmatched keys without a warning",
    "keys are paths in a layer, such as self_attn.q_proj; leave keys out to mean every linear layer",
)
LAYERS_MISSING = error(
    "layers_missing",
    "modules that the configuration declares have no tensors",
    "mlx-lm loads an incomplete adapter without a warning, and the model differs from the evaluated one",
    "register the whole adapters.safetensors of the run",
)
LAYERS_UNEXPECTED = error(
    "layers_unexpected",
    "the file has tensors of modules that the configuration does not declare",
    "mlx-lm refuses to load the adapter",
    "take the adapter_config.json of the same run",
)
LAYERS_UNDECLARED = info(
    "layers_undeclared",
    "num_layers is missing, or written by mlx-lm 0.19 to 0.21, which adapted other layers",
    "the current mlx-lm cannot load the adapter, or loads other layers; fusery takes the layers from the tensors",
    "only to use mlx_lm directly: set num_layers in adapter_config.json",
)


@rule(UNMATCHED_KEY)
def keys_are_paths(candidate: Candidate) -> Iterator[Finding]:
    """Each key is the path of a module, within a layer or from the root."""
    folder, base = candidate.folder, candidate.base
    keys = folder.config.parameters.keys
    if keys is None or folder.config.method == "full":
        return
    if not keys:
        yield UNMATCHED_KEY.finding(CONFIG, "the list of keys is empty")
    if not folder.modules:
        return
    # Of all layers, not of the promised ones alone: where layers differ, the last ones need not have them all.
    layers = {key for layer in base.architecture.layers().values() for key in layer}
    layers |= base.architecture.weights.keys() | candidate.tied_heads
    for key in sorted(set(keys) - layers):
        whole = min((path for path in layers if path.endswith(f".{key}")), key=len, default=None)
        message = f"the configuration's key {key!r} matches no module of {base.name}"
        yield UNMATCHED_KEY.finding(CONFIG, message, whole and f"write {whole}")


@rule(LAYERS_MISSING, LAYERS_UNEXPECTED, LAYERS_UNDECLARED)
def declared_layers(candidate: Candidate) -> Iterator[Finding]:
    """The file has the layers that the configuration declares, and no others."""
    folder, base = candidate.folder, candidate.base
    if not folder.modules or folder.config.method == "full":
        return
    wanted, count = folder.config.num_layers, len(base.architecture.layers())
    if folder.form == "mlx" and folder.raw_config and folder.raw_config.get("num_layers") is None:
        message = "the configuration has no num_layers, which the current mlx-lm requires; the tensors show the layers"
        yield LAYERS_UNDECLARED.finding(CONFIG, message)
    if (cut := candidate.cut_layers) is not None:
        message = f"the configuration says num_layers {wanted}, and {plural(len(cut), 'layer')} of {count} are adapted, as mlx-lm 0.19 to 0.21 cut them"
        yield LAYERS_UNDECLARED.finding(CONFIG, message)
    missing = candidate.missing_modules()
    text = "without tensors that the configuration declares"
    yield from LAYERS_MISSING.listed(WEIGHTS, missing, "module", text)
    extra = set(folder.modules) & set(base.architecture.weights) - candidate.promised_modules()
    yield from LAYERS_UNEXPECTED.listed(CONFIG, extra, "adapted module", "not declared by the configuration")


FULL_INCOMPLETE = warning(
    "full_incomplete",
    "some layers of a full fine-tune lack weights that others have",
    "a trainer trains the same weights in each layer: a part of the result is missing",
    "register the whole adapters.safetensors of the run",
)


@rule(FULL_INCOMPLETE)
def full_layers(candidate: Candidate) -> Iterator[Finding]:
    """The layers of a full fine-tune have the same weights."""
    folder = candidate.folder
    if folder.config.method != "full" or folder.header is None:
        return
    names, layers = folder.header.tensors.keys(), candidate.paths_of_layers()
    trained = {key for layer in layers for key, path in layer.items() if f"{path}.weight" in names}
    paths = {layer[key] for layer in layers for key in trained & layer.keys()}
    missing = {path for path in paths if f"{path}.weight" not in names}
    yield from FULL_INCOMPLETE.listed(WEIGHTS, missing, "weight", "missing that other layers have")


METHOD_MISMATCH = error(
    "method_mismatch",
    "the configuration names another method than the tensors show",
    "mlx-lm ignores DoRA's magnitudes, or fails without them",
    'set "fine_tune_type" in adapter_config.json to the method of the training run',
)
INCOMPLETE_MODULE = error(
    "incomplete_module",
    "a module lacks one of its two factors, or with DoRA its magnitude",
    "one factor alone has no effect",
    "register the whole adapters.safetensors of the run",
)
AWARE_INVALID = error(
    "quantization_aware_invalid",
    "the configuration declares quantisation-aware training for a format that mlx does not have, or for other weights",
    "fusery would fuse and measure it for the wrong format",
    f"remove {QUANTIZATION_AWARE} and {ITS_WEIGHTS} from adapter_config.json if they come from another run",
)
AWARE = info(
    "quantization_aware",
    "the adapter was trained for one quantised format",
    "fusery refuses fuses into other formats, and unfused use",
    "fuse it, and use the fused model",
)
NVFP4 = warning(
    "nvfp4_merge_aware",
    "the adapter was trained to be fused into NVFP4 with a scale per tensor (Axolotl's nvfp4_merge_aware)",
    "unfused or fused into another format, the model is worse than its base",
    MERGE_WITH_AXOLOTL,
)


@rule(METHOD_MISMATCH)
def supported_method(candidate: Candidate) -> Iterator[Finding]:
    """The declared method matches the tensors."""
    method, modules = candidate.folder.config.method, candidate.folder.modules.values()
    factors = any(module.a is not None or module.b is not None for module in modules)
    magnitudes = any(module.m is not None for module in modules)
    for wrong, message, right in (
        (method == "full" and factors, "full fine-tuning, and the tensors are lora_a and lora_b", "lora"),
        (method == "lora" and magnitudes, "LoRA, and the tensors have DoRA magnitudes", "dora"),
        (method == "dora" and modules and not magnitudes, "DoRA, and the tensors have no magnitudes", "lora"),
    ):
        if wrong:
            hint = f'set "fine_tune_type": "{right}"'
            yield METHOD_MISMATCH.finding(CONFIG, f"the configuration says {message}", hint)


@rule(INCOMPLETE_MODULE)
def complete_pairs(candidate: Candidate) -> Iterator[Finding]:
    """Each module has both factors, and with DoRA a magnitude."""
    folder = candidate.folder
    # That no module has one is for `supported_method` to say.
    magnitudes = folder.config.method == "dora" and any(m.m is not None for m in folder.modules.values())
    for module in folder.modules.values():
        parts = {"lora_a": module.a, "lora_b": module.b, **({"m": module.m} if magnitudes else {})}
        for part in (name for name, shape in parts.items() if shape is None):
            yield INCOMPLETE_MODULE.finding(module.path, f"{module.path} has no {part}")


@rule(AWARE_INVALID, AWARE, NVFP4)
def quantization_aware_training(candidate: Candidate) -> Iterator[Finding]:
    """The declared format of quantisation-aware training is one that mlx has, declared for these weights."""
    folder, raw = candidate.folder, candidate.folder.raw_config
    if raw.get(NVFP4_MERGE_AWARE):
        message = f"{CONFIG} declares {NVFP4_MERGE_AWARE}: fuse the adapter on its NVFP4 checkpoint only, and do not use it unfused"
        yield NVFP4.finding(CONFIG, message)
        return
    try:
        format_ = trained_through(raw)
    except ValueError:
        message = f"{CONFIG} says {QUANTIZATION_AWARE} is {str(raw[QUANTIZATION_AWARE])[:80]}, which is not a format of mlx"
        yield AWARE_INVALID.finding(CONFIG, message)
        return
    # Rendered from another form, the weights are other bytes.
    own = ITS_WEIGHTS in raw and folder.form == "mlx" and WEIGHTS in folder.files
    if format_ is None:
        return
    if folder.config.method == "full":
        message = f"{CONFIG} declares quantisation-aware training, and the file holds full weights"
        yield AWARE_INVALID.finding(CONFIG, message)
    elif own and is_of_others(raw, digest_file(folder.files[WEIGHTS])[0]):
        message = f"{CONFIG} declares quantisation-aware training of other weights than these"
        yield AWARE_INVALID.finding(CONFIG, message)
    else:
        message = f"the adapter was trained to be fused into {in_words(format_)}, and cannot be used unfused"
        yield AWARE.finding(CONFIG, message)


SHAPE_MISMATCH = error(
    "shape_mismatch",
    "the shape of lora_a, lora_b or m does not fit the others, or the base's weight",
    "the update cannot be added",
    "give the base of the training; if tensors are transposed, save them again",
)
VOCABULARY_MISMATCH = error(
    "vocabulary_mismatch",
    "the adapter's embedding or output layer does not fit the base's, which may have another number of tokens",
    "tokens were added in training; without them, the ids of the tokenizer do not match the base",
    "add the base with the resized embedding, and register the adapter on that",
)
RANK_MISMATCH = error(
    "rank_mismatch",
    "the tensors have another rank than the configuration declares, or different ranks",
    "mlx-lm builds all layers with the configured rank, and cannot load the tensors",
    "take the adapter_config.json of the same run, or pad smaller factors with zeros",
)


@rule(SHAPE_MISMATCH, VOCABULARY_MISMATCH)
def shapes_fit(candidate: Candidate) -> Iterator[Finding]:
    """The factors' and magnitudes' shapes fit each other and the base."""
    for module in candidate.folder.modules.values():
        weight = candidate.weights.get(module.path)
        if weight is not None and (why := _misfit(module, weight)):
            yield _shape_code(module.path).finding(module.path, f"{module.path}: {why}")


def _shape_code(module: str) -> Code:
    return VOCABULARY_MISMATCH if module.rpartition(".")[2] in EMBEDDINGS | HEADS else SHAPE_MISMATCH


def _misfit(module: LoraModule, weight: Weight) -> str | None:
    a, b, shape = module.a, module.b, weight.shape
    if a is not None and b is not None:
        if len(shape) == 3:
            fits = len(a) == len(b) == 3 and a == (shape[0], a[1], shape[2]) and b == (*shape[:2], a[1])
        else:
            # Of a linear layer, or of an embedding.
            multiply = len(a) == len(b) == 2 and a[1] == b[0]
            fits = multiply and (a[0], b[1]) in (shape, shape[::-1])
        if not fits:
            return f"lora_a {a} and lora_b {b} do not fit a weight of shape {shape}"
    if module.m is not None and module.m != shape[:1]:
        return f"the magnitude m {module.m} does not fit a weight of shape {shape}"
    return None


@rule(NO_TENSORS, UNKNOWN_TENSOR, SHAPE_MISMATCH, VOCABULARY_MISMATCH)
def full_weights(candidate: Candidate) -> Iterator[Finding]:
    """A full fine-tune holds weights of the base in their shapes."""
    folder, weights = candidate.folder, candidate.base.architecture.weights
    if folder.header is None or folder.config.method != "full":
        return
    if not folder.header.tensors:
        yield NO_TENSORS.finding(WEIGHTS, "the file holds no tensors")
    # Paths that contain modules: they may have numbers of their own, which are not on record.
    containers = {path[:place] for path in weights for place, letter in enumerate(path) if letter == "."}
    unknown = []
    for tensor in folder.header.tensors.values():
        module, _, part = tensor.name.rpartition(".")
        weight = weights.get(module)
        if part in ("lora_a", "lora_b"):
            continue  # a method_mismatch
        if weight is not None and part in ("weight", "bias", "scales", "biases"):
            if why := _misfit_full(tensor, part, weight):
                yield _shape_code(module).finding(tensor.name, f"{tensor.name}: {why}")
        # A module with a weight may have other numbers too, such as the bias by which a router corrects itself.
        elif weight is None and module not in containers:
            unknown.append(tensor.name)
    hint = "the fine-tune belongs to another base model"
    yield from UNKNOWN_TENSOR.listed(WEIGHTS, unknown, "tensor", f"not in {candidate.base.name}", hint)


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


@rule(RANK_MISMATCH)
def rank_consistent(candidate: Candidate) -> Iterator[Finding]:
    """All modules have the configured rank."""
    folder = candidate.folder
    if folder.config.method == "full":
        return
    shapes = {path: module.a for path, module in folder.modules.items() if module.a and len(module.a) > 1}
    ranks = {path: shape[-1] if len(shape) == 2 else shape[1] for path, shape in shapes.items()}
    counts = Counter(ranks.values())
    listed, configured = some(map(str, counts)), folder.config.parameters.rank
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [path for path, rank in ranks.items() if rank != usual]
        message = f"the tensors have the ranks {listed}: not {usual} in {some(odd)}"
        yield RANK_MISMATCH.finding(WEIGHTS, message)
    elif counts and configured not in (None, *counts):
        message = f"the configuration says rank {configured}, and the tensors have {listed}"
        yield RANK_MISMATCH.finding(CONFIG, message)
