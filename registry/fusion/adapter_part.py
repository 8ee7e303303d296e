"""An adapter as a part of a fuse, from its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry

from .. import tables
from ..adapters.groups import group_of
from ..adapters.trained_through import trained_through
from ..records.renderings import recorded_digest


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """An adapter and its weight in the sum; `rendering` is what its files become in mlx-lm's form, if they are PEFT's.

    `method` is `lora`, `dora` or `full`; `group` of QA-LoRA how many neighbouring inputs have one update, None of any other.
    `aware` is the format that it was trained through, as MLX writes it.
    """

    id: int
    name: str
    digest: Digest
    files: tuple[FileEntry, ...]
    weight: float
    rendering: Digest | None = None
    method: str = "lora"
    group: int | None = None
    aware: Mapping[str, Any] | None = None


def part_of(adapter: tables.Adapter, weight: float) -> AdapterPart:
    """Return an adapter as a part of a sum."""
    files = tuple(file.entry for file in adapter.manifest.files)
    rendering = recorded_digest(adapter, "mlx")
    return AdapterPart(
        adapter.id,
        adapter.name,
        Digest(adapter.digest),
        files,
        weight,
        rendering,
        adapter.method,
        None if rendering is None else group_of(adapter.training),
        None if adapter.method == "full" else _aware(adapter),
    )


def _aware(adapter: tables.Adapter) -> Mapping[str, Any] | None:
    try:
        return trained_through(adapter.training)
    except ValueError:
        return None  # admitted when nobody looked at the entry, and fused since as what the tensors are
