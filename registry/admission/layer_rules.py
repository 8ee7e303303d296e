"""Rules about the configuration's keys, layers and method: they match the base and the tensors."""

from __future__ import annotations

from collections.abc import Iterator

from fusery.storage.digest import digest_file

from ..adapters.files import CONFIG, WEIGHTS
from ..adapters.finding import Finding
from ..adapters.trained_through import (
    ITS_WEIGHTS,
    MERGE_WITH_AXOLOTL,
    NVFP4_MERGE_AWARE,
    QUANTIZATION_AWARE,
    in_words,
    is_of_others,
    trained_through,
)
from ..parsing import plural
from .candidate import Candidate
from .code import error, info, rule, warning

UNMATCHED_KEY = error(
    "unmatched_key",
    "a key matches no module of the base, or the list is empty",
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
    "the configuration has no num_layers, or a number from mlx-lm 0.19 to 0.21, which adapted other layers",
    "the current mlx-lm cannot load the adapter, or loads other layers; fusery takes the layers from the tensors",
    "nothing for fusery; to use mlx_lm directly, set num_layers in adapter_config.json",
)
FULL_INCOMPLETE = warning(
    "full_incomplete",
    "a full fine-tune lacks weights in some layers that other layers have",
    "a trainer trains the same weights in each layer: a part of the result is missing",
    "register the whole adapters.safetensors of the run",
)


@rule(UNMATCHED_KEY)
def keys_are_paths(candidate: Candidate) -> Iterator[Finding]:
    """Each key is the path of a module, within a layer or from the root."""
    keys, folder, base = candidate.keys, candidate.folder, candidate.base
    if keys is None or folder.config.method == "full":
        return
    if not keys:
        yield UNMATCHED_KEY.found(CONFIG, "the list of keys is empty")
    if not folder.modules:
        return
    # Of all layers, not of the promised ones alone: where layers differ, the last ones need not have them all.
    layers = {key for layer in base.architecture.layers().values() for key in layer}
    layers |= base.architecture.weights.keys() | candidate.tied_heads
    for key in sorted(set(keys) - layers):
        whole = min((path for path in layers if path.endswith(f".{key}")), key=len, default=None)
        message = f"the configuration's key {key!r} matches no module of {base.name}"
        yield UNMATCHED_KEY.found(CONFIG, message, whole and f"write {whole}")


@rule(LAYERS_MISSING, LAYERS_UNEXPECTED, LAYERS_UNDECLARED)
def declared_layers(candidate: Candidate) -> Iterator[Finding]:
    """The file has the layers that the configuration declares, and no others."""
    folder, base = candidate.folder, candidate.base
    if not folder.modules or folder.config.method == "full":
        return
    wanted, count = folder.config.num_layers, len(base.architecture.layers())
    if folder.form == "mlx" and folder.raw_config and folder.raw_config.get("num_layers") is None:
        message = "the configuration has no num_layers, which the current mlx-lm requires; the tensors show the layers"
        yield LAYERS_UNDECLARED.found(CONFIG, message)
    if (cut := candidate.cut_layers) is not None:
        message = f"the configuration says num_layers {wanted}, and {plural(len(cut), 'layer')} of {count} are adapted, as mlx-lm 0.19 to 0.21 cut them"
        yield LAYERS_UNDECLARED.found(CONFIG, message)
    missing = candidate.missing_modules()
    yield from LAYERS_MISSING.listed(
        WEIGHTS, missing, "module", "without tensors that the configuration declares"
    )
    extra = set(folder.modules) & set(base.architecture.weights) - candidate.promised_modules()
    yield from LAYERS_UNEXPECTED.listed(CONFIG, extra, "adapted module", "not declared by the configuration")


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
    "mlx-lm ignores the magnitudes of DoRA, or expects missing ones",
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
    "the training was quantisation-aware",
    "the adapter only fits that format: fusery refuses other formats and unfused use",
    "fuse it, and use the fused model",
)
NVFP4 = warning(
    "nvfp4_merge_aware",
    "the adapter was trained to be fused into NVFP4 with a scale per tensor (Axolotl's nvfp4_merge_aware)",
    "fusery cannot write that format yet; unfused or fused into another format, the model is worse than its base",
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
            yield METHOD_MISMATCH.found(
                CONFIG, f"the configuration says {message}", f'set "fine_tune_type": "{right}"'
            )


@rule(INCOMPLETE_MODULE)
def complete_pairs(candidate: Candidate) -> Iterator[Finding]:
    """Each module has both factors, and with DoRA a magnitude."""
    folder = candidate.folder
    # That no module has one is for `supported_method` to say.
    magnitudes = folder.config.method == "dora" and any(m.m is not None for m in folder.modules.values())
    for module in folder.modules.values():
        parts = {"lora_a": module.a, "lora_b": module.b, **({"m": module.m} if magnitudes else {})}
        for part in (name for name, shape in parts.items() if shape is None):
            yield INCOMPLETE_MODULE.found(module.path, f"{module.path} has no {part}")


@rule(AWARE_INVALID, AWARE, NVFP4)
def quantization_aware_training(candidate: Candidate) -> Iterator[Finding]:
    """The declared format of quantisation-aware training is one of mlx, and belongs to these weights."""
    folder, raw = candidate.folder, candidate.folder.raw_config
    if raw.get(NVFP4_MERGE_AWARE):
        message = f"{CONFIG} declares {NVFP4_MERGE_AWARE}: the adapter can be stored and exported, but neither fused nor used unfused"
        yield NVFP4.found(CONFIG, message)
    try:
        format_ = trained_through(raw)
    except ValueError:
        message = f"{CONFIG} says {QUANTIZATION_AWARE} is {str(raw[QUANTIZATION_AWARE])[:80]}, which is not a format of mlx"
        yield AWARE_INVALID.found(CONFIG, message)
        return
    # Rendered from another form, the weights are other bytes.
    own = ITS_WEIGHTS in raw and folder.form == "mlx" and WEIGHTS in folder.files
    if format_ is None:
        return
    if folder.config.method == "full":
        message = f"{CONFIG} declares quantisation-aware training, and the file holds full weights"
        yield AWARE_INVALID.found(CONFIG, message)
    elif own and is_of_others(raw, digest_file(folder.files[WEIGHTS])[0]):
        message = f"{CONFIG} declares quantisation-aware training of other weights than these"
        yield AWARE_INVALID.found(CONFIG, message)
    else:
        message = f"the adapter was trained to be fused into {in_words(format_)}, and cannot be used unfused"
        yield AWARE.found(CONFIG, message)
