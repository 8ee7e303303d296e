"""The records with files: bases, adapters with their other forms, fused models and bundles."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..database.engine import batches
from ..records.fused_rows import label_record
from ..records.withdrawals import is_a_part, of_adapters, of_bundles, of_fused
from .tensors import View

_WITHDRAWALS = {"adapter": of_adapters, "fused": of_fused, "bundle": of_bundles}


@dataclass(frozen=True, slots=True)
class RecordedItem:
    """A recorded item with files; `facts` are the fields that its kind has in `identified`."""

    kind: str
    id: int
    name: str
    digest: str
    manifest: int
    facts: Mapping[str, Any] = field(compare=False, hash=False)

    @property
    def title(self) -> str:
        """Its name, with the precision of a fused model."""
        return str(self.facts.get("label", self.name))


def owners_of(session: Session, manifests: Collection[int]) -> dict[int, list[RecordedItem]]:
    """Return what has these manifests, by manifest."""
    owners: list[RecordedItem] = []
    for some in batches(sorted(manifests)):
        owners += _bases(session, tables.BaseModelRow.manifest_id.in_(some))
        owners += _adapters(session, tables.AdapterRow.manifest_id.in_(some))
        owners += _renderings(session, some)
        owners += _fused(session, tables.FusedRow.manifest_id.in_(some))
        owners += _bundles(session, some)
    numbers = {kind: [owner.id for owner in owners if owner.kind == kind] for kind in _WITHDRAWALS}
    withdrawals = {kind: find(session, numbers[kind]) for kind, find in _WITHDRAWALS.items()}
    by_manifest: dict[int, list[RecordedItem]] = defaultdict(list)
    for owner in owners:
        if owner.kind in withdrawals:
            yanks = withdrawals[owner.kind].get(owner.id, ())
            owner = replace(owner, facts={**owner.facts, "withdrawals": yanks})
        by_manifest[owner.manifest].append(owner)
    return by_manifest


def _newest(session: Session, table: Any, where: Any, most: int | None = None) -> list[Any]:
    """Return rows in the order in which they were recorded: all, or the newest ones."""
    rows = session.scalars(select(table).where(where).order_by(table.id.desc()).limit(most)).all()
    return list(rows[::-1])


def _bases(session: Session, where: Any) -> Iterable[RecordedItem]:
    for row in _newest(session, tables.BaseModelRow, where):
        names = tuple(name.name for name in row.names)
        yield RecordedItem("base", row.id, names[0], row.digest, row.manifest_id, {"names": names})


def _adapters(session: Session, where: Any, most: int | None = None) -> Iterable[RecordedItem]:
    for row in _newest(session, tables.AdapterRow, where, most):
        facts = {"base": row.base.name, "form": None}
        yield RecordedItem("adapter", row.id, row.name, row.digest, row.manifest_id, facts)


def _renderings(session: Session, manifests: Sequence[int]) -> Iterable[RecordedItem]:
    rendering, adapter = tables.AdapterRenderingRow, tables.AdapterRow
    query = select(rendering, adapter).join(adapter, adapter.id == rendering.adapter_id)
    for row, own in session.execute(query.where(rendering.manifest_id.in_(manifests), ~is_a_part())):
        facts = {"base": own.base.name, "form": row.form}
        yield RecordedItem("adapter", own.id, own.name, row.digest, row.manifest_id, facts)


def _fused(session: Session, where: Any, most: int | None = None) -> Iterable[RecordedItem]:
    for row in _newest(session, tables.FusedRow, where, most):
        facts = {
            "key": row.key,
            "origin": row.origin,
            "adapters": (row.adapter.name, *(extra.adapter.name for extra in row.extras)),
            "base": row.base.name,
            "precision": row.precision,
            "quantization": row.quantization,
            **label_record(row),
        }
        yield RecordedItem("fused", row.id, facts["combined"], row.digest, row.manifest_id, facts)


def _bundles(session: Session, manifests: Sequence[int]) -> Iterable[RecordedItem]:
    for row in _newest(session, tables.BundleRow, tables.BundleRow.manifest_id.in_(manifests)):
        fused, base = row.fused, row.adapters[0].base if row.adapters else None
        facts = {
            "target": row.target,
            "written_to": row.path,
            "adapters": tuple(adapter.name for adapter in row.adapters),
            "adapter_digests": tuple(adapter.digest for adapter in row.adapters),
            "key": fused.key if fused else None,
            "fused": fused.digest if fused else None,
            "base": base.name if base else None,
            "base_digest": base.digest if base else None,
        }
        yield RecordedItem("bundle", row.id, row.path, row.digest, row.manifest_id, facts)


def owners_in(session: Session, bundle: RecordedItem) -> list[RecordedItem]:
    """Return what a bundle holds: the fused model, or the adapters."""
    row = session.get_one(tables.BundleRow, bundle.id)
    if row.fused_id is not None:
        return list(_fused(session, tables.FusedRow.id == row.fused_id))
    return list(_adapters(session, tables.AdapterRow.id.in_([adapter.id for adapter in row.adapters])))


class PlausibleOwners:
    """Adapters, bases and fused models that could have tensors of given shapes; what was looked up is kept."""

    def __init__(self, session: Session, most: int | None = None) -> None:
        self._session, self._most = session, most

    def find(self, views: Sequence[View], *, adapter: bool) -> list[RecordedItem]:
        """Return what could have the tensors that were found: adapters, or bases and what is fused on them."""
        if adapter:
            return self._of_ranks(views)
        # Packed or not, matrices have as many rows; half of those that were found are to be the base's.
        weights = (view for view in views if not view.name.endswith((".scales", ".biases")))
        rows = Counter(view.shape[0] for view in weights if view.is_matrix)
        bases = [base for base, own in self._rows if 2 * (own & rows).total() >= rows.total() > 0]
        bases = bases[-self._most if self._most else 0 :]
        owners = list(_bases(self._session, tables.BaseModelRow.id.in_(bases)))
        owners += _fused(self._session, tables.FusedRow.base_id.in_(bases), self._most)
        full = tables.AdapterRow.base_id.in_(bases) & (tables.AdapterRow.method == "full")
        owners += _adapters(self._session, full, self._most)
        # An adapter whose tensors have lost their names looks like a base.
        return owners or self._of_ranks(views)

    def _of_ranks(self, views: Sequence[View]) -> list[RecordedItem]:
        ranks = {rank for view in views if view.is_matrix and (rank := min(view.shape)) < 1 << 31}
        of_rank = tables.AdapterRow.rank.in_(sorted(ranks)) | tables.AdapterRow.rank.is_(None)
        return list(_adapters(self._session, of_rank, self._most))

    @cached_property
    def _rows(self) -> list[tuple[int, Counter[int]]]:
        """The bases, and how many of their matrices have how many rows."""
        return [
            (base.id, Counter(shape[0] for shape, _, _ in base.weights.values() if len(shape) > 1))
            for base in self._session.scalars(select(tables.BaseModelRow).order_by(tables.BaseModelRow.id))
        ]
