"""The columns of base models and adapters that follow from their bytes, at registration, in packages and in audits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fusery.storage.jsonfile import read_config

from ..adapters.folder import AdapterFolder
from ..engine.architectures import taken_by_name, within_layer
from ..engine.config import absurdity
from ..errors import BadInputError, FusionUnsupportedError, MissingExtraError
from ..models.architecture import Architecture, architecture_of, read_architecture
from ..models.identity import BaseIdentity
from ..tables.bounds import json_problem
from ..tables.record import to_json

LEARNED = frozenset({"architecture", "parameters", "dtype", "weights"})  # which mlx-lm's class decides


def describe_base(files: Mapping[str, Path], failed: Callable[[str], None] = lambda _: None) -> Architecture:
    """Return the architecture of a model under the names of mlx-lm's modules; without mlx-lm, under those in the files."""
    architecture = read_architecture(files)
    if taken_by_name(architecture.config, files.keys(), written_by_mlx=architecture.written_by_mlx):
        return architecture
    from ..engine.model_class import describe_by_class

    try:
        tensors = describe_by_class(files, architecture.config)
    except FusionUnsupportedError as error:
        failed(error.message)
        return architecture
    except MissingExtraError:
        return architecture
    return architecture_of(architecture.config, tensors, written_by_mlx=architecture.written_by_mlx)


def require_sensible(files: Mapping[str, Path]) -> None:
    """Refuse a model whose configuration says sizes that no model has."""
    problem = absurdity(read_config(files["config.json"])) if "config.json" in files else None
    if problem is not None:
        raise BadInputError(f"invalid config.json: {problem}", hint="use the model's own config.json")


def require_recordable(architecture: Architecture) -> None:
    """Refuse a base model whose record would be larger than backups and other registries accept."""
    if problem := json_problem(dict(architecture.config)) or json_problem(_weights(architecture)):
        raise BadInputError(f"the base model is too large: {problem} ({len(architecture.weights):,} tensors)")


def base_columns(architecture: Architecture, identity: BaseIdentity) -> Mapping[str, Any]:
    """Return the columns of a base that follow from its files."""
    return {
        "digest": identity.manifest.digest,
        "content": identity.content,
        "architecture": architecture.name,
        "model_type": architecture.model_type,
        "parameters": architecture.parameters,
        "dtype": architecture.dtype,
        "quantization": dict(architecture.quantization) if architecture.quantization else None,
        "bytes": identity.manifest.size,
        "config": dict(architecture.config),
        "weights": _weights(architecture),
        "written_by_mlx": architecture.written_by_mlx,
    }


def _weights(architecture: Architecture) -> Mapping[str, Any]:
    return {
        module: [list(weight.shape), weight.dtype, weight.bits]
        for module, weight in architecture.weights.items()
    }


def adapter_columns(folder: AdapterFolder, digest: str) -> Mapping[str, Any]:
    """Return the columns of an adapter that follow from its files, whatever anybody says."""
    return {
        "digest": digest,
        "method": folder.config.method,
        "rank": folder.rank,
        "scale": folder.scale,
        "layers": len({part for path in folder.modules for part in path.split(".") if part.isdigit()}),
        "target_modules": sorted({within_layer(path) for path in folder.modules}),
        "trainable_parameters": folder.trainable_parameters,
        "training": json.loads(json.dumps(folder.raw_config)),
    }


def alpha_of(folder: AdapterFolder) -> float | None:
    """Return LoRA's alpha as the files have it; somebody may say another, which is recorded then."""
    for alpha in (folder.metadata.lora_alpha, folder.alpha):
        if alpha is not None:
            return alpha
    return folder.scale * folder.rank if folder.scale is not None and folder.rank else None


def differing(recorded_values: Mapping[str, Any], derived: Mapping[str, Any]) -> list[str]:
    """Return the names of the columns in which a record says something else than the bytes."""
    # Compared as databases return values: 2 and 2.0 are one number.
    derived_values = {name: value for name, value in derived.items() if name in recorded_values}
    return sorted(
        name
        for name, value in derived_values.items()
        if to_json("document", recorded_values[name]) != to_json("document", value)
    )
