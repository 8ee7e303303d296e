"""Registered adapters that equal a new one, or nearly: by the bytes of the weights, and by their updates.

The number of adapters that are read is bounded, and so is what is read of each: a few modules select those that may be
similar, and only these are compared further.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
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
from ..records.weights import is_a_part
from ..records.withdrawal import own
from ..records.withdrawals import of_adapters
from .unrecorded import Unrecorded

if TYPE_CHECKING:
    from ..comparison.modules import OpenAdapter
    from ..workspace import Workspace

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
    """A registered adapter whose weights can be read."""

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
    base: tables.BaseModel,
    task: str | None,
    parent: str | None = None,
    digest: str | None = None,
    beside: Sequence[Unrecorded] = (),
) -> list[Neighbour]:
    """Return the registered adapters that have the same weights, then those with nearly the same update.

    Args:
        workspace: the registry's parts.
        folder: the new adapter.
        base: of the new adapter; only adapters on it are compared by their updates.
        task: of the new adapter, if known.
        parent: digest of the adapter whose training it continues, which it may well be like.
        digest: of its weights, if known.
        beside: adapters of its task and on its base that are recorded with it.
    """
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
        near = _candidates(workspace, session, base, task, digest, parent, beside)
    alike = [each for each in beside if digest in each.weights]
    ours = manifest_of(folder.kept).digest if rows or alike else None
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
    same += [
        Neighbour(each.name, each.task, base.name, same_bytes=True, same_adapter=each.digest == ours)
        for each in alike
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
    files = select(tables.ManifestFile.manifest_id).where(
        tables.ManifestFile.sha256 == weights, tables.ManifestFile.path == WEIGHTS
    )
    # What was registered in PEFT's form has these weights as its rendering in mlx-lm's.
    # Of one with whole tensors that is a part only.
    rendered = select(tables.AdapterRendering.adapter_id).where(
        tables.AdapterRendering.manifest_id.in_(files),
        ~is_a_part(),
    )
    first_name = (
        select(tables.BaseName.name)
        .where(tables.BaseName.base_id == tables.Adapter.base_id)
        .order_by(tables.BaseName.id)
        .limit(1)
        .scalar_subquery()
    )
    stored = select(tables.Adapter.id).where(tables.Adapter.manifest_id.in_(files))
    file = tables.ManifestFile
    in_peft = select(file.manifest_id).where(file.sha256 == as_registered, file.path == PEFT_WEIGHTS)
    whole = select(tables.Adapter.id).where(tables.Adapter.manifest_id.in_(in_peft))
    theirs = (
        select(file.sha256)
        .where(file.manifest_id == tables.Adapter.manifest_id, file.path == PEFT_WEIGHTS)
        .scalar_subquery()
    )
    return (
        select(
            tables.Adapter.id,
            tables.Adapter.name.label("adapter"),
            tables.Adapter.digest,
            tables.Task.name.label("task"),
            first_name.label("base"),
            theirs.label("file"),
        )
        .join(tables.Task, tables.Adapter.task_id == tables.Task.id)
        .where(tables.Adapter.id.in_(union(stored, rendered, whole)))  # OR would read the whole table
        .order_by(tables.Task.name != bindparam("task"), tables.Adapter.id)
        .limit(READ)
    )


@cache
def _newest(*, of_task: bool) -> Any:
    """Select what adapters on the `base` are compared by, the newest first, but for those with the `weights`."""
    every = (
        select(
            tables.Adapter.name,
            tables.Adapter.digest,
            tables.Adapter.method,
            tables.Adapter.scale,
            tables.Adapter.version,
            tables.Task.name.label("task"),
            tables.ManifestFile.sha256,
            tables.Blob.generation,
        )
        .join(tables.Task, tables.Adapter.task_id == tables.Task.id)
        .join(tables.ManifestFile, tables.ManifestFile.manifest_id == tables.Adapter.manifest_id)
        .join(tables.Blob, tables.Blob.digest == tables.ManifestFile.sha256)
        .where(
            tables.Adapter.base_id == bindparam("base"),
            tables.Adapter.method != "full",
            tables.Adapter.scale.is_not(None),
            tables.ManifestFile.path == WEIGHTS,
            tables.ManifestFile.sha256 != bindparam("weights"),
        )
        .limit(READ)
    )
    # Each along an index and not by sorting: however many there are, only the newest are looked at.
    if of_task:
        return every.where(tables.Adapter.task_id == bindparam("task")).order_by(
            tables.Adapter.version.desc()
        )
    return every.order_by(tables.Adapter.id.desc())


def _candidates(
    workspace: Workspace,
    session: Session,
    base: tables.BaseModel,
    task: str | None,
    digest: str,
    parent: str | None,
    beside: Sequence[Unrecorded],
) -> list[_Known]:
    ours = session.scalar(select(tables.Task.id).where(tables.Task.name == (task or "")))
    said = {"base": base.id, "weights": digest}
    rows: dict[str, Any] = {}
    if ours is not None:
        rows = {row.name: row for row in session.execute(_newest(of_task=True), {**said, "task": ours})}
    if len(rows) < READ:
        newest = session.execute(_newest(of_task=False), said)
        rows = {**rows, **{row.name: row for row in newest if row.name not in rows}}
    together = [each for each in beside if digest not in each.weights and each.method != "full"]
    if together and not workspace.store.capabilities.local:
        together = []  # once they are on record, they would have to be fetched first
    found = []
    # The versions of the task from the newest on, whether on record or about to be; after them the others, as they came.
    ranked: list[Any] = sorted(
        [*rows.values(), *together], key=lambda one: -one.version if one.task == task else 0
    )
    for row in itertools.islice(ranked, READ):
        path = row.path if isinstance(row, Unrecorded) else _local(workspace, row)
        if path is not None and row.digest != parent and row.scale:
            found.append(_Known(row.name, row.task, base.name, row.method, row.scale, path))
    return found


def _local(workspace: Workspace, row: Any) -> Path | None:
    """Return where an adapter's weights can be read; what would have to be fetched first is left out."""
    return workspace.store.local_path(Digest(row.sha256), generation=row.generation)


def _nearest(file: Path, scale: float, method: str, known: Sequence[_Known]) -> list[Neighbour]:
    from ..comparison.modules import open_adapter
    from ..comparison.samples import rough_cosine
    from ..comparison.similarity import cosine

    near: list[tuple[float, _Known]] = []
    try:
        with open_adapter(file, scale, method=method) as ours:
            for other in known:
                found = _cosine(ours, other, SAMPLED, rough_cosine)
                if found is not None and found >= MAYBE:
                    near.append((found, other))
            near.sort(key=lambda pair: pair[0], reverse=True)
            closer = [(_cosine(ours, other, WHOLE, cosine), other) for _, other in near[:NEAREST]]
    except FusionUnsupportedError:
        return []  # other rules say what is wrong with it
    return [
        Neighbour(other.name, other.task, other.base, False, found)
        for found, other in closer
        if found is not None
    ]


def _cosine(
    ours: OpenAdapter,
    other: _Known,
    modules: int,
    found: Callable[[OpenAdapter, OpenAdapter, Sequence[str]], float | None],
) -> float | None:
    """Return the cosine between two updates over some of their modules; None where they have too little in common."""
    from ..comparison.modules import open_adapter
    from ..comparison.similarity import shared_modules

    try:
        with open_adapter(other.path, other.scale, method=other.method) as theirs:
            shared = shared_modules(ours, theirs)
            step = max(1, len(shared) // modules)
            return found(ours, theirs, shared[step // 2 :: step][:modules])
    except (FuseryError, OSError, ValueError):
        return None  # it is damaged, which `audit` says
