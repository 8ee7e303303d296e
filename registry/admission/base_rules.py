"""Rules about the base: that it is the one the adapter was trained on, and has the modules that are adapted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..adapter_files import CONFIG, METADATA, WEIGHTS
from ..errors import BadInputError
from ..names import parse_base_name
from .candidate import Candidate, tail
from .finding import Finding, some


def declared_base(candidate: Candidate) -> Iterator[Finding]:
    """The base that the files name is the one that was given: `base_mismatch`, `base_unverified`."""
    for file, name in (
        (CONFIG, candidate.folder.config.model),
        (METADATA, candidate.folder.metadata.base_model),
    ):
        if name:
            yield from _one_declared_base(candidate, file, name)


def _one_declared_base(candidate: Candidate, file: str, name: str) -> Iterator[Finding]:
    base, end = candidate.base, tail(name)
    if end and end in {tail(known) for known in base.known_as}:
        return
    other = next((first for known, first in base.others.items() if end and tail(known) == end), None)
    if other is not None:
        message = f"{file} says the adapter was trained on {name!r}, which is registered as {other!r}, not {base.name!r}"
        yield Finding("base_mismatch", "error", file, message, f"give --base {other}")
    elif _is_local_path(name):
        message = f"{file} names the base by the path {name!r}, which cannot be compared with {base.name!r}"
        yield Finding("base_unverified", "warning", file, message)
    else:
        message = f"{file} says the adapter was trained on {name!r}, and the base given is {base.name!r}"
        yield Finding("base_mismatch", "error", file, message, _same_model(file, name))


def _same_model(file: str, name: str) -> str:
    """Return what to do when both names mean one model: not every name can be given to a base."""
    try:
        parse_base_name(name)
    except BadInputError:
        return f"if both are the same model, write the name of the base given in {file}"
    return f"if both are the same model, run: fusery base add SOURCE --name '{name}'"


def _is_local_path(name: str) -> bool:
    return (
        not tail(name)
        or name.startswith(("/", "./", "../", "~"))
        or "\\" in name
        or name.count("/") > 1
        or Path(name).suffix == ".gguf"
    )


def modules_of_base(candidate: Candidate) -> Iterator[Finding]:
    """Every adapted module is a module of the base: `unknown_module`."""
    weights = candidate.base.architecture.weights
    unknown = {path for path in candidate.folder.modules if path not in weights}
    if unknown:
        message = f"{len(unknown)} adapted modules are not in {candidate.base.name}: {some(unknown)}"
        yield Finding(
            "unknown_module", "error", WEIGHTS, message, "the adapter belongs to another base model"
        )


def promised_layers(candidate: Candidate) -> Iterator[Finding]:
    """What the configuration promises is in the file: `layers_missing`, `unmatched_key`, `layers_unpromised`."""
    folder = candidate.folder
    if not folder.modules or folder.config.method == "full" or folder.config.num_layers is None:
        return
    promised, present = candidate.promised_modules(), set(folder.modules)
    missing = candidate.missing_modules()
    keys = folder.config.lora_parameters.keys if folder.config.lora_parameters else None
    for key in keys or ():
        if not any(path == key or path.endswith(f".{key}") for path in promised):
            message = f"the configuration's key {key!r} matches no module of {candidate.base.name}"
            yield Finding(
                "unmatched_key", "error", CONFIG, message, "keys are paths in a layer: self_attn.q_proj"
            )
    if missing:
        message = f"{len(missing)} modules that the configuration promises have no tensors: {some(missing)}"
        yield Finding(
            "layers_missing", "error", WEIGHTS, message, "register the whole adapters.safetensors of the run"
        )
    if extra := present & set(candidate.base.architecture.weights) - promised:
        message = f"{len(extra)} adapted modules are not promised by the configuration: {some(extra)}"
        yield Finding("layers_unpromised", "error", CONFIG, message, "mlx-lm refuses to load such an adapter")
