"""Registered adapters that equal a new one in bytes or nearly in updates; the number that is read is bounded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, union
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import manifest_of

from .. import tables
from ..adapters import PEFT_WEIGHTS, WEIGHTS
from ..adapters.folder import AdapterFolder
from ..admission.candidate import Neighbour
from ..errors import FusionUnsupportedError
from ..records.adapter import own
from ..records.withdrawals import is_a_part, of_adapters

if TYPE_CHECKING:
    from ..comparison.modules import OpenAdapter
    from ..workspace.workspace import Workspace


READ = 16  # registered adapters that are read: the newest of the task, then similar ones by their sketches
OF_TASK = 4
LIKELY = 0.8  # estimated cosine of what may be near: the exact one has to be 0.95
COMPARED = 8  # modules of each that are compared
NEAREST = 2  # adapters that are returned at most


def neighbours(
    workspace: Workspace,
    folder: AdapterFolder,
    sketch: Callable[[], str],
    *,
    base: tables.BaseModelRow,
    task: str | None,
    parent: str | None = None,
    digest: str | None = None,
) -> list[Neighbour]:
    """Return the registered adapters that have the same weights, then those with nearly the same update."""
    from ..comparison.modules import open_adapter

    file = folder.files.get(WEIGHTS)
    if file is None or folder.header is None:
        return []
    digest = digest or digest_file(file)[0]
    originals = (folder.originals or {}).get(PEFT_WEIGHTS) if folder.whole else None
    peft = digest_file(originals)[0] if originals is not None else ""
    with workspace.database.read() as session:
        rows = session.execute(_same_weights(digest, peft, task or "")).all()
        yanks = of_adapters(session, [row.id for row in rows])
    if rows:
        ours = manifest_of(folder.kept).digest
        return [
            Neighbour(
                row.adapter,
                row.task,
                row.base,
                same_bytes=True,
                same_file=row.file == peft,
                same_adapter=row.digest == ours,
                yanked=own(yanks.get(row.id, ())),
            )
            for row in rows
        ]
    if not folder.modules or folder.scale is None or folder.config.method == "full":
        return []
    own_sketch = sketch()  # reads the weights, so not within a transaction
    with workspace.database.read() as session:
        others = _nearby(session, base, task or "", digest, own_sketch)
    near, method = list[Neighbour](), folder.config.method
    with suppress(FusionUnsupportedError), open_adapter(file, folder.scale, method=method) as opened:
        for other in others:
            # Weights that would have to be fetched first are left out.
            path = workspace.store.local_path(Digest(other.sha256), generation=other.generation)
            if path is None or other.digest == parent or not other.scale:
                continue
            if (cosine := _cosine(opened, other, path)) is not None:
                near.append(Neighbour(other.name, other.task, base.name, False, cosine))
    return sorted(near, key=lambda neighbour: -neighbour.similarity)[:NEAREST]


def _same_weights(weights: str, peft: str, task: str) -> Any:
    """Select adapters with the weights, or with this file of PEFT's; those of the task come first."""
    adapter, file, name = tables.AdapterRow, tables.ManifestFileRow, tables.BaseNameRow
    rendering = tables.AdapterRenderingRow
    files = select(file.manifest_id).where(file.sha256 == weights, file.path == WEIGHTS)
    # An adapter registered in PEFT's form has these weights as its rendering in mlx-lm's; one with whole tensors, a part only.
    rendered = select(rendering.adapter_id).where(rendering.manifest_id.in_(files), ~is_a_part())
    stored = select(adapter.id).where(adapter.manifest_id.in_(files))
    in_peft = select(file.manifest_id).where(file.sha256 == peft, file.path == PEFT_WEIGHTS)
    whole = select(adapter.id).where(adapter.manifest_id.in_(in_peft))
    names = select(name.name).where(name.base_id == adapter.base_id).order_by(name.id).limit(1)
    own_peft = select(file.sha256).where(file.manifest_id == adapter.manifest_id, file.path == PEFT_WEIGHTS)
    return (
        select(
            adapter.id,
            adapter.name.label("adapter"),
            adapter.digest,
            tables.TaskRow.name.label("task"),
            names.scalar_subquery().label("base"),
            own_peft.scalar_subquery().label("file"),
        )
        .join(tables.TaskRow, adapter.task_id == tables.TaskRow.id)
        .where(adapter.id.in_(union(stored, rendered, whole)))  # OR would read the whole table
        .order_by(tables.TaskRow.name != task, adapter.id)
        .limit(READ)
    )


def _nearby(session: Session, base: tables.BaseModelRow, task: str, weights: str, sketch: str) -> list[Any]:
    """Return what adapters on a base are compared by: the newest versions of the task, then those with the most similar sketches."""
    from ..comparison.sketches import nearest

    adapter, file, blob = tables.AdapterRow, tables.ManifestFileRow, tables.BlobRow
    query: Any = (
        select(
            adapter.id, adapter.name, adapter.digest, adapter.method, adapter.scale, tables.TaskRow.name.label("task"),
            file.sha256, blob.generation,
        )
        .join(tables.TaskRow, adapter.task_id == tables.TaskRow.id)
        .join(file, file.manifest_id == adapter.manifest_id)
        .join(blob, blob.digest == file.sha256)
        .where(
            adapter.base_id == base.id,
            adapter.method != "full",
            adapter.scale.is_not(None),
            file.path == WEIGHTS,
            file.sha256 != weights,
        )
    )  # fmt: skip
    number = session.scalar(select(tables.TaskRow.id).where(tables.TaskRow.name == task))
    rows = list[Any]()
    if number is not None:
        of_task = query.where(adapter.task_id == number).order_by(adapter.version.desc()).limit(OF_TASK)
        rows = list(session.execute(of_task))
    near = {at: value for at, value in nearest(session, sketch, READ, base=base.id).items() if value > LIKELY}
    others = session.execute(query.where(adapter.id.in_(near.keys() - {row.id for row in rows}))).all()
    rows += sorted(others, key=lambda row: -near[row.id])
    return rows[:READ]


def _cosine(ours: OpenAdapter, other: Any, path: Path) -> float | None:
    """Return the cosine between two updates over some of their modules; None where they have too little in common."""
    from ..comparison.modules import cosine, open_adapter, shared_modules

    try:
        with open_adapter(path, other.scale, method=other.method) as theirs:
            shared = shared_modules(ours, theirs)
            step = max(1, len(shared) // COMPARED)
            return cosine(ours, theirs, shared[step // 2 :: step][:COMPARED])
    except (FuseryError, OSError, ValueError):
        return None  # it is damaged, which `audit` says
