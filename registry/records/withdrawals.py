"""Withdrawals, and which records they concern: the single place for all views and refusals.

A yank covers one record: an adapter under its name.  Commands refuse to make anything from that record.  They warn about
adapters with the same bytes under another name, adapters with the same weights beside other files, fused models, sums and
bundles that contain these bytes, and adapters that `combine` or `shrink` computed from them in any number of steps.  Adapters whose training continued from a yanked one get no warning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    and_,
    bindparam,
    exists,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..database.batches import BATCH
from ..errors import BadInputError
from .recipe import source_pairs
from .weights import same_weights
from .withdrawal import Relation, Withdrawal, Withdrawals


def of_adapters(
    session: Session, ids: Collection[int], *, at: datetime | None = None
) -> dict[int, Withdrawals]:
    """Return the yanks that concern adapters, by the number of their row, their own first; those without are left out.

    Args:
        session: of any transaction.
        ids: of the adapters.
        at: a moment; None for now.
    """
    return _found(session, ids, _itself, at=at)


def of_fused(session: Session, ids: Collection[int]) -> dict[int, Withdrawals]:
    """Return the yanks of the adapters in fused models, or of other records with their bytes."""
    return _found(session, ids, _parts, holding=True)


def of_bundles(session: Session, ids: Collection[int]) -> dict[int, Withdrawals]:
    """Return the yanks that concern the fused model or the adapters in bundles."""
    return _found(session, ids, _packed, holding=True)


def shown(withdrawals: Withdrawals) -> list[dict[str, Any]]:
    """Return the value of the key `withdrawals`."""
    return [each.to_dict() for each in withdrawals]


def own_reason(view: Mapping[str, Any]) -> str | None:
    """Return the same of a view that has `withdrawals`."""
    return next((each["reason"] for each in view["withdrawals"] if each["relation"] == "itself"), None)


def told_of(session: Session, adapters: Iterable[tables.Adapter]) -> Withdrawals:
    """Return the yanks that whoever uses adapters is to know of, each once."""
    found = of_adapters(session, [adapter.id for adapter in adapters])
    return tuple(dict.fromkeys(each for told in found.values() for each in told))


Moment = datetime | BindParameter[datetime] | None


def is_yanked(adapter_id: Any, at: Moment = None) -> ColumnElement[bool]:
    """Return the condition that an adapter is yanked: now, or at a moment.

    Args:
        adapter_id: the column with the number of its row.
        at: a withdrawal counts from its own moment on, until it is lifted.
    """
    return exists().where(tables.Yank.adapter_id == adapter_id, stands_at(at))


def stands_at(at: Moment = None) -> ColumnElement[bool]:
    """Return the condition that a withdrawal stands: now, or at a moment."""
    yank = tables.Yank
    if at is None:
        return yank.lifted_at.is_(None)
    return and_(yank.at <= at, or_(stands_at(), yank.lifted_at > at))


def stands(yank: Mapping[str, Any]) -> bool:
    """Tell whether a withdrawal that is no row was not lifted."""
    return yank["lifted_at"] is None


def standing_yank(session: Session, adapter: tables.Adapter) -> tables.Yank | None:
    """Return the yank of a record that stands, None if there is none."""
    yank = tables.Yank
    query = select(yank).where(yank.adapter_id == adapter.id, stands_at())
    return session.scalars(query.order_by(yank.id).limit(1)).first()


def refuse_yanked(session: Session, adapter: tables.Adapter) -> None:
    """Refuse to make anything of a record that is withdrawn.

    Raises:
        BadInputError: it is yanked.
    """
    yank = standing_yank(session, adapter)
    if yank is not None:
        raise BadInputError(f"{adapter.name} was yanked by {yank.by} on {yank.at:%Y-%m-%d}: {yank.reason}")


def usable_record(session: Session, adapter: tables.Adapter) -> tables.Adapter:
    """Return the record to make a fused model again with: the adapter, or one with its bytes that is not yanked.

    Raises:
        BadInputError: all of them are yanked.
    """
    twin = tables.Adapter
    query = select(twin).where(
        twin.digest == adapter.digest, twin.base_id == adapter.base_id, ~is_yanked(twin.id)
    )
    found = session.scalars(query.order_by(twin.id != adapter.id, twin.id).limit(1)).first()
    if found is None:
        refuse_yanked(session, adapter)
    return found or adapter


Where = Callable[[Any], ColumnElement[bool]]
"""From the column with a thing's number to the condition that it is one of those that are asked about."""


def _itself(where: Where) -> Select[*tuple[Any, ...]]:
    """Return the query for which adapter an adapter is."""
    adapter = tables.Adapter
    return select(adapter.id, adapter.id).where(where(adapter.id))


def _parts(where: Where) -> Select[*tuple[Any, ...]]:
    """Return the query for which adapters fused models hold: the first, and the further ones of a sum."""
    fused, extra = tables.Fused, tables.FusedExtra
    first = select(fused.id, fused.adapter_id).where(where(fused.id))
    further = select(extra.fused_id, extra.adapter_id).where(where(extra.fused_id))
    both = union_all(first, further).subquery()
    return select(both.c[0], both.c[1])


def _packed(where: Where) -> Select[*tuple[Any, ...]]:
    """Return the query for which adapters bundles hold; of a sum, `BundleAdapter` has the first one only."""
    bundle, packed, fused, extra = tables.Bundle, tables.BundleAdapter, tables.Fused, tables.FusedExtra
    apart = select(bundle.id, packed.adapter_id).join(packed, packed.bundle_id == bundle.id)
    first = select(bundle.id, fused.adapter_id).join(fused, fused.id == bundle.fused_id)
    further = select(bundle.id, extra.adapter_id).join(extra, extra.fused_id == bundle.fused_id)
    ways = (apart.where(bundle.fused_id.is_(None)), first, further)
    both = union_all(*(way.where(where(bundle.id)) for way in ways)).subquery()
    return select(both.c[0], both.c[1])


def _found(
    session: Session,
    ids: Collection[int],
    parts_of: Callable[[Where], Select[*tuple[Any, ...]]],
    *,
    holding: bool = False,
    at: datetime | None = None,
) -> dict[int, Withdrawals]:
    """Return the withdrawals of things, by their numbers.

    Args:
        session: of any transaction.
        ids: of the things.
        parts_of: the query for pairs of a thing and an adapter that it is or holds.
        holding: the things are no adapters, and hold them.
        at: of that moment; None for now.
    """
    if not ids or session.scalar(_any(at is None), {"moment": at}) is None:
        return {}
    told: dict[int, dict[str, Withdrawal]] = defaultdict(dict)
    for number, computed, itself, same_bytes, name, reason, since, by in _rows(session, ids, parts_of, at):
        relation: Relation
        if computed:
            relation = "computed-from"
        elif holding or not same_bytes:
            relation = "contains"
        else:
            relation = "itself" if itself else "same-bytes"
        told[number].setdefault(name, Withdrawal(name, relation, reason, since, by))
    return {
        number: tuple(sorted(found.values(), key=lambda each: each.relation != "itself"))
        for number, found in told.items()
    }


def _rows(
    session: Session,
    ids: Collection[int],
    parts_of: Callable[[Where], Select[*tuple[Any, ...]]],
    at: datetime | None,
) -> Iterator[Sequence[Any]]:
    """Yield each thing with what is yanked in it: of many things, one looks from what is yanked, since that is little."""
    many, wanted = len(ids) > BATCH, set(ids)
    query = _query(parts_of, many=many, now=at is None)
    given = {"moment": at} if many else {"moment": at, "ids": list(ids)}
    yield from (row for row in session.execute(query, given) if row[0] in wanted)


# Queries are made once: most of a question's time went into that.
_MOMENT: BindParameter[datetime] = bindparam("moment")


@cache
def _any(now: bool) -> Select[int]:
    return select(tables.Yank.id).where(stands_at(None if now else _MOMENT)).limit(1)


@cache
def _query(
    parts_of: Callable[[Where], Select[*tuple[Any, ...]]], *, many: bool, now: bool
) -> Select[*tuple[Any, ...]]:
    part, record, yank = aliased(tables.Adapter), aliased(tables.Adapter), tables.Yank
    asked: BindParameter[Sequence[int]] = bindparam("ids", expanding=True)
    standing = stands_at(None if now else _MOMENT)
    held = parts_of(lambda column: true() if many else column.in_(asked)).cte("held")
    thing, adapter = held.c
    if many:
        alike = same_weights(select(yank.adapter_id).where(standing))
        part_id, record_id = alike.c.other, alike.c.adapter
        lines = source_pairs(select(part_id), up=False)
    else:
        lines = source_pairs(select(adapter), up=True)
        alike = same_weights(select(lines.c.source))
        part_id, record_id = alike.c.adapter, alike.c.other
    return (
        select(
            thing,
            lines.c.adapter != part.id,
            part.id == record.id,
            part.digest == record.digest,
            record.name,
            yank.reason,
            yank.at,
            yank.by,
        )
        .join(lines, lines.c.adapter == adapter)
        .join(part, part.id == lines.c.source)
        .join(alike, part_id == part.id)
        .join(record, record.id == record_id)
        .join(yank, yank.adapter_id == record.id)
        .where(standing)
        .order_by(lines.c.adapter != part.id, yank.id)  # of each yank, the nearest relation counts
    )
