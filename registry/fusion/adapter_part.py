"""An adapter as a part of a fuse, from its record."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry

from .. import tables
from ..adapters.groups import group_of
from ..adapters.trained_through import aware_of
from ..records.derived import within_layer
from ..records.renderings import recorded_digest


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """An adapter and its weight in the sum; `rendering` is what its files become in mlx-lm's form, if they are PEFT's.

    `method` is `lora`, `dora` or `full`; `group` of QA-LoRA how many neighbouring inputs have one update, None of any other.
    `aware` is the format that it was trained through, as MLX writes it, and `target_modules` are the paths within a layer that it adapts.
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
    target_modules: frozenset[str] = frozenset()


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
        group_of(adapter.training),
        aware_of(adapter.method, adapter.training),
        frozenset(adapter.target_modules),
    )


def fits_biases(groups: Iterable[int | None], quantization: Mapping[str, Any] | None) -> bool:
    """Tell whether updates are constant within the groups that a base is quantised in, so that its biases can hold them.

    Args:
        groups: of each adapter, as `group_of` has it.
        quantization: MLX's entry of the base, with entries for modules that are quantised otherwise.
    """
    own = quantization or {}
    # Some modules may be quantised otherwise than the rest.
    formats = [own, *({**own, **each} for each in own.values() if isinstance(each, Mapping))]
    if any(each.get("mode", "affine") != "affine" for each in formats):
        return False
    sizes = [each.get("group_size") for each in formats]
    return all(
        group is not None and type(size) is int and size > 0 and group % size == 0
        for group in groups
        for size in sizes
    )


def keeps_format(
    paths: Iterable[str],
    targets: Collection[str],
    quantization: Mapping[str, Any] | None,
    aware: Mapping[str, Any],
) -> bool:
    """Tell whether the adapted modules of a base are all stored in the format that an adapter was trained through.

    Args:
        paths: paths of the base's modules.
        targets: paths within a layer that the adapter adapts; in layers that it leaves out they count as well.
        quantization: MLX's entry of the base, with entries for modules that are quantised otherwise.
        aware: as `aware_of` has it.
    """
    own = quantization or {}
    common = {
        "mode": "affine",
        **{key: value for key, value in own.items() if not isinstance(value, Mapping)},
    }
    for path in paths:
        special = own.get(path, {})
        form = {**common, **special} if isinstance(special, Mapping) else {}
        if within_layer(path) in targets and any(form.get(key) != value for key, value in aware.items()):
            return False
    return True
