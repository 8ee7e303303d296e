"""The records with files: bases, adapters with their other forms, fused models and bundles."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..database.engine import batches
from ..records.fused_rows import label_record
from ..records.withdrawals import is_a_part, of_adapters, of_bundles, of_fused
from .views import View


@dataclass(frozen=True, slots=True)
class RecordedItem:
    """A recorded item with files; `facts` are the fields that its kind has in `identified`."""

    kind: str
    id: int
    name: str
    digest: str
    manifest: int
    facts: dict[str, Any] = field(compare=False, hash=False)

    @property
    def title(self) -> str:
        """What it is called where nothing else says how a fused model is written."""
        return str(self.facts.get("label", self.name))


def owners_of(session: Session, manifests: Collection[int]) -> dict[int, list[RecordedItem]]:
    """Return what has these manifests, by manifest."""
    found: dict[int, list[RecordedItem]] = defaultdict(list)
    for some in batches(sorted(manifests)):
        for owner in (
            *_bases(session, tables.BaseModelRow.manifest_id.in_(some)),
            *_adapters(session, tables.AdapterRow.manifest_id.in_(some)),
            *_renderings(session, some),
            *_fused(session, tables.FusedRow.manifest_id.in_(some)),
            *_bundles(session, some),
        ):
            found[owner.manifest].append(owner)
    _tell_of_yanks(session, [owner for owners in found.values() for owner in owners])
    return found


def _tell_of_yanks(session: Session, owners: Sequence[RecordedItem]) -> None:
    for kind, look in (("adapter", of_adapters), ("fused", of_fused), ("bundle", of_bundles)):
        told = look(session, [owner.id for owner in owners if owner.kind == kind])
        for owner in owners:
            if owner.kind == kind:
                owner.facts["withdrawals"] = told.get(owner.id, ())


def _newest(session: Session, table: Any, where: Any, most: int | None) -> list[Any]:
    """Return rows in the order in which they were recorded: all, or the newest ones."""
    rows = session.scalars(select(table).where(where).order_by(table.id.desc()).limit(most)).all()
    return list(rows[::-1])


def _bases(session: Session, where: Any, most: int | None = None) -> Iterable[RecordedItem]:
    for row in _newest(session, tables.BaseModelRow, where, most):
        names = [name.name for name in row.names]
        yield RecordedItem("base", row.id, names[0], row.digest, row.manifest_id, {"names": tuple(names)})


def _adapters(session: Session, where: Any, most: int | None = None) -> Iterable[RecordedItem]:
    for row in _newest(session, tables.AdapterRow, where, most):
        yield _adapter(row, row.digest, row.manifest_id, None)


def _adapter(row: tables.AdapterRow, digest: str, manifest: int, form: str | None) -> RecordedItem:
    facts = {"base": row.base.name, "form": form}
    return RecordedItem("adapter", row.id, row.name, digest, manifest, facts)


def _renderings(session: Session, manifests: Sequence[int]) -> Iterable[RecordedItem]:
    rendering = tables.AdapterRenderingRow
    query = (
        select(rendering, tables.AdapterRow)
        .join(tables.AdapterRow, tables.AdapterRow.id == rendering.adapter_id)
        .where(rendering.manifest_id.in_(manifests), ~is_a_part())
    )
    for row, adapter in session.execute(query):
        yield _adapter(adapter, row.digest, row.manifest_id, row.form)


def _fused(session: Session, where: Any, most: int | None = None) -> Iterable[RecordedItem]:
    for row in _newest(session, tables.FusedRow, where, most):
        names = [row.adapter.name, *(extra.adapter.name for extra in row.extras)]
        facts = {
            "key": row.key,
            "origin": row.origin,
            "adapters": tuple(names),
            "base": row.base.name,
            "precision": row.precision,
            "quantization": row.quantization,
            **label_record(row),
        }
        yield RecordedItem("fused", row.id, facts["combined"], row.digest, row.manifest_id, facts)


def _bundles(session: Session, manifests: Sequence[int]) -> Iterable[RecordedItem]:
    bundle = tables.BundleRow
    for row in session.scalars(select(bundle).where(bundle.manifest_id.in_(manifests)).order_by(bundle.id)):
        fused = row.fused
        facts = {
            "target": row.target,
            "written_to": row.path,
            "adapters": tuple(adapter.name for adapter in row.adapters),
            "adapter_digests": tuple(adapter.digest for adapter in row.adapters),
            "key": fused.key if fused else None,
            "fused": fused.digest if fused else None,
            "base": row.adapters[0].base.name if row.adapters else None,
            "base_digest": row.adapters[0].base.digest if row.adapters else None,
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
        """Read from a session."""
        self._session, self._most = session, most
        self._by_ranks: dict[frozenset[int], list[RecordedItem]] = {}

    def find(self, views: Sequence[View], *, adapter: bool) -> list[RecordedItem]:
        """Return what could have the tensors that were found: adapters, or bases and what is fused on them."""
        if adapter:
            return self._of_ranks(views)
        rows = Counter(view.shape[0] for view in views if view.is_matrix and not _is_grid(view.name))
        bases = [base for base, own in self._rows if _overlap(rows, own)][-self._most if self._most else 0 :]
        found = list(_bases(self._session, tables.BaseModelRow.id.in_(bases)))
        found += _fused(self._session, tables.FusedRow.base_id.in_(bases), self._most)
        full = tables.AdapterRow.base_id.in_(bases) & (tables.AdapterRow.method == "full")
        # An adapter whose tensors have lost their names looks like a base.
        return [*found, *_adapters(self._session, full, self._most)] or self._of_ranks(views)

    def _of_ranks(self, views: Sequence[View]) -> list[RecordedItem]:
        ranks = frozenset(rank for view in views if view.is_matrix and (rank := min(view.shape)) < 1 << 31)
        if ranks not in self._by_ranks:
            of_rank = tables.AdapterRow.rank.in_(sorted(ranks)) | tables.AdapterRow.rank.is_(None)
            self._by_ranks[ranks] = list(_adapters(self._session, of_rank, self._most))
        return self._by_ranks[ranks]

    @cached_property
    def _rows(self) -> list[tuple[int, Counter[int]]]:
        """The bases, and how many of their matrices have how many rows."""
        return [
            (base.id, Counter(shape[0] for shape, _, _ in base.weights.values() if len(shape) > 1))
            for base in self._session.scalars(select(tables.BaseModelRow).order_by(tables.BaseModelRow.id))
        ]


def _is_grid(name: str) -> bool:
    return name.endswith((".scales", ".biases"))


def _overlap(rows: Counter[int], own: Counter[int]) -> bool:
    """Tell whether half of the matrices that were found could be the base's: packed or not, they have as many rows."""
    return 2 * (own & rows).total() >= rows.total() > 0
