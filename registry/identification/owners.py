"""What the registry has manifests of: bases, adapters with their other forms, fused models, bundles, calibrations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from .. import tables
from ..database.batches import batches
from ..inspection.views import View
from ..records.fused_label import label_record
from ..records.weights import is_a_part
from ..records.withdrawals import of_adapters, of_bundles, of_fused


@dataclass(frozen=True, slots=True)
class Owner:
    """Something on record that has files.

    Attributes:
        kind: `base`, `adapter`, `fused`, `bundle` or `calibration`.
        id: of its row.
        name: what people call it.
        digest: its own; of another form of an adapter, that form's.
        manifest: the row of its manifest.
        facts: what else there is to say: the fields that its kind has in `identified`.
    """

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


def owners_of(session: Session, manifests: Collection[int]) -> dict[int, list[Owner]]:
    """Return what has these manifests, by manifest."""
    found: dict[int, list[Owner]] = defaultdict(list)
    for some in batches(sorted(manifests)):
        for owner in (
            *_bases(session, tables.BaseModel.manifest_id.in_(some)),
            *_adapters(session, tables.Adapter.manifest_id.in_(some)),
            *_renderings(session, some),
            *_fused(session, tables.Fused.manifest_id.in_(some)),
            *_bundles(session, some),
            *_calibrations(session, some),
        ):
            found[owner.manifest].append(owner)
    _tell_of_yanks(session, [owner for owners in found.values() for owner in owners])
    return found


def _tell_of_yanks(session: Session, owners: Sequence[Owner]) -> None:
    for kind, look in (("adapter", of_adapters), ("fused", of_fused), ("bundle", of_bundles)):
        told = look(session, [owner.id for owner in owners if owner.kind == kind])
        for owner in owners:
            if owner.kind == kind:
                owner.facts["withdrawals"] = told.get(owner.id, ())


def _bases(session: Session, where: Any) -> Iterable[Owner]:
    for row in session.scalars(select(tables.BaseModel).where(where).order_by(tables.BaseModel.id)):
        names = [name.name for name in row.names]
        yield Owner("base", row.id, names[0], row.digest, row.manifest_id, {"names": tuple(names)})


def _adapters(session: Session, where: Any) -> Iterable[Owner]:
    for row in session.scalars(select(tables.Adapter).where(where).order_by(tables.Adapter.id)):
        yield _adapter(row, row.digest, row.manifest_id, None)


def _adapter(row: tables.Adapter, digest: str, manifest: int, form: str | None) -> Owner:
    facts = {"base": row.base.name, "form": form}
    return Owner("adapter", row.id, row.name, digest, manifest, facts)


def _renderings(session: Session, manifests: Sequence[int]) -> Iterable[Owner]:
    rendering = tables.AdapterRendering
    query = (
        select(rendering, tables.Adapter)
        .join(tables.Adapter, tables.Adapter.id == rendering.adapter_id)
        .where(rendering.manifest_id.in_(manifests), ~is_a_part())
    )
    for row, adapter in session.execute(query):
        yield _adapter(adapter, row.digest, row.manifest_id, row.form)


def _fused(session: Session, where: Any) -> Iterable[Owner]:
    for row in session.scalars(select(tables.Fused).where(where).order_by(tables.Fused.id)):
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
        yield Owner("fused", row.id, facts["combined"], row.digest, row.manifest_id, facts)


def _bundles(session: Session, manifests: Sequence[int]) -> Iterable[Owner]:
    bundle = tables.Bundle
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
        yield Owner("bundle", row.id, row.path, row.digest, row.manifest_id, facts)


def owners_in(session: Session, bundle: Owner) -> list[Owner]:
    """Return what a bundle holds: the fused model, or the adapters."""
    row = session.get_one(tables.Bundle, bundle.id)
    if row.fused_id is not None:
        return list(_fused(session, tables.Fused.id == row.fused_id))
    return list(_adapters(session, tables.Adapter.id.in_([adapter.id for adapter in row.adapters])))


def _calibrations(session: Session, manifests: Sequence[int]) -> Iterable[Owner]:
    row = tables.Calibration
    for found in session.scalars(select(row).where(row.manifest_id.in_(manifests)).order_by(row.id)):
        facts = {"base": found.base.name, "prompts": found.prompts}
        yield Owner("calibration", found.id, found.prompts, found.digest, found.manifest_id, facts)


def plausible(session: Session, views: Sequence[View], *, adapter: bool) -> list[Owner]:
    """Return what could have the tensors that were found, by their shapes: adapters, or bases and what is fused on them.

    Args:
        session: reading.
        views: what was found.
        adapter: they are the factors of an adapter.
    """
    if adapter:
        return _of_ranks(session, views)
    rows = Counter(view.shape[0] for view in views if view.is_matrix and not _is_grid(view.name))
    bases = [
        base.id
        for base in session.scalars(select(tables.BaseModel).order_by(tables.BaseModel.id))
        if _overlap(rows, base)
    ]
    found = list(_bases(session, tables.BaseModel.id.in_(bases)))
    found += _fused(session, tables.Fused.base_id.in_(bases))
    full = tables.Adapter.base_id.in_(bases) & (tables.Adapter.method == "full")
    # Whose tensors have lost their names may be an adapter as well.
    return [*found, *_adapters(session, full)] or _of_ranks(session, views)


def _of_ranks(session: Session, views: Sequence[View]) -> list[Owner]:
    ranks = {min(view.shape) for view in views if view.is_matrix}
    of_rank = tables.Adapter.rank.in_(sorted(rank for rank in ranks if rank < 1 << 31))
    return list(_adapters(session, of_rank | tables.Adapter.rank.is_(None)))


def adapters_on(session: Session, base: int, most: int) -> list[tuple[tables.Adapter, Owner]]:
    """Return the newest adapters on a base whose update is a product of factors, with their manifests."""
    adapter = tables.Adapter
    query = (
        select(adapter)
        .where(adapter.base_id == base, adapter.method != "full", adapter.scale.is_not(None))
        .options(selectinload(adapter.manifest).selectinload(tables.Manifest.files))
        .order_by(adapter.id.desc())
        .limit(most)
    )
    found = [(row, _adapter(row, row.digest, row.manifest_id, None)) for row in session.scalars(query)]
    _tell_of_yanks(session, [owner for _, owner in found])
    return found


def _is_grid(name: str) -> bool:
    """Tell whether a tensor is a part of a quantised one."""
    return name.endswith((".scales", ".biases"))


def _overlap(rows: Counter[int], base: tables.BaseModel) -> bool:
    """Tell whether half of the matrices that were found could be the base's: packed or not, they have as many rows."""
    own = Counter(shape[0] for shape, _, _ in base.weights.values() if len(shape) > 1)
    return 2 * (own & rows).total() >= rows.total() > 0
