"""A base's architecture under the names that adapters use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fusery.storage.safetensors import Header

from .architecture import Architecture, architecture_of
from .errors import FusionUnsupportedError, MissingExtraError
from .fusion.naming import taken_by_name


def by_modules(files: Mapping[str, Path], architecture: Architecture) -> Architecture:
    """Return the architecture under the names of mlx-lm's modules, on which adapters are trained.

    Where mlx-lm renames or stacks tensors as it loads them, its class is asked; without mlx-lm, and for what it cannot
    load, the names in the files have to do.
    """
    if taken_by_name(architecture.config, files.keys(), written_by_mlx=architecture.written_by_mlx):
        return architecture
    from .fusion.model_class import describe_by_class  # mlx-lm comes with it

    try:
        tensors = describe_by_class(files, architecture.config)
    except (FusionUnsupportedError, MissingExtraError):
        return architecture
    header = Header(tensors, {}, 0, 0)
    return replace(architecture_of(architecture.config, [header]), written_by_mlx=architecture.written_by_mlx)
