"""An adapter's configuration as today's mlx-lm reads it.

Trainers of other years wrote `lora_layers`, `use_dora` and null, people write numbers as text, and admission understands
all of it; `mlx_lm` 0.32 reads `num_layers`, `rank`, `scale` and `dropout` as they stand, and stops at anything else.
Whoever runs an adapter, fuses it or ships it takes it from here.  How many layers were adapted is in the tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import read_header

from ..documents import write_document
from .files import CONFIG, JSON_LIMIT, JSON_VALUES, WEIGHTS

if TYPE_CHECKING:
    from .mlx_config import LoraModule


def for_todays_mlx(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Return an adapter's files in mlx-lm's form with a configuration that today's mlx-lm can read.

    Args:
        files: its files by name.
        folder: made if it is needed: where the configuration has to be another, both files are written into it.

    Raises:
        FormatError: the configuration or the weights cannot be read.
        OutOfSpaceError: there is no room for a copy.
    """
    from .mlx_config import lora_modules

    raw = read_object(files[CONFIG], limit=JSON_LIMIT, most=JSON_VALUES)
    if raw.get("fine_tune_type") == "full":
        return dict(files)
    modules, _ = lora_modules(read_header(files[WEIGHTS]))
    config = todays_config(raw, modules)
    if json.dumps(config) == json.dumps(raw):
        return dict(files)
    folder.mkdir(parents=True, exist_ok=True)
    with os_failures(f"write {folder / WEIGHTS}", near=folder):
        shutil.copyfile(files[WEIGHTS], folder / WEIGHTS)
    write_document(folder / CONFIG, config)
    return {**files, CONFIG: folder / CONFIG, WEIGHTS: folder / WEIGHTS}


def todays_config(raw: Mapping[str, Any], modules: Mapping[str, LoraModule]) -> dict[str, Any]:
    """Return `adapter_config.json` as today's mlx-lm reads it; nothing else is changed, and nothing if it is malformed.

    Where it does not say which layers were adapted, or says fewer than have tensors (mlx-lm 0.19 to 0.21 did), the modules
    that have tensors are named instead, by their paths from the root.

    Args:
        raw: what the file says.
        modules: the adapted modules by path.
    """
    from .mlx_config import AdapterConfig, LoraParameters

    try:
        config = AdapterConfig.model_validate(raw)
    except ValidationError:
        return dict(raw)
    said = config.lora_parameters or LoraParameters()
    ranks = {module.a[1] for module in modules.values() if module.a and len(module.a) > 1}
    # Nothing that is run here drops anything; mlx-lm makes the layers of it all the same.
    dropout = said.dropout if said.dropout is not None and 0 <= said.dropout < 1 else 0.0
    parameters = dict(raw.get("lora_parameters") or {})
    _put(parameters, "rank", said.rank or (ranks.pop() if len(ranks) == 1 else None), (int,))
    _put(parameters, "scale", said.scale, (int, float))
    _put(parameters, "dropout", dropout, (int, float))
    found = {**raw, "lora_parameters": parameters}
    if raw.get("fine_tune_type", "lora") != config.method or raw.get("use_dora"):
        found = {key: value for key, value in found.items() if key != "use_dora"}
        found["fine_tune_type"] = config.method
    # What is named by its path from the root is adapted whatever the number says.
    counted = _blocks(set(modules) - set(said.keys or ()))
    unsaid = raw.get("num_layers") is None or 0 < (config.num_layers or 0) < len(counted)
    if unsaid:
        found["num_layers"] = -1
    else:
        _put(found, "num_layers", config.num_layers, (int,))
    # Without keys mlx-lm of old adapted some layers only; today's takes all, and stops where DoRA meets experts.
    if unsaid or (config.method == "dora" and said.keys is None):
        parameters["keys"] = sorted(modules)
    return found


def _blocks(modules: Iterable[str]) -> set[str]:
    """Return the numbers of the layers that modules are in."""
    numbers = (next((part for part in path.split(".") if part.isdecimal()), None) for path in modules)
    return {number for number in numbers if number is not None}


def _put(settings: dict[str, Any], name: str, value: float | None, kinds: tuple[type, ...]) -> None:
    """Set what is known, unless it stands there as the number that it is: not as text, true, or with a fraction of 0."""
    if value is not None and not (type(settings.get(name)) in kinds and settings[name] == value):
        settings[name] = value
