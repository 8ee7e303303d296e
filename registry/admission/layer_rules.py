"""Rules about what the configuration promises: keys that match, and all that they match in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..adapters.files import CONFIG, WEIGHTS
from ..adapters.finding import Finding, some
from ..parsing import plural
from .candidate import Candidate
from .code import Code, rule

_WORDS = frozenset({"auto", "all", "all-linear", "all_linear", "default", "none", "null", "*", ".*", ""})

KEYS_EMPTY = Code(
    "keys_empty",
    "error",
    "the configuration's list of keys is empty",
    "mlx-lm adapts no module then, and cannot load the tensors",
    "leave keys out to mean every linear layer",
)
KEY_PLACEHOLDER = Code(
    "key_placeholder",
    "error",
    "a key is a word such as auto, not the path of a module",
    "mlx-lm takes keys literally: the word matches nothing, and nothing is adapted",
    "leave keys out to mean every linear layer, or write paths such as self_attn.q_proj",
)
KEY_SHORTENED = Code(
    "key_shortened",
    "error",
    "a key is only the end of a module's path within its layer",
    "PEFT matches the ends of paths, mlx-lm whole paths: the key matches nothing",
    "write the whole path within a layer, such as self_attn.q_proj",
)
KEY_TWICE = Code(
    "key_twice",
    "warning",
    "a key is listed twice",
    "lists of keys are written by hand: another one may be missing in its place",
    "compare the list with the arguments of the run",
)
UNMATCHED_KEY = Code(
    "unmatched_key",
    "error",
    "a key matches no module of the base",
    "what it was to adapt is not adapted, without a word from mlx-lm",
    "keys are paths in a layer: self_attn.q_proj",
)
LAYERS_MISSING = Code(
    "layers_missing",
    "error",
    "modules that the configuration promises have no tensors",
    "mlx-lm loads such a part without a word, and the model is not the one that was evaluated",
    "register the whole adapters.safetensors of the run",
)
LAYERS_UNPROMISED = Code(
    "layers_unpromised",
    "error",
    "there are tensors of modules that the configuration does not promise",
    "mlx-lm refuses to load such an adapter",
    "take the adapter_config.json of the same run",
)
LAYERS_BEYOND_BASE = Code(
    "layers_beyond_base",
    "warning",
    "the configuration names more layers than the base has",
    "mlx-lm refuses to train so: the configuration is of another base, or was edited",
    "take the adapter_config.json of the same run",
)
LAYERS_UNSAID = Code(
    "layers_unsaid",
    "info",
    "the configuration has no num_layers",
    "mlx-lm does not load such an adapter; fusery takes the layers from the tensors, whatever it makes of it",
    "nothing has to be done; mlx_lm itself wants num_layers in adapter_config.json",
)
LAYERS_CUT = Code(
    "layers_cut",
    "info",
    "other layers are adapted than the configuration says, as mlx-lm 0.19 to 0.21 did it",
    "they took every layer for a positive num_layers, and all but the first for -1; today's mlx-lm loads other layers for that number",
    "nothing has to be done: fusery takes the layers from the tensors, whatever it makes of it",
)
FULL_INCOMPLETE = Code(
    "full_incomplete",
    "warning",
    "a full fine-tune lacks weights in some of its layers that others have",
    "layers are trained alike: part of the result is missing",
    "register the whole adapters.safetensors of the run",
)


@rule(KEYS_EMPTY, KEY_PLACEHOLDER, KEY_SHORTENED, KEY_TWICE, UNMATCHED_KEY)
def keys_are_paths(candidate: Candidate) -> Iterator[Finding]:
    """Each key is the path of a module, within a layer or from the root."""
    keys, folder = candidate.keys, candidate.folder
    if keys is None or folder.config.method == "full":
        return
    if not keys:
        yield KEYS_EMPTY.found(CONFIG, "the list of keys is empty")
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        yield KEY_TWICE.found(CONFIG, f"listed twice: {some(twice)}")
    if not folder.modules:
        return
    # Of all layers, not of the promised ones alone: where layers differ, the last ones need not have them all.
    layers = candidate.base.architecture.layers()
    known = {key for layer in layers.values() for key in layer} | candidate.base.architecture.weights.keys()
    for key in dict.fromkeys(keys):
        if key.strip().casefold() in _WORDS:
            message = (
                f"the configuration's key {key!r} is a word, and matches no module of {candidate.base.name}"
            )
            yield KEY_PLACEHOLDER.found(CONFIG, message)
        elif key not in known and key not in candidate.tied_heads:
            whole = sorted(path for path in known if path.endswith(f".{key}"))
            message = f"the configuration's key {key!r} matches no module of {candidate.base.name}"
            if whole:
                shortest = min(whole, key=len)
                yield KEY_SHORTENED.found(
                    CONFIG, f"{message}, but is the end of {shortest}", f"write {shortest}"
                )
            else:
                yield UNMATCHED_KEY.found(CONFIG, message)


@rule(LAYERS_MISSING, LAYERS_UNPROMISED, LAYERS_BEYOND_BASE, LAYERS_UNSAID, LAYERS_CUT)
def promised_layers(candidate: Candidate) -> Iterator[Finding]:
    """What the configuration promises is in the file, and nothing else."""
    folder = candidate.folder
    if not folder.modules or folder.config.method == "full":
        return
    wanted, there = folder.config.num_layers, len(candidate.base.architecture.layers())
    if folder.form == "mlx" and folder.raw_config and folder.raw_config.get("num_layers") is None:
        message = (
            "the configuration has no num_layers, as today's mlx-lm asks for; the tensors say which layers"
        )
        yield LAYERS_UNSAID.found(CONFIG, message)
    if wanted is not None and wanted > there > 0:
        message = f"the configuration says {wanted} layers, and {candidate.base.name} has {there}"
        yield LAYERS_BEYOND_BASE.found(CONFIG, message)
    if (cut := candidate.cut_layers) is not None:
        message = f"the configuration says num_layers {wanted}, and {plural(len(cut), 'layer')} of {there} are adapted, as mlx-lm 0.19 to 0.21 cut them"
        yield LAYERS_CUT.found(CONFIG, message)
    missing = candidate.missing_modules()
    if missing:
        message = (
            f"no tensors of {plural(len(missing), 'module')} that the configuration promises: {some(missing)}"
        )
        yield LAYERS_MISSING.found(WEIGHTS, message)
    promised = candidate.promised_modules()
    if extra := set(folder.modules) & set(candidate.base.architecture.weights) - promised:
        message = f"{plural(len(extra), 'adapted module')} not promised by the configuration: {some(extra)}"
        yield LAYERS_UNPROMISED.found(CONFIG, message)


@rule(FULL_INCOMPLETE)
def full_layers(candidate: Candidate) -> Iterator[Finding]:
    """The layers of a full fine-tune have the same weights."""
    folder = candidate.folder
    if folder.config.method != "full" or folder.header is None:
        return
    names = folder.header.tensors.keys()
    layers = candidate.paths_of_layers()
    trained = {key for layer in layers for key, path in layer.items() if f"{path}.weight" in names}
    missing = {
        layer[key]
        for layer in layers
        for key in trained & layer.keys()
        if f"{layer[key]}.weight" not in names
    }
    if missing:
        message = f"{plural(len(missing), 'weight')} missing that other layers have: {some(missing)}"
        yield FULL_INCOMPLETE.found(WEIGHTS, message)
