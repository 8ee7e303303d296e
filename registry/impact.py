"""Impact: everything that a base, a dataset or an adapter has reached: what to withdraw, rebuild or deploy anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session, aliased

from . import tables
from .errors import BadInputError, UnknownReferenceError
from .resolve import resolve_adapter, resolve_base

if TYPE_CHECKING:
    from .workspace import Workspace

KINDS = ("base", "dataset", "adapter")
"""What can be asked about: `base:NAME`, `dataset:NAME`, `adapter:REF`."""


@dataclass(frozen=True, slots=True)
class Impact:
    """What depends on a thing.

    Attributes:
        kind: one of `KINDS`.
        name: of the thing.
        adapters: names of the adapters that were trained on it or with it, continued from one that was, or are it.
        fused: each `key`, `digest`, `adapter` and `precision`, of the fused models that hold one of them.
        bundles: each `target`, `path` and `digest`.
        aliases: each `alias`, such as `course_rec#prod`, and the `adapter` that it holds.
    """

    kind: str
    name: str
    adapters: Sequence[str]
    fused: Sequence[dict[str, Any]]
    bundles: Sequence[dict[str, Any]]
    aliases: Sequence[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "adapters": list(self.adapters),
            "fused": list(self.fused),
            "bundles": list(self.bundles),
            "aliases": list(self.aliases),
        }


def impact(workspace: Workspace, subject: str) -> Impact:
    """Return everything that a thing has reached; five queries, whatever there is.

    Args:
        workspace: the registry's parts.
        subject: `base:NAME`, `dataset:NAME` or `adapter:REF`; a dataset's name means all of its revisions.

    Raises:
        BadInputError: the subject is none of these.
        UnknownReferenceError: nothing has that name.
    """
    kind, colon, reference = subject.partition(":")
    if kind not in KINDS or not colon or not reference.strip():
        raise BadInputError(
            f"{subject[:80]!r} is not base:NAME, dataset:NAME or adapter:REF", hint="fusery impact base:NAME"
        )
    with workspace.database.read() as session:
        name, roots = _roots(session, kind, reference.strip())
        reached = _descendants(roots)
        adapter = tables.Adapter
        names = session.scalars(
            select(adapter.name).where(adapter.id.in_(reached)).order_by(adapter.id)
        ).all()
        fused = _fused(reached)
        return Impact(
            kind,
            name,
            names,
            _fused_rows(session, fused),
            _bundle_rows(session, reached, fused),
            _alias_rows(session, reached),
        )


def _roots(session: Session, kind: str, reference: str) -> tuple[str, Select[int]]:
    """Return the thing's name, and the query for the adapters that stand on it at once."""
    adapter = tables.Adapter
    if kind == "base":
        base = resolve_base(session, reference)
        return base.names[0].name, select(adapter.id).where(adapter.base_id == base.id)
    if kind == "adapter":
        found = resolve_adapter(session, reference)
        # The same bytes may be registered under two tasks.
        return found.name, select(adapter.id).where(adapter.digest == found.digest)
    numbers = select(tables.Dataset.id).where(tables.Dataset.name == reference)
    if session.scalars(numbers.limit(1)).first() is None:
        raise UnknownReferenceError(
            f"there is no dataset {reference[:80]!r}", hint="fusery list --where 'dataset = NAME'"
        )
    return reference, select(adapter.id).where(adapter.dataset_id.in_(numbers))


def _descendants(roots: Select[int]) -> Select[int]:
    """Return the query for those adapters and all that were continued from them."""
    reached = roots.cte("reached", recursive=True)
    child = aliased(tables.Adapter)
    return select(reached.union(select(child.id).join(reached, child.parent_id == reached.c.id)).c.id)


def _fused(adapters: Select[int]) -> Select[int]:
    """Return the query for the fused models that hold one of the adapters, alone or with others."""
    fused, extra, adapter, twin = tables.Fused, tables.FusedExtra, tables.Adapter, aliased(tables.Adapter)
    digests = select(adapter.digest).where(adapter.id.in_(adapters))
    same = select(twin.id).where(or_(twin.id.in_(adapters), twin.digest.in_(digests)))
    added = select(extra.fused_id).where(extra.adapter_id.in_(same))
    return select(fused.id).where(or_(fused.adapter_id.in_(same), fused.id.in_(added)))


def _fused_rows(session: Session, fused: Select[int]) -> list[dict[str, Any]]:
    row, adapter = tables.Fused, tables.Adapter
    query = (
        select(row.key, row.digest, adapter.name.label("adapter"), row.precision)
        .join(adapter, adapter.id == row.adapter_id)
        .where(row.id.in_(fused))
        .order_by(row.id)
    )
    return [dict(found) for found in session.execute(query).mappings()]


def _bundle_rows(session: Session, adapters: Select[int], fused: Select[int]) -> list[dict[str, Any]]:
    row, packed = tables.Bundle, tables.BundleAdapter
    holding = select(packed.bundle_id).where(packed.adapter_id.in_(adapters))
    query = (
        select(row.target, row.path, row.digest)
        .where(or_(row.fused_id.in_(fused), row.id.in_(holding)))
        .order_by(row.id)
    )
    return [dict(found) for found in session.execute(query).mappings()]


def _alias_rows(session: Session, adapters: Select[int]) -> list[dict[str, Any]]:
    alias, task, adapter = tables.Alias, tables.Task, tables.Adapter
    query = (
        select(task.name, alias.name, adapter.name)
        .join(task, task.id == alias.task_id)
        .join(adapter, adapter.id == alias.adapter_id)
        .where(alias.adapter_id.in_(adapters))
        .order_by(task.name, alias.name)
    )
    return [{"alias": f"{of}#{name}", "adapter": holds} for of, name, holds in session.execute(query)]
