"""A bundle's self-test: counts what its consumer would find in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusery.storage.errors import StorageError
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import read_header

from ..errors import RegistryError
from ..record import Record

INDEX = "model.safetensors.index.json"


class LayoutError(RegistryError):
    """A bundle is not what its consumer can read: a defect of fusery's, found before delivery."""

    code = "bad_layout"


@dataclass(frozen=True, slots=True)
class Layout(Record):
    """What a consumer finds.

    Attributes:
        tensors: of the model.
        modules: layers of the model that the adapters match; 0 when they are fused.
        adapters: how many there are beside the model.
    """

    tensors: int = 0
    modules: int = 0
    adapters: int = 0


def model_layout(folder: Path) -> Layout:
    """Read a model's folder as mlx-lm and transformers find their way in it: configuration, index, headers.

    Raises:
        LayoutError: something is missing, or a tensor is not where the index says.
    """
    try:
        config = read_object(folder / "config.json")
        found = {path.name: set(read_header(path).tensors) for path in sorted(folder.glob("*.safetensors"))}
        index = read_object(folder / INDEX).get("weight_map") if (folder / INDEX).is_file() else None
    except StorageError as error:
        raise LayoutError(f"the bundle's model cannot be read: {error.message}") from error
    if not isinstance(config.get("model_type"), str):
        raise LayoutError("the bundle's config.json names no model_type")
    tensors = [name for names in found.values() for name in names]
    if not tensors or len(tensors) != len(set(tensors)):
        raise LayoutError("the bundle's model has no tensors, or one of them twice")
    if len(found) > 1 and index is None:
        raise LayoutError(f"the bundle's model is in several files without {INDEX}")
    if index is not None and index != {name: file for file, names in found.items() for name in names}:
        raise LayoutError(f"the bundle's {INDEX} does not say where its tensors are")
    return Layout(tensors=len(tensors))
