"""Registered adapters that equal a new one, or nearly: by the bytes of the weights, and by their updates.

The number of adapters that are read is bounded, and so is what is read of each: a few modules select those that may be
similar, and only these are compared further.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select, union
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import manifest_of

from .. import tables
from ..adapters.files import PEFT_WEIGHTS, WEIGHTS
from ..adapters.folder import AdapterFolder
from ..admission.candidate import Neighbour
from ..errors import FusionUnsupportedError
from ..records.adapter import own
from ..records.withdrawals import is_a_part, of_adapters

if TYPE_CHECKING:
    from ..comparison.modules import OpenAdapter
    from ..workspace.workspace import Workspace


READ = 16
"""Registered adapters that are looked into: those of the same task first, then the newest."""

SAMPLED = 2
"""Modules of each that tell whether it may be near."""

WHOLE = 32
"""Modules that are compared of one that may be near."""

MAYBE = 0.7
"""Cosine over the sampled modules from which an adapter may be near."""

NEAREST = 2
"""Adapters of which more than a sample is compared."""


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    task: str
    base: str
    method: str
    scale: float
    path: Path


def neighbours(
    workspace: Workspace,
    folder: AdapterFolder,
    *,
    base: tables.BaseModelRow,
    task: str | None,
    parent: str | None = None,
    digest: str | None = None,
) -> list[Neighbour]:
    """Return the registered adapters that have the same weights, then those with nearly the same update."""
    file = folder.files.get(WEIGHTS)
    if file is None or folder.header is None:
        return []
    digest = digest or digest_file(file)[0]
    originals = (folder.originals or {}).get(PEFT_WEIGHTS) if folder.whole else None
    as_registered = digest_file(originals)[0] if originals is not None else ""
    with workspace.database.read() as session:
        said = {"weights": digest, "file": as_registered, "task": task or ""}
        rows = session.execute(_with_weights(), said).all()
        yanks = of_adapters(session, [row.id for row in rows])
        near = _candidates(workspace, session, base, task, digest, parent)
    ours = manifest_of(folder.kept).digest if rows else None
    same = [
        Neighbour(
            row.adapter,
            row.task,
            row.base,
            same_bytes=True,
            same_file=row.file == as_registered,
            same_adapter=row.digest == ours,
            yanked=own(yanks.get(row.id, ())),
        )
        for row in rows
    ]
    if same or not folder.modules or folder.scale is None or folder.config.method == "full":
        return same
    return _nearest(file, folder.scale, folder.config.method, near)


@cache
def _with_weights() -> Any:
    """Select adapters with the `weights`, or with this `file` of PEFT's: name, digest, task and base, and the digest of that file.

    Those of the `task` come first.
    """
    weights: Any = bindparam("weights")
    as_registered: Any = bindparam("file")
    files = select(tables.ManifestFileRow.manifest_id).where(
        tables.ManifestFileRow.sha256 == weights, tables.ManifestFileRow.path == WEIGHTS
    )
    # What was registered in PEFT's form has these weights as its rendering in mlx-lm's.
    # Of one with whole tensors that is a part only.
    rendered = select(tables.AdapterRenderingRow.adapter_id).where(
        tables.AdapterRenderingRow.manifest_id.in_(files), ~is_a_part()
    )
    first_name = (
        select(tables.BaseNameRow.name)
        .where(tables.BaseNameRow.base_id == tables.AdapterRow.base_id)
        .order_by(tables.BaseNameRow.id)
        .limit(1)
        .scalar_subquery()
    )
    stored = select(tables.AdapterRow.id).where(tables.AdapterRow.manifest_id.in_(files))
    file = tables.ManifestFileRow
    in_peft = select(file.manifest_id).where(file.sha256 == as_registered, file.path == PEFT_WEIGHTS)
    whole = select(tables.AdapterRow.id).where(tables.AdapterRow.manifest_id.in_(in_peft))
    theirs = (
        select(file.sha256)
        .where(file.manifest_id == tables.AdapterRow.manifest_id, file.path == PEFT_WEIGHTS)
        .scalar_subquery()
    )
    return (
        select(
            tables.AdapterRow.id,
            tables.AdapterRow.name.label("adapter"),
            tables.AdapterRow.digest,
            tables.TaskRow.name.label("task"),
            first_name.label("base"),
            theirs.label("file"),
        )
        .join(tables.TaskRow, tables.AdapterRow.task_id == tables.TaskRow.id)
        .where(tables.AdapterRow.id.in_(union(stored, rendered, whole)))  # OR would read the whole table
        .order_by(tables.TaskRow.name != bindparam("task"), tables.AdapterRow.id)
        .limit(READ)
    )


@cache
def _newest(*, of_task: bool) -> Any:
    """Select what adapters on the `base` are compared by, the newest first, but for those with the `weights`."""
    every = (
        select(
            tables.AdapterRow.name,
            tables.AdapterRow.digest,
            tables.AdapterRow.method,
            tables.AdapterRow.scale,
            tables.AdapterRow.version,
            tables.TaskRow.name.label("task"),
            tables.ManifestFileRow.sha256,
            tables.BlobRow.generation,
        )
        .join(tables.TaskRow, tables.AdapterRow.task_id == tables.TaskRow.id)
        .join(tables.ManifestFileRow, tables.ManifestFileRow.manifest_id == tables.AdapterRow.manifest_id)
        .join(tables.BlobRow, tables.BlobRow.digest == tables.ManifestFileRow.sha256)
        .where(
            tables.AdapterRow.base_id == bindparam("base"),
            tables.AdapterRow.method != "full",
            tables.AdapterRow.scale.is_not(None),
            tables.ManifestFileRow.path == WEIGHTS,
            tables.ManifestFileRow.sha256 != bindparam("weights"),
        )
        .limit(READ)
    )
    # Each along an index and not by sorting: however many there are, only the newest are looked at.
    if of_task:
        return every.where(tables.AdapterRow.task_id == bindparam("task")).order_by(
            tables.AdapterRow.version.desc()
        )
    return every.order_by(tables.AdapterRow.id.desc())


def _candidates(
    workspace: Workspace,
    session: Session,
    base: tables.BaseModelRow,
    task: str | None,
    digest: str,
    parent: str | None,
) -> list[_Known]:
    ours = session.scalar(select(tables.TaskRow.id).where(tables.TaskRow.name == (task or "")))
    said = {"base": base.id, "weights": digest}
    rows: dict[str, Any] = {}
    if ours is not None:
        rows = {row.name: row for row in session.execute(_newest(of_task=True), {**said, "task": ours})}
    if len(rows) < READ:
        newest = session.execute(_newest(of_task=False), said)
        rows = {**rows, **{row.name: row for row in newest if row.name not in rows}}
    found = []
    # The versions of the task from the newest on; after them the others.
    for row in itertools.islice(rows.values(), READ):
        # What would have to be fetched first is left out.
        path = workspace.store.local_path(Digest(row.sha256), generation=row.generation)
        if path is not None and row.digest != parent and row.scale:
            found.append(_Known(row.name, row.task, base.name, row.method, row.scale, path))
    return found


def _nearest(file: Path, scale: float, method: str, known: Sequence[_Known]) -> list[Neighbour]:
    from ..comparison.modules import open_adapter

    near: list[tuple[float, _Known]] = []
    try:
        with open_adapter(file, scale, method=method) as ours:
            for other in known:
                found = _cosine(ours, other, SAMPLED)
                if found is not None and found >= MAYBE:
                    near.append((found, other))
            near.sort(key=lambda pair: pair[0], reverse=True)
            closer = [(_cosine(ours, other, WHOLE), other) for _, other in near[:NEAREST]]
    except FusionUnsupportedError:
        return []  # other rules say what is wrong with it
    return [
        Neighbour(other.name, other.task, other.base, False, found)
        for found, other in closer
        if found is not None
    ]


def _cosine(ours: OpenAdapter, other: _Known, modules: int) -> float | None:
    """Return the cosine between two updates over some of their modules; None where they have too little in common."""
    from ..comparison.modules import cosine, open_adapter, shared_modules

    try:
        with open_adapter(other.path, other.scale, method=other.method) as theirs:
            shared = shared_modules(ours, theirs)
            step = max(1, len(shared) // modules)
            return cosine(ours, theirs, shared[step // 2 :: step][:modules])
    except (FuseryError, OSError, ValueError):
        return None  # it is damaged, which `audit` says
