"""Rules about the base's `config.json`: whether mlx-lm's class of the model reads what it says."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from ..adapters.files import CONFIG as ADAPTER_CONFIG
from ..adapters.finding import Finding
from ..models.sliding_window import ignored_window
from ..server.mlx_keys import added_keys, class_of
from .candidate import Candidate
from .code import Code, rule

FILE = "config.json"
_SHOWN = 60
_SCALING = "rope_scaling"

BASE_KEYS_ADDED = Code(
    "base_keys_added",
    "warning",
    "the base's config.json says something under keys of transformers 5 that mlx-lm's class of the model does not read",
    "mlx-lm by itself takes defaults in silence, or cannot load the base; fusery gives it the keys wherever it runs, "
    "fuses, trains and serves, and the base's files stay as they are",
    "train with fusery train, or add the keys to config.json yourself where mlx-lm runs on its own",
)
BASE_KEYS_LOST = Code(
    "base_keys_lost",
    "warning",
    "mlx-lm's class of the base ignores settings in config.json",
    "mlx-lm and transformers compute different outputs",
    "use the base with transformers' own class of the model, not with mlx",
)
BASE_NOT_LOADED = Code(
    "base_not_loaded",
    "warning",
    "mlx-lm's class of the model cannot load the base",
    "nothing can be fused into it, measured or served by mlx; adapters can be kept and given to other servers",
    "take the files as the model's authors published them, or a conversion by mlx_lm.convert",
)
BASE_WINDOW_IGNORED = Code(
    "base_window_ignored",
    "warning",
    "the base has a sliding window that mlx-lm's class of the model ignores",
    "on longer texts mlx-lm also attends to tokens before the window, so that its answers differ from those of transformers",
    "keep prompt and answer together within the window, or use a server that computes it: fusery materialize --target vllm",
)
TRAINED_ON_DEFAULTS = Code(
    "trained_on_defaults",
    "info",
    "the adapter is in mlx-lm's form, and mlx-lm by itself reads the base's config.json incompletely",
    "unless fusery train trained it, it was trained on a model that computes something else than the base does",
    "look at its losses with fusery probe; if they are worse than in training, train anew with fusery train",
)


@rule(BASE_KEYS_ADDED, BASE_KEYS_LOST, BASE_NOT_LOADED, BASE_WINDOW_IGNORED, TRAINED_ON_DEFAULTS)
def trained_on_what_the_base_says(candidate: Candidate) -> Iterator[Finding]:
    """An adapter that mlx-lm trained was trained on the base with all that its configuration says."""
    config = candidate.base.architecture.config
    changing = {key: value for key, value in added_keys(config).items() if _changes(key)}
    if candidate.folder.form == "mlx" and changing:
        message = f"mlx-lm by itself does not see {_list(changing)} of {candidate.base.name}"
        yield TRAINED_ON_DEFAULTS.found(ADAPTER_CONFIG, message)


def key_findings(config: Mapping[str, Any], failure: str | None = None) -> Iterator[Finding]:
    """Say what mlx-lm does not read of a base's configuration.

    Args:
        config: the parsed `config.json`.
        failure: why mlx-lm's class could not load the base, if that was tried and failed.
    """
    added = added_keys(config)
    known = _fields(config) if added else None
    given = {key: value for key, value in added.items() if known is None or _takes(known, key)}
    needed = {key: value for key, value in given.items() if not known or known.get(key, ...) != value}
    if needed:
        yield BASE_KEYS_ADDED.found(FILE, f"{FILE} lacks keys that mlx-lm reads: {_told(needed, known)}")
    lost = {key: value for key, value in added.items() if key not in given and _matters(key, value)}
    if lost:
        yield BASE_KEYS_LOST.found(
            FILE, f"mlx-lm's class {_class(config)} has no place for {_list(lost)} of {FILE}"
        )
    if failure:
        yield BASE_NOT_LOADED.found(FILE, failure)
    if window := ignored_window(config):
        yield BASE_WINDOW_IGNORED.found(
            FILE, f"mlx-lm's class ignores the sliding window of {window} tokens that {FILE} asks for"
        )


def _told(added: Mapping[str, Any], known: Mapping[str, Any] | None) -> str:
    """Return each key with its value and what mlx-lm takes without it."""
    parts = []
    for key, value in sorted(added.items()):
        default = dataclasses.MISSING if known is None else known.get(key, dataclasses.MISSING)
        without = f" instead of {_value(default)}" if default is not dataclasses.MISSING else ""
        parts.append(f"{key} ({_value(value)}{without})")
    return ", ".join(parts)


def _list(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} ({_value(value)})" for key, value in sorted(keys.items()))


def _value(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _changes(key: str) -> bool:
    """Tell whether a key changes what is computed, rather than whether the class can be made."""
    return key.rpartition(".")[2] in (
        "rope_theta",
        "rope_scaling",
        "partial_rotary_factor",
        "rope_local_base_freq",
    )


def _matters(key: str, value: Any) -> bool:
    """Tell whether it matters that a class has no place for a key."""
    name = key.rpartition(".")[2]
    if name == "partial_rotary_factor":
        return bool(value != 1.0)
    return name == "rope_scaling" and isinstance(value, Mapping) and value.get("rope_type") != "default"


def _takes(known: Mapping[str, Any], key: str) -> bool:
    return key in known or ("." in key and not any("." in name for name in known))


def _class(config: Mapping[str, Any]) -> str:
    return f"{class_of(config.get('model_type'))[:_SHOWN]} ({version('mlx-lm')})"


def _fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the keys that mlx-lm's class of a model reads, with their defaults; None if unknown.

    Those of the text in a model are called `text_config.KEY`, and are left out where that class is not found.
    """
    arguments = _arguments(config)
    if arguments is None:
        return None
    found = _defaults(arguments)
    text = config.get("text_config")
    inner = (
        _arguments({"model_type": class_of(text.get("model_type"))}) if isinstance(text, Mapping) else None
    )
    if inner is not None:
        found |= {f"text_config.{key}": value for key, value in _defaults(inner).items()}
    return found


def _defaults(arguments: Any) -> dict[str, Any]:
    found = {field.name: field.default for field in dataclasses.fields(arguments)}
    source = inspect.getsource(sys.modules[arguments.__module__])
    if source.count(_SCALING) == 1:
        found.pop(_SCALING, None)  # declared, and never read
    return found


def _arguments(config: Mapping[str, Any]) -> Any:
    """Return the class of a model's arguments, None where mlx-lm is not installed or has none."""
    try:
        from mlx_lm.utils import _get_classes

        return _get_classes(dict(config))[1]
    except (ImportError, SystemExit, ValueError, KeyError, TypeError, AttributeError):
        return None
