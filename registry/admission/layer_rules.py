"""Rules about what the configuration promises: keys that match, and all that they match in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fusery.storage.digest import digest_file

from ..adapters.files import CONFIG, WEIGHTS
from ..adapters.finding import Finding, some
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

_WORDS = frozenset({"auto", "all", "all-linear", "all_linear", "default", "none", "null", "*", ".*", ""})

KEYS_EMPTY = error(
    "keys_empty",
    "the configuration's list of keys is empty",
    "mlx-lm adapts no module then, and cannot load the tensors",
    "leave keys out to mean every linear layer",
)
KEY_PLACEHOLDER = error(
    "key_placeholder",
    "a key is a word such as auto, not the path of a module",
    "mlx-lm takes keys literally: the word matches nothing, and nothing is adapted",
    "leave keys out to mean every linear layer, or write paths such as self_attn.q_proj",
)
KEY_SHORTENED = error(
    "key_shortened",
    "a key is only the end of a module's path within its layer",
    "PEFT matches the ends of paths, mlx-lm whole paths: the key matches nothing",
    "write the whole path within a layer, such as self_attn.q_proj",
)
KEY_TWICE = warning(
    "key_twice",
    "a key is listed twice",
    "lists of keys are written by hand: another one may be missing in its place",
    "compare the list with the arguments of the run",
)
UNMATCHED_KEY = error(
    "unmatched_key",
    "a key matches no module of the base",
    "what it was to adapt is not adapted, without a word from mlx-lm",
    "keys are paths in a layer: self_attn.q_proj",
)
LAYERS_MISSING = error(
    "layers_missing",
    "modules that the configuration promises have no tensors",
    "mlx-lm loads such a part without a warning, and the model differs from the evaluated one",
    "register the whole adapters.safetensors of the run",
)
LAYERS_UNPROMISED = error(
    "layers_unpromised",
    "there are tensors of modules that the configuration does not promise",
    "mlx-lm refuses to load such an adapter",
    "take the adapter_config.json of the same run",
)
LAYERS_BEYOND_BASE = warning(
    "layers_beyond_base",
    "the configuration names more layers than the base has",
    "mlx-lm refuses to train so: the configuration is of another base, or was edited",
    "take the adapter_config.json of the same run",
)
LAYERS_UNSAID = info(
    "layers_unsaid",
    "the configuration has no num_layers",
    "mlx-lm does not load such an adapter; fusery takes the layers from the tensors, whatever it makes of it",
    "nothing has to be done; mlx_lm itself wants num_layers in adapter_config.json",
)
LAYERS_CUT = info(
    "layers_cut",
    "other layers are adapted than the configuration says, as mlx-lm 0.19 to 0.21 did it",
    "they took every layer for a positive num_layers, and all but the first for -1; today's mlx-lm loads other layers for that number",
    "nothing has to be done: fusery takes the layers from the tensors, whatever it makes of it",
)
FULL_INCOMPLETE = warning(
    "full_incomplete",
    "a full fine-tune lacks weights in some of its layers that others have",
    "layers are trained alike: part of the result is missing",
    "register the whole adapters.safetensors of the run",
)


@rule(KEYS_EMPTY, KEY_PLACEHOLDER, KEY_SHORTENED, KEY_TWICE, UNMATCHED_KEY)
def keys_are_paths(candidate: Candidate) -> Iterator[Finding]:
    """Each key is the path of a module, within a layer or from the root."""
    keys, folder, base = candidate.keys, candidate.folder, candidate.base
    if keys is None or folder.config.method == "full":
        return
    if not keys:
        yield KEYS_EMPTY.found(CONFIG, "the list of keys is empty")
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        yield KEY_TWICE.found(CONFIG, f"listed twice: {some(twice)}")
    if not folder.modules:
        return
    # Of all layers, not of the promised ones alone: where layers differ, the last ones need not have them all.
    known = {key for layer in base.architecture.layers().values() for key in layer}
    known |= base.architecture.weights.keys()
    for key in dict.fromkeys(keys):
        message = f"the configuration's key {key!r} matches no module of {base.name}"
        if key.strip().casefold() in _WORDS:
            yield KEY_PLACEHOLDER.found(CONFIG, f"{message}: it is a word")
        elif key not in known and key not in candidate.tied_heads:
            whole = sorted(path for path in known if path.endswith(f".{key}"))
            if whole:
                path = min(whole, key=len)
                yield KEY_SHORTENED.found(CONFIG, f"{message}, but is the end of {path}", f"write {path}")
            else:
                yield UNMATCHED_KEY.found(CONFIG, message)


@rule(LAYERS_MISSING, LAYERS_UNPROMISED, LAYERS_BEYOND_BASE, LAYERS_UNSAID, LAYERS_CUT)
def promised_layers(candidate: Candidate) -> Iterator[Finding]:
    """The file has the layers that the configuration declares, and no others."""
    folder, base = candidate.folder, candidate.base
    if not folder.modules or folder.config.method == "full":
        return
    wanted, count = folder.config.num_layers, len(base.architecture.layers())
    if folder.form == "mlx" and folder.raw_config and folder.raw_config.get("num_layers") is None:
        message = (
            "the configuration has no num_layers, as today's mlx-lm asks for; the tensors say which layers"
        )
        yield LAYERS_UNSAID.found(CONFIG, message)
    if wanted is not None and wanted > count > 0:
        message = f"the configuration says {wanted} layers, and {base.name} has {count}"
        yield LAYERS_BEYOND_BASE.found(CONFIG, message)
    if (cut := candidate.cut_layers) is not None:
        message = f"the configuration says num_layers {wanted}, and {plural(len(cut), 'layer')} of {count} are adapted, as mlx-lm 0.19 to 0.21 cut them"
        yield LAYERS_CUT.found(CONFIG, message)
    missing = candidate.missing_modules()
    yield from LAYERS_MISSING.listed(
        WEIGHTS, missing, "module", "without tensors that the configuration promises"
    )
    extra = set(folder.modules) & set(base.architecture.weights) - candidate.promised_modules()
    yield from LAYERS_UNPROMISED.listed(CONFIG, extra, "adapted module", "not promised by the configuration")


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
    "unexpected magnitudes of DoRA are lost, or expected ones missing",
    'set "fine_tune_type" in adapter_config.json to what was trained',
)
INCOMPLETE_MODULE = error(
    "incomplete_module",
    "a module has one of its tensors and not the other, or no magnitude where DoRA has one",
    "half a pair is no update",
    "register the whole adapters.safetensors of the run",
)
AWARE_INVALID = error(
    "quantization_aware_invalid",
    "the adapter was trained through a format that mlx does not have",
    "it would be fused, and measured, as another one than was trained",
    'write "quantization_aware": {"bits": 4, "group_size": 64} of the run in adapter_config.json, or leave it out',
)
AWARE_OTHER = error(
    "quantization_aware_other",
    "the configuration says that other weights were trained through a quantiser",
    "measured as if these were, a fuse would pass that has lost what they learned",
    f"leave {QUANTIZATION_AWARE} and {ITS_WEIGHTS} out of adapter_config.json: they stand there from the configuration of another run",
)
AWARE = info(
    "quantization_aware",
    "the adapter was trained through a quantiser",
    "its training computed with the model in that format: other formats and unfused use are refused",
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
    """The method is the one that the tensors show."""
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


@rule(AWARE_INVALID, AWARE_OTHER, AWARE, NVFP4)
def trained_through_a_format(candidate: Candidate) -> Iterator[Finding]:
    """The format that an adapter says it was trained through is one of mlx, and it has factors that were."""
    folder, raw = candidate.folder, candidate.folder.raw_config
    if raw.get(NVFP4_MERGE_AWARE):
        message = f"{CONFIG} declares {NVFP4_MERGE_AWARE}: the adapter can be stored and exported, but neither fused nor used unfused"
        yield NVFP4.found(CONFIG, message)
    try:
        format_ = trained_through(raw)
    except ValueError:
        message = f"{CONFIG} says {QUANTIZATION_AWARE} is {str(raw[QUANTIZATION_AWARE])[:80]}, which is no format of mlx"
        yield AWARE_INVALID.found(CONFIG, message)
        return
    # Rendered from another form, the weights are other bytes.
    own = ITS_WEIGHTS in raw and folder.form == "mlx" and WEIGHTS in folder.files
    if format_ is None:
        return
    if folder.config.method == "full":
        message = f"{CONFIG} says the adapter was trained through a quantiser, and it holds whole weights"
        hint = f"leave {QUANTIZATION_AWARE} out: quantise them afterwards"
        yield AWARE_INVALID.found(CONFIG, message, hint)
    elif own and is_of_others(raw, digest_file(folder.files[WEIGHTS])[0]):
        message = f"{CONFIG} says other weights than these were trained through a quantiser"
        yield AWARE_OTHER.found(CONFIG, message)
    else:
        message = f"the adapter was trained to be fused into {in_words(format_)}, and cannot be used unfused"
        yield AWARE.found(CONFIG, message)
