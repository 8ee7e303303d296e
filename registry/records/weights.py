"""Which adapters share a weights file: queries over the stored files and the recorded renderings."""

from __future__ import annotations

from sqlalchemy import CTE, ColumnElement, Select, func, select, union
from sqlalchemy.orm import aliased

from .. import tables
from ..adapters.files import PEFT_WEIGHTS, WEIGHTS
from ..adapters.finding import WHOLE


def is_a_part() -> ColumnElement[bool]:
    """Return the condition that a rendering is the factors alone of an adapter that has whole tensors too."""
    finding = tables.AdapterFinding
    return (
        select(finding.id)
        .where(finding.adapter_id == tables.AdapterRendering.adapter_id, finding.code == WHOLE)
        .exists()
    )


def same_weights(first: Select[int]) -> CTE:
    """Return the query for pairs of an adapter and each adapter with the same weights file, itself included.

    The other files may differ, such as the configuration or a chat template.  An adapter in PEFT's form also has the weights
    file of its rendering in mlx-lm's form.

    Args:
        first: the query for the ids of the adapters to start from.
    """
    adapter, rendering, file = tables.Adapter, tables.AdapterRendering, tables.ManifestFile
    start = first.distinct().subquery()
    is_weights = file.path.in_((WEIGHTS, PEFT_WEIGHTS))
    stored = (
        select(start.c[0].label("adapter"), file.sha256)
        .join(adapter, adapter.id == start.c[0])
        .join(file, file.manifest_id == adapter.manifest_id)
        .where(is_weights)
    )
    rendered = (
        select(start.c[0], file.sha256)
        .join(rendering, rendering.adapter_id == start.c[0])
        .join(file, file.manifest_id == rendering.manifest_id)
        .where(is_weights, ~is_a_part())
    )
    weights = union(stored, rendered).cte("weights")
    # A function of the digest keeps SQLite from indexing `weights` and reading every file to look it up there.
    with_file = select(weights.c.adapter).join(file, file.sha256 == func.lower(weights.c.sha256))
    with_file = with_file.where(is_weights)
    storing = with_file.join(adapter, adapter.manifest_id == file.manifest_id).add_columns(
        adapter.id.label("other")
    )
    rendering_them = (
        with_file.join(rendering, rendering.manifest_id == file.manifest_id)
        .where(~is_a_part())
        .add_columns(rendering.adapter_id)
    )
    twin = aliased(adapter)
    same_digest = (
        select(start.c[0], twin.id)
        .join(adapter, adapter.id == start.c[0])
        .join(twin, twin.digest == adapter.digest)
    )
    return union(storing, rendering_them, same_digest).cte("same_weights")
