"""What differs between two adapters: their records and their training configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .catalog import show_adapter

if TYPE_CHECKING:
    from .workspace import Workspace

_RECORD = (
    "task",
    "version",
    "date",
    "base",
    "digest",
    "method",
    "rank",
    "alpha",
    "scale",
    "layers",
    "target_modules",
    "trainable_parameters",
    "val_loss",
    "iterations",
    "dataset",
    "examples",
    "parent",
    "tags",
    "note",
    "bytes",
)
_SAID_ABOVE = frozenset({"training.iters", "training.lora_parameters.rank", "training.lora_parameters.scale"})


def diff_adapters(workspace: Workspace, a: str, b: str) -> dict[str, Any]:
    """Return what differs between two adapters: `changed` maps a field to its two values.

    Fields of the training configuration are called `training.FIELD`; a field that one side lacks is null there.

    Raises:
        UnknownReferenceError: one of the two does not exist.
    """
    left, right = show_adapter(workspace, a), show_adapter(workspace, b)
    changed = {field: [left[field], right[field]] for field in _RECORD if left[field] != right[field]}
    ours, theirs = _flat(left["training"], "training"), _flat(right["training"], "training")
    for field in sorted(ours.keys() | theirs.keys()):
        if ours.get(field) != theirs.get(field) and field not in _SAID_ABOVE:
            changed[field] = [ours.get(field), theirs.get(field)]
    return {"a": left["name"], "b": right["name"], "changed": changed}


def _flat(value: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}.{key}"
        if isinstance(item, Mapping):
            flat.update(_flat(item, name))
        else:
            flat[name] = item
    return flat
