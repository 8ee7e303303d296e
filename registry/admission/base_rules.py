"""Rules about the base: that it is the one the adapter was trained on, and has the modules that are adapted."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from ..adapters import CONFIG, METADATA, WEIGHTS, Finding, some
from ..adapters.peft_config import MERGE
from ..engine.config import has_vision
from ..errors import BadInputError
from ..models.libraries import ignored_window
from ..names import parse_base_name
from ..runtime.mlx_keys import added_keys, class_of
from .candidate import Candidate, tail
from .code import error, info, rule, warning

_BLIND = (
    "mlx-lm has only the language model: train without the vision modules (PEFT: exclude_modules; Unsloth: "
    "finetune_vision_layers=False), or fuse it in the library that trained it"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")

BASE_MISMATCH = error(
    "base_mismatch",
    "the adapter's files name another base than `--base`",
    "on another model, the adapter's answers are wrong but look plausible",
    "give the training base with --base, or with --trained-on if --base is the same model at another precision",
)
BASE_UNVERIFIED = warning(
    "base_unverified",
    "the adapter's files name the base by a path",
    "fusery cannot compare a path with the name of a base",
    "write the base's name there instead of the path",
)
BASE_ALIAS = info(
    "base_alias",
    "the adapter's files name the base by another of its names",
    "the record shows the base's main name instead",
)
BASE_REVISION = warning(
    "base_revision",
    "the adapter's files name another commit of the base than its recorded ones",
    "the weights may differ between commits, and the update was trained on the other one",
    "fusery base add OWNER/NAME --revision COMMIT --name NEW, and give --base NEW",
)
BASE_QUANTISED = warning(
    "base_quantised_in_training",
    "the base was quantised during training, and `--base` is not quantised",
    "the update was trained on rounded weights, which are not in the registry",
    "add the quantised base, and give it with --base; or keep --base, and give the quantised base with --trained-on",
)
_TIED = "the base's head is its embedding: name the base that it was trained on, which has a separate head"
UNKNOWN_MODULE = error(
    "unknown_module",
    "adapted modules are not in the base",
    "there is no weight to add their updates to",
    "give the base model that the adapter was trained on",
)


@rule(BASE_MISMATCH, BASE_UNVERIFIED, BASE_ALIAS)
def declared_base(candidate: Candidate) -> Iterator[Finding]:
    """The base named in the adapter's files is `--base`."""
    folder = candidate.folder
    for file, name in ((CONFIG, folder.config.model), (METADATA, folder.metadata.base_model)):
        if name:
            yield from _one_declared_base(candidate, file, name)


@rule(BASE_REVISION, BASE_QUANTISED)
def base_as_in_training(candidate: Candidate) -> Iterator[Finding]:
    """The base has the commit and the precision of the training."""
    raw, base = candidate.folder.raw_config, candidate.base
    if candidate.trained_on is not None:
        return  # of another base, no commits and no precision are at hand
    # Unsloth's name for it, and PEFT's.
    commit = raw.get("base_model_commit_hash") or raw.get("revision")
    revisions = {revision for revision in base.revisions if _COMMIT.fullmatch(revision)}
    if isinstance(commit, str) and _COMMIT.fullmatch(commit) and revisions and commit not in revisions:
        recorded = f"{base.name} has the commits {some(revision[:12] for revision in revisions)}"
        message = f"{CONFIG} says the base was at commit {commit[:12]}, and {recorded}"
        yield BASE_REVISION.finding(CONFIG, message)
    quantised = raw.get("requires_unsloth_mlx_runtime_quantization") is True
    if quantised and base.architecture.quantization is None:
        settings = raw.get("base_quantization_config")
        bits = settings.get("bits") if isinstance(settings, dict) else None
        how = f" to {bits} bits" if bits in range(2, 9) else ""
        message = f"{CONFIG} says the base was quantised{how} while it was trained, and {base.name} is not"
        yield BASE_QUANTISED.finding(CONFIG, message)


def _one_declared_base(candidate: Candidate, file: str, name: str) -> Iterator[Finding]:
    base, end = candidate.base, tail(name)
    trained = candidate.trained_on
    if trained is not None and end in {tail(base_name) for base_name in trained.all_names} - {""}:
        return
    if end and end in {tail(base_name) for base_name in base.all_names}:
        # Who writes a metadata file by hand names the base that the adapter is for; a trainer the one that it had.
        if trained is not None and file == CONFIG:
            message = f"{file} says the adapter was trained on {name!r}, which is the base given, and not on {trained.name!r}"
            yield BASE_MISMATCH.finding(file, message, "leave out --trained-on")
            return
        if end != tail(base.name) and (alias := next((a for a in base.aliases if tail(a) == end), None)):
            yield BASE_ALIAS.finding(file, f"{file} calls the base {alias}, which is {base.name} here")
        return
    meant = base.name if trained is None else trained.name
    other = next((first for base_name, first in base.others.items() if end and tail(base_name) == end), None)
    if other is not None:
        message = f"{file} says the adapter was trained on {name!r}, which is registered as {other!r}, not {meant!r}"
        twin = f"give --base {other}; or --trained-on {other}, where {base.name} is the same at another precision"
        yield BASE_MISMATCH.finding(file, message, twin if trained is None else f"give --trained-on {other}")
    elif not end or re.match(r"/|\.\.?/|~|.*(\\|/.*/)|.*\.gguf\Z", name, re.DOTALL):
        message = f"{file} names the base by the path {name!r}, which cannot be compared with {meant!r}"
        yield BASE_UNVERIFIED.finding(file, message)
    else:
        try:
            parse_base_name(name)
            same = f"if both are the same model, run: fusery base add SOURCE --name '{name}'"
        except BadInputError:
            same = f"if both are the same model, write the name of the base given in {file}"
        message = f"{file} says the adapter was trained on {name!r}, and the base given is {meant!r}"
        twin = "; if it is the same at another precision, add it as a base of its own, and give --trained-on"
        yield BASE_MISMATCH.finding(file, message, same + ("" if trained else twin))


@rule(UNKNOWN_MODULE)
def modules_of_base(candidate: Candidate) -> Iterator[Finding]:
    """Every adapted module is a module of the base."""
    unknown = candidate.folder.modules.keys() - candidate.base.architecture.weights.keys()
    if candidate.folder.form == "peft":
        unknown -= candidate.tied_heads  # PEFT_TIED_EMBEDDING reports them
    hint = _BLIND if has_vision(unknown) else None
    if unknown <= candidate.tied_heads:
        hint = _TIED
    elif any(".experts." in module for module in unknown):
        hint = f"mlx has all experts of a layer in one tensor: {MERGE}"
    text = f"not in {candidate.base.name}"
    yield from UNKNOWN_MODULE.listed(WEIGHTS, unknown, "adapted module", text, hint)


FILE = "config.json"
_SHOWN = 60
_SCALING = "rope_scaling"
# Keys that change what is computed, rather than whether the class can be made.
_CHANGING = ("rope_theta", _SCALING, "partial_rotary_factor", "rope_local_base_freq")
BASE_KEYS_ADDED = warning(
    "base_keys_added",
    "the base's config.json has keys of transformers 5 that mlx-lm does not read",
    "mlx-lm alone uses defaults without a warning, or cannot load the base; fusery passes the keys to mlx-lm and does "
    "not change the base's files",
    "train with fusery train, or add the keys to config.json before you use mlx-lm without fusery",
)
BASE_KEYS_LOST = warning(
    "base_keys_lost",
    "mlx-lm ignores settings in the base's config.json",
    "mlx-lm and transformers compute different outputs",
    "use the base with transformers instead of mlx",
)
BASE_NOT_LOADED = warning(
    "base_not_loaded",
    "mlx-lm's class of the model cannot load the base",
    "fusery cannot fuse, evaluate or serve with it; it can store adapters and bundle them for other servers",
    "add the model as its authors published it, or a conversion by mlx_lm.convert",
)
BASE_WINDOW_IGNORED = warning(
    "base_window_ignored",
    "the base has a sliding window that mlx-lm's class of the model ignores",
    "on texts longer than the window, mlx-lm's answers differ from those of transformers",
    "keep prompt and answer within the window, or use vLLM: fusery materialize REF DEST --target vllm",
)
TRAINED_ON_DEFAULTS = info(
    "trained_on_defaults",
    "the adapter is in mlx-lm's form, and mlx-lm alone ignores settings in the base's config.json",
    "without fusery train, it was trained on a model that computes other outputs",
    "measure its loss with fusery eval probe; if it is higher than in training, train again with fusery train",
)


@rule(BASE_KEYS_ADDED, BASE_KEYS_LOST, BASE_NOT_LOADED, BASE_WINDOW_IGNORED, TRAINED_ON_DEFAULTS)
def base_config_supported(candidate: Candidate) -> Iterator[Finding]:
    """mlx-lm can load the base and reads all settings in its config.json."""
    added = added_keys(candidate.base.architecture.config).items()
    changing = {key: value for key, value in added if key.rpartition(".")[2] in _CHANGING}
    if candidate.folder.form == "mlx" and changing:
        message = f"mlx-lm alone does not read {_list(changing)} of {candidate.base.name}"
        yield TRAINED_ON_DEFAULTS.finding(CONFIG, message)


def key_findings(config: Mapping[str, Any], failure: str | None = None) -> Iterator[Finding]:
    """Yield findings for settings of a base that mlx-lm does not read."""
    added = added_keys(config)
    class_fields = _fields(config) if added else None
    given = {
        key: value
        for key, value in added.items()
        if class_fields is None
        or key in class_fields
        or ("." in key and not any("." in name for name in class_fields))
    }
    parts = []
    for key, value in sorted(given.items()):
        default = (class_fields or {}).get(key, ...)
        if not class_fields or default != value:
            without = "" if default in (..., dataclasses.MISSING) else f" instead of {_value(default)}"
            parts.append(f"{key} ({_value(value)}{without})")
    if parts:
        yield BASE_KEYS_ADDED.finding(FILE, f"{FILE} lacks keys that mlx-lm reads: {', '.join(parts)}")
    lost = {key: value for key, value in added.items() if key not in given and _matters(key, value)}
    if lost:
        name = f"{class_of(config.get('model_type'))[:_SHOWN]} ({version('mlx-lm')})"
        yield BASE_KEYS_LOST.finding(FILE, f"mlx-lm's class {name} has no place for {_list(lost)} of {FILE}")
    if failure:
        yield BASE_NOT_LOADED.finding(FILE, failure)
    if window := ignored_window(config):
        message = f"mlx-lm's class ignores the sliding window of {window} tokens that {FILE} asks for"
        yield BASE_WINDOW_IGNORED.finding(FILE, message)


def _list(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} ({_value(value)})" for key, value in sorted(keys.items()))


def _value(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _matters(key: str, value: Any) -> bool:
    name = key.rpartition(".")[2]
    if name == "partial_rotary_factor":
        return bool(value != 1.0)
    return name == _SCALING and isinstance(value, Mapping) and value.get("rope_type") != "default"


def _fields(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the keys that mlx-lm's class of a model reads, with their defaults; None if unknown."""
    try:
        from mlx_lm.utils import _get_classes
    except ImportError:
        return None
    text, fields = config.get("text_config"), None
    inner = {"model_type": class_of(text.get("model_type"))} if isinstance(text, Mapping) else None
    for part, prefix in ((config, ""), (inner, "text_config.")):
        with suppress(SystemExit, ValueError, KeyError, TypeError, AttributeError, ImportError):
            if part is None or (prefix and fields is None):
                continue
            arguments = _get_classes(dict(part))[1]
            defaults = {field.name: field.default for field in dataclasses.fields(arguments)}
            if inspect.getsource(sys.modules[arguments.__module__]).count(_SCALING) == 1:
                defaults.pop(_SCALING, None)  # declared, and never read
            fields = {**(fields or {}), **{f"{prefix}{key}": value for key, value in defaults.items()}}
    return fields
